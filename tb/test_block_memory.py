"""Local memory against its model.

Plan: random bursts of reads and writes, some beyond the end, with random gaps and back-pressure on every stream; accesses of the host
in between, of every word of a line and beyond the end; lines of 32 and of 64 bits; one bank and four. An error flag that is lost must fail, and lines that
all come from the first bank.
"""
import re

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.hdl import block_memory
from neuroflex.hdl.block_memory import BlockMemory
from neuroflex.sim.block_memory import BlockMemoryModel
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage

DEPTH = 64
POINTS = ("read", "write", "read outside", "write outside", "read held", "answer held", "host read", "host write", "host outside", "host waits for a burst",
          "line after line")


def traffic(config, rng, cycles, coverage):
    """Stimulus and expected arrays of a run."""
    model = BlockMemoryModel(config.chunk_bits, DEPTH)
    inputs = ("memory__request__valid", "memory__request__payload", "memory__write_data__valid", "memory__write_data__payload",
              "memory__read_data__ready", "memory__write_done__ready", "host_request__valid", "host_request__payload", "host_response__ready")
    stimulus, seen = {name: [] for name in inputs}, {name: [] for name in model.outputs()}
    request = line = host = None
    owed, offered_before = 0, False
    density = rng.uniform(0.3, 1.0, 6)
    for t in range(cycles):
        if t % 500 == 0:
            density = rng.uniform(0.2, 1.0, 6)
        if request is None and rng.random() < density[0]:
            request = (int(rng.integers(0, DEPTH + 6)), int(rng.integers(1, 10)), int(rng.random() < 0.5))
        if line is None and rng.random() < density[1]:
            line = int(rng.integers(0, 1 << 32)) | int(rng.integers(0, 1 << 32)) << 32
            line &= (1 << config.chunk_bits) - 1
        if host is None and rng.random() < 0.1 * density[2]:
            host = (int(rng.integers(0, (DEPTH + 2) * config.line_bytes)) & ~3 | int(rng.random() < 0.05) << 31, int(rng.random() < 0.5), int(rng.integers(0, 1 << 32)))
        read_ready, done_ready, host_ready = (int(rng.random() < d) for d in density[3:])
        out = model.outputs()
        for name, value in out.items():
            seen[name].append(value)
        packed = (0 if request is None else request[0] | request[1] << config.address_bits | request[2] << (config.address_bits + 8))
        words = (0 if host is None else host[0] | host[1] << 32 | host[2] << 33)
        for name, value in zip(inputs, (request is not None, packed, line is not None, line or 0, read_ready, done_ready, host is not None, words, host_ready)):
            stimulus[name].append(int(value))
        taken = out["memory__request__ready"] and request is not None
        if taken:
            coverage.hit("write" if request[2] else "read")
        offered = out["memory__read_data__valid"]
        coverage.hit("read outside", offered and out["error"])
        coverage.hit("read held", offered and not read_ready)
        coverage.hit("line after line", offered and offered_before)
        offered_before = offered and read_ready
        coverage.hit("write outside", out["memory__write_done__valid"] and out["memory__write_done__payload"])
        coverage.hit("answer held", out["memory__write_done__valid"] and not done_ready)
        coverage.hit("host outside", out["host_response__valid"] and out["host_response__payload"] >> 32)
        if out["host_request__ready"] and host is not None:
            coverage.hit("host write" if host[1] else "host read")
            coverage.hit("host waits for a burst", owed > 1)
        model.step(request=request, line=line, read_ready=read_ready, done_ready=done_ready, host=host, host_ready=host_ready)
        if taken:
            owed, request = request[1], None
        if out["memory__write_data__ready"] and line is not None:
            line, owed = None, owed - 1
        if offered and read_ready:
            owed -= 1
        if out["host_request__ready"] and host is not None:
            host = None
    expected = {name: np.array(values, np.uint64) for name, values in seen.items() if name not in ("line", "error")}
    low = np.array([value & (1 << 64) - 1 for value in seen["line"]], np.uint64)
    flag = np.array(seen["error"], np.uint64)
    expected["memory__read_data__payload"] = (low | flag << np.uint64(32) if config.chunk_bits == 32 else np.stack([low, flag], axis=1))
    where = {f"{name}__payload": expected[f"{name}__valid"].astype(bool) for name in ("memory__read_data", "memory__write_done", "host_response")}
    wide = {"host_request__payload"}
    made = {name: (np.stack([np.array([v >> 64 * i & (1 << 64) - 1 for v in values], np.uint64) for i in range(2)], axis=1) if name in wide
                   else np.array(values, np.uint64)) for name, values in stimulus.items()}
    return made, expected, where


@pytest.mark.parametrize("preset,engine,cycles,banks", [("tiny", "library", 15_000, 1), ("tiny", "library", 15_000, 4), ("small", "library", 15_000, 2),
                                                        ("tiny", "cocotb", 3_000, 1)])
def test_block_memory(preset, engine, cycles, banks, monkeypatch):
    monkeypatch.setattr(block_memory, "BANK_LINES", DEPTH // banks)
    coverage = Coverage("block memory", points=POINTS)
    stimulus, expected, where = traffic(PRESETS[preset], np.random.default_rng(7), cycles, coverage)
    Bench(BlockMemory(config=PRESETS[preset], depth=DEPTH), name="block_memory").run(stimulus, expected, where=where, engine=engine, seed=7)
    if engine == "library":
        coverage.require(20)


def test_fault_is_seen():
    """Reads beyond the end without their error flag."""
    config = PRESETS["tiny"]
    stimulus, expected, where = traffic(config, np.random.default_rng(8), 3_000, Coverage("block memory", points=POINTS))
    bench = Bench(BlockMemory(config=config, depth=DEPTH), name="block_memory",
                  verilog_edit=lambda text: re.sub(r"issued_outside <= \w+;", "issued_outside <= 1'b0;", text))
    with pytest.raises(Mismatch, match="memory__read_data__payload"):
        bench.run(stimulus, expected, where=where, seed=8)


def test_one_bank_for_all_is_seen(monkeypatch):
    monkeypatch.setattr(block_memory, "BANK_LINES", DEPTH // 4)
    config = PRESETS["tiny"]
    stimulus, expected, where = traffic(config, np.random.default_rng(9), 3_000, Coverage("block memory", points=POINTS))
    bench = Bench(BlockMemory(config=config, depth=DEPTH), name="block_memory",
                  verilog_edit=lambda text: re.sub(r"arrived_bank <= \w+;", "arrived_bank <= 2'd0;", text))
    with pytest.raises(Mismatch):
        bench.run(stimulus, expected, where=where, seed=9)


def test_wrong_parameters():
    with pytest.raises(TypeError, match="ArchConfig"):
        BlockMemory(config="tiny", depth=64)
    for depth in (8, 48, 1 << 21, 64.0):
        with pytest.raises(ValueError, match="power of two from 16"):
            BlockMemory(config=PRESETS["tiny"], depth=depth)
