"""Values of a traced graph whose axes were reshaped or permuted: tokens and heads. Needs the ``torch`` extra.

A value is kept as it is stored, (C, H, W) with positions as tokens, beside the torch tensor of the same shape as in the module that holds, for every
element, its place there. Shape operations act on that tensor alone; an operation that computes looks whether what it reads is laid out as it needs.
"""

__all__ = ["BATCH", "SHAPE_OPERATIONS", "Constant", "Scores", "View", "canonical", "channels_last", "view_of"]

import operator
from dataclasses import dataclass

import torch

from neuroflex.compiler.assemble import Tensor

BATCH = 2          # images that the places tell apart, so that no operation can mix them unnoticed
SHAPE_OPERATIONS = {name: getattr(torch.Tensor, name) for name in (
    "chunk", "contiguous", "flatten", "movedim", "permute", "reshape", "split", "squeeze", "swapaxes", "swapdims", "transpose", "unbind", "unflatten", "unsqueeze", "view")}
SHAPE_OPERATIONS |= {getattr(torch, name): function for name, function in SHAPE_OPERATIONS.items() if hasattr(torch, name)}
SHAPE_OPERATIONS[operator.getitem] = torch.Tensor.__getitem__


@dataclass(frozen=True, eq=False)
class View:
    """``value`` (`Tensor`, `Sum` or `Real`) with axes of its own: ``places``, int64, is the place b·CHW + c·HW + t of each element."""

    value: object
    places: torch.Tensor

    @property
    def whole(self):
        """Whether each element is there once."""
        return torch.equal(self.places.flatten().sort().values, torch.arange(_size(self.value.shape)))

    @property
    def tokens(self):
        """Whether it is (B, tokens …, C)."""
        return self.places.ndim > 1 and self.places.shape[0] == BATCH and torch.equal(self.places.reshape(BATCH, -1, self.places.shape[-1]), channels_last(self.value.shape))

    @property
    def channels_first(self):
        """Whether it is (B, C, …)."""
        return self.places.shape[0] == BATCH and torch.equal(self.places.flatten(), torch.arange(_size(self.value.shape)))

    def heads(self):
        """``(first, heads, width)`` of channels that lie as (B, heads, tokens, width) or (B, tokens, width), or None."""
        channels, height, width = self.value.shape
        tokens = height * width
        places = self.places.unsqueeze(1) if self.places.ndim == 3 else self.places
        if places.ndim != 4 or places.shape[0] != BATCH or places.shape[2] != tokens:
            return None
        count, size = places.shape[1], places.shape[3]
        first = int(places[0, 0, 0, 0]) // tokens
        if first + count * size > channels:
            return None
        rows = torch.arange(BATCH * channels * tokens).reshape(BATCH, channels, tokens)[:, first:first + count * size]
        return (first, count, size) if torch.equal(places, rows.reshape(BATCH, count, size, tokens).transpose(2, 3)) else None


@dataclass(frozen=True, eq=False)
class Constant:
    """A parameter or buffer of the module, a tensor."""

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Scores:
    """Products of queries and keys, both `View`, times ``scale``, before and (``soft``) after the softmax."""

    query: View
    key: View
    scale: float = 1.0
    soft: bool = False


def _size(shape):
    channels, height, width = shape
    return BATCH * channels * height * width


def canonical(shape):
    """Places of (B, C, H, W)."""
    return torch.arange(_size(shape)).reshape(BATCH, *shape)


def channels_last(shape):
    """Places of (B, tokens, C)."""
    return canonical(shape).flatten(2).transpose(1, 2)


def view_of(value):
    """``value`` as a `View`."""
    if isinstance(value, View):
        return value
    places = canonical(value.shape)
    return View(value, places.flatten(1) if isinstance(value, Tensor) and value.flat else places)
