"""The accelerator with its AXI shell as a driver sees it: registers on one bus, memory on the other.

Plan
----
Stimuli: the digits network and random networks, started directly and through the queue with tensors of their own for each image; memories with latency and random stalls on
every channel; refused reads and writes in a job; flushes and soft resets in mid-job; accesses to every address of the page.
Checks: the levels of the functional network, byte by byte; status and cycles of each job; nothing outside of memory is touched; at least four reads are under way; after each
error, flush and reset a good job runs.
The same shell is driven by cocotbext-axi as master and as memory, with pauses on all channels.
Fault: lanes that are exchanged in the writer must give wrong levels.
"""
import contextlib
import json
import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from amaranth.lib.wiring import Out
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from neuroflex import registers as regmap
from neuroflex.axi import PAGE_BYTES, AxiConfig
from neuroflex.compiler.network import Network
from neuroflex.config import PRESETS
from neuroflex.eda import to_verilog
from neuroflex.flow import compile_network
from neuroflex.formats import Status
from neuroflex.hdl.shell import NeuroFlexAxi
from neuroflex.sim.network import evaluate, quantise
from neuroflex.tb.axi_system import AxiSystem, BusError
from neuroflex.tb.networks import random_job
from neuroflex.tb.simulator import build_cocotb, build_folder

TINY = PRESETS["tiny"]
SEED = 4004
SHELL = AxiConfig(jobs=4)
OFFSET = {r.name: r.offset for r in regmap.REGISTERS + regmap.SHELL_REGISTERS}
PROGRAM_AT = 1 << 20          # in memory, from its base on


class Board:
    """A program in a system's memory, and its tensors once per image."""

    def __init__(self, system, job):
        self.system, self.job = system, job
        self.line_bytes = job.config.line_bytes
        self.tensor_line = min(place.base for place in job.placements.values())
        content = job.memory.reshape(-1)
        split = self.tensor_line * self.line_bytes
        system.memory[PROGRAM_AT:PROGRAM_AT + split] = content[:split]
        self.size = -(-(len(content) - split) // PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES
        self.pages = lambda start: (system.base + start - split) // PAGE_BYTES % (1 << 32)
        self.set("program_page", (system.base + PROGRAM_AT) // PAGE_BYTES)
        self.set("tensor_line", self.tensor_line)

    def set(self, name, value):
        self.system.write(OFFSET[name], value)

    def get(self, name):
        return self.system.read(OFFSET[name])

    def place(self, number, tensor):
        """Put an image's tensors into memory; the start within it."""
        split = self.tensor_line * self.line_bytes
        start = PROGRAM_AT - (number + 1) * self.size
        start += (split - start) % PAGE_BYTES
        content = self.job.with_input(tensor).reshape(-1)[split:]
        self.system.memory[start:start + len(content)] = content
        return start

    def output(self, start):
        """Levels of the last layer."""
        split = self.tensor_line * self.line_bytes
        memory = np.zeros_like(self.job.memory).reshape(-1)
        memory[split:] = self.system.memory[start:start + len(memory) - split]
        return self.job.output(memory.reshape(self.job.memory.shape))

    def run(self, start, code=Status.DONE):
        """A job through the queue, with the interrupt; its result."""
        self.set("queue_control", 0x100)
        self.set("queue_program", self.job.program)
        self.set("queue_push", self.pages(start))
        self.system.wait(3_000_000, until_interrupt=True)
        word = self.get("queue_result")
        assert word & 1 and Status(word >> 8 & 255) == code
        cycles = self.get("queue_result_cycles")
        self.set("queue_result", 1)
        return cycles


def good_job(seed=SEED):
    job, tensor = random_job(seed, TINY, policy="balanced", layers=3, size=6, channels=20)
    return job, tensor, evaluate(job.network, tensor[None], quantised=True).output[0]


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.long)])
def test_digits_through_the_queue(count):
    """Images by turns in the queue, more than it holds in the long run; their answers are the functional network's."""
    network = Network.load(resources.files("neuroflex.zoo") / "digits.npz")
    job = compile_network(network, TINY, policy="hybrid")
    tensors = quantise(network.input, network.examples.test_images[:count])
    want = evaluate(network, tensors, quantised=True).output
    with AxiSystem(TINY, SHELL, quick=True, latency=30, stall=0.2, seed=SEED) as system:
        board = Board(system, job)
        starts = [board.place(i, tensor) for i, tensor in enumerate(tensors)]
        board.set("queue_program", job.program)
        board.set("queue_control", 0x100)
        pushed = done = 0
        while done < len(starts):
            if pushed < len(starts):
                try:
                    board.set("queue_push", board.pages(starts[pushed]))
                    pushed += 1
                    continue
                except BusError:
                    assert board.get("queue_status") & 255 == 4       # full
            assert system.wait(3_000_000, until_interrupt=True) < 3_000_000
            word = board.get("queue_result")
            assert word & 1 and Status(word >> 8 & 255) == Status.DONE and board.get("queue_result_cycles") > 1000
            board.set("queue_result", 1)
            done += 1
        for start, levels in zip(starts, want):
            np.testing.assert_array_equal(board.output(start), levels)
        most, _, _ = system.traffic
        assert most >= 4
        assert board.get("identity") == regmap.IDENTITY and board.get("version") == regmap.VERSION


