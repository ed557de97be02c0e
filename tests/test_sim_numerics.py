"""The integer arithmetic: QCFS by its definition, PASC-IF equal to it, spikes and accumulators."""
import itertools
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from neuroflex.sim.numerics import arrivals, pascif, pascif_spikes, pseudo_corrections, qcfs, thermometer

SEED = 31


def test_qcfs_is_its_definition():
    for z, bias, theta, levels in itertools.product(range(-9, 10), (-5, 0, 2), range(1, 6), range(1, 5)):
        exact = floor(Fraction(z + bias, theta) + Fraction(1, 2))
        assert qcfs(z, bias, theta, levels) == min(max(exact, 0), levels)


def test_qcfs_refuses_what_it_cannot_compute():
    with pytest.raises(TypeError, match="z must be integers, not float64"):
        qcfs(0.5, 0, 1, 1)
    with pytest.raises(ValueError, match="theta must be at least 1"):
        qcfs(1, 0, 0, 1)


@pytest.mark.parametrize("steps_in", [1, 2, 3])
def test_pascif_equals_qcfs_exhaustively(steps_in):
    """Every arrival in -5 ... 5, bias in -3 ... 3, theta up to 5, up to 4 output levels."""
    axes = [np.arange(-5, 6)] * steps_in + [np.arange(-3, 4), np.arange(1, 6), np.arange(1, 5)]
    *x, bias, theta, levels = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    x = np.stack(x)
    y = pascif(x, bias, theta, levels)
    assert np.array_equal(y, qcfs(x.sum(0), bias, theta, levels))


def random_columns(rng, count):
    """Arrivals and parameters with sums near the staircase, T1 and T2 up to 15, mixed."""
    steps_in, levels = rng.integers(1, 16, (2, count))
    x = rng.integers(-1 << 20, 1 << 20, (15, count)) >> rng.integers(0, 21, count)
    theta = np.maximum(1, rng.integers(1, 1 << 22, count) >> rng.integers(0, 22, count))
    total = np.where(np.arange(15)[:, None] < steps_in, x, 0).sum(0)
    near = rng.integers(-1, 17, count) * theta - total - (theta >> 1) + rng.integers(-2, 3, count)
    bias = np.where(rng.random(count) < 0.7, near, rng.integers(-1 << 31, 1 << 31, count))
    return x, total, bias, theta, levels, steps_in


def test_pascif_equals_qcfs_on_a_million_random_columns():
    rng = np.random.default_rng(SEED)
    seen = np.zeros(16, np.int64)
    for _ in range(10):
        x, total, bias, theta, levels, steps_in = random_columns(rng, 100_000)
        y = pascif(x, bias, theta, levels, steps_in=steps_in)
        assert np.array_equal(y, qcfs(total, bias, theta, levels))
        seen += np.bincount(y, minlength=16)
    assert seen.sum() == 1_000_000 and seen.min() > 2_000


@pytest.mark.parametrize("steps_in, levels", [(2, 2), (3, 3), (4, 2), (2, 4)])
def test_stage_two_needs_all_its_steps(steps_in, levels):
    """With one step of stage 2 less, some columns are wrong: the bound max(T1, T2) - 1 is tight."""
    axes = np.meshgrid(*[np.arange(-16, 17, 4)] * steps_in, indexing="ij")
    x = np.stack([axis.ravel() for axis in axes])
    wrong = {inhibit: np.count_nonzero(neuron(x, 4, levels, inhibit) != qcfs(x.sum(0), 0, 4, levels))
             for inhibit in (max(steps_in, levels) - 2, max(steps_in, levels) - 1)}
    assert [count > 0 for count in wrong.values()] == [True, False]


def neuron(x, theta, levels, inhibit):
    """PASC-IF without bias and with a chosen number of steps in stage 2, written with fractions of theta undoubled."""
    mem, count = np.full(x.shape[1:], theta / 2), np.zeros(x.shape[1:], np.int64)
    for arrival in x:
        fire = mem + arrival >= theta
        mem, count = mem + arrival - theta * fire, count + fire
    for _ in range(inhibit):
        change = (mem >= theta).astype(np.int64) - (mem < 0)
        mem, count = mem - theta * change, count + change
    return np.clip(count, 0, levels)


def test_spikes_are_a_thermometer_and_the_count_is_the_clip():
    """Stage 3 spike by spike equals the count min(max(c, 0), T2), which is what the circuit puts out."""
    rng = np.random.default_rng(SEED + 1)
    x, total, bias, theta, levels, steps_in = random_columns(rng, 20_000)
    spikes = pascif_spikes(x, bias, theta, levels, steps_in=steps_in)
    word = (spikes.astype(np.int64) << np.arange(len(spikes))[:, None]).sum(0)
    assert np.array_equal(word, thermometer(spikes.sum(0), levels))
    assert np.array_equal(spikes.sum(0), qcfs(total, bias, theta, levels))


def test_thermometer():
    assert [int(thermometer(q, 4)) for q in range(6)] == [0b0, 0b1, 0b11, 0b111, 0b1111, 0b1111]


@pytest.mark.parametrize("levels", [1, 2, 8, 15])
def test_accumulators_hold_the_spikes_of_every_step(levels):
    rng = np.random.default_rng(SEED + levels)
    w = rng.integers(-128, 128, (50, 20))
    q = rng.integers(0, levels + 1, (50, 20))
    pseudo, corrections = pseudo_corrections(w, q, levels)
    x = arrivals(pseudo, corrections)
    assert corrections.shape == (50, levels - 1) and x.shape == (levels, 50)
    for t in range(levels):
        spikes = thermometer(q, levels) >> t & 1
        assert np.array_equal(x[t], (w * spikes).sum(-1))
    assert np.array_equal(x.sum(0), (w * q).sum(-1))
