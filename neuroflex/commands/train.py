"""``neuroflex train``"""
from dataclasses import replace
from pathlib import Path

import click

from neuroflex.commands.common import display, emit, json_option, made_module, table

__all__ = ["command"]


class _Levels(click.ParamType):
    """1 … 127, or auto."""

    name = "levels"

    def convert(self, value, param, ctx):
        if value == "auto" or isinstance(value, int):
            return value
        try:
            levels = int(value)
        except ValueError:
            levels = 0
        if not 1 <= levels <= 127:
            self.fail(f"levels must be 1 … 127, or auto, not {value!r}", param, ctx)
        return levels


@click.command("train")
@click.argument("source", metavar="NAME|MODULE:FACTORY")
@click.option("-o", "--output", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Network file (.npz) to write.")
@click.option("--data", type=click.Choice(["mnist", "cifar10"]), help="Data set; a named network knows its own.")
@click.option("--epochs", type=click.IntRange(1), help="Of the ReLU network.")
@click.option("--tune-epochs", type=click.IntRange(0), help="Of each fine-tuning: after pruning, and with QCFS; 0: clip values by calibration alone.")
@click.option("--small-epochs", type=click.IntRange(0), help="So many of --epochs, the first ones, see images of half the size, at a quarter of the cost.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate of the ReLU network.")
@click.option("--tune-rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate of each fine-tuning.")
@click.option("--levels", type=_Levels(), default=8, show_default=True, metavar="L|auto",
              help="Of every activation; auto: for each the fewest, at most 8, that lose at most 3 % of its squared values.")
@click.option("--input-levels", type=click.IntRange(1, 127), help="Of the image.")
@click.option("--host-levels", type=click.IntRange(1, 127), help="Of what the cores hand to the host, in networks with steps of the host (layer norm, attention).")
@click.option("--density", type=click.FloatRange(0, 1, min_open=True), help="Share of the weights that pruning leaves; 1: no pruning.")
@click.option("--augment/--no-augment", default=None, help="Shift training images by up to 4 pixels, and mirror every other one.")
@click.option("--batch", type=click.IntRange(2), default=128, show_default=True, help="Images of one step.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of everything that is drawn at random.")
@click.option("--checkpoints", type=click.Path(file_okay=False, path_type=Path), help="Folder; the output's name without its ending by default.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoints in that folder.")
@click.option("--kept-tests", type=click.IntRange(1), default=32, show_default=True, help="Test images that stay with the network.")
@json_option
def command(source, path, data, levels, batch, seed, checkpoints, resume, kept_tests, as_json, **given):
    """Train a network and write it as integers.

    The network is one that has a name (mnist_mlp, mnist_lenet5, cifar10_resnet18, cifar10_resnet20, cifar10_vgg11, cifar10_vgg11_quarter, cifar10_vit) or FILE.py:FACTORY or
    PACKAGE.MODULE:FACTORY, a function that makes a PyTorch module of ReLUs (which runs that Python code). It is trained with ReLU, pruned, and fine-tuned with QCFS in place of ReLU. NEUROFLEX_DATA names the folder of
    the data set. A checkpoint is written after every epoch. docs/training.md says more.

    Options whose default is not shown have one for each named network (docs/training.md). For a network of your own: 10 epochs, 2 of each fine-tuning, rates 0.002 and 0.001, no pruning, 127 levels of the image and
    to the host, no augmentation.
    """
    show = display(None)
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("training needs the package 'torch': pip install 'neuroflex[torch]'") from None
    from neuroflex import data as data_sets
    from neuroflex.training.loop import TrainingError
    from neuroflex.training.networks import RECIPES, Recipe
    from neuroflex.training.stages import train

    if source in RECIPES:
        recipe, name = RECIPES[source], source
    elif ":" in source:
        recipe, name = Recipe(module=lambda: made_module(source)), path.stem
    else:
        raise click.UsageError(f"{source!r} is neither a network with a name ({', '.join(RECIPES)}) nor FILE.py:FACTORY or PACKAGE.MODULE:FACTORY")
    data = data or recipe.data
    if data is None:
        raise click.UsageError("a network of your own does not say what it is trained with: give --data")
    settings = replace(recipe.settings, levels=levels, batch=batch, seed=seed, **{key: value for key, value in given.items() if value is not None})
    path.parent.mkdir(parents=True, exist_ok=True)      # what is wrong with the place is said now, not after the training
    images = data_sets.load(data, show=show)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = checkpoints or path.with_suffix("")
    try:
        trained = train(recipe.module, images, settings, name=name, folder=folder, resume=resume, device=device, kept_tests=kept_tests, show=show)
    except TrainingError as error:
        raise click.UsageError(str(error)) from None
    network = trained.network
    with show.step(f"write {path}"):
        network.save(path)
    layers = [{"layer": layer.name, "levels": int(layer.levels.max()), "weight_density": float((layer.weights != 0).mean())} for layer in network.layers]
    result = {"network": path, "bytes": path.stat().st_size, "name": name, "digest": network.digest, "data": images.title, "device": device,
              "checkpoints": folder, "accuracy": trained.accuracies, "weights": trained.weights, "sparsity": trained.sparsity, "layers": layers,
              "losses": trained.losses}
    emit(as_json, result,
         table(f"{name} on {images.title}", ("accuracy", "per cent"),
               ((key, f"{100 * value:.2f}") for key, value in trained.accuracies.items() if value is not None)),
         table("Layers", ("layer", "levels", "weights left"), (row.values() for row in layers)),
         f"{100 * trained.sparsity:.1f} % of {trained.weights:,} weights are zero; {path}: {path.stat().st_size:,} bytes; checkpoints in {folder}")