@pytest.mark.parametrize("preset,settings,seeds", [
    ("tiny", {"jobs": 4}, range(1)), pytest.param("small", {}, range(4), marks=pytest.mark.long),
    pytest.param("tiny", {"data_bits": 128, "burst_beats": 64}, range(20), marks=pytest.mark.long)])
def test_random_networks_directly(preset, settings, seeds):
    """Started as without a shell: program, control, status."""
    config = PRESETS[preset]
    for seed in seeds:
        job, tensor = random_job(SEED + seed, config, policy=("hybrid", "balanced")[seed % 2], layers=2, size=5, channels=12)
        with AxiSystem(config, AxiConfig(**settings), quick=True, latency=(1, 60)[seed % 2], stall=(0.0, 0.4)[seed % 2], seed=seed) as system:
            board = Board(system, job)
            start = board.place(0, tensor)
            board.set("tensor_page", board.pages(start))
            board.set("program", job.program)
            board.set("control", 0x101)
            assert system.wait(3_000_000, until_interrupt=True) < 3_000_000
            assert Status(board.get("status") >> 8 & 255) == Status.DONE
            board.set("status", 2)
            system.wait(3)
            assert not system.interrupt
            np.testing.assert_array_equal(board.output(start), evaluate(job.network, tensor[None], quantised=True).output[0])


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=pytest.mark.long)])
def test_refused_bursts_stop_the_job_only(count):
    """A read or a write that memory refuses ends its job with BUS_ERROR; the next one is good."""
    job, tensor, want = good_job()
    rng = np.random.default_rng(SEED)
    with AxiSystem(TINY, SHELL, quick=True, latency=12, stall=0.1, seed=SEED) as system:
        board = Board(system, job)
        start = board.place(0, tensor)
        board.run(start)
        _, reads, writes = system.traffic
        for i in range(count):
            system.refuse(read=int(rng.integers(reads)) if i else 0)
            board.run(board.place(0, tensor), Status.BUS_ERROR)
            system.refuse(write=int(rng.integers(writes)) if i else writes - 1)
            board.run(board.place(0, tensor), Status.BUS_ERROR)
            system.refuse()
            start = board.place(0, tensor)
            board.run(start)
            np.testing.assert_array_equal(board.output(start), want)


@pytest.mark.parametrize("points", [5, pytest.param(100, marks=pytest.mark.long)])
def test_flush_and_reset_in_mid_job(points):
    job, tensor, want = good_job(SEED + 1)
    rng = np.random.default_rng(SEED)
    with AxiSystem(TINY, SHELL, quick=True, latency=25, stall=0.2, seed=SEED) as system:
        board = Board(system, job)
        start = board.place(0, tensor)
        length = board.run(start)
        for after in rng.integers(0, length, points):
            for name, begin, stop in (("queue", [("queue_push", board.pages(start))] * 3, [("queue_control", 0x101)]),
                                      ("direct", [("tensor_page", board.pages(start)), ("program", job.program), ("control", 1)], [("control", 2), ("status", 2)])):
                for access in begin:
                    board.set(*access)
                system.wait(int(after))
                for access in stop:
                    board.set(*access)
                for _ in range(1000):
                    if not board.get("queue_status") >> 8 & 1 and not board.get("status") & 1:
                        break
                else:
                    raise AssertionError(f"{name}: still busy")
                assert board.get("queue_status") == 0
            start = board.place(0, tensor)
            board.run(start)
            np.testing.assert_array_equal(board.output(start), want)


