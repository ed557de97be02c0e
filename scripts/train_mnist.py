"""Train LeNet-5 and a 784-256-128-10 perceptron on MNIST and write ``mnist_lenet5.npz`` and ``mnist_mlp.npz`` into the zoo.

The data come from the folder that ``NEUROFLEX_DATA`` names (docs/training.md). Images keep their 28×28 pixels; the perceptron reads them
as one vector of 784. Unlike ``neuroflex train``, this trains with QCFS from the start. Needs the ``torch`` extra; some ten minutes on one core.
"""

import argparse

import torch
from torch import nn
from training import import_and_save

from neuroflex import data
from neuroflex.compiler.torch_qcfs import QCFS
from neuroflex.progress import Display
from neuroflex.training.loop import accuracy, fit, prune
from neuroflex.training.networks import RECIPES

NETWORKS = ("mnist_mlp", "mnist_lenet5")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="all", choices=[*NETWORKS, "all"])
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(1)     # these networks are too small to gain from more
    show = Display()
    mnist = data.load("mnist", show=show)
    train = torch.from_numpy(mnist.x_train), torch.from_numpy(mnist.y_train)
    test = torch.from_numpy(mnist.x_test), torch.from_numpy(mnist.y_test)
    common = {"scale": 1 / 255, "batch": 128, "seed": options.seed, "show": show}
    for name in NETWORKS if options.network == "all" else [options.network]:
        module, epochs, density = RECIPES[name].module, RECIPES[name].settings.epochs, RECIPES[name].settings.density

        def build(activation):
            torch.manual_seed(options.seed)
            return nn.Sequential(QCFS(4, 1.0, trained=False), module(activation))

        relu = build(nn.ReLU)
        fit(relu, *train, epochs=epochs // 2, rate=2e-3, text=f"{name}: reference with ReLU", **common)
        net = build(lambda: QCFS(options.levels, 4.0))
        fit(net, *train, epochs=epochs, rate=2e-3, text=f"{name}: with QCFS", **common)
        masks = prune(net, density)
        fit(net, *train, epochs=epochs, rate=1e-3, masks=masks, text=f"{name}: pruned to {density:.0%}", **common)
        facts = {"data": "MNIST, 10000 test images", "seed": options.seed, "levels": options.levels, "density": density,
                 "accuracy_float": accuracy(net, *test, scale=1 / 255), "accuracy_relu": accuracy(relu, *test, scale=1 / 255)}
        import_and_save(net, name=name, pixel_scale=1 / 255, facts=facts, kept_tests=200, x_train=mnist.x_train, x_test=mnist.x_test, y_test=mnist.y_test)


if __name__ == "__main__":
    main()
