"""PASC-IF unit against its model.

Test plan
---------
* random columns: accumulators of random matches, arbitrary arrivals of both signs, sums on and next to the boundaries of the
  staircase, extremes of accumulators, theta and bias; ready and the output in every cycle;
* T1 and T2 constant, as in a layer, and mixed, where a column waits for stage 2; gaps and bursts; tags;
* largest T of 1, 4, 8 and 15, with 1, 2 and 3 steps per cycle, and largest T1 of 1 and 3 where T2 goes further; library and cocotb engines;
* corrections beyond T1 are random: they must not matter;
* coverage: see `cover`; more than 10,000 columns;
* faults: a membrane too narrow, a wrong correction, a step beyond T1 that fires, a lost step of stage 2, a wrong clip;
* the circuit holds no multiplier, divider or modulo.
"""
import gc

import numpy as np
import pytest
from amaranth.back import rtlil

from neuroflex.hdl.pascif import PascIF
from neuroflex.sim.numerics import arrivals, pascif, pseudo_corrections, qcfs
from neuroflex.sim.pascif import FIXED_LATENCY, pascif_costs, pascif_cycles
from neuroflex.widths import level_bits, signed_range

from .bench import Bench, Mismatch
from .bits import concat
from .coverage import Coverage
from .jobs import held, offered, pulses, random_arrivals

SEED = 20253
ONE = dict(acc_bits=5, theta_bits=4, bias_bits=4, max_levels=1, steps_per_cycle=2, tag_bits=1)
TYPICAL = dict(acc_bits=14, theta_bits=12, bias_bits=16, max_levels=8, steps_per_cycle=2, tag_bits=4)
SINGLE = dict(acc_bits=8, theta_bits=6, bias_bits=8, max_levels=4, steps_per_cycle=1, tag_bits=2)
LARGE = dict(acc_bits=22, theta_bits=24, bias_bits=32, max_levels=15, steps_per_cycle=3, tag_bits=8)
WHOLE = dict(acc_bits=17, theta_bits=12, bias_bits=16, max_levels=8, max_levels_in=1, steps_per_cycle=2, tag_bits=4)
FEW = dict(acc_bits=8, theta_bits=6, bias_bits=8, max_levels=5, max_levels_in=3, steps_per_cycle=2, tag_bits=2)


