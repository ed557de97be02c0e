"""The script of the resource table: sums, refusals, text, results that survive an interruption, and a table that is not out of date.

The figures themselves are not measured here. Each row of ``docs/resources.json`` has a hash of the Verilog that it was measured on; the
Verilog is made again, for the presets ``tiny`` and ``paper`` (and with ``long`` for all), and must have the same hash.
"""

import copy
import functools
import json
from importlib import metadata
from pathlib import Path

import pytest
import resources

from neuroflex import eda
from neuroflex.config import PRESETS


def _row(verilog="a", dsp=0, **other):
    counts = {"lut": 1000, "ff": 20, "dsp": dsp, "bram": 0.5}
    return {"verilog": verilog, "warnings": [], "label": "whole", "xilinx": counts, "ecp5": dict(counts), **other}


@pytest.fixture
def report():
    clock = {"clock_mhz": 81.5, "path": [[3.0, "first"], [9.27, "second"]], "left_out": 12}
    return {
        "tools": {"pyosys": "1"},
        "blocks": {"SnnPe": {"tiny": _row(), "small": _row(), "paper": _row("b")}, "AnnPe": {"tiny": _row(dsp=1)}},
        "presets": {"tiny": _row(label="whole"), "paper": _row(label="sum of parts")},
        "parts_to_whole": {"tiny": {"ecp5": {"lut": 1.034}}},
        "clocks": {"SnnPe": clock},
    }


def test_sum_counts_every_instance():
    rows = {"A": {"lut": 10, "ff": 1, "dsp": 1, "bram": 0.5}, "B": {"lut": 3, "ff": 2, "dsp": 0, "bram": 0}, "unused": {}}
    assert resources.sum_of_parts(rows, {"A": 4, "B": 1}) == {"lut": 43, "ff": 6, "dsp": 4, "bram": 2}


def test_good_report_has_no_problems(report):
    assert resources.check(report) == []


def test_multiplier_in_the_snn_core_is_refused(report):
    report["blocks"]["SnnPe"]["small"]["ecp5"]["dsp"] = 2
    problem, = resources.check(report)
    assert problem == "SnnPe (small, ecp5) is part of the SNN core and has 2 multipliers; it must have none"


def test_warnings_are_refused(report):
    report["blocks"]["AnnPe"]["tiny"]["warnings"] = ["ecp5: wire is undriven"]
    report["presets"]["tiny"]["warnings"] = ["xilinx: latch inferred"]
    assert resources.check(report) == ["AnnPe (tiny): ecp5: wire is undriven", "NeuroFlex (tiny): xilinx: latch inferred"]


def test_slow_block_is_refused_with_its_path(report):
    report["clocks"]["SnnPe"]["clock_mhz"] = 79.9
    problem, = resources.check(report)
    assert problem == "SnnPe: 79.9 MHz is below 80 MHz; the longest path is first (3.0 ns) → second (9.27 ns)"


def test_page_shares_lines_of_equal_verilog(report):
    page = resources.markdown(report)
    counts = "1,000 | 20 | 0 | 0.5"
    assert f"| SnnPe | tiny, small | {counts} | {counts} |" in page
    assert f"| SnnPe | paper | {counts} | {counts} |" in page
    assert f"| `paper` | sum of parts | {counts} | {counts} |" in page
    assert "| SnnPe without 12 of its banks | 81.5 | first (3.0 ns) → second (9.27 ns) |" in page
    assert "1.03 for ecp5 LUT" in page and "Not placed since the block last changed:" in page
    assert "Not synthesised in the run that wrote this page: FastPrefix (tiny)" in page


def test_page_depends_on_the_report_alone(report):
    assert resources.markdown(copy.deepcopy(report)) == resources.markdown(report)


def test_results_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"lut": 7}

    for _ in range(2):
        assert resources.Cache(tmp_path / "new").get("key", compute) == {"lut": 7}
    assert calls == [1]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["key.json"]


def test_no_new_results_after_the_time_limit(tmp_path):
    resources.Cache(tmp_path).get("old", lambda: 1)
    late = resources.Cache(tmp_path, until=-1)
    assert late.get("old", None) == 1
    with pytest.raises(resources.Missing):
        late.get("new", lambda: 2)


