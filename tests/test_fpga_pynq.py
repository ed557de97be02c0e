"""The back end for PYNQ: against exactly the part of the package ``pynq`` that it uses, with the RTL behind its AXI shell as the board.

A stand-in for ``pynq`` keeps to what the package's documentation says. With ``long``, the same driver, as it is packed for the board, runs on the real package in an environment of its
own (`make pynq-venv`), where only the device is ours: registers and buffers of the simulated RTL.
"""
import io
import os
import struct
import subprocess
import sys
import types
import zipfile
from multiprocessing.connection import Listener
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Assert, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from neuroflex import fpga, registers
from neuroflex.axi import AxiConfig, Burst
from neuroflex.axi_bus import axi_lite_signature
from neuroflex.config import PRESETS
from neuroflex.formats import Status
from neuroflex.fpga.boards import BOARDS
from neuroflex.fpga.hwh import hardware_handoff
from neuroflex.fpga.pynq_device import PynqDevice
from neuroflex.fpga.zynq import AXI, BASE_ADDRESS, ZynqFabric
from neuroflex.fpga.zynq_build import archive
from neuroflex.hdl.shell import AxiShell
from neuroflex.sim.network import evaluate
from neuroflex.tb import axi_system
from neuroflex.tb.axi_system import AxiSystem
from neuroflex.tb.bench import Bench

TINY = PRESETS["tiny"]
BASE = BASE_ADDRESS
AFI = 0xF800_8000
POLLED = {registers.register(name).offset for name in ("status", "queue_result")}
ROOT = Path(__file__).parent.parent


class Board:
    """A system in simulation, and a module ``pynq`` for it."""

    def __init__(self, system):
        self.system = system
        self.afi = {0x00: 1, 0x14: 0xF01}
        self.loaded, self.dirty, self.stale, self.freed = [], [], False, 0
        self.interrupt_path = None
        board = self

        class Buffer(np.ndarray):
            """What the processor sees; the accelerator sees it after a flush, and what that wrote is seen after an invalidate."""

            start = 0

            @property
            def device_address(self):
                return board.system.base + self.start

            def __getitem__(self, key):
                part = super().__getitem__(key)
                if isinstance(key, slice):
                    part.start = self.start + (key.start or 0)
                return part

            def flush(self):
                board.system.memory[self.start:self.start + len(self)] = self

            def invalidate(self):
                self[:] = board.system.memory[self.start:self.start + len(self)]

            def freebuffer(self):
                board.freed += 1

        class Mmio:
            def __init__(self, base_addr, length=4, device=None):
                assert (base_addr, length) in ((BASE, 4096), (AFI, 4096))
                self.base = base_addr

            def read(self, offset=0):
                if self.base == AFI:
                    return board.afi[offset]
                self._pass_time(offset)
                return board.system.read(offset)

            def write(self, offset, data):
                if self.base == AFI:
                    board.afi[offset] = data
                else:
                    board.system.write(offset, data)

            def _pass_time(self, offset):
                if offset in POLLED:
                    board.system.wait(2000)

        class Overlay:
            ip_dict = {"neuroflex": {"phys_addr": BASE, "addr_range": 4096}, "ps7_0": {}}

            def __init__(self, bitfile_name, download=True, device=None):
                board.loaded.append((bitfile_name, download))

        def allocate(shape, dtype="u4", target=None):
            if shape[0] > len(board.system.memory):
                raise MemoryError("Unable to allocate contiguous memory")
            return np.full(shape, 0xA5, dtype).view(Buffer)

        self.module = types.ModuleType("pynq")
        self.module.Overlay, self.module.MMIO, self.module.allocate = Overlay, Mmio, allocate
        self.module.Clocks = types.SimpleNamespace(fclk0_mhz=100.0)
        self.interrupt = types.ModuleType("pynq.interrupt")
        self.interrupt.get_uio_irq = lambda irq: self.interrupt_path if irq == 61 else None


