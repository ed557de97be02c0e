"""Compaction against its model: every output in every cycle.

Test plan
---------
* Random rounds: lanes all zero, all nonzero, one nonzero, the upper or the lower half; levels 1 and 127; every offset; chunks of one
  round and of many, so that lines end at every byte; bubbles between the rounds.
* The pipeline holds for a cycle and for long, and moves in every cycle; inputs change while it holds.
* A layer starts with rounds on their way and without.
* Coverage: the points of ``situations``; a thin one fails.
* Faults: levels that stay where they are, lines that begin at byte 0, a stage that forgets its round while the others hold.
* As many lanes as a line has bytes, fewer, and the fewest there can be.
"""
import gc
import re

import numpy as np
import pytest

from neuroflex.config import PRESETS, ArchConfig
from neuroflex.eda import lint, to_verilog
from neuroflex.hdl.compaction import COMPACTION_STAGES, Compaction
from neuroflex.sim.compaction import COMPACTION_STAGES as STAGES
from neuroflex.sim.compaction import compaction
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat, split
from neuroflex.tb.coverage import Coverage

FEW = ArchConfig(name="few", chunk_bits=64, ann_pes=2, snn_pes=2)
EQUAL = ArchConfig(name="equal", chunk_bits=32, ann_pes=4, snn_pes=2, laggy_adders=8)
PAPER = PRESETS["paper"]


