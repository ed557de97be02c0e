"""The driver in C, compiled with all warnings as errors, against the RTL behind its AXI shell.

Registers and memory reach it through callbacks; the simulation is that of ``tb/axi_system.py``, as for the shell's own tests.
"""
import ctypes
import dataclasses
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from neuroflex import registers
from neuroflex.axi import AxiConfig
from neuroflex.cli import main
from neuroflex.compiler.image import encode_tensor
from neuroflex.config import PRESETS
from neuroflex.formats import Status
from neuroflex.fpga.c_driver import c_driver, c_program
from neuroflex.sim.network import evaluate, quantise
from neuroflex.tb.axi_system import AxiSystem, BusError
from neuroflex.tb.settling import SettlingRegisters

TINY = PRESETS["tiny"]
SHELL = AxiConfig(jobs=4)
FLAGS = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-O1", "-shared", "-fPIC")
BUS, WRONG_DEVICE, WRONG_CONFIG, MEMORY, LEVEL, TIMEOUT, JOB, STUCK, NO_PROGRAM, UNDER_WAY, EMPTY = range(-1, -12, -1)

_Read = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))
_Write = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
_Idle = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_Sync = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)


class Driver(ctypes.Structure):
    """``struct neuroflex``."""

    _fields_ = [("read32", _Read), ("write32", _Write), ("context", ctypes.c_void_p), ("memory", ctypes.c_void_p), ("memory_bytes", ctypes.c_uint32),
                ("bus_address", ctypes.c_uint64), ("idle", _Idle), ("flush", _Sync), ("invalidate", _Sync), ("program", ctypes.c_void_p),
                ("status", ctypes.c_int), *((name, ctypes.c_uint32) for name in ("descriptor", "places", "under_way", "cycles", "next", "stride"))]


class Board:
    """The driver on a simulated system. ``wait``: cycles that pass between two polls."""

    def __init__(self, library, system, wait=2000):
        self.library, self.system = library, system
        self.flushed, self.invalidated = [], []
        start = system.memory.ctypes.data
        self.read32, self.idle = _Read(self._read), _Idle(lambda _: system.wait(wait) * 0)       # kept here, as tests replace them for a while
        self.driver = Driver(
            read32=self.read32, write32=_Write(self._write), memory=start, memory_bytes=len(system.memory), bus_address=system.base,
            idle=self.idle, flush=_Sync(lambda _, at, size: self.flushed.append((at - start, size))),
            invalidate=_Sync(lambda _, at, size: self.invalidated.append((at - start, size))))

    def _read(self, _, offset, value):
        try:
            value[0] = self.system.read(offset)
        except BusError:
            return 1
        return 0

    def _write(self, _, offset, value):
        try:
            self.system.write(offset, value)
        except BusError:
            return 1
        return 0

    def call(self, name, *arguments):
        return getattr(self.library, f"neuroflex_{name}")(ctypes.byref(self.driver), *arguments)

    def load(self, program):
        return self.call("load", ctypes.byref(ctypes.c_char.in_dll(self.library, program)))

    def run(self, tensor, shape, polls=5000):
        """What the function returns, and the levels."""
        levels, found = np.ascontiguousarray(tensor, np.uint8), np.full(shape, 255, np.uint8)
        return self.call("run", ctypes.c_void_p(levels.ctypes.data), ctypes.c_void_p(found.ctypes.data), ctypes.c_uint32(polls)), found

    def batch(self, tensors, shape, polls=5000):
        """What the function returns, how many are done, and the levels."""
        levels, found, done = np.ascontiguousarray(tensors, np.uint8), np.full((len(tensors), *shape), 255, np.uint8), ctypes.c_uint32(99)
        error = self.call("run_batch", ctypes.c_void_p(levels.ctypes.data), ctypes.c_void_p(found.ctypes.data), ctypes.c_uint32(len(tensors)), ctypes.c_uint32(polls),
                          ctypes.byref(done))
        return error, done.value, found

    def count(self, name):
        value = ctypes.c_uint64()
        assert self.call("count", [counter.name for counter in registers.COUNTERS].index(name), ctypes.byref(value)) == 0
        return value.value

    def text(self, kind, number):
        function = getattr(self.library, f"neuroflex_{kind}_text")
        function.restype = ctypes.c_char_p
        return function(number).decode()


