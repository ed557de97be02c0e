"""Train the demo network on scikit-learn's handwritten digits and write ``neuroflex/zoo/digits.npz``.

A small residual network: 3×3 convolutions with batch norm and QCFS activations of 4 levels, pruned to 30 % of its weights.
Needs the ``torch`` and ``test`` extras; about two minutes on two cores.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from training import import_and_save

from neuroflex.compiler.torch_qcfs import QCFS
from neuroflex.progress import Display
from neuroflex.training.loop import accuracy, fit, prune

FULL_SCALE = 16      # pixels are 0 … 16


class DigitsNet(nn.Module):
    """8×8 image → 16 channels, one residual block, two max pools, 32 channels → 10 classes."""

    def __init__(self, activation):
        super().__init__()
        self.image = QCFS(4, 1.0, trained=False)
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.act2 = activation()
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(16)
        self.act3 = activation()
        self.pool = nn.MaxPool2d(2)
        self.conv4 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm4 = nn.BatchNorm2d(32)
        self.act4 = activation()
        self.classes = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x):
        x = self.act1(self.norm1(self.conv1(self.image(x))))
        y = self.act2(self.norm2(self.conv2(x)))
        x = self.act3(self.norm3(self.conv3(y)) + x)
        x = self.act4(self.norm4(self.conv4(self.pool(x))))
        return self.classes(torch.flatten(self.pool(x), 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    train = torch.from_numpy(x_train), torch.from_numpy(y_train)
    test = torch.from_numpy(x_test), torch.from_numpy(y_test)
    torch.set_num_threads(1)     # this network is too small to gain from more
    common = {"scale": 1 / FULL_SCALE, "seed": options.seed, "show": Display()}

    def build(activation):
        torch.manual_seed(options.seed)
        return DigitsNet(activation)

    relu = build(nn.ReLU)
    fit(relu, *train, epochs=options.epochs // 2, rate=4e-3, text="reference with ReLU", **common)
    net = build(lambda: QCFS(options.levels, 4.0))
    fit(net, *train, epochs=options.epochs, rate=4e-3, text="with QCFS", **common)
    masks = prune(net, options.density)
    fit(net, *train, epochs=options.epochs, rate=2e-3, masks=masks, text=f"pruned to {options.density:.0%}", **common)
    facts = {"data": "scikit-learn digits, 360 test images", "seed": options.seed, "levels": options.levels,
             "density": options.density, "accuracy_float": accuracy(net, *test, scale=1 / FULL_SCALE), "accuracy_relu": accuracy(relu, *test, scale=1 / FULL_SCALE)}
    import_and_save(net, name="digits", pixel_scale=1 / FULL_SCALE, facts=facts, kept_tests=360, x_train=x_train, x_test=x_test, y_test=y_test)


if __name__ == "__main__":
    main()
