"""From a ReLU network to integers: train, prune, put QCFS in place of ReLU, fine-tune, import. Each stage has its checkpoint."""

__all__ = ["Trained", "integer_accuracy", "train"]

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from neuroflex.compiler.network import Examples
from neuroflex.compiler.torch_calibrate import calibrate
from neuroflex.compiler.torch_import import import_torch
from neuroflex.compiler.torch_qcfs import HandOver
from neuroflex.progress import Silent
from neuroflex.sim.split import evaluate
from neuroflex.training.loop import Checkpoint, TrainingError, accuracy, fingerprint, fit, prunable, prune

PIXEL = 1 / 255             # what a byte is to a module
CALIBRATION = 512           # training images for clip values
TRIED = 16                  # training images that the untrained module is tried with
RANGES = 1000               # training images for the range of the logits
TOLERANCE = 0.03            # share of a squared activation that adaptive levels may lose


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What training made.

    Attributes
    ----------
    network : neuroflex.compiler.network.Network
        Integers, with images; settings and accuracies are in its metadata.
    module : torch.nn.Module
        The QCFS network.
    accuracies : dict
        ``float`` (ReLU), ``pruned`` (ReLU with the weights that are left, or None), ``qcfs``, ``integer``.
    losses : dict
        Per stage, the mean loss of each epoch.
    weights : int
        Of convolutions and linear layers.
    sparsity : float
        Share of them that are zero.
    """

    network: object
    module: object
    accuracies: dict
    losses: dict
    weights: int
    sparsity: float


def train(make, data, settings, *, name, folder, resume=False, device="cpu", kept_tests=32, kept_calibration=16, show=None):
    """Train a network for integers.

    Parameters
    ----------
    make : callable
        Makes the ReLU module, one that `neuroflex.compiler.torch_import` reads once its ReLUs are QCFS; its input are pixels 0 … 1.
    data : neuroflex.data.DataSet
    settings : Settings
    name : str
        Of the network.
    folder : path
        Where checkpoints are: ``float.pt``, ``pruned-DENSITY.pt``, ``qcfs-LEVELS-DENSITY.pt`` (``qcfs-LEVELS-HOST_LEVELS-DENSITY.pt``). Other levels start from the same first two.
    resume : bool
        Go on from checkpoints; otherwise they are made anew.
    device : torch.device or str
    kept_tests, kept_calibration : int
        Images that stay with the network.
    show : neuroflex.progress.Display, optional

    Returns
    -------
    Trained

    Raises
    ------
    TrainingError
        A module that does not fit the data, a loss that is no finite number, a checkpoint that does not fit.
    ImportRefused
        A module that cannot become integers: found before anything is trained.
    """
    show, folder = show or Silent(), Path(folder)
    images, labels = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    tests = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    with show.step(f"{name}: see whether it can become integers"):
        _try(make, data, settings, name)
    common = {"scale": PIXEL, "batch": settings.batch, "seed": settings.seed, "augment": settings.augment, "show": show}
    facts = {"network": name, "data": data.title, "images": len(images), "seed": settings.seed, "batch": settings.batch, "augment": settings.augment}
    accuracies, losses = {"pruned": None}, {}

    def stage(key, module, about, file, masks=None, **more):
        losses[key] = fit(module, images, labels, text=f"{name}: {about}", masks=masks, checkpoint=Checkpoint(folder / file, facts | more, resume=resume),
                          epochs=more["epochs"], rate=more["rate"], small_epochs=more.get("small_epochs", 0), **common)
        with show.step(f"{name}: accuracy on {len(tests[0])} test images"):
            accuracies[key] = accuracy(module, *tests, scale=PIXEL)

    torch.manual_seed(settings.seed)
    module = make().to(device)
    stage("float", module, "train with ReLU", "float.pt", epochs=settings.epochs, rate=settings.rate, small_epochs=settings.small_epochs)
    tuning = {"epochs": settings.tune_epochs, "rate": settings.tune_rate}
    masks = None
    if settings.density < 1:
        start = fingerprint(module)
        masks = prune(module, settings.density)
        stage("pruned", module, f"fine-tune with {settings.density:.0%} of the weights", f"pruned-{settings.density:g}.pt", masks, start=start,
              density=settings.density, **tuning)
        masks = [(weight != 0).to(weight.dtype) for weight in prunable(module)]
    with show.step(f"{name}: QCFS in place of ReLU, {settings.levels} levels"):
        start = fingerprint(module)
        module = calibrate(module, data.x_train[:CALIBRATION], levels=settings.most_levels, tolerance=TOLERANCE if settings.levels == "auto" else None,
                           input_levels=settings.input_levels, host_levels=settings.host_levels, pixel_scale=PIXEL)
    handed = {"host_levels": settings.host_levels} if any(isinstance(part, HandOver) for part in module.modules()) else {}
    which = "-".join(map(str, (settings.levels, *handed.values())))
    stage("qcfs", module, f"fine-tune with {settings.levels} levels", f"qcfs-{which}-{settings.density:g}.pt", masks, start=start,
          levels=settings.levels, density=settings.density, input_levels=settings.input_levels, **handed, **tuning)
    module = module.cpu().eval()
    with show.step(f"{name}: import as integers"):
        examples = Examples(test_images=data.x_test[:kept_tests], test_labels=data.y_test[:kept_tests], calibration_images=data.x_train[:kept_calibration])
        network = import_torch(module, data.x_test.shape[1:], name=name, pixel_scale=PIXEL, calibration=data.x_train[:RANGES], examples=examples)
    accuracies["integer"] = integer_accuracy(network, data.x_test, data.y_test, show=show)
    network.metadata.update({"data": f"{data.title}, {len(data.x_test)} test images", **asdict(settings), "accuracy_relu": accuracies["float"],
                             "accuracy_pruned": accuracies["pruned"], "accuracy_float": accuracies["qcfs"], "accuracy_integer": accuracies["integer"],
                             "test_images": len(data.x_test)})
    weights = torch.cat([weight.detach().flatten() for weight in prunable(module)])
    return Trained(network=network, module=module, accuracies=accuracies, losses=losses, weights=len(weights),
                   sparsity=float((weights == 0).double().mean()))


@torch.no_grad()
def _try(make, data, settings, name):
    """Import the untrained module, so that one that cannot be imported is refused before hours of training."""
    torch.manual_seed(settings.seed)
    module = make().eval()
    for parameter in module.parameters():
        if not parameter.any():
            parameter.fill_(0.1)        # what starts at zero is no dead layer
    images = data.x_train[:TRIED]
    want = (len(images), len(data.classes))
    try:
        shape = tuple(module(torch.from_numpy(images) * PIXEL).shape)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"{name}: the module does not take images of shape {data.x_train.shape[1:]}: {error}") from error
    if shape != want:
        raise TrainingError(f"{name}: the module gives {shape} for {len(images)} images; one number for each of {len(data.classes)} classes, {want}, is needed")
    module = calibrate(module, images, levels=settings.most_levels, input_levels=settings.input_levels, host_levels=settings.host_levels, pixel_scale=PIXEL)
    import_torch(module, images.shape[1:], name=name, pixel_scale=PIXEL, calibration=images)


def integer_accuracy(network, images, labels, *, batch=100, show=None):
    """Share of images that the integer network classifies as their label."""
    right = 0
    for start in (show or Silent()).track(range(0, len(images), batch), f"{network.name}: accuracy in integers, {batch} images at a time"):
        output = evaluate(network, images[start:start + batch]).output
        right += int((output.reshape(len(output), -1).argmax(axis=1) == np.asarray(labels[start:start + batch])).sum())
    return right / len(images)