@pytest.fixture(scope="module")
def library(digits_program, tmp_path_factory):
    """Driver and three programs: good, with a damaged descriptor, for another configuration."""
    folder = tmp_path_factory.mktemp("c")
    damaged = digits_program.memory.copy()
    damaged[digits_program.descriptors[1], 0] ^= 0x10
    programs = {"digits": digits_program, "damaged": dataclasses.replace(digits_program, memory=damaged),
                "other": dataclasses.replace(digits_program, config=TINY.replace(snn_levels=4))}
    sources = {**c_driver(), "registers.h": registers.to_c_header(registers.REGISTERS + registers.SHELL_REGISTERS),
               **{f"{name}.c": c_program(program, name) for name, program in programs.items()}}
    for name, text in sources.items():
        (folder / name).write_text(text)
    files = [argument for name in sources if name.endswith(".c") for argument in ("-x", "c", name)]      # g++ takes only the next file as C
    done = subprocess.run(["g++", *FLAGS, "-o", "driver.so", *files], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return ctypes.CDLL(str(folder / "driver.so"))


@pytest.fixture
def system():
    with AxiSystem(TINY, SHELL, quick=True, latency=20) as running:
        yield running


def test_golden_outputs(library, system, digits_program, digits):
    """Levels of three images, the memory that the Python side would have made, the counters; memory is handed over in both directions."""
    board = Board(library, system)
    tensors = quantise(digits.input, digits.examples.test_images[:3])
    want = evaluate(digits, tensors, quantised=True).output
    assert board.run(tensors[0], want[0].shape)[0] == NO_PROGRAM
    assert board.call("init") == 0 and board.load("digits") == 0
    assert board.driver.places == 4
    assert board.flushed == [(0, digits_program.memory.nbytes + 3 * 8192)]
    np.testing.assert_array_equal(system.memory[:digits_program.memory.nbytes], digits_program.memory.reshape(-1))
    source = digits_program.tensor(digits_program.input)
    for tensor, levels in zip(tensors, want, strict=True):
        error, found = board.run(tensor, levels.shape)
        assert error == 0 and board.driver.status == Status.DONE
        np.testing.assert_array_equal(found, levels)
        at, size = board.flushed[-1]
        np.testing.assert_array_equal(system.memory[at:at + size], encode_tensor(tensor, source, TINY).reshape(-1))
    result = digits_program.tensor(digits_program.output)
    assert board.invalidated[-1] == (result.base * TINY.line_bytes, result.lines * TINY.line_bytes)
    assert 10_000 < board.count("cycles") < 100_000 and board.count("matches_ann") > 1000


def test_errors_are_decoded(library, system, digits_program, digits):
    """A damaged program ends with the hardware's status; a good job follows."""
    board = Board(library, system)
    tensors = quantise(digits.input, digits.examples.test_images[:1])
    want = evaluate(digits, tensors, quantised=True).output[0]
    assert board.call("init") == 0
    assert board.load("other") == WRONG_CONFIG
    assert board.load("damaged") == 0
    error, _ = board.run(tensors[0], want.shape)
    assert (error, board.driver.status, board.driver.descriptor) == (JOB, Status.BAD_CHECKSUM, 1)
    assert board.text("status", board.driver.status) == "a descriptor's checksum is wrong"
    assert board.text("error", error) == "the job ended with an error"
    assert board.load("digits") == 0
    large = tensors[0].copy()
    large[0, 0, 0] = digits_program.tensor(digits_program.input).levels + 1
    assert board.run(large, want.shape)[0] == LEVEL
    error, found = board.run(tensors[0], want.shape)
    assert error == 0
    np.testing.assert_array_equal(found, want)


def test_timeout_stops_the_job(library, system, digits):
    """Too few polls, and an `idle` that gives up; also a job of the queue in the way; each time the next job is good."""
    board = Board(library, system, wait=100)
    tensors = quantise(digits.input, digits.examples.test_images[:1])
    want = evaluate(digits, tensors, quantised=True).output[0]
    assert board.call("init") == 0 and board.load("digits") == 0
    assert board.run(tensors[0], want.shape, polls=3)[0] == TIMEOUT
    assert not system.read(registers.register("status").offset) & 3
    board.driver.idle = _Idle(lambda _: 1)
    assert board.run(tensors[0], want.shape)[0] == TIMEOUT
    board.driver.idle = board.idle
    system.write(registers.register("queue_push").offset, 0x10000)
    system.wait(50)
    assert board.run(tensors[0], want.shape)[0] == BUS          # the queue is at work
    assert board.call("reset") == 0
    error, found = board.run(tensors[0], want.shape)
    assert error == 0
    np.testing.assert_array_equal(found, want)


def test_batch_through_the_queue(library, system, digits_program, digits):
    """More inputs than the queue takes, in order; what is wrong with one of them is told when those before it are done."""
    board = Board(library, system)
    tensors = quantise(digits.input, digits.examples.test_images[:6])
    want = evaluate(digits, tensors, quantised=True).output
    assert board.call("init") == 0
    assert board.batch(tensors, want[0].shape)[:2] == (NO_PROGRAM, 0)
    assert board.load("digits") == 0
    waiting = []
    board.driver.idle = idle = _Idle(lambda _: (waiting.append(system.read(registers.register("queue_status").offset) & 255), system.wait(1000), 0)[-1])  # noqa: F841
    error, done, found = board.batch(tensors, want[0].shape)
    assert (error, done, board.driver.under_way, max(waiting)) == (0, 6, 0, 3)
    np.testing.assert_array_equal(found, want)
    assert board.driver.cycles == board.count("cycles") > 10_000
    assert board.batch(tensors[:0], want[0].shape)[:2] == (0, 0)
    wrong = tensors[:4].copy()
    wrong[2, 0, 0, 0] = digits_program.tensor(digits_program.input).levels + 1
    error, done, found = board.batch(wrong, want[0].shape)
    assert (error, done, board.driver.under_way) == (LEVEL, 2, 0)
    np.testing.assert_array_equal(found[:2], want[:2])
    # Jobs that change places on their way must be seen.
    write, pushed = board.driver.write32, []

    def exchange(_, offset, value):
        if offset == registers.register("queue_push").offset:
            value += {0: 2, 1: -2}.get(len(pushed), 0)              # a place has two pages
            pushed.append(value)
        return board._write(_, offset, value)

    board.driver.write32 = fault = _Write(exchange)  # noqa: F841
    assert (board.batch(tensors[:2], want[0].shape)[2] != want[:2]).any() and pushed[0] == pushed[1] + 2
    board.driver.write32 = write


def test_queue_step_by_step(library, system, digits):
    """How many jobs may be under way, and what may be done meanwhile; a refused burst and a timeout in the middle leave nothing, and the next job is good."""
    board = Board(library, system)
    tensors = np.ascontiguousarray(quantise(digits.input, digits.examples.test_images[:2]), np.uint8)
    want = evaluate(digits, tensors, quantised=True).output
    found = np.zeros(want.shape, np.uint8)

    def submit(number):
        return board.call("submit", ctypes.c_void_p(tensors[number].ctypes.data))

    def collect(number, polls=5000):
        return board.call("collect", ctypes.c_void_p(found[number].ctypes.data), ctypes.c_uint32(polls))

    assert board.call("init") == 0 and submit(0) == NO_PROGRAM and board.load("digits") == 0
    assert collect(0) == EMPTY
    assert [submit(number % 2) for number in range(5)] == [0, 0, 0, 0, UNDER_WAY]
    assert board.run(tensors[0], want[0].shape)[0] == board.load("digits") == board.call("start") == board.batch(tensors, want[0].shape)[0] == UNDER_WAY
    assert collect(0) == 0 and collect(1) == 0 and board.driver.under_way == 2
    np.testing.assert_array_equal(found, want)
    system.refuse(read=40)
    assert collect(0) == JOB and board.driver.status == Status.BUS_ERROR and board.driver.under_way == 0
    assert submit(0) == submit(1) == 0
    assert collect(0) == 0 and collect(1, polls=2) == TIMEOUT and board.driver.under_way == 0 and collect(1) == EMPTY
    error, levels = board.run(tensors[1], want[1].shape)
    assert error == 0
    np.testing.assert_array_equal(levels, want[1])


def test_programs_whose_tensors_are_not_empty(digits_program):
    memory = digits_program.memory.copy()
    memory[-1] = 1
    with pytest.raises(ValueError, match="tensors must begin as zeros"):
        c_program(dataclasses.replace(digits_program, memory=memory), "digits")


class Settling(SettlingRegisters):
    """In place of a system, with memory that nobody reads."""

    memory, base = np.zeros(1 << 20, np.uint8), 0

    def wait(self, cycles):
        return 0


def test_start_waits_while_the_accelerator_is_busy(library, digits):
    """Nothing is written or started before ``busy`` goes; a memory that never answers is an error."""
    device = Settling(TINY)
    board, tensor = Board(library, device), quantise(digits.input, digits.examples.test_images[:1])[0]
    shape = evaluate(digits, tensor[None], quantised=True).output[0].shape
    assert board.call("init") == 0 and board.load("digits") == 0
    device.polls = 5
    assert board.run(tensor, shape, polls=3)[0] == 0 and not device.early
    for call in (lambda: board.run(tensor, shape)[0], lambda: board.call("start"), lambda: board.load("digits")):
        device.polls = 1 << 30
        board.flushed.clear()
        assert call() == STUCK and not board.flushed and not device.early
        device.polls = 0
        assert board.load("digits") == 0


def test_devices_that_are_none(library, system):
    """Another identity, no answer, memory between pages, memory that is too small, memory that never answers."""
    board = Board(library, system)
    board.driver.bus_address += 8
    assert board.call("init") == MEMORY
    board.driver.bus_address -= 8
    board.driver.memory_bytes = 4096
    assert board.call("init") == 0 and board.load("digits") == MEMORY
    board.driver.read32 = _Read(lambda _, offset, value: value.__setitem__(0, 0x12345678) or 0)
    assert board.call("init") == WRONG_DEVICE
    board.driver.read32 = _Read(lambda _, offset, value: 1)
    assert board.call("init") == BUS
    status = registers.register("status").offset
    board.driver.read32 = _Read(lambda _, offset, value: value.__setitem__(0, 1) or 0 if offset == status else board.read32(None, offset, value))
    assert board.call("init") == STUCK


def test_page_shows_the_structure_and_an_example(digits_program, tmp_path):
    """What docs/boards.md shows is the header's, and a program that links with the driver; the sizes in it are those of the network."""
    page = (Path(__file__).parents[1] / "docs" / "boards.md").read_text()
    structure, example = re.findall(r"^```c\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert structure.startswith("struct neuroflex {") and structure in c_driver()["neuroflex.h"]
    sizes = {name: int(np.prod(digits_program.tensor(getattr(digits_program, name)).shape)) for name in ("input", "output")}
    assert sizes == {"input": 9 * 8 * 8, "output": 10} and "levels_in[9 * 8 * 8], levels_out[10];" in example
    sources = {**c_driver(), "registers.h": registers.to_c_header(registers.REGISTERS + registers.SHELL_REGISTERS), "digits.c": c_program(digits_program, "digits"), "main.c": example}
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    files = [argument for name in sources if name.endswith(".c") for argument in ("-x", "c", name)]
    done = subprocess.run(["g++", *(flag for flag in FLAGS if flag not in ("-shared", "-fPIC")), "-o", "main", *files], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_every_code_has_words(library):
    texts = [Board.text(type("Any", (), {"library": library}), "error", error) for error in range(0, -12, -1)]
    texts += [Board.text(type("Any", (), {"library": library}), "status", status) for status in Status]
    assert len(set(texts)) == len(texts) and "None" not in texts and not any("unknown error" in text or text == "unknown status" for text in texts)


def test_embed_command(digits_program, tmp_path, capsys):
    """A program as C source, from the command line; names that C cannot have are refused. Text goes into C strings without doing harm."""
    path = tmp_path / "digits.nfx"
    digits_program.save(path)
    assert main(["embed", str(path), "-o", str(tmp_path / "new" / "digits.c"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["program"] == "digits"
    assert (tmp_path / "new" / "digits.c").read_text() == c_program(digits_program, "digits")
    assert main(["embed", str(path), "-o", str(tmp_path / "7-digits.c")]) == 2
    assert "'7-digits' is no C identifier" in " ".join(capsys.readouterr().err.split())
    named = dataclasses.replace(digits_program, about={**digits_program.about, "name": 'a"; evil("\n'})
    assert re.search(r'\.name = "a\?\? evil\?\?\?",', c_program(named, "x"))