def test_every_address():
    """Reads of the whole page: what is mapped answers, all else is refused; also while a job runs, when writes are refused."""
    job, tensor, _ = good_job()
    with AxiSystem(TINY, SHELL, quick=True) as system:
        board = Board(system, job)
        mapped = set(OFFSET.values())
        for running in (False, True):
            if running:
                board.set("queue_push", board.pages(board.place(0, tensor)))
                with pytest.raises(BusError, match="the write to register 0x008 was refused"):
                    board.set("control", 2)
            for offset in range(0, PAGE_BYTES, 4):
                if offset in mapped:
                    system.read(offset)
                else:
                    with pytest.raises(BusError):
                        system.read(offset)
        assert board.get("shell") == 8 | 4 << 8 | 32 << 16 | 4 << 24


@pytest.mark.long
def test_exchanged_lanes_are_seen():
    job, tensor, want = good_job()
    lanes = re.compile(r"(assign bus__wdata = )(\S+ )\[63:0\];")

    def edit(text):
        assert lanes.search(text)
        return lanes.sub(r"\1{ \2[31:0], \2[63:32] };", text, count=1)

    with AxiSystem(TINY, SHELL, quick=True, verilog_edit=edit) as system:
        board = Board(system, job)
        start = board.place(0, tensor)
        board.run(start)
        assert not np.array_equal(board.output(start), want)


def cocotb_simulator(axi):
    """The top as it is generated, for cocotb: its ports under the names that cocotbext-axi looks for."""
    name = "neuroflex_tiny_axi"
    component = NeuroFlexAxi(config=TINY, axi=axi)
    ports = {path[0]: (member.flow, member.shape) for path, member, _ in component.signature.flatten(component)}
    declared = ", ".join(f"{'output' if flow is Out else 'input'} [{shape - 1}:0] {port}" for port, (flow, shape) in ports.items())
    wrapper = f"module bench({declared});\n  {name} top({', '.join(f'.{port}({port})' for port in ports)});\nendmodule\n"
    return build_cocotb(name, to_verilog(component, name) + wrapper, tuple(ports))


def run_cocotb(seed, job, tensor, axi=SHELL):
    """Run a job through the queue and directly; its levels after each."""
    memory = job.with_input(tensor).reshape(-1)
    size = -(-len(memory) // PAGE_BYTES) * PAGE_BYTES
    folder = Path(tempfile.mkdtemp(prefix="cocotb-axi-", dir=build_folder()))
    (folder / "memory.bin").write_bytes(memory.tobytes())
    pages = [("program_page", 0), ("tensor_page", 0), ("tensor_line", 0xFFFFFFFF)]
    task = {"seed": seed, "size": size, "registers": OFFSET, "queue": [*pages, ("queue_control", 0x100), ("queue_program", job.program), ("queue_push", 0)],
            "direct": [*pages, ("program", job.program), ("control", 0x101)]}
    (folder / "task.json").write_text(json.dumps(task))
    executable = cocotb_simulator(axi)
    runner = get_runner("verilator")
    with contextlib.suppress(SystemExit):       # the runner's way to fail; judged below
        runner.test(test_module="neuroflex.tb.cocotb_axi", hdl_toplevel="bench", hdl_toplevel_lang="verilog", build_dir=executable.parent,
                    test_dir=folder, results_xml=str(folder / "results.xml"), log_file=folder / "log.txt", extra_env={"NEUROFLEX_AXI": str(folder)})
    log = (folder / "log.txt").read_text()[-3000:]
    assert (folder / "result.json").exists(), log
    assert get_results(folder / "results.xml") == (1, 0), log
    result = json.loads((folder / "result.json").read_text())
    levels = [job.output(np.frombuffer((folder / f"{way}.bin").read_bytes(), np.uint8)[:len(memory)].reshape(job.memory.shape)) for way in ("queue", "direct")]
    shutil.rmtree(folder)
    return result, levels


@pytest.mark.long
def test_cocotbext_axi():
    """cocotbext-axi as master and as memory, with pauses on all ten channels."""
    for seed in range(SEED, SEED + 4):
        job, tensor = random_job(seed, TINY, policy="balanced", layers=2, size=4, channels=12)
        result, levels = run_cocotb(seed, job, tensor)
        assert result == {"codes": [Status.DONE] * 2, "identity": regmap.IDENTITY}
        want = evaluate(job.network, tensor[None], quantised=True).output[0]
        for got in levels:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("settings,text", [({"memory_bytes": 5000}, "whole pages"), ({"base": 1 << 32}, "whole pages")])
def test_refused_systems(settings, text):
    with pytest.raises(ValueError, match=text):
        AxiSystem(TINY, **settings)
