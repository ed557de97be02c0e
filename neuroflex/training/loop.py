"""The training loop: epochs that can be resumed, magnitude pruning, accuracy."""

__all__ = ["Checkpoint", "TrainingError", "accuracy", "fit", "fingerprint", "prunable", "prune"]

import hashlib
import io
import math
import pickle
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from neuroflex.atomic import write_atomically
from neuroflex.progress import Silent

_SMOOTHING = 0.05       # of labels
_DECAY = 1e-2           # of weights, by AdamW
_WARM = 0.1             # share of the steps in which the rate rises
_SHIFT = 4              # pixels


class TrainingError(Exception):
    """Training that cannot start or go on; the message says why."""


class Checkpoint:
    """State of one stage of training in a file: written whole after every epoch, read when training is resumed.

    Parameters
    ----------
    path : path
    settings : dict
        What decides the result; a checkpoint of other settings is refused.
    resume : bool
        Whether to go on from the file, if there is one.
    """

    def __init__(self, path, settings, *, resume):
        self.path, self.settings, self.resume = Path(path), settings, resume

    def load(self):
        """The state that `save` was given, or None where training starts anew.

        Raises
        ------
        TrainingError
            When the file is damaged, or was made with other settings.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            state = torch.load(io.BytesIO(self.path.read_bytes()), map_location="cpu", weights_only=True)
            settings = state["settings"]
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise TrainingError(f"{self.path}: no checkpoint, or cut short; remove it to train this stage anew") from error
        other = [f"{key} {settings.get(key)!r}, not {self.settings.get(key)!r}" for key in sorted(settings.keys() | self.settings.keys())
                 if settings.get(key) != self.settings.get(key)]
        if other:
            raise TrainingError(f"{self.path}: made with {'; '.join(other)}. Give the same to go on, or leave --resume out to train anew")
        return state

    def save(self, **state):
        """Write ``state``, tensors and plain values."""
        content = io.BytesIO()
        torch.save({"settings": self.settings, **state}, content)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, content.getvalue())


def fingerprint(module):
    """Sixteen digits that change when a parameter or buffer does."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def prunable(module):
    """Weight tensors that pruning thins out."""
    return [m.weight for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


@torch.no_grad()
def prune(module, density, *, keep_last=True):
    """Set the smallest weights of each layer to zero; returns the masks. The last layer keeps all unless told."""
    masks = []
    weights = prunable(module)
    for index, weight in enumerate(weights):
        share = 1.0 if keep_last and index == len(weights) - 1 else density
        count = max(int(weight.numel() * share), 1)
        limit = weight.abs().flatten().kthvalue(weight.numel() - count + 1).values
        masks.append((weight.abs() >= limit).to(weight.dtype))
        weight *= masks[-1]
    return masks


@torch.no_grad()
def accuracy(module, images, labels, *, scale=1.0, batch=500):
    """Share of images whose largest output is their label; ``images`` (n, C, H, W) are multiplied by ``scale``."""
    module.eval()
    device = next(module.parameters()).device
    right = sum((module(_pixels(x, device, scale)).argmax(1).cpu() == y).sum().item() for x, y in zip(images.split(batch), labels.split(batch)))
    return right / len(images)


def fit(module, images, labels, *, epochs, rate, scale=1.0, batch=64, small_epochs=0, masks=None, seed=0, augment=False, checkpoint=None, text="train",
        show=None):
    """Train with AdamW and a rate that rises for a tenth of the steps and falls as a cosine.

    Each epoch draws from a generator of its own, so that a run that was stopped and resumed goes the same way.

    Parameters
    ----------
    module : torch.nn.Module
        Trained in place, on the device where its parameters are.
    images : tensor (n, C, H, W)
        Raw pixels; ``scale`` is what one unit of them is to the module.
    labels : int64 tensor (n,)
    epochs, batch, seed : int
    rate : float
        The highest one.
    small_epochs : int
        So many epochs at the start see images of half the size, at a quarter of the cost; for modules that take any size.
    masks : list of tensors, optional
        Of `prune`: pruned weights stay zero.
    augment : bool
        Shift and mirror images.
    checkpoint : Checkpoint, optional
        Written after every epoch.
    text : str
        What this is, for people.
    show : neuroflex.progress.Display, optional
        Gets a step of as many parts as there are batches, for every epoch.

    Returns
    -------
    list of float
        Mean loss of each epoch.

    Raises
    ------
    TrainingError
        When the loss is no finite number, or the checkpoint does not fit.
    """
    show = show or Silent()
    device = next(module.parameters()).device
    module.to(memory_format=torch.channels_last)        # a quarter faster on CPUs
    steps = max(len(images) // batch, 1)
    plain, free = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (free if parameter.ndim < 2 else plain).append(parameter)       # no decay of biases, batch norms and clip values
    optimiser = torch.optim.AdamW([{"params": plain, "weight_decay": _DECAY}, {"params": free, "weight_decay": 0.0}], lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, epochs * steps))
    losses = []
    state = checkpoint.load() if checkpoint else None
    if state:
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        losses = list(state["losses"])
    masks = None if masks is None else [mask.to(device) for mask in masks]
    for epoch in range(len(losses), epochs):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {text} {epoch}".encode()).digest()[:7], "big"))
        module.train()
        total = 0.0
        before = f", loss {losses[-1]:.4f} so far" if losses else ""
        with show.count(f"{text}, epoch {epoch + 1} of {epochs}{before}", steps) as done:
            for part in torch.randperm(len(images)).split(min(batch, len(images)))[:steps]:
                x = _pixels(_varied(images[part]) if augment else images[part], device, scale)
                x = functional.avg_pool2d(x, 2) if epoch < small_epochs else x
                loss = functional.cross_entropy(module(x), labels[part].to(device), label_smoothing=_SMOOTHING)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                if masks is not None:
                    with torch.no_grad():
                        for weight, mask in zip(prunable(module), masks):
                            weight *= mask
                total += loss.item()
                done()
        if not math.isfinite(total):
            raise TrainingError(f"{text}: the loss became {total:g} in epoch {epoch + 1}; try a lower rate")
        losses.append(total / steps)
        if checkpoint:
            checkpoint.save(module=module.state_dict(), optimiser=optimiser.state_dict(), schedule=schedule.state_dict(), losses=losses)
    return losses


def _pixels(images, device, scale):
    return images.to(device).float().mul_(scale).contiguous(memory_format=torch.channels_last)


def _share(step, total):
    """Share of the highest rate in a step."""
    warm = max(int(total * _WARM), 1)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))


def _varied(images):
    """Each image shifted by up to 4 pixels, with zeros around it, and mirrored or not."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (_SHIFT,) * 4)
    rows = torch.arange(height) + torch.randint(2 * _SHIFT + 1, (count, 1))
    columns = torch.arange(width) + torch.randint(2 * _SHIFT + 1, (count, 1))
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
