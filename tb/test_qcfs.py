"""QCFS unit against its model.

Test plan
---------
* random jobs whose sums lie on and next to every boundary of the staircase, below 0, above the top, and at the extremes
  of the accumulator, with the extremes of theta and bias; ready and the output in every cycle;
* jobs of every number of levels, mixed, so that the cost changes from job to job; gaps and bursts; tags;
* widths: one bit of levels, a typical core, and 7 bits of levels with 32-bit bias; library and cocotb engines;
* coverage: see `cover`; more than 10,000 jobs;
* faults: a dividend one bit too narrow, a wrong clip, a wrong gap between jobs, a wrong shift, each is seen;
* the circuit holds no multiplier, divider or modulo.
"""
import gc

import numpy as np
import pytest
from amaranth.back import rtlil

from neuroflex.hdl.qcfs import QCFS
from neuroflex.sim.numerics import qcfs
from neuroflex.sim.qcfs import FIXED_LATENCY, qcfs_cost, qcfs_cycles
from neuroflex.widths import signed_range

from .bench import Bench, Mismatch
from .bits import concat
from .coverage import Coverage
from .jobs import held, offered, pulses, random_arrivals

SEED = 20252
SMALL = dict(acc_bits=6, theta_bits=4, bias_bits=5, level_bits=1, tag_bits=2)
TYPICAL = dict(acc_bits=20, theta_bits=12, bias_bits=16, level_bits=4, tag_bits=4)
LARGE = dict(acc_bits=28, theta_bits=24, bias_bits=32, level_bits=7, tag_bits=8)