class Processor(wiring.Component):
    """The shell's ports, but on the way to the registers the accesses are those of a Zynq's general-purpose port, through the bridge."""

    def __init__(self, *, config):
        self._config = config
        super().__init__(AxiShell(config=config, axi=AXI).signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.fabric = fabric = ZynqFabric(config=self._config)
        port = fabric.processor
        for letter in "wr":
            m.d.comb += [getattr(port, f"a{letter}{name}").eq(value) for name, value in (("id", 0x5A5), ("len", 0), ("size", 2), ("burst", Burst.INCR))]
            m.d.comb += getattr(port, f"a{letter}addr").eq(BASE | getattr(self, f"s_axi_a{letter}addr"))
        m.d.comb += [port.wlast.eq(1), self.irq.eq(fabric.irq), Assert(~port.bvalid | (port.bid == 0x5A5)), Assert(~port.rvalid | (port.rid == 0x5A5) & port.rlast)]
        for name, member in axi_lite_signature().members.items():
            if hasattr(port, name) and not name.endswith("addr"):
                outside, inside = getattr(self, f"s_axi_{name}"), getattr(port, name)
                m.d.comb += inside.eq(outside) if member.flow is Out else outside.eq(inside)
        for bus in (fabric.write, fabric.read):
            for name, member in bus.signature.members.items():
                outside, inside = getattr(self, f"m_axi_{name}"), getattr(bus, name)
                m.d.comb += outside.eq(inside) if member.flow is Out else inside.eq(outside)
        # What AXI3 cannot say is never said.
        m.d.comb += [Assert(~fabric.write.awvalid | (fabric.write.awlen < 16)), Assert(~fabric.read.arvalid | (fabric.read.arlen < 16))]
        return m


@pytest.fixture
def board(request, monkeypatch, tmp_path):
    """On the shell's RTL; with the parameter "zynq", on all that the programmable logic holds."""
    if getattr(request, "param", "shell") == "zynq":
        monkeypatch.setattr(axi_system, "shell_bench", lambda config, axi, *_: Bench(Processor(config=config), name="zynq_tiny", quick=True,
                                                                                     extra=axi_system._SHIM.read_text()))
    with AxiSystem(TINY, AxiConfig(jobs=4), quick=True) as system:
        made = Board(system)
        monkeypatch.setitem(sys.modules, "pynq", made.module)
        monkeypatch.setitem(sys.modules, "pynq.interrupt", made.interrupt)
        for suffix in ("bit", "hwh"):
            (tmp_path / f"neuroflex.{suffix}").touch()
        made.bitstream = tmp_path / "neuroflex.bit"
        yield made


@pytest.mark.parametrize("board", ["shell", pytest.param("zynq", marks=pytest.mark.long)], indirect=True)
def test_batch_equals_the_golden_model(board, digits_program, digits):
    """Polled, with the port set to 64 bits; memory arrives through flush and invalidate alone. More images than the queue takes."""
    images = digits.examples.test_images[:6]
    with fpga.open("pynq", overlay=board.bitstream, memory_bytes=1 << 20) as accelerator:
        assert board.afi == {0x00: 0, 0x14: 0xF00}
        assert accelerator.device.clock_mhz == 100
        assert accelerator.read("program_page") == accelerator.read("tensor_page") == board.system.base // 4096
        accelerator.load(digits_program)
        np.testing.assert_array_equal(accelerator(images), evaluate(digits, images).output)
        assert accelerator.status == Status.DONE
        assert all(report.cycles > 10_000 for report in accelerator.reports)
    assert board.loaded == [(str(board.bitstream), True)] and board.freed == 1


def test_interrupt(board, digits_program, digits, monkeypatch):
    """Through user-space I/O, for which a pipe stands in. An interrupt left over from before a job is not its end, whether it was queued or started directly."""
    with PynqDevice(board.bitstream, memory_bytes=1 << 20) as device:
        monkeypatch.setattr(device, "_finished", lambda queued: True)
        assert device.wait_interrupt(0)                     # the kernel has no such device: polling
    with pytest.raises(fpga.DeviceError, match="interrupt 61 cannot be waited for: no device of user-space I/O has it"):
        PynqDevice(board.bitstream, memory_bytes=1 << 20, interrupt=True)
    assert board.freed == 2
    path, events = board.bitstream.with_name("uio0"), []
    path.write_bytes(bytes(64))
    board.interrupt_path = str(path)

    def ready(readable, writable, failed, timeout):
        """The early one at once; then time passes until there is one."""
        if events:
            board.system.wait(3_000_000 if timeout else 0, until_interrupt=True)
        events.append(path.read_bytes())
        return (readable if len(events) == 1 or board.system.interrupt else []), [], []

    monkeypatch.setattr("neuroflex.fpga.pynq_device.select.select", ready)
    images = digits.examples.test_images[:1]
    with fpga.open("pynq", overlay=board.bitstream, memory_bytes=1 << 20) as accelerator:
        accelerator.load(digits_program)
        for queue in (True, False):
            events.clear()
            np.testing.assert_array_equal(accelerator(images, queue=queue), evaluate(digits, images).output)
            assert len(events) == 2 and events[0][:4] == b"\1\0\0\0"      # let through before each wait
        assert not accelerator.device.wait_interrupt(0)


def test_what_would_end_the_process_is_refused_here(board):
    """An error answer of the bus is a data abort on this processor: it must not come to that."""
    device = PynqDevice(board.bitstream, memory_bytes=1 << 16)
    for offset in (0x24, 0x3C0, 0x102):
        with pytest.raises(fpga.BusError, match="no register"):
            device.read_register(offset)
        with pytest.raises(fpga.BusError, match="no register"):
            device.write_register(offset, 1)
    with pytest.raises(fpga.BusError, match="memory from"):
        device.read_memory(1 << 16, 4)


def test_missing_pieces(board, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="multiple of 4096"):
        PynqDevice(board.bitstream, memory_bytes=1000)
    with pytest.raises(fpga.DeviceError, match=r"no 8,388,608 bytes of contiguous memory: Unable to allocate"):
        PynqDevice(board.bitstream, memory_bytes=8 << 20)
    with pytest.raises(fpga.DeviceError, match="absent.bit is missing"):
        PynqDevice(tmp_path / "absent.bit")
    board.bitstream.with_suffix(".hwh").unlink()
    with pytest.raises(fpga.DeviceError, match="neuroflex.hwh is missing"):
        PynqDevice(board.bitstream)
    other = types.SimpleNamespace(ip_dict={"axi_dma_0": {}})
    with pytest.raises(fpga.WrongDevice, match="the overlay holds no block 'neuroflex'; it holds axi_dma_0"):
        PynqDevice(other)
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(ModuleNotFoundError, match="runs on the board"):
        fpga.open("pynq")


def real_pynq():
    """A Python that has the package ``pynq``, or None."""
    for path in (os.environ.get("NEUROFLEX_PYNQ_PYTHON"), ROOT / ".venv-pynq" / "bin" / "python"):
        if path and Path(path).exists():
            return str(path)
    return None


@pytest.mark.long
@pytest.mark.skipif(real_pynq() is None, reason="no environment with the package pynq: `make pynq-venv` makes one (it wants NumPy below 2, this one has 2)")
def test_real_package(tmp_path, digits_program, digits):
    """The archive's driver, hand-off file and program on `pynq.Overlay`, `pynq.allocate` and `pynq.MMIO` themselves."""
    report = {"config": TINY.to_dict(), "part": "xc7z020clg400-1", "board_clock_mhz": 100, "lut": 0, "ff": 0, "dsp": 0, "bram": 0}
    content = {"neuroflex.hwh": hardware_handoff(base=BASE, clock_mhz=100, design="neuroflex").encode(), "neuroflex.bit": bit_header() + bytes.fromhex("aa995566") + bytes(64)}
    with zipfile.ZipFile(io.BytesIO(archive(content, BOARDS["pynq_z2"], report, digits))) as zipped:
        zipped.extractall(tmp_path)
    images = digits.examples.test_images[:6]
    np.save(tmp_path / "images.npy", images)
    with AxiSystem(TINY, AxiConfig(jobs=4), quick=True) as system, Listener(("127.0.0.1", 0), authkey=b"pynq") as listener:
        arguments = [real_pynq(), ROOT / "tests" / "real_pynq.py", tmp_path / "neuroflex_pynq_z2", listener.address[1], tmp_path / "images.npy", tmp_path / "levels.npy"]
        with open(tmp_path / "log", "w") as log, subprocess.Popen(list(map(str, arguments)), stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path) as child:
            serve(listener, child, system)
        assert child.returncode == 0, (tmp_path / "log").read_text()
    np.testing.assert_array_equal(np.load(tmp_path / "levels.npy"), evaluate(digits, images).output)
    assert (tmp_path / "log").read_text().startswith("pynq ")


def serve(listener, child, system):
    """Registers and memory for the process with the driver, until it is done."""
    listener._listener._socket.settimeout(60)
    try:
        board = listener.accept()
    except TimeoutError:
        child.kill()
        raise
    with board:
        while True:
            try:
                what, at, *rest = board.recv()
            except EOFError:
                return
            answer = None
            if what == "read":
                if at - BASE in POLLED:
                    system.wait(2000)
                answer = system.read(at - BASE)
            elif what == "write":
                system.write(at - BASE, *rest)
            elif what == "flush":
                system.memory[at:at + len(rest[0])] = np.frombuffer(rest[0], np.uint8)
            else:
                answer = system.memory[at:at + rest[0]].tobytes()
            board.send(answer)


def bit_header():
    """What a Xilinx bitstream begins with: name of the design, part, date, time, length."""
    fields = ((b"a", b"neuroflex;UserID=0XFFFFFFFF\0"), (b"b", b"7z020clg400\0"), (b"c", b"1970/01/01\0"), (b"d", b"00:00:00\0"))
    parts = [struct.pack(">H", 9), bytes.fromhex("0ff00ff00ff00ff000"), struct.pack(">H", 1), *(key + struct.pack(">H", len(text)) + text for key, text in fields)]
    return b"".join(parts) + b"e" + struct.pack(">I", 68)
