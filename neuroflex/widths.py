"""How wide the accumulators and neurons must be, and the refusal of columns that would overflow.

Every bound below is a proof, not an estimate. For a column with weights ``w[k]`` and activation levels
``0 <= q[k] <= L``:

* **Sum.** ``Z = sum(q[k] * w[k])``. Each term lies between ``L * min(w[k], 0)`` and ``L * max(w[k], 0)``, so every
  partial sum, in any order, lies between ``L * (sum of the negative weights)`` and ``L * (sum of the positive ones)``.
* **Pseudo and correction accumulators.** Both are sums over subsets of the weights: the bound above with ``L = 1``.
  So is every arrival ``x[t] = pseudo - correction[t]``, the sum of the weights whose level is above ``t``.
* **Binary-weighted sums.** Where accumulator ``b`` has the weights of the inputs whose level ``q`` (or ``d = L - q``, what it lacks to ``L``) has bit ``b`` set, each
  is a sum over a subset of the weights, too. Horner's rule goes through ``sum(c[k] * w[k])`` with ``c[k] = q[k] >> b`` or ``(L >> b) - (d[k] >> b)``, both from 0 to ``L``:
  so with all sums of weights below ``2 ** (bits - 1)`` in magnitude, what it goes through is below ``L`` times that: ``ceil(log2(L))`` bits more are enough.
* **Membrane** of the PASC-IF neuron, started at ``mem0 = bias + theta // 2``. Stage 1 only ever subtracts from a
  membrane of at least theta, which leaves at least 0; so below, it is at least ``min(bias, 0)`` plus the negative part
  of ``T`` arrivals, and above, at most ``mem0`` plus the positive part of ``T`` arrivals. Stage 2 moves it towards
  ``0 ... theta - 1`` and never past. The circuit also forms the difference with theta in stage 1, and in stage 2 the
  sum of a negative and the difference of another membrane with as many thetas as it takes steps per cycle.
"""
import numpy as np

__all__ = ["accumulator_bits", "level_bits", "membrane_bits", "membrane_range", "require_column", "signed_bits", "signed_range", "weighted_bits"]


def signed_bits(low, high):
    """Bits of the narrowest two's complement number that holds ``low ... high``."""
    if low > high:
        raise ValueError(f"empty range: low {low} is above high {high}")
    low, high = int(low), int(high)
    return max((value if value >= 0 else -value - 1).bit_length() for value in (low, high)) + 1


def signed_range(bits):
    """``(low, high)`` of a two's complement number of ``bits`` bits."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def level_bits(levels):
    """Bits of a level ``0 ... levels``: ``ceil(log2(levels + 1))``."""
    if levels < 1:
        raise ValueError(f"a column has at least one level, not {levels}")
    return int(levels).bit_length()


def accumulator_bits(inputs, levels=1, *, weight_range=(-128, 127)):
    """Bits of an accumulator that no column can overflow.

    Parameters
    ----------
    inputs : int
        Length of the longest column, K.
    levels : int
        Largest activation level, L, for the sum of an ANN column; 1 for pseudo and correction accumulators.
    weight_range : (int, int)
        Smallest and largest weight.
    """
    if inputs < 1 or levels < 1:
        raise ValueError(f"inputs and levels must be at least 1, not {inputs} and {levels}")
    low, high = weight_range
    return signed_bits(min(low, 0) * inputs * levels, max(high, 0) * inputs * levels)


def weighted_bits(config):
    """Bits of a column's whole sum, where ``ArchConfig.snn_acc_bits`` hold each of its binary-weighted ones; see the module's proof."""
    return config.snn_acc_bits + (config.snn_levels - 1).bit_length()


def membrane_range(*, arrival_range, bias_range, theta, levels, steps=1):
    """``(low, high)`` of the membrane after at most ``levels`` arrivals, and of its sums and differences with theta."""
    low = min(min(bias_range[0], 0) + levels * min(arrival_range[0], 0) - theta, -steps * theta)
    high = max(bias_range[1] + theta // 2 + levels * max(arrival_range[1], 0), steps * theta)
    return low, high


def membrane_bits(*, arrival_bits, bias_bits, theta_bits, levels, steps=1):
    """Bits of the PASC-IF membrane for any inputs of these widths; see the module's proof."""
    return signed_bits(*membrane_range(arrival_range=signed_range(arrival_bits), bias_range=signed_range(bias_bits),
                                       theta=(1 << theta_bits) - 1, levels=levels, steps=steps))


def require_column(weights, *, bias, theta, levels_in, levels_out, acc_bits, bias_bits, theta_bits, level_limit, spiking,
                   where="column"):
    """Refuse a column that the circuit could not compute exactly.

    Parameters
    ----------
    weights : int array, shape (K,)
        The column's weights, INT8.
    bias, theta, levels_in, levels_out : int
        Its parameters; ``levels_in`` is the largest level of its inputs.
    acc_bits, bias_bits, theta_bits : int
        Widths of the core that it is to run on.
    level_limit : int
        Most levels that core can put out (and take in, when spiking).
    spiking : bool
        Whether it is an SNN column, whose accumulators sum weights and not products.
    where : str
        Name of the column for the message.

    Raises
    ------
    OverflowError
        When a value does not fit; the message says which, its bounds, and the bits that would be enough.
    """
    weights = np.asarray(weights, np.int64)
    factor = 1 if spiking else int(levels_in)
    low, high = factor * int(weights[weights < 0].sum()), factor * int(weights[weights > 0].sum())
    if weights.size and (weights.min() < -128 or weights.max() > 127):
        raise OverflowError(f"{where}: weight outside INT8 (-128 ... 127)")
    if signed_bits(low, high) > acc_bits:
        raise OverflowError(f"{where}: the accumulator can reach {low} ... {high}, which needs {signed_bits(low, high)} bits, "
                            f"and it has {acc_bits}")
    if signed_bits(bias, bias) > bias_bits:
        raise OverflowError(f"{where}: bias {bias} needs {signed_bits(bias, bias)} bits, and it has {bias_bits}")
    if not 0 < theta < 1 << theta_bits:
        raise OverflowError(f"{where}: theta {theta} must be from 1 to {(1 << theta_bits) - 1} ({theta_bits} bits)")
    for name, levels in (("levels_out", levels_out), ("levels_in", levels_in if spiking else 1)):
        if not 1 <= levels <= level_limit:
            raise OverflowError(f"{where}: {name} {levels} must be from 1 to {level_limit}")