def random_jobs(rng, count, *, acc_bits, theta_bits, bias_bits, level_bits, tag_bits):
    """Fields of random jobs, half of them near a boundary of the staircase where the accumulator reaches it."""
    low, high = signed_range(acc_bits)
    most = (1 << level_bits) - 1
    theta = np.minimum(1 << rng.integers(0, theta_bits + 1, count), (1 << theta_bits) - 1)
    theta = np.maximum(1, theta - rng.integers(0, 2, count) * rng.integers(0, theta // 2 + 1))
    bias = rng.integers(*signed_range(bias_bits), count, endpoint=True) >> rng.integers(0, bias_bits, count)
    levels = np.where(rng.random(count) < 0.3, rng.choice([1, most], count), rng.integers(1, most, count, endpoint=True))
    boundary = rng.integers(-1, most + 2, count) * theta - (theta >> 1) - bias + rng.integers(-2, 3, count)
    uniform = rng.integers(low, high, count, endpoint=True) >> rng.integers(0, acc_bits, count)
    extreme = rng.choice([low, high, 0], count)
    z = np.choose(rng.choice(3, count, p=[0.6, 0.3, 0.1]), [boundary, uniform, extreme])
    return dict(z=np.clip(z, low, high), bias=bias, theta=theta, levels=levels, tag=rng.integers(0, 1 << tag_bits, count))


def compare(bench, widths, count, seed, engine="library", cover=True):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    jobs = random_jobs(rng, count, **widths)
    arrival = random_arrivals(rng, count, widths["level_bits"])
    accept, result = qcfs_cycles(arrival, jobs["levels"])
    cycles = int(result[-1]) + 5
    valid, job = offered(arrival, accept, cycles)
    y = qcfs(jobs["z"], jobs["bias"], jobs["theta"], jobs["levels"])
    cost = qcfs_cost(jobs["levels"])
    busy = np.zeros(cycles, np.int64)
    np.add.at(busy, accept + 1, 1)
    np.add.at(busy, accept + cost, -1)
    payload = concat(*((jobs[name][job], widths[bits]) for name, bits in (
        ("z", "acc_bits"), ("bias", "bias_bits"), ("theta", "theta_bits"), ("levels", "level_bits"), ("tag", "tag_bits"))))
    answer = concat((held(result, y, cycles), widths["level_bits"]), (held(result, jobs["tag"], cycles), widths["tag_bits"]))
    bench.run({"i__valid": valid, "i__payload": payload},
              {"i__ready": np.cumsum(busy) == 0, "o__valid": pulses(result, cycles), "o__payload": answer},
              engine=engine, seed=seed)
    if cover:
        cover_jobs(jobs, y, accept, arrival, cost).require(20)


def cover_jobs(jobs, y, accept, arrival, cost):
    z, bias, theta, levels = (jobs[name] for name in ("z", "bias", "theta", "levels"))
    doubled, low_high = 2 * (z + bias) + theta, (z.min(), z.max())
    coverage = Coverage("QCFS")
    coverage.add(
        negative=doubled < 0, clipped=doubled >= 2 * theta * (levels + 1), far_beyond=doubled >= 2 * theta * 4 * levels,
        boundary=(doubled % (2 * theta) < 2) & (y > 0) & (y <= levels), below_boundary=(doubled % (2 * theta) >= 2 * theta - 2),
        theta_1=theta == 1, theta_odd=(theta % 2 == 1) & (theta > 1), theta_even=theta % 2 == 0, theta_max=theta == theta.max(),
        z_min=z == low_high[0], z_max=z == low_high[1], bias_negative=bias < 0,
        levels_1=levels == 1, levels_max=levels == levels.max(),
        back_to_back=np.diff(accept) == cost[:-1], waited=accept > arrival, came_late=np.diff(accept) > cost[:-1],
        **{f"cost_{n}": cost == n for n in range(1, int(cost.max()) + 1)},
        **{f"y_{n}": y == n for n in range(min(int(levels.max()), 15) + 1)})
    return coverage


@pytest.mark.parametrize("widths", [SMALL, LARGE], ids=["small", "large"])
def test_equals_model(widths):
    compare(Bench(QCFS(**widths), "qcfs"), widths, 20_000, SEED)


def test_equals_model_on_cocotb():
    compare(Bench(QCFS(**TYPICAL), "qcfs"), TYPICAL, 3_000, SEED + 1, engine="cocotb", cover=False)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_equals_model_long(seed):
    compare(Bench(QCFS(**LARGE), "qcfs"), LARGE, 500_000, SEED + 10 + seed)


class NarrowDividend(QCFS):
    """A fault: the dividend is one bit short."""

    @property
    def dividend_bits(self):
        return super().dividend_bits - 1


def test_narrow_dividend_is_seen():
    with pytest.raises(Mismatch, match="o__payload"):
        compare(Bench(NarrowDividend(**SMALL), "qcfs"), SMALL, 5_000, SEED, cover=False)


@pytest.mark.parametrize("old, new, signal", [
    ("raw > done_levels", "raw >= 4'hf", "o__payload"),
    ("= top;", "= top >> 1;", "i__ready"),
    pytest.param("divisor[14:1]", "divisor[13:0]", "o__payload", marks=pytest.mark.long),
], ids=["clip", "gap", "shift"])
def test_fault_is_seen(old, new, signal):
    bench = Bench(QCFS(**TYPICAL), "qcfs", verilog_edit=lambda text: text.replace(old, new, 1))
    with pytest.raises(Mismatch, match=signal):
        compare(bench, TYPICAL, 5_000, SEED, cover=False)


def test_no_multiplier_or_divider():
    text = rtlil.convert(QCFS(**LARGE), name="qcfs")
    assert not [cell for cell in ("$mul", "$div", "$mod", "$divfloor", "$modfloor") if f"cell {cell} " in text]


def test_latency_is_the_documented_one():
    accept, result = qcfs_cycles([10], [127])
    assert (accept[0], result[0]) == (10, 10 + 7 + FIXED_LATENCY) and FIXED_LATENCY == QCFS.FIXED_LATENCY
    assert list(qcfs_cost([1, 2, 3, 4, 7, 8, 15, 16, 127])) == [1, 2, 2, 3, 3, 4, 4, 5, 7]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("name", list(SMALL))
def test_refusals(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        QCFS(**SMALL | {name: 0})
    with pytest.raises(TypeError, match=f"{name} must be an integer, not '3'"):
        QCFS(**SMALL | {name: "3"})
    gc.collect()  # the refused components go now, while the warning that they were never used is ignored
