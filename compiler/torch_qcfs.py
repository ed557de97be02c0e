"""The QCFS activation, and the quantiser between cores and host, as PyTorch modules. Needs the ``torch`` extra."""

__all__ = ["HandOver", "QCFS"]

import torch
from torch import nn

from neuroflex.formats import MAX_LEVEL


class _Staircase(torch.autograd.Function):
    """``λ·floor(clip(z/λ, 0, 1)·L + 1/2)/L``, with the gradients that floor(x) = x would give (straight-through estimator).

    One function of its own, since the chain of operations would keep seven tensors for the backward pass.
    """

    @staticmethod
    def forward(ctx, z, clip, levels):
        ctx.save_for_backward(z, clip)
        ctx.levels = levels
        return _levels(z, clip, levels).mul_(clip).div_(levels)

    @staticmethod
    def backward(ctx, gradient):
        z, clip = ctx.saved_tensors
        inside = (z >= 0) & (z <= clip)
        of_z = gradient * inside
        of_clip = None
        if ctx.needs_input_grad[1]:
            of_clip = (torch.dot(gradient.reshape(-1), _levels(z, clip, ctx.levels).reshape(-1)) / ctx.levels
                       - torch.dot(of_z.reshape(-1), z.reshape(-1)) / clip).reshape(clip.shape)
        return of_z, of_clip, None


def _levels(z, clip, levels):
    return (z / clip).clamp_(0, 1).mul_(levels).add_(0.5).floor_()


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
        return _Staircase.apply(z, self.clip, self.levels)

    def extra_repr(self):
        return f"levels={self.levels}, clip={self.clip.item():g}"


class _SignedStaircase(torch.autograd.Function):
    """``step·clip(floor(z/step + 1/2), −zero, levels − zero)`` with ``step = clip/zero``, the gradients as for QCFS."""

    @staticmethod
    def forward(ctx, z, clip, levels, zero):
        ctx.save_for_backward(z, clip)
        ctx.sizes = levels, zero
        step = clip / zero
        return _signed(z, step, levels, zero).mul_(step)

    @staticmethod
    def backward(ctx, gradient):
        z, clip = ctx.saved_tensors
        levels, zero = ctx.sizes
        step = clip / zero
        q = _signed(z, step, levels, zero)
        share = z / step
        inside = (share >= -zero) & (share <= levels - zero)
        of_clip = (gradient * (q - share * inside)).sum_to_size(clip.shape) / zero if ctx.needs_input_grad[1] else None
        return gradient * inside, of_clip, None, None


def _signed(z, step, levels, zero):
    return (z / step).add_(0.5).floor_().clamp_(-zero, levels - zero)


class HandOver(nn.Module):
    """What the cores hand to the host: a layer's sums as levels about a middle one, which stands for 0.

    ``step·clip(floor(z/step + 1/2), −zero, levels − zero)`` with ``zero = ⌈levels/2⌉`` and ``step = clip/zero`` for each channel: the layer's
    columns give ``0 … levels``, the host subtracts ``zero`` and multiplies.

    Parameters
    ----------
    levels : int
        1 … 127. Up to those of SNN columns, so that they can take the layer.
    clip : float array (C,)
        Initial value of each channel's range, positive. Its logarithm is what is trained: ranges differ by much, and none can turn negative.
    dim : int
        Axis of the channels: 1, or −1 behind linear layers.
    """

    def __init__(self, levels, clip, *, dim=-1):
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= MAX_LEVEL:
            raise ValueError(f"HandOver levels must be an integer in 1 … {MAX_LEVEL}, not {levels!r}")
        clip = torch.as_tensor(clip).float().reshape(-1)
        if not (clip > 0).all():
            raise ValueError("every HandOver clip must be positive")
        if dim not in (1, -1):
            raise ValueError(f"HandOver dim must be 1 or -1, not {dim!r}")
        self.levels, self.zero, self.dim = levels, (levels + 1) // 2, dim
        self.log2_clip = nn.Parameter(clip.log2())

    @property
    def clip(self):
        """Range of each channel, (C,)."""
        return self.log2_clip.exp2()

    def forward(self, z):
        """Quantised ``z``, same shape."""
        clip = self.clip if self.dim == -1 else self.clip.reshape(-1, *[1] * (z.dim() - 2))
        return _SignedStaircase.apply(z, clip, self.levels, self.zero)

    def extra_repr(self):
        return f"levels={self.levels}, {len(self.log2_clip)} channels, dim={self.dim}"
