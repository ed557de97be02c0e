"""The accelerator with its AXI shell as a driver sees it: registers on one bus, memory on the other.

Plan
----
Stimuli: the digits network and random networks, started directly and through the queue with tensors of their own for each image; memories with latency and random stalls on
every channel; in the long run with two weight banks, too; refused reads and writes in a job; flushes and soft resets in mid-job; accesses to every address of the page.
Checks, in every cycle: both buses and the interrupt, against the model made of the models of all blocks; it does not follow the watchdog, which never strikes there.
Checks of values alone, for longer jobs: the levels of the functional network, byte by byte; status of each job; nothing outside of memory is touched; at least four reads are
under way; after each error, flush and reset a good job runs.
The same shell is driven by cocotbext-axi as master and as memory, with pauses on all channels.
Faults: a page that is lost on its way through the shell must be seen in its cycle, lanes that are exchanged in the writer in the levels.
"""
import contextlib
import json
import re
from importlib import resources

import numpy as np
import pytest
from amaranth.lib.wiring import Out
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from neuroflex import registers as regmap
from neuroflex.atomic import work_folder
from neuroflex.axi import PAGE_BYTES, AxiConfig
from neuroflex.compiler.network import Network
from neuroflex.config import PRESETS
from neuroflex.eda import to_verilog
from neuroflex.flow import compile_network
from neuroflex.formats import Status
from neuroflex.hdl.shell import NeuroFlexAxi
from neuroflex.sim.accelerator import workload
from neuroflex.sim.network import evaluate, quantise
from neuroflex.sim.shell import AxiShellModel
from neuroflex.tb.axi_board import OFFSET, Board
from neuroflex.tb.axi_memory import AxiMemory
from neuroflex.tb.axi_software import AxiSoftware
from neuroflex.tb.axi_system import AxiSystem, BusError, shell_bench
from neuroflex.tb.bench import Mismatch
from neuroflex.tb.closed_loop import closed_loop
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.networks import random_job
from neuroflex.tb.simulator import build_cocotb, build_folder

TINY = PRESETS["tiny"]
CONFIGS = PRESETS | {"double": TINY.replace(name="double", weight_banks=2)}
SEED = 4004
SHELL = AxiConfig(jobs=4)


def good_job(seed=SEED):
    job, tensor = random_job(seed, TINY, policy="balanced", layers=3, size=6, channels=20)
    return job, tensor, evaluate(job.network, tensor[None], quantised=True).output[0]


# --- every port in every cycle ------------------------------------------------------------------------------
POINTS = ("queued", "direct", "bus error", "flush in a job", "reset in a job", "register refused", "write refused", "two in the queue", "other image")
PAYLOADS = {f"s_axi_{name}": f"s_axi_{name[0]}valid" for name in ("bresp", "rresp", "rdata")} | {
    f"m_axi_{name}": f"m_axi_{'w' if name.startswith('w') else name[:2]}valid" for name in ("araddr", "arlen", "awaddr", "awlen", "wdata", "wstrb", "wlast")}
GOOD, BROKEN = {Status.DONE}, {Status.DONE, Status.BUS_ERROR}


