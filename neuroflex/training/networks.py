"""Networks that ``neuroflex train`` knows by name, with what trains them well."""

__all__ = ["RECIPES", "LeNet5", "Perceptron", "Recipe", "ResNet", "VGG11", "VisionTransformer"]

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from neuroflex.training.settings import Settings


class Perceptron(nn.Module):
    """784-256-128-10 with batch norm; ``activation()`` makes each activation."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.fc1 = nn.Linear(784, 256, bias=False)
        self.norm1 = nn.BatchNorm1d(256)
        self.act1 = activation()
        self.fc2 = nn.Linear(256, 128, bias=False)
        self.norm2 = nn.BatchNorm1d(128)
        self.act2 = activation()
        self.classes = nn.Linear(128, 10)

    def forward(self, x):
        x = self.act1(self.norm1(self.fc1(torch.flatten(x, 1))))
        return self.classes(self.act2(self.norm2(self.fc2(x))))


class LeNet5(nn.Module):
    """LeNet-5 with max pools and batch norm: two 5×5 convolutions and three linear layers."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(6, 16, 5, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.act2 = activation()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.act3 = activation()
        self.fc2 = nn.Linear(120, 84)
        self.act4 = activation()
        self.classes = nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(self.act1(self.norm1(self.conv1(x))))
        x = self.pool(self.act2(self.norm2(self.conv2(x))))
        x = self.act3(self.fc1(torch.flatten(x, 1)))
        return self.classes(self.act4(self.fc2(x)))


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the size changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet for 32×32 images (He et al., CVPR 2016): stages of so many blocks, the first with ``width`` channels, each other with twice as many on a quarter of the positions."""

    def __init__(self, width, stages):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for stage, count in enumerate(stages):
            outputs = width << stage
            for block in range(count):
                blocks.append(_Block(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classes = nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.blocks(functional.relu(self.norm(self.conv(x))))
        return self.classes(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class VGG11(nn.Sequential):
    """VGG-11 for 32×32 images with batch norm: ``width`` channels first, half or a quarter of the original's 64, and one linear layer."""

    def __init__(self, width=32):
        layers, inputs = [], 3
        for times, pooled in ((1, True), (2, True), (4, False), (4, True), (8, False), (8, True), (8, False), (8, True)):
            outputs = times * width
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] * pooled
            inputs = outputs
        super().__init__(*layers, nn.Flatten(), nn.Linear(inputs, 10))


class _Encoder(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut. A ReLU stands before every linear layer, so that it reads levels."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        query, key, value = self.qkv(functional.relu(self.norm1(x))).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.proj(functional.relu(y))
        return x + self.fc2(functional.relu(self.fc1(functional.relu(self.norm2(x)))))


class VisionTransformer(nn.Module):
    """A small vision transformer for 32×32 images: 64 tokens from two strided convolutions (Xiao et al., NeurIPS 2021), learned positions, mean over tokens.

    Smaller images have fewer tokens, whose positions are means of those of 32×32 images.
    """

    def __init__(self, *, size=32, width=64, heads=2, depth=3, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.position = nn.Parameter(torch.zeros(1, width, size // 4, size // 4))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*(_Encoder(width, heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, classes)

    def forward(self, x):
        x = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        x = x + functional.adaptive_avg_pool2d(self.position, x.shape[2:])
        x = self.blocks(x.flatten(2).transpose(1, 2))
        return self.classes(functional.relu(self.norm(x).mean(1)))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network, its data set, and what trains it well.

    Attributes
    ----------
    module : callable
        Makes the ReLU network.
    data : str
        Name of its data set.
    settings : Settings
    """

    module: object
    data: str | None = None
    settings: Settings = Settings()


RECIPES = {
    "mnist_mlp": Recipe(module=Perceptron, data="mnist", settings=Settings(epochs=8, density=0.2, input_levels=4)),
    "mnist_lenet5": Recipe(module=LeNet5, data="mnist", settings=Settings(epochs=4, density=0.3, input_levels=4)),
    "cifar10_resnet18": Recipe(module=partial(ResNet, 32, (2, 2, 2, 2)), data="cifar10",
                               settings=Settings(epochs=10, small_epochs=8, rate=4e-3, tune_rate=2e-3, density=0.3, augment=True)),
    "cifar10_resnet20": Recipe(module=partial(ResNet, 16, (3, 3, 3)), data="cifar10",
                               settings=Settings(epochs=12, small_epochs=8, rate=6e-3, tune_rate=2e-3, density=0.4, augment=True)),
    "cifar10_vgg11": Recipe(module=VGG11, data="cifar10", settings=Settings(epochs=10, rate=3e-3, density=0.2, augment=True)),
    "cifar10_vit": Recipe(module=VisionTransformer, data="cifar10", settings=Settings(epochs=10, small_epochs=6, rate=3e-3, density=0.4, augment=True)),
    "cifar10_vgg11_quarter": Recipe(module=partial(VGG11, 16), data="cifar10", settings=Settings(epochs=12, rate=4e-3, density=0.2, augment=True)),
}
