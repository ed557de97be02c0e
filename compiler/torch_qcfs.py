"""The QCFS activation as a PyTorch module. Needs the ``torch`` extra."""

__all__ = ["QCFS"]

import torch
from torch import nn

from neuroflex.formats import MAX_LEVEL


class _Floor(torch.autograd.Function):
    """floor(x) whose gradient is that of x (straight-through estimator)."""

    @staticmethod
    def forward(ctx, x):
        return torch.floor(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class QCFS(nn.Module):
    """Quantisation-clip-floor-shift activation (Bu et al., ICLR 2022).

    ``a = λ·clip(floor(z·L/λ + 1/2)/L, 0, 1)`` with a trained clip value λ > 0.

    Parameters
    ----------
    levels : int
        L, 1 … 127: the activation takes the values 0, λ/L, … λ.
    clip : float
        Initial λ. Between 4 and 8 trains well; from 1 it can turn negative.
    trained : bool
        Whether λ is a parameter or fixed, as in front of a network where it quantises the image.
    """

    def __init__(self, levels, clip=6.0, *, trained=True):
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= MAX_LEVEL:
            raise ValueError(f"QCFS levels must be an integer in 1 … {MAX_LEVEL}, not {levels!r}")
        if not clip > 0:
            raise ValueError(f"QCFS clip must be positive, not {clip!r}")
        self.levels = levels
        self.clip = nn.Parameter(torch.tensor(float(clip)), requires_grad=trained)

    def forward(self, z):
        """Quantised activation of ``z``, same shape."""
        scaled = torch.clamp(z / self.clip, 0, 1)
        return self.clip * _Floor.apply(scaled * self.levels + 0.5) / self.levels

    def extra_repr(self):
        return f"levels={self.levels}, clip={self.clip.item():g}"
