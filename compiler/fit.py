"""Real columns to integer columns: INT8 weights, bias and threshold, and how far their levels can be from the real ones."""

__all__ = ["FLOOR", "HALF_EVEN", "HALF_UP", "FittedColumn", "Rounding", "ThresholdTooSmall", "fit_column", "split_repeated"]

from dataclasses import dataclass

import numpy as np

_GRID = 2e-5          # weights this close to multiples of a unit are taken as such
_EXACT = 1e-7         # residuals below this are floating-point noise of the source, not a difference
_LARGEST = 1 << 20    # threshold: 127 of them, and biases of hundreds, stay within 32 bits, and columns of nearly nothing are fine enough


@dataclass(frozen=True)
class Rounding:
    """How a source framework turns a real level ``x`` into an integer one.

    Level ``k`` is reached when ``x + share ≥ k``, or ``> k`` when ``strict``. With ``ties_even`` (and a share of ½) a value half
    way between two levels goes to the even one, which QCFS hardware cannot do: those values are counted as differences.
    """

    share: float = 0.5
    strict: bool = False
    ties_even: bool = False


HALF_UP = Rounding()
HALF_EVEN = Rounding(ties_even=True)
FLOOR = Rounding(share=0.0)


class ThresholdTooSmall(ValueError):
    """One output level is less than half an accumulator unit; ``largest`` is the largest weight per input level."""

    def __init__(self, largest):
        super().__init__(f"threshold rounds to 0 beside weights of {largest:g}")
        self.largest = largest


@dataclass(frozen=True, eq=False)
class FittedColumn:
    """One column in integers.

    Attributes
    ----------
    weights : list of int64 arrays
        Per source, before repetition.
    bias, theta : int
    worst : int
        Most levels by which it can differ from the real column, for any input levels. 0: equal for all inputs, proved by
        comparing every threshold.
    """

    weights: list
    bias: int
    theta: int
    worst: int


