"""Train LeNet-5 and a 784-256-128-10 perceptron on MNIST and write ``mnist_lenet5.npz`` and ``mnist_mlp.npz`` into the zoo.

The data come from the folder that ``NEUROFLEX_DATA`` names: ``mnist.npz`` with ``x_train, y_train, x_test, y_test``. Images
keep their 28×28 pixels; the perceptron reads them as one vector of 784. Needs the ``torch`` extra; some ten minutes on one core.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from training import accuracy, fit, import_and_save, prune

from neuroflex.compiler.torch_qcfs import QCFS


class LeNet5(nn.Module):
    """LeNet-5 with max pools and batch norm: two 5×5 convolutions and three linear layers."""

    def __init__(self, activation):
        super().__init__()
        self.image = QCFS(4, 1.0, trained=False)
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
        x = self.pool(self.act1(self.norm1(self.conv1(self.image(x)))))
        x = self.pool(self.act2(self.norm2(self.conv2(x))))
        x = self.act3(self.fc1(torch.flatten(x, 1)))
        return self.classes(self.act4(self.fc2(x)))


class Perceptron(nn.Module):
    """784-256-128-10."""

    def __init__(self, activation):
        super().__init__()
        self.image = QCFS(4, 1.0, trained=False)
        self.fc1 = nn.Linear(784, 256, bias=False)
        self.norm1 = nn.BatchNorm1d(256)
        self.act1 = activation()
        self.fc2 = nn.Linear(256, 128, bias=False)
        self.norm2 = nn.BatchNorm1d(128)
        self.act2 = activation()
        self.classes = nn.Linear(128, 10)

    def forward(self, x):
        x = self.act1(self.norm1(self.fc1(torch.flatten(self.image(x), 1))))
        return self.classes(self.act2(self.norm2(self.fc2(x))))


NETWORKS = {"mnist_mlp": (Perceptron, 8, 0.2), "mnist_lenet5": (LeNet5, 4, 0.3)}     # name: module, epochs, density


def load():
    folder = os.environ.get("NEUROFLEX_DATA")
    if not folder or not (Path(folder) / "mnist.npz").is_file():
        raise SystemExit(f"NEUROFLEX_DATA must name a folder with mnist.npz; it is {folder!r}")
    with np.load(Path(folder) / "mnist.npz") as data:
        return {name: data[name][:, None] if name.startswith("x") else data[name] for name in data.files}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="all", choices=[*NETWORKS, "all"])
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    raw = load()
    train = torch.tensor(raw["x_train"] / 255, dtype=torch.float32), torch.tensor(raw["y_train"]).long()
    test = torch.tensor(raw["x_test"] / 255, dtype=torch.float32), torch.tensor(raw["y_test"]).long()
    for name in NETWORKS if options.network == "all" else [options.network]:
        module, epochs, density = NETWORKS[name]

        def build(activation):
            torch.manual_seed(options.seed)
            return module(activation)

        print(f"{name}: reference with ReLU")
        relu = build(nn.ReLU)
        fit(relu, *train, epochs=epochs // 2, rate=2e-3, batch=128)
        print(f"{name}: with QCFS")
        net = build(lambda: QCFS(options.levels, 4.0))
        fit(net, *train, epochs=epochs, rate=2e-3, batch=128)
        masks = prune(net, density)
        print(f"{name}: pruned to {density:.0%}")
        fit(net, *train, epochs=epochs, rate=1e-3, batch=128, masks=masks)
        facts = {"data": "MNIST, 10000 test images", "seed": options.seed, "levels": options.levels, "density": density,
                 "accuracy_float": accuracy(net, *test), "accuracy_relu": accuracy(relu, *test)}
        import_and_save(net, name=name, pixel_scale=1 / 255, facts=facts, kept_tests=200, raw=raw)


if __name__ == "__main__":
    main()