def inputs(config, rng, cycles):
    """The block's inputs in every cycle, as the model takes them."""
    lanes, period = config.lanes, 50
    phases = -(-cycles // period)

    def phase(values, p=None):
        """One of the values for each period."""
        return np.repeat(rng.choice(values, phases, p=p), period)[:cycles]

    levels = rng.choice([1, 127, 64, 85], (cycles, lanes)) if rng.random() < 0.1 else rng.integers(1, 128, (cycles, lanes))
    levels *= rng.random((cycles, lanes)) < phase([0.0, 0.1, 0.5, 0.9, 1.0])[:, None]
    shape = rng.integers(0, 8, cycles)
    lane = np.arange(lanes)
    levels[shape == 0] *= lane == rng.integers(lanes, size=(int((shape == 0).sum()), 1))
    levels[shape == 1] *= lane < lanes // 2
    levels[shape == 2] *= lane >= lanes // 2
    return {
        "advance": rng.random(cycles) < phase([0.1, 0.7, 1.0]), "clear": rng.random(cycles) < phase([0.0, 0.05]),
        "valid": rng.random(cycles) < phase([0.3, 1.0]), "levels": levels, "offset": rng.integers(0, config.chunk_bits, cycles),
        "closing": rng.random(cycles) < phase([0.02, 0.3, 1.0]), "last_chunk": rng.integers(0, 2, cycles),
        "last": rng.integers(0, 2, cycles)}


def situations(config, given, out):
    """Coverage points of a run."""
    lanes = config.lanes
    real = out["known"] & (out["valid"] == 1)
    count, fill = out["mask"].sum(axis=1), config.line_bytes - out["above"].sum(axis=1)
    held = np.r_[0, given["advance"][:-1] == 0] == 1
    return {
        "no level": real & (count == 0), "one level": real & (count == 1), "all levels": real & (count == lanes),
        "line is full to the byte": real & (out["full"] == 1) & (fill + count == config.line_bytes),
        "round goes on in the next line": real & (out["full"] == 1) & (fill + count > config.line_bytes),
        "chunk leaves a rest": real & (out["rest"] == 1), "chunk leaves none": real & (out["closing"] == 1) & (out["rest"] == 0),
        "full and rest": real & (out["full"] == 1) & (out["rest"] == 1), "held": real & held, "bubble": out["known"] & (out["valid"] == 0),
        "start with rounds on their way": (given["clear"] == 1) & real,
        **{f"line continues at byte {byte}": real & (fill == byte) for byte in range(config.line_bytes)}}


def arrays(config, given, out):
    """Stimulus, expectation, and the cycles in which the payload is known."""
    lanes, line_bytes = config.lanes, config.line_bytes

    def bits(values):
        return ((values[:, i], 1) for i in range(values.shape[1]))

    stimulus = given | {"levels": concat(*((given["levels"][:, i], 7) for i in range(lanes)))}
    expected = concat((out["valid"], 1), *((out["levels"][:, i], 7) for i in range(line_bytes)), *bits(out["above"]), (out["full"], 1),
                      (out["rest"], 1), *bits(out["mask"]), (out["segment"], config.chunk_bits // lanes), (out["closing"], 1),
                      (out["last_chunk"], 1), (out["last"], 1))
    return {name: np.asarray(values).astype(values.dtype if values.dtype == np.uint64 else np.int64) for name, values in stimulus.items()}, \
        {"compacted": expected}, {"compacted": out["known"]}


def case(config, seed, cycles, coverage=None):
    given = inputs(config, np.random.default_rng(seed), cycles)
    out = compaction(config, **given)
    if coverage is not None:
        coverage.add(**situations(config, given, out))
    return arrays(config, given, out)


@pytest.mark.parametrize("config", [EQUAL, *(pytest.param(config, marks=pytest.mark.long) for config in (FEW, PAPER))],
                         ids=lambda config: config.name)
def test_random_rounds(config):
    coverage = Coverage("compaction")
    stimulus, expected, where = case(config, 71, 30_000, coverage)
    print(f"seed 71, {config.name}: {coverage.hits}")
    coverage.require(20)
    bench = Bench(Compaction(config=config), "compaction")
    bench.run(stimulus, expected, where, seed=71)
    # Before the first round has come through, nothing is known but that there is none.
    first = {name: values[:200] for name, values in stimulus.items()}
    assert not split(bench.record(first)["compacted"], 1)[0][~where["compacted"][:200]].any()


def test_cocotb():
    stimulus, expected, where = case(EQUAL, 72, 2_000)
    Bench(Compaction(config=EQUAL), "compaction").run(stimulus, expected, where, engine="cocotb", seed=72)


@pytest.mark.long
@pytest.mark.parametrize("config", [*PRESETS.values(), FEW, EQUAL], ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(700, 703))
def test_many_rounds(config, seed):
    Bench(Compaction(config=config), "compaction").run(*case(config, seed, 150_000), seed=seed)


def test_timing():
    """A round is shown COMPACTION_STAGES moves after it was taken; moments without a move do not count."""
    assert STAGES == COMPACTION_STAGES
    advance = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1, 1])
    rounds = np.zeros(10, np.int64)
    rounds[1] = 1
    out = compaction(EQUAL, advance=advance, clear=0 * rounds, valid=rounds, levels=np.outer(rounds, [0, 5, 0, 7]), offset=rounds * 4,
                     closing=rounds, last_chunk=rounds, last=rounds)
    assert np.flatnonzero(out["known"] & (out["valid"] == 1)).tolist() == [9]
    assert out["levels"][9].tolist() == [5, 7, 0, 0] and out["mask"][9].tolist() == [False, True, False, True] and out["segment"][9] == 2


FAULTS = {
    "levels do not move by two": ("= levels_moved_by_2;", "= levels_moved_by_1;"),
    "lines begin at byte 0": (r"fill <= \w+;", "fill <= 0;"),
    "a stage forgets its round while the others hold": (r"(\w+) = stage4;", r"\1 = 0;"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_seen(fault):
    bench = Bench(Compaction(config=EQUAL), "compaction", verilog_edit=lambda text: re.sub(*FAULTS[fault], text))
    with pytest.raises(Mismatch):
        bench.run(*case(EQUAL, 73, 3_000))


def test_verilog_has_no_warnings():
    assert lint(to_verilog(Compaction(config=EQUAL), "compaction"), "compaction") == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::amaranth.hdl.UnusedElaboratable")
def test_config_is_checked():
    with pytest.raises(TypeError, match="config must be an ArchConfig, not 3"):
        Compaction(config=3)
    gc.collect()   # the refused component goes while the warning that it was never used is ignored