class Session:
    """Software that does everything that a driver may do, and a memory that refuses bursts now and then.

    The program lies at the start of memory, each image's tensors on pages of their own behind it.
    """

    def __init__(self, seed, axi, job, images, rounds):
        self.rng, self.rounds, self.job = np.random.default_rng(seed), rounds, job
        self.coverage, self.length = Coverage("shell", POINTS), 3_000
        content = job.with_input(images[0])
        self.tensor_line = min(place.base for place in job.placements.values())
        size = -(-content.nbytes // PAGE_BYTES)         # in pages
        self.pages = [(1 + i) * size for i in range(len(images))]
        self.memory = AxiMemory(self.rng, axi, (1 + len(images)) * size * PAGE_BYTES, speed=0.8)
        self.works = {page: workload(job, image) for page, image in zip(self.pages, images)}
        self.memory.content[:content.nbytes] = content.reshape(-1)
        self.images = dict(zip(self.pages, images))
        self.software = AxiSoftware(self.rng, self.script())
        self.cycle = self.first = 0

    def _place(self, page):
        """Tensors as they are before a job."""
        content = self.job.with_input(self.images[page]).reshape(-1)
        at = page * PAGE_BYTES
        split = self.tensor_line * self.job.config.line_bytes
        self.memory.content[at + split:at + len(content)] = content[split:]

    def _check(self, page, code, allowed):
        assert code in allowed, f"{Status(code).name} in cycle {self.cycle}"
        self.coverage.hit("bus error", code == Status.BUS_ERROR)
        self.coverage.hit("other image", page != self.pages[0])
        if code == Status.DONE:
            at = page * PAGE_BYTES
            content = self.memory.content[at:at + self.job.memory.size].reshape(self.job.memory.shape)
            np.testing.assert_array_equal(self.job.output(content), self.works[page].output)

    def script(self):
        """Accesses of the whole session."""
        rng, o, started = self.rng, OFFSET, 0
        for name, value in (("program_page", 0), ("tensor_line", self.tensor_line), ("queue_program", self.job.program), ("program", self.job.program)):
            yield o[name], value
        for turn in range(self.rounds):
            # Two jobs of the queue; in later rounds memory may refuse.
            self.memory.refuse = 0.005 if turn % 2 else 0.0
            order, allowed = rng.permutation(self.pages), BROKEN if turn % 2 else GOOD
            started = self.cycle
            yield o["queue_control"], 0x100
            self.first = self.first or int(order[0])
            for page in order[:2]:
                self._place(page)
                yield o["queue_push"], int(page)
            self.coverage.hit("two in the queue")
            answer = yield o["control"], 2
            self.coverage.hit("write refused", answer[1])
            for page in order[:2]:
                yield "interrupt"
                word, _ = yield o["queue_result"], None
                yield o["queue_result_cycles"], None
                self._check(page, word >> 8 & 255, allowed)
                yield o["queue_result"], 1
                self.coverage.hit("queued")
            self.length = max(500, (self.cycle - started) // 2)
            # A register that may not be there, one job without the queue, its counters.
            answer = yield int(rng.integers(1 << 10)) * 4, None
            self.coverage.hit("register refused", answer[1])
            page = int(order[0])
            self._place(page)
            for access in (("tensor_page", page), ("status", 2), ("control", 0x101)):
                yield o[access[0]], access[1]
            yield "interrupt"
            word, _ = yield o["status"], None
            self._check(page, word >> 8 & 255, allowed)
            yield o["cycles_low"], None
            for name in rng.choice([c.name for c in regmap.COUNTERS], 3):
                yield o[f"{name}_low"], None
            yield o["status"], 2
            yield o["control"], 0
            self.coverage.hit("direct")
            # One that is flushed, and one that is reset, somewhere in it.
            for way, begin, stop in (("flush", (("queue_push", int(order[1])),), ("queue_control", 0x101)), ("reset", (("control", 0x101),), ("control", 2))):
                for name, value in begin:
                    yield o[name], value
                yield int(rng.integers(self.length))
                word, _ = yield (o["queue_status"], None) if way == "flush" else (o["status"], None)
                self.coverage.hit(f"{way} in a job", word >> 8 & 1 if way == "flush" else word & 1)
                yield o[stop[0]], stop[1]
                while (yield o["queue_status"], None)[0] >> 8 & 1 or (yield o["status"], None)[0] & 1:
                    pass
                yield o["status"], 2

    def drive(self):
        bus = {**self.memory.drive_read(), **self.memory.drive_write()}
        return {**{f"s_axi_{n}": v for n, v in self.software.drive().items()}, **{f"m_axi_{n}": v for n, v in bus.items()}}

    def step(self, out, inputs):
        self.cycle += 1
        software, bus = ({name.removeprefix(prefix): value for name, value in (*out.items(), *inputs.items()) if name.startswith(prefix)} for prefix in ("s_axi_", "m_axi_"))
        self.software.step(software, software, out["irq"])
        self.memory.step_read(bus, bus)
        self.memory.step_write(bus, bus)


def vectors_of(bench, config, axi, seed, *, rounds, cycles):
    """A session with the model: the session, and vectors for the bench."""
    job, tensor = random_job(SEED + seed, config, policy=("balanced", "hybrid")[seed % 2], layers=2, size=3, channels=8)
    session = Session(seed, axi, job, [tensor, np.flip(tensor, -1).copy()], rounds)
    return session, closed_loop(bench, AxiShellModel(axi, session.works, cycles), session, cycles, PAYLOADS)


def test_every_port_in_every_cycle():
    """The session to its end; then with one bit of the tensors' page changed on its way to the circuit, which must be seen on the memory bus."""
    bench = shell_bench(TINY, SHELL, quick=True)
    session, (stimulus, expected, where) = vectors_of(bench, TINY, SHELL, 0, rounds=4, cycles=15_000)
    assert session.software.over
    session.coverage.require(1)
    assert bench.run(stimulus, expected, where, seed=0) == 15_000
    wrong = stimulus["s_axi_wdata"].copy()
    pushes = np.flatnonzero((stimulus["s_axi_awvalid"] == 1) & (stimulus["s_axi_awaddr"] == OFFSET["queue_push"]))
    wrong[pushes[0] - 20:pushes[0] + 20] ^= wrong[pushes[0] - 20:pushes[0] + 20] == session.first
    got = bench.record(stimulus | {"s_axi_wdata": wrong}, ["m_axi_arvalid", "m_axi_araddr"])
    assert (got["m_axi_araddr"] != expected["m_axi_araddr"])[(got["m_axi_arvalid"] == 1) & (expected["m_axi_arvalid"] == 1)].any()


@pytest.mark.long
@pytest.mark.parametrize("preset,settings,seeds", [("tiny", {"jobs": 4}, range(1, 12)), ("tiny", {"data_bits": 128, "burst_beats": 64}, range(12, 16)), ("small", {}, range(16, 20)),
                                                   ("double", {"jobs": 4}, range(20, 25))])
def test_every_port_in_every_cycle_long(preset, settings, seeds):
    axi, config = AxiConfig(**settings), CONFIGS[preset]
    bench = shell_bench(config, axi, quick=True)
    for seed in seeds:
        session, vectors = vectors_of(bench, config, axi, seed, rounds=6, cycles=40_000)
        assert session.software.over
        session.coverage.require(1)
        bench.run(*vectors, seed=seed)


# --- values alone -------------------------------------------------------------------------------------------
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
    lanes = re.compile(r"(assign m_axi_wdata = )(\S+?)\[63:0\];")

    def edit(text):
        assert lanes.search(text)
        return lanes.sub(r"\1{ \2[31:0], \2[63:32] };", text, count=1)

    with AxiSystem(TINY, SHELL, quick=True, verilog_edit=edit) as system:
        board = Board(system, job)
        start = board.place(0, tensor)
        board.run(start)
        assert not np.array_equal(board.output(start), want)
        _, vectors = vectors_of(system.bench, TINY, SHELL, 0, rounds=1, cycles=4_000)
        with pytest.raises(Mismatch, match="m_axi_wdata"):
            system.bench.run(*vectors)


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
    with work_folder(build_folder(), "cocotb-axi") as folder:
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