def random_jobs(rng, count, *, acc_bits, theta_bits, bias_bits, max_levels, max_levels_in=None, steps_per_cycle, tag_bits):
    """Fields of random columns, and their arrivals."""
    most_in = max_levels_in or max_levels
    low, high = signed_range(acc_bits)
    run = np.arange(count) // 16        # T1 and T2 stay for a while, then change with every column
    mixed = run % 2 == 1
    t1, t2 = (np.where(mixed, rng.integers(1, most, count, endpoint=True),
                       rng.choice([1, most, rng.integers(1, most, endpoint=True)], run[-1] + 1)[run])
              for most in (most_in, max_levels))
    theta = np.minimum(1 << rng.integers(0, theta_bits + 1, count), (1 << theta_bits) - 1)
    theta = np.maximum(1, theta - rng.integers(0, 2, count) * rng.integers(0, theta // 2 + 1))

    matches = 6
    weights = rng.integers(-128, 127, (count, matches), endpoint=True) >> max(0, 11 - acc_bits)
    levels = np.minimum(rng.integers(0, max_levels, (count, matches), endpoint=True), t1[:, None])
    pseudo, corrections = pseudo_corrections(weights, levels, most_in)
    scale = rng.integers(0, acc_bits, count)
    wild = rng.random(count) < 0.4
    pseudo = np.where(wild, rng.integers(low, high, count, endpoint=True) >> scale, pseudo)
    corrections = np.where(wild[:, None], rng.integers(low, high, corrections.shape, endpoint=True) >> scale[:, None], corrections)
    extreme = rng.random(count) < 0.05
    sign = rng.integers(0, 2, count)
    pseudo = np.where(extreme, np.where(sign, low, high), pseudo)
    corrections = np.where(extreme[:, None], np.where(sign, high, low)[:, None], corrections)
    pseudo, corrections = np.clip(pseudo, low, high), np.clip(corrections, low, high)

    counted = np.arange(most_in)[:, None] < t1
    total = np.where(counted, arrivals(pseudo, corrections), 0).sum(0)
    boundary = rng.integers(-1, max_levels + 2, count) * theta - (theta >> 1) - total + rng.integers(-2, 3, count)
    uniform = rng.integers(*signed_range(bias_bits), count, endpoint=True) >> rng.integers(0, bias_bits, count)
    corner = rng.choice(signed_range(bias_bits), count)
    bias = np.clip(np.choose(rng.choice(3, count, p=[0.6, 0.3, 0.1]), [boundary, uniform, corner]), *signed_range(bias_bits))
    junk = rng.integers(low, high, corrections.shape, endpoint=True)
    corrections = np.where(counted[1:].T, corrections, junk)
    return dict(pseudo=pseudo, corrections=corrections, bias=bias, theta=theta, t1=t1, t2=t2, total=total,
                tag=rng.integers(0, 1 << tag_bits, count))


def compare(bench, sizes, count, seed, engine="library", cover=True):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    jobs = random_jobs(rng, count, **sizes)
    most, steps = sizes["max_levels"], sizes["steps_per_cycle"]
    most_in = sizes.get("max_levels_in", most)
    arrival = random_arrivals(rng, count, -(-most // steps))
    accept, handover, result = pascif_cycles(arrival, jobs["t1"], jobs["t2"], steps)
    y = pascif(arrivals(jobs["pseudo"], jobs["corrections"]), jobs["bias"], jobs["theta"], jobs["t2"], steps_in=jobs["t1"])
    assert np.array_equal(y, qcfs(jobs["total"], jobs["bias"], jobs["theta"], jobs["t2"]))

    cycles = int(result[-1]) + 5
    valid, job = offered(arrival, accept, cycles)
    busy = np.zeros(cycles, np.int64)
    np.add.at(busy, accept + 1, 1)
    np.add.at(busy, handover, -1)
    acc, level, tag = sizes["acc_bits"], level_bits(most), sizes["tag_bits"]
    payload = concat((jobs["pseudo"][job], acc), *((jobs["corrections"][job, t], acc) for t in range(most_in - 1)),
                     (jobs["bias"][job], sizes["bias_bits"]), (jobs["theta"][job], sizes["theta_bits"]),
                     (jobs["t1"][job], level), (jobs["t2"][job], level), (jobs["tag"][job], tag))
    answer = concat((held(result, y, cycles), level), (held(result, jobs["tag"], cycles), tag))
    bench.run({"i__valid": valid, "i__payload": payload},
              {"i__ready": np.cumsum(busy) == 0, "o__valid": pulses(result, cycles), "o__payload": answer},
              engine=engine, seed=seed)
    if cover:
        cover_jobs(jobs, y, accept, handover, arrival, sizes).require(20)


def cover_jobs(jobs, y, accept, handover, arrival, sizes):
    bias, theta, t1, t2 = (jobs[name] for name in ("bias", "theta", "t1", "t2"))
    most, most_in = sizes["max_levels"], sizes.get("max_levels_in", sizes["max_levels"])
    doubled = 2 * (jobs["total"] + bias) + theta
    cost1, cost2 = pascif_costs(t1, t2, sizes["steps_per_cycle"])
    coverage = Coverage("PASC-IF")
    coverage.add(
        negative=doubled < 0, clipped=doubled >= 2 * theta * (t2 + 1), boundary=(doubled % (2 * theta) < 2) & (y > 0),
        below_boundary=doubled % (2 * theta) >= 2 * theta - 2, theta_1=theta == 1, theta_odd=(theta % 2 == 1) & (theta > 1),
        theta_even=theta % 2 == 0, theta_max=theta == theta.max(), pseudo_min=jobs["pseudo"] == jobs["pseudo"].min(),
        pseudo_max=jobs["pseudo"] == jobs["pseudo"].max(), bias_negative=bias < 0, t1_1=t1 == 1, t2_1=t2 == 1,
        t1_max=t1 == most_in, t2_max=t2 == most, waited=accept > arrival, came_late=accept[1:] > handover[:-1],
        back_to_back=np.diff(accept) == np.maximum(cost1, cost2)[:-1],
        **{f"y_{n}": y == n for n in range(most + 1)})
    if most > 1:
        coverage.add(t1_below_t2=t1 < t2, **({"t1_above_t2": t1 > t2} if most_in > 1 else {}))
        coverage.add(blocked=handover > accept + cost1)
    return coverage


@pytest.mark.parametrize("sizes", [ONE, SINGLE, LARGE, WHOLE, FEW], ids=["one level", "one step", "large", "one step in", "few steps in"])
def test_equals_model(sizes):
    compare(Bench(PascIF(**sizes), "pascif"), sizes, 20_000, SEED)


def test_equals_model_on_cocotb():
    compare(Bench(PascIF(**TYPICAL), "pascif"), TYPICAL, 3_000, SEED + 1, engine="cocotb", cover=False)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_equals_model_long(seed):
    sizes = (TYPICAL, LARGE)[seed % 2]
    compare(Bench(PascIF(**sizes), "pascif"), sizes, 200_000, SEED + 10 + seed)


class NarrowMembrane(PascIF):
    """A fault: the membrane is one bit short."""

    @property
    def membrane_bits(self):
        return super().membrane_bits - 1


def test_narrow_membrane_is_seen():
    with pytest.raises(Mismatch, match="o__payload"):
        compare(Bench(NarrowMembrane(**SINGLE), "pascif"), SINGLE, 5_000, SEED, cover=False)


@pytest.mark.parametrize("old, new", [
    ("+ $signed(correction_3)", "+ $signed(correction_2)"),
    pytest.param("integrate1_fire = active[1] &", "integrate1_fire = active[1] |", marks=pytest.mark.long),
    pytest.param("inhibit2_take = ", "inhibit2_take = 1'h0 & ", marks=pytest.mark.long),
    pytest.param("$signed({ 1'h0, done_t2 })", "$signed({ 1'h0, done_t2 + 4'h1 })", marks=pytest.mark.long),
    pytest.param("i__ready <= ", "i__ready <= 1'h1 | ", marks=pytest.mark.long),
], ids=["correction", "fire", "inhibit", "clip", "ready"])
def test_fault_is_seen(old, new):
    bench = Bench(PascIF(**TYPICAL), "pascif", verilog_edit=lambda text: text.replace(old, new, 1))
    with pytest.raises(Mismatch, match="i__ready" if "ready" in old else "o__payload"):
        compare(bench, TYPICAL, 5_000, SEED, cover=False)


def test_no_multiplier_or_divider():
    text = rtlil.convert(PascIF(**LARGE), name="pascif")
    assert not [cell for cell in ("$mul", "$div", "$mod", "$divfloor", "$modfloor") if f"cell {cell} " in text]


def test_cycles_are_the_documented_ones():
    accept, handover, result = pascif_cycles([10], [8], [8], 2)
    assert (accept[0], result[0]) == (10, 10 + 4 + 4 + FIXED_LATENCY) and FIXED_LATENCY == PascIF.FIXED_LATENCY
    accept, _, _ = pascif_cycles(np.zeros(5, int), np.full(5, 8), np.full(5, 8), 2)
    assert list(np.diff(accept)) == [4] * 4
    accept, _, result = pascif_cycles(np.zeros(5, int), np.ones(5, int), np.ones(5, int), 2)
    assert list(np.diff(accept)) == [1] * 4 and result[0] == 0 + 1 + 1 + FIXED_LATENCY


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("name", list(ONE))
def test_refusals(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        PascIF(**ONE | {name: 0})
    with pytest.raises(TypeError, match=f"{name} must be an integer, not '3'"):
        PascIF(**ONE | {name: "3"})
    gc.collect()  # the refused components go now, while the warning that they were never used is ignored