def test_failed_results_are_not_kept(tmp_path):
    cache = resources.Cache(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cache.get("key", lambda: 1 / 0)
    assert cache.get("key", lambda: 2) == 2


def test_hash_separates_its_texts():
    assert resources.verilog_hash("ab", "c") != resources.verilog_hash("a", "bc")
    assert resources.verilog_hash("ab", "c") == resources.verilog_hash("ab", "c")


@pytest.mark.parametrize("name", resources.BLOCKS)
def test_blocks_can_be_built_for_their_presets(name):
    block = resources.BLOCKS[name]
    for preset in block.presets:
        config, left_out = block.sized(PRESETS[preset])
        block.make(config)
        assert left_out == (12 if (name, preset) == ("FiberCache", "paper") else 0)


TABLE = json.loads((resources.ROOT / "docs" / "resources.json").read_text())
SLOW = ("FiberCache",)      # tens of thousands of lines of Verilog


@functools.cache
def _now(name, config):
    """Hash of a block's Verilog as it is now."""
    return resources.verilog_hash(eda.to_verilog(resources.BLOCKS[name].make(config), resources._module(name)))


def out_of_date(table, name, presets):
    """Rows of a block that were measured on other Verilog than is generated now, and how many rows there are."""
    stale, compared = [], 0
    rows = [(preset, row, "resources") for preset, row in table["blocks"].get(name, {}).items() if preset in presets]
    if name in table["clocks"] and resources.PLACED_PRESET in presets:
        rows.append((resources.PLACED_PRESET, table["clocks"][name], "clock"))
    for preset, row, what in rows:
        config, left_out = resources.BLOCKS[name].sized(PRESETS[preset])
        now = _now(name, config)
        if left_out and what == "resources":
            now = resources.verilog_hash(now, _now("CacheBank", PRESETS[preset]), str(left_out))
        compared += 1
        if row["verilog"] != now:
            stale.append(f"{what} of {name} ({preset})")
    return stale, compared


def _current(name, presets):
    stale, _ = out_of_date(TABLE, name, presets)
    assert not stale, (f"docs/resources.json was measured on other Verilog: {', '.join(stale)}. `make synthesis` measures again "
                       "(`scripts/resources.py --place` for clocks; with `--minutes 0` it only drops what is out of date)")


@pytest.mark.parametrize("name", [name for name in resources.BLOCKS if name not in SLOW])
def test_table_is_of_the_circuits_as_they_are(name):
    _current(name, ("tiny", "paper"))


@pytest.mark.long
@pytest.mark.parametrize("name", resources.BLOCKS)
def test_whole_table_is_of_the_circuits_as_they_are(name):
    _current(name, tuple(PRESETS))


@pytest.mark.long
@pytest.mark.parametrize("preset", resources.WHOLE_TOP)
def test_whole_accelerator_in_the_table_is_as_it_is(preset):
    row = TABLE["presets"][preset]
    assert row["label"] == "whole"
    assert row["verilog"] == resources.verilog_hash(eda.to_verilog(resources.NeuroFlex(config=PRESETS[preset]), "neuroflex_top"))


def test_table_is_complete():
    """Otherwise the tests above compare nothing; and it was made with the tools that the project asks for."""
    assert resources.missing(TABLE) == ([], [])
    assert TABLE["tools"] == {tool: metadata.version(tool) for tool in TABLE["tools"]}


def test_table_keeps_the_promises():
    """No multiplier in the SNN core, no warning, no block below the bar; and the page shows this table."""
    assert resources.check(TABLE) == []
    assert (resources.ROOT / "docs" / "resources.md").read_text() == resources.markdown(TABLE)


def test_changed_block_is_out_of_date(monkeypatch):
    row = {"verilog": _now("StreamFIFO", PRESETS["paper"])}
    table = {"blocks": {"StreamFIFO": {"paper": row}}, "clocks": {"StreamFIFO": row}}
    assert out_of_date(table, "StreamFIFO", ("tiny", "paper")) == ([], 2)
    deeper = resources.Block(lambda c: resources.StreamFIFO(shape=c.chunk_bits, depth=8), "")
    monkeypatch.setitem(resources.BLOCKS, "StreamFIFO", deeper)
    _now.cache_clear()
    assert out_of_date(table, "StreamFIFO", ("tiny", "paper")) == (["resources of StreamFIFO (paper)", "clock of StreamFIFO (paper)"], 2)
    _now.cache_clear()


def test_banks_left_out_are_part_of_the_hash(monkeypatch):
    """As the script makes it: several banks whole, the others as so many of one bank."""
    monkeypatch.setitem(resources.BLOCKS, "FiberCache", resources.Block(resources.CacheBank, "", banks=4))      # a small stand-in
    config, _ = resources.BLOCKS["FiberCache"].sized(PRESETS["paper"])
    bank = _now("CacheBank", PRESETS["paper"])
    monkeypatch.setattr(resources.Measurement, "_synthesise",
                        lambda self, top, component: _row(resources.verilog_hash(eda.to_verilog(component, top))))
    row = resources.Measurement(None, None)._block("FiberCache", PRESETS["paper"])
    assert row["verilog"] != bank
    assert out_of_date({"blocks": {"FiberCache": {"paper": row}}, "clocks": {}}, "FiberCache", ("paper",)) == ([], 1)
    row["verilog"] = resources.verilog_hash(_now("FiberCache", config), bank, "11")
    assert out_of_date({"blocks": {"FiberCache": {"paper": row}}, "clocks": {}}, "FiberCache", ("paper",))[0]
    _now.cache_clear()
