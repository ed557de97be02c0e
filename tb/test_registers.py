"""Register file against its model.

Plan: every register read and written, all fields; unmapped addresses; back-pressure on answers; start while busy; finish and
clear in the same cycle; counters cleared by start, growing by several; interrupt enable. One register bit stuck must fail.
"""
import json
import re
from pathlib import Path

import numpy as np
import pytest

from neuroflex import registers as regmap
from neuroflex.config import PRESETS
from neuroflex.hdl.registers import RegisterFile, counter_increments
from neuroflex.sim.registers import RegisterModel
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage

CONFIG = PRESETS["tiny"]


def pack_counts(counts):
    """Increments as the ``count`` port's word."""
    return sum(counts.get(name, 0) << field.offset for name, field in counter_increments(CONFIG))


def traffic(rng, cycles, coverage):
    """Random accesses and job events; stimulus and expected arrays from the model."""
    model = RegisterModel(CONFIG)
    offsets = [r.offset for r in regmap.REGISTERS] + [0x24, 0x3C, 0xF8, 0x1B]
    known = {r.offset for r in regmap.REGISTERS}
    stimulus = {name: [] for name in ("request__valid", "request__payload", "response__ready", "busy", "finish", "code", "layer", "count")}
    expected = {name: [] for name in model.outputs()}
    valid = address = write = data = 0
    busy = 0
    for _ in range(cycles):
        if not valid and rng.random() < 0.6:
            valid, address, write = 1, int(rng.choice(offsets)), int(rng.random() < 0.5)
            if rng.random() < 0.4:
                address = regmap.register(rng.choice(["control", "status"])).offset
            data = int(rng.integers(0, 1 << 32))
        finish = int(rng.random() < 0.05)
        counts = {name: int(rng.integers(0, 1 << field.shape)) if isinstance(field.shape, int) else 0
                  for name, field in counter_increments(CONFIG)}
        ready, code, layer = int(rng.random() < 0.7), int(rng.integers(0, 10)), int(rng.integers(0, 1 << 16))
        out = model.outputs()
        for name, value in out.items():
            expected[name].append(value)
        for name, value in zip(stimulus, (valid, address | write << 8 | data << 9, ready, busy, finish, code, layer, pack_counts(counts))):
            stimulus[name].append(value)
        moved = valid and out["request__ready"]
        if moved:
            coverage.hit("write" if write else "read")
            coverage.hit("mapped" if address & ~3 in known else "unmapped")
            if write and address & ~3 == regmap.register("control").offset and data & 1:
                coverage.hit("start while busy" if busy else "start")
            if write and address & ~3 == regmap.register("status").offset and data & 2 and finish:
                coverage.hit("finish beats clear")
        if out["response__valid"] and not ready:
            coverage.hit("answer held")
        coverage.hit("interrupt", out["irq"])
        model.step(valid=valid, address=address, write=write, data=data, response_ready=ready, busy=busy, finish=finish,
                   code=code, layer=layer, count=counts)
        if moved:
            valid = 0
        if rng.random() < 0.05:
            busy ^= 1
    return ({k: np.array(v, np.uint64) for k, v in stimulus.items()}, {k: np.array(v, np.uint64) for k, v in expected.items()})


POINTS = ("read", "write", "mapped", "unmapped", "start", "start while busy", "finish beats clear", "answer held", "interrupt")


@pytest.mark.parametrize("engine,cycles", [("library", 12_000), ("cocotb", 2_000), pytest.param("library", 30_000, marks=pytest.mark.long)])
def test_registers(engine, cycles):
    coverage = Coverage("registers", points=POINTS)
    stimulus, expected = traffic(np.random.default_rng(11), cycles, coverage)
    Bench(RegisterFile(config=CONFIG), name="register_file").run(stimulus, expected, engine=engine, seed=11)
    if engine == "library":
        coverage.require(5)
    if cycles >= 30_000:
        assert coverage.hits["read"] + coverage.hits["write"] >= 10_000


def test_fault_is_seen():
    stimulus, expected = traffic(np.random.default_rng(12), 5_000, Coverage("registers", points=POINTS))
    bench = Bench(RegisterFile(config=CONFIG), name="register_file",
                  verilog_edit=lambda text: text.replace("32'd1000000", "32'd1000001"))
    with pytest.raises(Mismatch):
        bench.run(stimulus, expected, seed=12)


def test_map_is_consistent():
    """Offsets are aligned and unique, fields do not overlap, and every view has every register."""
    offsets = [r.offset for r in regmap.REGISTERS]
    assert len(set(offsets)) == len(offsets) and not any(o % 4 for o in offsets) and max(offsets) < 256
    for r in regmap.REGISTERS:
        used = [bit for f in r.fields for bit in range(f.lsb, f.lsb + f.bits)]
        assert len(used) == len(set(used)) and max(used) < 32, r.name
    names = [r.name for r in regmap.REGISTERS]
    assert [entry["name"] for entry in json.loads(json.dumps(regmap.to_json()))] == names
    header, table = regmap.to_c_header(), regmap.to_markdown()
    for r in regmap.REGISTERS:
        assert re.search(rf"#define NEUROFLEX_{r.name.upper()} 0x{r.offset:02X}u", header)
        assert f"| 0x{r.offset:02X} | {r.name} |" in table


def test_page_is_generated():
    """docs/registers.md is what the definition gives."""
    page = Path(__file__).parents[1] / "docs" / "registers.md"
    assert page.read_text() == regmap.to_markdown(), "write it again: python -c 'from neuroflex import registers as r; print(r.to_markdown(), end=\"\")'"
