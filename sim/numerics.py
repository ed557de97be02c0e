"""The integer arithmetic of one column, in NumPy int64: what every core must reproduce.

Sources: QCFS activation, Bu et al., ICLR 2022; PASC-IF neuron and its exactness, PASCAL, Ramesh and Srinivasan, 2025;
pseudo and correction accumulators, LoAS, Yin et al., MICRO 2024.

**Theorem (column exactness).** Let ``S = sum(x[t])`` over the ``T1`` arrivals ``x[t]`` of a column, whatever their order
and sign, ``theta >= 1`` and ``M = max(T1, T2) - 1``. The three stages of :func:`pascif` return
``clip(Q, 0, T2)`` with ``Q = floor((2*S + 2*bias + theta) / (2*theta))``, which is :func:`qcfs` of the same sum.

*Proof.* In all stages ``mem + theta*c`` is unchanged but for the arrivals, so afterwards ``0 <= mem < theta`` if and only
if ``c = Q``. Let ``c1`` be the count after stage 1. Each step of stage 2 moves ``c`` by one towards ``Q`` and rests there.
If ``|Q - c1| <= M``, stage 2 ends at ``Q``, and stage 3 clips it. Otherwise:

* ``Q > c1 + M``: stage 2 ends at ``c1 + M < Q``. ``c1 = 0`` cannot be, since a neuron that never fired has ``mem < theta``,
  that is ``Q <= 0``. So ``c1 >= 1``, and ``c1 + M >= max(T1, T2) >= T2``: it is clipped to ``T2``, as is ``Q``.
* ``Q < c1 - M``: stage 2 ends at ``c1 - M > Q``. ``c1 = T1`` cannot be, since a neuron that fired in the last step has
  ``mem >= 0``, that is ``Q >= c1``. So ``c1 <= T1 - 1 <= M``, and ``c1 - M <= 0``: it is clipped to 0, as is ``Q``.

Everything is in *doubled units* (``2*x``, ``2*theta``), so that half a threshold is an integer for odd thresholds too.
"""
import numpy as np

__all__ = ["arrivals", "pascif", "pascif_spikes", "pseudo_corrections", "qcfs", "thermometer"]


def _int64(**arrays):
    """The arguments as int64 arrays; anything but integers is refused, since rounding must not be silent."""
    result = []
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind not in "iub":
            raise TypeError(f"{name} must be integers, not {array.dtype}")
        result.append(array.astype(np.int64))
    return result


def qcfs(z, bias, theta, levels):
    """QCFS activation ``clip(floor((2*z + 2*bias + theta) / (2*theta)), 0, levels)``.

    Parameters
    ----------
    z : int array
        Weighted sums.
    bias, theta, levels : int arrays
        Parameters of the columns; everything broadcasts.

    Returns
    -------
    int64 array of levels, 0 ... ``levels``.
    """
    z, bias, theta, levels = _int64(z=z, bias=bias, theta=theta, levels=levels)
    if np.any(theta < 1) or np.any(levels < 0):
        raise ValueError("theta must be at least 1 and levels at least 0")
    return np.clip((2 * z + 2 * bias + theta) // (2 * theta), 0, levels)


def thermometer(q, levels):
    """Spike word of level ``q``: bit ``t`` is 1 when the neuron fires in step ``t``, that is ``t < q``."""
    q, levels = _int64(q=q, levels=levels)
    return (np.int64(1) << np.clip(q, 0, levels)) - 1


def pseudo_corrections(w, q, levels):
    """What the accumulators of an SNN column hold after all its matches.

    Parameters
    ----------
    w, q : int arrays, shape (..., K)
        Weights and activation levels. Positions of level 0 do not match and change nothing.
    levels : int
        Time steps T of the input, the largest level.

    Returns
    -------
    pseudo : int64 array, shape (...)
        Sum of the matched weights: as if every match fired in every step.
    corrections : int64 array, shape (..., levels - 1)
        For steps 1 ... levels - 1, what was too much. Step 0 needs none: a match fires in it.
    """
    w, q = _int64(w=w, q=q)
    step = np.arange(1, levels)
    w = np.where(q > 0, w, 0)
    return w.sum(-1), np.where(q[..., None, :] <= step[:, None], w[..., None, :], 0).sum(-1)


def arrivals(pseudo, corrections):
    """Input ``x[t] = pseudo - correction[t]`` of each time step; shape ``(levels, ...)``, time first."""
    pseudo, corrections = _int64(pseudo=pseudo, corrections=corrections)
    return np.concatenate([pseudo[None], pseudo[None] - np.moveaxis(corrections, -1, 0)])


def pascif_spikes(x, bias, theta, levels, *, steps_in=None):
    """Output spikes of the PASC-IF neuron, all three stages step by step.

    Parameters
    ----------
    x : int array, shape (T1, ...)
        Arrivals, time first.
    bias, theta, levels : int arrays
        Column parameters; ``levels`` is T2. They broadcast with ``x[0]``.
    steps_in : int array, optional
        T1 of each column when it is less than ``len(x)``: later arrivals are ignored.

    Returns
    -------
    bool array, shape (max T2, ...)
        Fires in step ``t``: always a thermometer code, the first ``y`` steps.
    """
    x, bias, theta, levels = _int64(x=x, bias=bias, theta=theta, levels=levels)
    steps_in, = _int64(steps_in=len(x) if steps_in is None else steps_in)
    if np.any(theta < 1) or np.any(levels < 1) or np.any(steps_in < 1):
        raise ValueError("theta, levels and steps_in must be at least 1")
    shape = np.broadcast_shapes(x.shape[1:], bias.shape, theta.shape, levels.shape, steps_in.shape)
    threshold = 2 * theta
    mem = np.broadcast_to(2 * bias + theta, shape)
    count = np.zeros(shape, np.int64)

    for t in range(len(x)):                                 # stage 1: integrate and fire
        mem = mem + np.where(t < steps_in, 2 * x[t], 0)
        fire = (mem >= threshold) & (t < steps_in)
        mem = mem - threshold * fire
        count = count + fire

    inhibit = np.maximum(steps_in, levels) - 1              # stage 2: move the rest of the membrane into the count
    for step in range(int(inhibit.max(initial=0))):
        spike = (mem >= threshold) & (step < inhibit)
        revoke = (mem < 0) & (step < inhibit)
        mem = mem + threshold * (revoke.astype(np.int64) - spike)
        count = count + spike - revoke

    spikes = np.zeros((int(levels.max(initial=0)), *shape), bool)
    for t in range(len(spikes)):                            # stage 3: emit what was counted
        spikes[t] = (count >= 1) & (t < levels)
        count = count - spikes[t]
    return spikes


def pascif(x, bias, theta, levels, *, steps_in=None):
    """Output level of the PASC-IF neuron: the number of its spikes. Arguments as for :func:`pascif_spikes`."""
    return pascif_spikes(x, bias, theta, levels, steps_in=steps_in).sum(0, dtype=np.int64)
