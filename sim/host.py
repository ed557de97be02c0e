"""Arithmetic of the host steps between two runs of the accelerator (``docs/network_format.md``).

Everything is float64; additions, multiplications, divisions and square roots are rounded as IEEE 754 says and sums are taken from the
first entry to the last. The exponential is a polynomial of its own, made of the same operations. So results do not depend on a library.
"""

__all__ = ["attention", "exponential", "host_step", "layer_norm", "mean"]

import math

import numpy as np
from numba import njit

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.6931471803691238        # its last 21 bits are zero: multiples up to 2**20 are exact
_LN2_LOW = 1.9082149292705877e-10
_TERMS = 14                           # of the series, for arguments up to ln(2) / 2
_LOWEST = -700.0                      # below, the exponential is taken as 0


@njit(cache=True)
def exponential(x):
    """``exp(x)`` for x ≤ 0: 2**n times a Taylor series in ``x − n·ln 2``, by Horner's rule."""
    if x < _LOWEST:
        return 0.0
    n = math.floor(x * _LOG2_E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    total = 1.0
    for term in range(_TERMS, 0, -1):
        total = 1.0 + total * r / term
    return math.ldexp(total, int(n))


@njit(cache=True)
def layer_norm(x, weight, bias, eps):
    """``(x − mean)/√(variance + eps)·weight + bias`` over the last axis.

    Parameters
    ----------
    x : float64 array (B, T, C)
    weight, bias : float64 arrays (C,)
    eps : float

    Returns
    -------
    float64 array (B, T, C)
    """
    out = np.empty_like(x)
    channels = x.shape[2]
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            total = 0.0
            for c in range(channels):
                total += x[b, t, c]
            middle = total / channels
            total = 0.0
            for c in range(channels):
                total += (x[b, t, c] - middle) * (x[b, t, c] - middle)
            spread = math.sqrt(total / channels + eps)
            for c in range(channels):
                out[b, t, c] = (x[b, t, c] - middle) / spread * weight[c] + bias[c]
    return out


@njit(cache=True)
def attention(query, key, value, heads, scale):
    """``softmax(scale·QKᵀ)·V``, each head on its part of the channels; the largest score is subtracted before the exponential.

    Parameters
    ----------
    query, key, value : float64 arrays (B, T, C)
    heads : int
    scale : float

    Returns
    -------
    float64 array (B, T, C)
    """
    batch, tokens, channels = query.shape
    width = channels // heads
    out = np.zeros_like(query)
    turned = np.empty((width, tokens))
    score = np.empty(tokens)
    for b in range(batch):
        for first in range(0, channels, width):
            for d in range(width):
                for j in range(tokens):
                    turned[d, j] = key[b, j, first + d]
            for i in range(tokens):
                for j in range(tokens):
                    score[j] = 0.0
                for d in range(width):
                    for j in range(tokens):
                        score[j] += query[b, i, first + d] * turned[d, j]
                top = -np.inf
                for j in range(tokens):
                    score[j] *= scale
                    top = max(top, score[j])
                total = 0.0
                for j in range(tokens):
                    score[j] = exponential(score[j] - top)
                    total += score[j]
                for j in range(tokens):
                    for d in range(width):
                        out[b, i, first + d] += score[j] * value[b, j, first + d]
                for d in range(width):
                    out[b, i, first + d] /= total
    return out


@njit(cache=True)
def mean(x):
    """Mean over axis 1 of (B, T, C), float64 (B, 1, C)."""
    out = np.zeros((x.shape[0], 1, x.shape[2]))
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for c in range(x.shape[2]):
                out[b, 0, c] += x[b, t, c]
        for c in range(x.shape[2]):
            out[b, 0, c] /= x.shape[1]
    return out


def host_step(step, tensors):
    """One step.

    Parameters
    ----------
    step : neuroflex.compiler.host.HostStep
    tensors : dict
        Name → levels, or float64 array (B, C, H, W), of what it reads.

    Returns
    -------
    float64 array (B, C, H, W), or uint8 for ``levels``
    """
    p = step.parameters
    x, *others = (tensors[s.tensor][:, s.first:s.first + s.channels] for s in step.sources)
    if step.kind == "values":
        return p["step"][:, None, None] * (x.astype(np.float64) - p["zero"][:, None, None])
    if step.kind == "levels":
        return np.clip(np.floor(x * p["levels"] / p["clip"] + 0.5), 0, p["levels"]).astype(np.uint8)
    if step.kind == "add":
        return x + others[0]
    if step.kind == "offset":
        return x + p["offset"]
    grid = x.shape[2:] if step.kind != "mean" else (1, 1)
    x, *others = (np.ascontiguousarray(a.reshape(*a.shape[:2], -1).transpose(0, 2, 1)) for a in (x, *others))
    if step.kind == "layer_norm":
        out = layer_norm(x, p["weight"], p["bias"], p["eps"])
    elif step.kind == "attention":
        out = attention(x, *others, p["heads"], p["scale"])
    else:
        out = mean(x)
    return out.transpose(0, 2, 1).reshape(len(out), -1, *grid)