def split_repeated(values, repeat):
    """Integer weights of a source that is read ``repeat`` times, split as evenly as integers allow."""
    size, sign = np.abs(values), np.sign(values)
    return np.concatenate([sign * np.minimum((size + index) // repeat, 127) for index in range(repeat)])


def fit_column(real, bias, step, peaks, *, repeats, levels, rounding=HALF_UP):
    """Best integer column for a real one.

    The real column reaches ``x = (Σ real·A + bias) / step`` levels. Two ways are tried, and the one with the smaller proved
    difference is taken: keep weights that lie on a grid as they are and round the threshold (also with all of them scaled
    up, which makes the threshold's rounding relatively smaller); or choose a unit of which the threshold is a whole number
    and round the weights.

    Parameters
    ----------
    real : list of float arrays (K_i,)
        Per source, real output value per input level.
    bias, step : float
        ``step`` is the real value of one output level.
    peaks : list of int arrays (K_i,)
        Largest level of each entry.
    repeats : list of int
        How often each source is read: its integer weights may reach ``127·repeat``.
    levels : int
    rounding : Rounding

    Returns
    -------
    FittedColumn

    Raises
    ------
    ThresholdTooSmall
    """
    largest = [np.abs(v).max(initial=0.0) for v in real]
    if max(largest) == 0:
        return _constant(real, bias / step, levels, rounding)
    finest = max(top / (127 * repeat) for top, repeat in zip(largest, repeats))
    if round(step / finest) < 1:
        raise ThresholdTooSmall(max(largest))
    theta = max(int(min(step / finest, _LARGEST)), 1)
    found = []
    bases = [np.concatenate(real)] + (real if len(real) > 1 else [])
    for grid in {g for g in map(_grid, bases) if g is not None}:
        reach = min((int(127 * r * grid / top + 1e-9) for top, r in zip(largest, repeats) if top), default=0)
        scale = _best_scale(grid, bias, step, levels, min(reach, int(_LARGEST * grid / step)))
        if scale:
            found.append(_finish(real, bias, step, peaks, grid / scale, round(step * scale / grid), levels, rounding, grid=grid))
    found.append(_finish(real, bias, step, peaks, max(step / theta, finest), theta, levels, rounding, grid=None))
    return min(found, key=lambda pair: (pair[1].worst, pair[0]))[1]


def _constant(real, value, levels, rounding):
    """A column without weights: its one level, for any input."""
    k = np.arange(1, levels + 1)
    reached = value + rounding.share > k if rounding.strict else value + rounding.share >= k
    reached &= ~(rounding.ties_even & (k % 2 == 1) & (value + rounding.share == k))
    return FittedColumn([np.zeros(len(v), np.int64) for v in real], int(reached.sum()), 1, 0)


def _grid(values):
    """Largest unit of which all values are multiples of at most 127, or None."""
    sizes = np.unique(np.abs(values[values != 0]))
    if not sizes.size:
        return None
    units = sizes[-1] / np.arange(1, 128)
    for some in (sizes[:8], sizes):
        multiples = some[None, :] / units[:, None]
        units = units[(np.abs(multiples - np.rint(multiples)) <= _GRID).all(axis=1)]
        if not units.size:
            return None
    return float(units[0])


def _best_scale(grid, bias, step, levels, most):
    """Factor on all weights for which threshold and bias round best; the smallest of equals, 0 if there is none."""
    if most < 1:
        return 0
    scales = np.arange(1, most + 1)
    theta = step * scales / grid
    whole = np.rint(theta)
    slope = np.abs(whole / theta - 1) * (levels + 0.5)
    offset = np.abs(bias * scales / grid - np.rint(bias * scales / grid)) / theta
    error = np.where(whole >= 1, slope + offset, np.inf)
    best = int(np.argmax(error <= error.min() + 1e-12))
    return int(scales[best]) if np.isfinite(error[best]) else 0


def _finish(real, bias, step, peaks, unit, theta, levels, rounding, *, grid):
    """``(bound, FittedColumn)`` for a unit and a threshold."""
    weights = [np.rint(v / unit).astype(np.int64) for v in real]
    residual = [np.abs(v / unit - w) for v, w in zip(real, weights)]
    on_grid = grid is not None and max((r.max(initial=0.0) for r in residual), default=0.0) <= _EXACT
    offset = bias / unit
    noise = _noise(offset, theta)
    if not on_grid:
        whole = round(offset + (rounding.share - 0.5) * theta)
    elif rounding.strict:
        whole = int(np.ceil(rounding.share * theta + offset - noise)) - 1 - theta // 2
    else:
        whole = int(np.floor(rounding.share * theta + offset + noise)) - theta // 2
    lost = sum(float(r @ p) for r, p in zip(residual, peaks)) / theta
    bound = (levels + 0.5) * abs(step / (theta * unit) - 1) + lost + abs(whole - offset - (rounding.share - 0.5) * theta) / theta
    if on_grid:
        scale = round(grid / unit)
        worst = _worst(theta, whole, scale, bias / grid, step / grid, levels, rounding)
        bound = min(bound, worst)
    else:
        worst = min(levels, max(1, int(np.ceil(bound - 1e-9))))
    return bound, FittedColumn(weights, whole, theta, worst)


def _noise(bias, value):
    """What is no difference: a bias is a single-precision number, everything else was computed in double precision."""
    return 2e-7 * abs(bias) + 1e-9 * (1 + value)


def _worst(theta, bias, scale, real_bias, real_step, levels, rounding):
    """Most levels between the integer staircase and the real one over all integer sums (in units of the grid)."""
    k = np.arange(1, levels + 1)
    ours = -(-(k * theta - theta // 2 - bias) // scale)
    at = (k - rounding.share) * real_step - real_bias
    near = np.rint(at)
    tie = np.abs(at - near) <= _noise(real_bias, np.abs(at))
    beyond = rounding.strict | (rounding.ties_even & (k % 2 == 1))
    theirs = np.where(tie, near + beyond, np.ceil(at)).astype(np.int64)
    points = np.concatenate([ours, theirs])
    return int(np.abs(np.searchsorted(ours, points, "right") - np.searchsorted(theirs, points, "right")).max())
