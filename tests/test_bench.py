"""The bench itself: it must see every difference, name it, and refuse what it cannot compare."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat, split

CYCLES = 500


class Adder(wiring.Component):
    """A registered sum, a combinational inversion of a wide word, a counter of cycles."""

    def __init__(self):
        super().__init__({"a": In(8), "b": In(8), "wide": In(100), "total": Out(9), "inverted": Out(100), "cycle": Out(16)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.total.eq(self.a + self.b), self.cycle.eq(self.cycle + 1)]
        m.d.comb += self.inverted.eq(~self.wide)
        return m


def case(seed=1):
    rng = np.random.default_rng(seed)
    stimulus = {"a": rng.integers(0, 256, CYCLES), "b": rng.integers(0, 256, CYCLES),
                "wide": concat((rng.integers(0, 1 << 50, CYCLES), 50), (rng.integers(0, 1 << 50, CYCLES), 50))}
    low, high = split(stimulus["wide"], 50, 50)
    ones = np.uint64((1 << 50) - 1)
    total = np.concatenate([[0], (stimulus["a"] + stimulus["b"])[:-1]])
    return stimulus, {"total": total, "cycle": np.arange(CYCLES), "inverted": concat((low ^ ones, 50), (high ^ ones, 50))}


@pytest.fixture(scope="module")
def bench():
    return Bench(Adder(), "adder")


@pytest.mark.parametrize("engine", ["library", "cocotb"])
def test_equal(bench, engine):
    assert bench.run(*case(), engine=engine) == CYCLES


@pytest.mark.parametrize("engine", ["library", "cocotb"])
def test_first_difference_is_named(bench, engine):
    stimulus, expected = case()
    expected["inverted"][321, 1] ^= np.uint64(1 << 35)
    expected["total"][400] += 1
    with pytest.raises(Mismatch, match=r"adder: cycle 321: inverted is 0x\w+, the model says 0x\w+ \(seed 7\)") as error:
        bench.run(stimulus, expected, engine=engine, seed=7)
    assert (error.value.cycle, error.value.signal) == (321, "inverted")
    assert error.value.got ^ error.value.want == 1 << 99
    waves = error.value.waves.read_text()
    assert "inverted" in waves and f"#{2 * 321}\n" in waves and f"#{2 * 100}\n" not in waves


@pytest.mark.parametrize("engine", ["library", "cocotb"])
def test_where_limits_an_output_to_some_cycles(bench, engine):
    stimulus, expected = case()
    counts = np.ones(CYCLES, bool)
    expected["total"][[10, 490]] ^= 1
    counts[10] = False
    with pytest.raises(Mismatch) as error:
        bench.run(stimulus, expected, where={"total": counts}, engine=engine)
    assert (error.value.cycle, error.value.signal) == (490, "total")
    counts[490] = False
    bench.run(stimulus, expected, where={"total": counts}, engine=engine)


def test_fault_in_the_circuit_is_seen():
    broken = Bench(Adder(), "adder", verilog_edit=lambda text: text.replace("a + b", "a - b"))
    with pytest.raises(Mismatch) as error:
        broken.run(*case())
    assert error.value.signal == "total"


def test_edit_must_change_something():
    with pytest.raises(ValueError, match="verilog_edit left the Verilog of adder as it was"):
        Bench(Adder(), "adder", verilog_edit=lambda text: text.replace("no such text", ""))


def test_session_continues_where_it_was(bench):
    stimulus, expected = case()
    with bench.session() as session:
        for start, stop in ((0, 1), (1, 300), (300, CYCLES)):
            got = session.step({name: values[start:stop] for name, values in stimulus.items()})
            for name, values in expected.items():
                assert np.array_equal(got[name], values[start:stop]), name
        assert session.cycle == CYCLES


@pytest.mark.parametrize("change, error, message", [
    (lambda s, e: e.pop("total"), ValueError, "expected lacks the outputs total"),
    (lambda s, e: s.update(c=s["a"]), KeyError, "stimulus 'c' is not one of a, b, wide"),
    (lambda s, e: s.update(a=s["a"][1:]), ValueError, r"stimulus 'a' must have the shape \(500,\), not \(499,\)"),
    (lambda s, e: s.update(a=s["a"] + 1), ValueError, "stimulus 'a' has values from . to 256, which do not fit 8 bits"),
    (lambda s, e: s.update(a=s["a"] / 2), TypeError, "stimulus 'a' must be integers, not float64"),
    (lambda s, e: s.update(wide=s["a"]), ValueError, r"stimulus 'wide' of 100 bits must have the shape \(500, 2\)"),
])
def test_what_cannot_be_compared_is_refused(bench, change, error, message):
    stimulus, expected = case()
    change(stimulus, expected)
    with pytest.raises(error, match=message):
        bench.run(stimulus, expected)


def test_concat_and_split_are_inverse():
    rng = np.random.default_rng(3)
    widths = (1, 7, 64, 3, 60, 1, 33)
    fields = [rng.integers(0, 1 << width, 50, dtype=np.uint64, endpoint=False) if width < 64
              else rng.integers(0, 1 << 63, 50).astype(np.uint64) * np.uint64(2) for width in widths]
    vector = concat(*zip(fields, widths, strict=True))
    assert vector.shape == (50, 3)
    for before, after in zip(fields, split(vector, *widths), strict=True):
        assert np.array_equal(before, after)


def test_kept_verilog_is_made_again_for_other_parameters_and_other_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr("neuroflex.tb.bench.to_verilog", lambda component, name: made.append(name) or f"module {name}();\nendmodule\n")
    for parameters, sources, count in ((1, "a", 1), (1, "a", 1), (2, "a", 2), (1, "b", 3), (2, "a", 3)):
        monkeypatch.setattr("neuroflex.tb.bench.sources_digest", lambda sources=sources: sources)
        assert "module adder" in Bench(Adder(), "adder", made_from=parameters).verilog and len(made) == count
    with pytest.raises(ValueError, match="as it was"):
        Bench(Adder(), "adder", made_from=1, verilog_edit=lambda text: text)
    assert len(made) == 3
