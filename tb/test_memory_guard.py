"""Memory guard against its model.

Plan: random requests, write data, readiness and answers; aborts at every stage of a burst; after an abort memory must be settled
(write data completed with zeros, answers dropped) before the core is let go. Counts lost in rare cycles, which release the core too early
or never, must fail.
"""
import re

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.hdl.memory_guard import MemoryGuard
from neuroflex.sim import memory_guard as model
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage

CONFIG = PRESETS["tiny"]
POINTS = ("read burst", "write burst", "abort", "abort owing reads", "abort owing data", "abort owing answers", "idle", "request held", "zero sent")


def traffic(rng, cycles, coverage):
    """A core that asks at random and a memory that answers what was asked, in order."""
    state = model.guard_init()
    inputs = ("abandon", "core__request__valid", "core__request__payload", "core__write_data__valid", "core__write_data__payload",
              "core__read_data__ready", "core__write_done__ready", "memory__request__ready", "memory__write_data__ready",
              "memory__read_data__valid", "memory__read_data__payload", "memory__write_done__valid", "memory__write_done__payload")
    outputs = ("core__request__ready", "core__write_data__ready", "core__read_data__valid", "core__read_data__payload",
               "core__write_done__valid", "core__write_done__payload", "memory__request__valid", "memory__request__payload",
               "memory__write_data__valid", "memory__write_data__payload", "memory__read_data__ready", "memory__write_done__ready",
               "core_reset", "idle")
    stimulus, expected = ({name: [] for name in names} for names in (inputs, outputs))
    requests, lines = [], []            # what the queues hold
    at_memory_reads = at_memory_writes = data_seen = 0   # what memory has still to answer
    writes_open = []
    request = line = None
    core_owes = 0
    for _ in range(cycles):
        resetting = int(state[model.RESETTING])
        if resetting:
            request = line = None
            core_owes = 0
        if request is None and rng.random() < 0.3 and not resetting:
            request = (int(rng.integers(0, 1 << CONFIG.address_bits)), int(rng.integers(1, 9)), int(rng.random() < 0.5))
        if line is None and core_owes and rng.random() < 0.6:
            line = int(rng.integers(0, 1 << 32))
        abandon = int(rng.random() < 0.01)
        ready, line_ready = int(rng.random() < 0.6), int(rng.random() < 0.6)
        read_ready, done_ready = int(rng.random() < 0.7), int(rng.random() < 0.7)
        read_valid = int(at_memory_reads > 0 and rng.random() < 0.5)
        done_valid = int(at_memory_writes > 0 and rng.random() < 0.3)
        read_payload, done_payload = int(rng.integers(0, 1 << 33)), int(rng.random() < 0.5)
        payload = 0 if request is None else request[0] | request[1] << CONFIG.address_bits | request[2] << (CONFIG.address_bits + 8)
        can_request, can_line = int(not resetting and len(requests) < 2), int(len(lines) < 2)
        offered = int(state[model.LINES_OWED] != 0) if resetting else int(line is not None)
        values = (abandon, int(request is not None), payload, int(line is not None), line or 0, read_ready, done_ready, ready, line_ready,
                  read_valid, read_payload, done_valid, done_payload)
        for name, value in zip(inputs, values):
            stimulus[name].append(value)
        values = (can_request, int(can_line and not resetting), int(read_valid and not resetting), read_payload,
                  int(done_valid and not resetting), done_payload, int(bool(requests)), requests[0] if requests else 0,
                  int(bool(lines)), lines[0] if lines else 0, int(read_ready or resetting), int(done_ready or resetting),
                  resetting, int(model.guard_idle(state)))
        for name, value in zip(outputs, values):
            expected[name].append(value)
        if abandon:
            coverage.hit("abort")
            coverage.hit("abort owing reads", int(state[model.READS_OWED] > 0))
            coverage.hit("abort owing data", int(state[model.LINES_OWED] > 0))
            coverage.hit("abort owing answers", int(state[model.ANSWERS_OWED] > 0))
        coverage.hit("idle", int(model.guard_idle(state)))
        coverage.hit("request held", int(bool(requests) and not ready))
        taken, line_taken = bool(requests) and ready, bool(lines) and line_ready
        read_moved = int(read_valid and (read_ready or resetting))
        done_moved = int(done_valid and (done_ready or resetting))
        accept, accept_line = model.guard_step(state, abandon, int(request is not None), request[1] if request else 0,
                                               request[2] if request else 0, taken, int(line is not None), line_taken, read_moved, done_moved)
        assert bool(accept) == bool(request is not None and can_request) and bool(accept_line) == bool(offered and can_line)
        if taken:
            moved = requests.pop(0)
            count, is_write = moved >> CONFIG.address_bits & 255, moved >> (CONFIG.address_bits + 8)
            if is_write:
                writes_open.append(count)
            else:
                at_memory_reads += count
        if line_taken:
            lines.pop(0)
            data_seen += 1
        while writes_open and data_seen >= writes_open[0]:
            data_seen -= writes_open.pop(0)
            at_memory_writes += 1
        if accept:
            requests.append(payload)
            coverage.hit("write burst" if request[2] else "read burst", int(request[1] > 1))
            core_owes += request[1] if request[2] else 0
            request = None
        if accept_line:
            coverage.hit("zero sent", resetting)
            lines.append(0 if resetting else line)
            if not resetting:
                core_owes, line = core_owes - 1, None
        at_memory_reads -= read_moved
        at_memory_writes -= done_moved
    where = {"memory__request__payload": "memory__request__valid", "memory__write_data__payload": "memory__write_data__valid"}
    expected = {k: np.array(v, np.uint64) for k, v in expected.items()}
    return ({k: np.array(v, np.uint64) for k, v in stimulus.items()}, expected, {p: expected[v] == 1 for p, v in where.items()})


@pytest.mark.parametrize("engine,cycles", [("library", 60_000), ("cocotb", 2_000)])
def test_guard(engine, cycles):
    coverage = Coverage("memory guard", points=POINTS)
    stimulus, expected, where = traffic(np.random.default_rng(21), cycles, coverage)
    Bench(MemoryGuard(config=CONFIG), name="memory_guard").run(stimulus, expected, where, engine=engine, seed=21)
    if engine == "library":
        coverage.require(20)


LOST_COUNTS = {
    "a write that comes with an answer": (r"= answers \+ (\w+);", r"= answers + (\1 & ~(memory__write_done__valid & memory__write_done__ready));"),
    "a line read during an abort": (r"= memory__read_data__valid & memory__read_data__ready;",
                                    "= memory__read_data__valid & memory__read_data__ready & ~core_reset;"),
    "an answer during an abort": (r"= memory__write_done__valid & memory__write_done__ready;",
                                  "= memory__write_done__valid & memory__write_done__ready & ~core_reset;"),
}


@pytest.mark.parametrize("lost", LOST_COUNTS)
def test_lost_count_is_seen(lost):
    stimulus, expected, where = traffic(np.random.default_rng(22), 10_000, Coverage("memory guard", points=POINTS))
    guard = Bench(MemoryGuard(config=CONFIG), name="memory_guard", verilog_edit=lambda text: re.sub(*LOST_COUNTS[lost], text, count=1))
    with pytest.raises(Mismatch, match="idle|core_reset"):
        guard.run(stimulus, expected, where, seed=22)
