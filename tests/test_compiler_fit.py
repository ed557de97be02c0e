"""Real columns to integer ones: the promised distance holds for every sum that can occur, and 0 means equal."""
from fractions import Fraction

import numpy as np
import pytest

from neuroflex.compiler.fit import FLOOR, HALF_EVEN, HALF_UP, Rounding, ThresholdTooSmall, fit_column, split_repeated


def reference(x, levels, rounding):
    """Level of an exact rational ``x``."""
    shifted = x + Fraction(rounding.share)
    level = shifted.__floor__()
    if shifted == level and (rounding.strict or rounding.ties_even and level % 2):
        level -= 1
    return min(max(level, 0), levels)


def check(weights, unit, bias, step, *, levels, rounding, rng, repeats=(1,)):
    """Fits a column whose real weights are ``weights * unit`` and evaluates both on random inputs; returns the fit."""
    real = [np.asarray(w, float) * float(unit) for w in weights]
    peaks = [rng.integers(1, 9, len(w)) for w in weights]
    column = fit_column(real, float(bias), float(step), peaks, repeats=list(repeats), levels=levels, rounding=rounding)
    assert all(np.abs(w).max(initial=0) <= 127 * r for w, r in zip(column.weights, repeats)) and column.theta >= 1
    worst = 0
    for _ in range(60):
        a = [rng.integers(0, p + 1) for p in peaks]
        z = sum(int(w @ v) for w, v in zip(column.weights, a))
        ours = min(max((2 * z + 2 * column.bias + column.theta) // (2 * column.theta), 0), levels)
        exact = sum(Fraction(float(v)) * int(k) for values, ks in zip(real, a) for v, k in zip(values, ks))
        theirs = reference((exact + Fraction(float(bias))) / Fraction(float(step)), levels, rounding)
        worst = max(worst, abs(ours - theirs))
    assert worst <= column.worst
    return column, worst


@pytest.mark.parametrize("rounding", [HALF_UP, HALF_EVEN, FLOOR, Rounding(strict=True), Rounding(share=0.0, strict=True), Rounding(share=0.25)])
@pytest.mark.parametrize("seed", range(20))
def test_promise_holds_on_grids(seed, rounding):
    rng = np.random.default_rng(seed)
    unit = 2.0 ** -int(rng.integers(0, 9))
    theta = int(rng.integers(1, 400))
    weights = rng.integers(-127, 128, int(rng.integers(1, 12)))
    bias = int(rng.integers(-900, 900)) / 4
    column, _ = check([weights], unit, bias * unit, theta * unit, levels=int(rng.integers(1, 128)), rounding=rounding, rng=rng)
    if rounding is not HALF_EVEN:
        assert column.worst == 0      # a whole threshold on a grid: equal, whatever the rounding


@pytest.mark.parametrize("seed", range(40))
def test_promise_holds_for_any_scales(seed):
    rng = np.random.default_rng(100 + seed)
    count = int(rng.integers(1, 3))
    weights = [rng.integers(-7, 8, 6) if seed % 2 else rng.normal(size=6) for _ in range(count)]
    repeats = [1, 3][:count]
    scale = rng.uniform(0.5, 2)
    check(weights, 0.01 * scale, rng.normal() * 0.1, rng.uniform(0.05, 2), levels=int(rng.integers(1, 128)), rounding=HALF_EVEN, rng=rng,
          repeats=repeats)


@pytest.mark.parametrize("unit", [1e-4, 1e-6, 1e-8, 1e-12, 1e-30])
@pytest.mark.parametrize("whole", [False, True])
def test_columns_of_nearly_nothing_stay_within_the_accumulator(unit, whole):
    rng = np.random.default_rng(7)
    weights = rng.integers(-127, 128, 9) if whole else rng.normal(size=9) * 50
    for bias in (0.0, 0.31, -4.0, 40.0):
        column, _ = check([weights], unit, bias, 0.1, levels=15, rounding=HALF_EVEN, rng=rng)
        assert column.theta <= 1 << 20 and abs(column.bias) < 1 << 29 and column.worst <= 1


def test_small_weights_are_scaled_up_where_that_makes_the_threshold_exact():
    column = fit_column([np.array([1.0, -3.0])], 0.0, 2.5, [np.array([4, 4])], repeats=[1], levels=7)
    assert (column.weights[0].tolist(), column.theta, column.worst) == ([2, -6], 5, 0)


def test_ties_to_even_are_counted():
    even = fit_column([np.array([127.0, 1.0])], 0.0, 64.0, [np.array([4, 4])], repeats=[1], levels=7, rounding=HALF_EVEN)
    odd = fit_column([np.array([127.0, 1.0])], 0.0, 65.0, [np.array([4, 4])], repeats=[1], levels=7, rounding=HALF_EVEN)
    assert (even.worst, odd.worst) == (1, 0)


@pytest.mark.parametrize("bias, level", [(-1.0, 0), (0.6, 1), (2.5, 3), (99.0, 7)])
def test_columns_without_weights_are_constants(bias, level):
    column = fit_column([np.zeros(3)], bias, 1.0, [np.ones(3)], repeats=[1], levels=7)
    assert (column.bias, column.theta, column.worst) == (level, 1, 0)
    assert fit_column([np.zeros(3)], 2.5, 1.0, [np.ones(3)], repeats=[1], levels=7, rounding=HALF_EVEN).bias == 2


def test_a_threshold_that_rounds_to_zero():
    with pytest.raises(ThresholdTooSmall, match="beside weights of 1000"):
        fit_column([np.array([1000.0, 3.0])], 0.0, 1.0, [np.ones(2)], repeats=[1], levels=7)


def test_repeats_share_a_weight():
    assert split_repeated(np.array([7, -7, 381]), 3).reshape(3, 3).sum(axis=0).tolist() == [7, -7, 381]
