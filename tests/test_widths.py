"""Widths: enough for the worst case, no bit more, and refusals that say what is wrong."""
import itertools

import numpy as np
import pytest

from neuroflex.sim.numerics import arrivals, pseudo_corrections
from neuroflex.widths import (accumulator_bits, level_bits, membrane_bits, membrane_range, require_column, signed_bits,
                              signed_range)


def test_signed_bits_is_tight():
    for low, high in itertools.combinations_with_replacement(range(-20, 21), 2):
        bits = signed_bits(low, high)
        assert signed_range(bits)[0] <= low and high <= signed_range(bits)[1]
        assert bits == 1 or low < signed_range(bits - 1)[0] or signed_range(bits - 1)[1] < high


def test_accumulator_bits():
    assert accumulator_bits(1) == 8
    assert accumulator_bits(2304, 8) == 23      # -128 * 2304 * 8 is above -2**22
    assert accumulator_bits(4, weight_range=(0, 3)) == 5
    assert [level_bits(levels) for levels in (1, 2, 3, 4, 7, 8, 15, 16, 127)] == [1, 2, 2, 3, 3, 4, 4, 5, 7]


def test_accumulators_stay_within_their_bounds():
    rng = np.random.default_rng(7)
    for _ in range(200):
        inputs, levels = rng.integers(1, 40), rng.integers(1, 16)
        w, q = rng.integers(-128, 128, (20, inputs)), rng.integers(0, levels + 1, (20, inputs))
        for values, bits in ((np.cumsum(w * q, -1), accumulator_bits(inputs, levels)),
                             (arrivals(*pseudo_corrections(w, q, levels)), accumulator_bits(inputs)),
                             (pseudo_corrections(w, q, levels)[1], accumulator_bits(inputs))):
            low, high = signed_range(bits)
            assert values.size == 0 or (low <= values.min() and values.max() <= high)


def test_membrane_bits_against_every_small_neuron():
    """Largest and smallest membrane of all neurons with 2-bit arrivals: inside the range, which wastes no bit."""
    arrival, bias_range, theta_bits, levels = signed_range(2), signed_range(3), 2, 3
    low, high = membrane_range(arrival_range=arrival, bias_range=bias_range, theta=3, levels=levels)
    seen = []
    for theta in range(1, 4):
        for bias in range(bias_range[0], bias_range[1] + 1):
            for x in itertools.product(range(arrival[0], arrival[1] + 1), repeat=levels):
                mem = bias + theta // 2
                for value in x:
                    seen += [mem + value, mem + value - theta]
                    mem = mem + value - theta * (mem + value >= theta)
    assert low <= min(seen) and max(seen) <= high
    bits = membrane_bits(arrival_bits=2, bias_bits=3, theta_bits=theta_bits, levels=levels)
    assert bits == signed_bits(low, high) == signed_bits(min(seen), max(seen))


GOOD = dict(bias=5, theta=9, levels_in=4, levels_out=3, acc_bits=12, bias_bits=8, theta_bits=4, level_limit=4, spiking=True)


@pytest.mark.parametrize("change, message", [
    (dict(acc_bits=10), "conv1.col 2: the accumulator can reach -640 ... 508, which needs 11 bits, and it has 10"),
    (dict(spiking=False), "conv1.col 2: the accumulator can reach -2560 ... 2032, which needs 13 bits, and it has 12"),
    (dict(bias=128), "conv1.col 2: bias 128 needs 9 bits, and it has 8"),
    (dict(theta=16), "conv1.col 2: theta 16 must be from 1 to 15 (4 bits)"),
    (dict(theta=0), "conv1.col 2: theta 0 must be from 1 to 15 (4 bits)"),
    (dict(levels_out=5), "conv1.col 2: levels_out 5 must be from 1 to 4"),
    (dict(levels_in=5), "conv1.col 2: levels_in 5 must be from 1 to 4"),
])
def test_columns_that_overflow_are_refused(change, message):
    weights = [-128] * 5 + [127] * 4
    require_column(weights, **GOOD)
    with pytest.raises(OverflowError) as error:
        require_column(weights, where="conv1.col 2", **GOOD | change)
    assert str(error.value) == message


def test_weights_beyond_int8_are_refused():
    with pytest.raises(OverflowError, match="column: weight outside INT8"):
        require_column([200], **GOOD)


def test_impossible_arguments():
    with pytest.raises(ValueError, match="at least one level, not 0"):
        level_bits(0)
    with pytest.raises(ValueError, match="empty range"):
        signed_bits(2, 1)
    with pytest.raises(ValueError, match="at least 1, not 0 and 1"):
        accumulator_bits(0)
