"""The accelerator in the programmable logic of a Zynq board, driven by Python on that board through the package ``pynq``."""
import os
import select
import time
from pathlib import Path

import numpy as np

from neuroflex import registers
from neuroflex.axi import PAGE_BYTES
from neuroflex.fpga.device import BusError, Device, DeviceError, WrongDevice

__all__ = ["PynqDevice"]

INSTANCE = "neuroflex"              # the block's name in the hand-off file
INTERRUPT = 61                      # the processor's number of IRQ_F2P[0]
_AFI0 = 0xF800_8000                 # interface registers of the first high-performance port: Zynq-7000 manual (UG585), register AFI_RDCHAN_CTRL
_AFI_CHANNELS = (0x00, 0x14)        # control of its read and of its write channel; bit 0: 32 bits instead of 64
_OFFSETS = frozenset(register.offset for register in registers.REGISTERS + registers.SHELL_REGISTERS)


class PynqDevice(Device):
    """The accelerator of an overlay that ``neuroflex build --board pynq_z2`` prepared, and a buffer of the processor's memory.

    The processor takes an error answer on its general-purpose port for a fault that ends the program, so accesses to addresses without a register are refused here.

    Parameters
    ----------
    overlay : path or pynq.Overlay
        The bitstream, with its ``.hwh`` beside it.
    memory_bytes : int
        Size of the buffer: a multiple of 4096; it is taken from the contiguous memory that PYNQ keeps (128 MB as delivered).
    interrupt : bool, optional
        Wait for the interrupt through the kernel's user-space I/O; True fails when the kernel has no such device, False polls. By default whichever works.
    download : bool
        Load the bitstream; False when it is loaded already.
    device : pynq.Device, optional
        Instead of the board's own.

    Raises
    ------
    ModuleNotFoundError
        Without the package ``pynq``.
    WrongDevice
        When the overlay holds no accelerator.
    DeviceError
        When there is no memory, or no interrupt.
    """

    def __init__(self, overlay="neuroflex.bit", *, memory_bytes=16 << 20, interrupt=None, download=True, device=None):
        try:
            import pynq
        except ModuleNotFoundError as error:
            if error.name != "pynq":
                raise
            raise ModuleNotFoundError("this back end runs on the board, where the package pynq is; elsewhere use fpga.open(\"sim\")", name="pynq") from None
        if memory_bytes <= 0 or memory_bytes % PAGE_BYTES:
            raise ValueError(f"memory_bytes must be a multiple of {PAGE_BYTES}, not {memory_bytes}")
        self._interrupt = self._buffer = None
        if isinstance(overlay, (str, os.PathLike)):
            path = Path(overlay).resolve()
            for file in (path, path.with_suffix(".hwh")):
                if not file.is_file():
                    raise DeviceError(f"{file} is missing: the bitstream and its .hwh belong together")
            overlay = pynq.Overlay(str(path), download=download, device=device)
        try:
            block = overlay.ip_dict[INSTANCE]
        except KeyError:
            raise WrongDevice(f"the overlay holds no block {INSTANCE!r}; it holds {', '.join(sorted(overlay.ip_dict)) or 'none'}") from None
        self._overlay = overlay
        self._mmio = pynq.MMIO(block["phys_addr"], block["addr_range"], device=device)
        self._wide_port(pynq.MMIO(_AFI0, PAGE_BYTES, device=device))
        self.clock_mhz = float(pynq.Clocks.fclk0_mhz)
        try:
            self._buffer = pynq.allocate((memory_bytes,), dtype=np.uint8, target=device)
        except (MemoryError, RuntimeError) as error:
            raise DeviceError(f"no {memory_bytes:,} bytes of contiguous memory: {error}; a smaller memory_bytes may do") from error
        self.memory_bytes = memory_bytes
        try:
            self._begin(interrupt)
        except BaseException:
            self.close()
            raise

    def _begin(self, interrupt):
        address = int(self._buffer.device_address)
        if address % PAGE_BYTES:
            raise DeviceError(f"the buffer begins at {address:#x}, not at a page of {PAGE_BYTES} bytes")
        self.page = address // PAGE_BYTES
        if interrupt or interrupt is None:
            self._interrupt = self._open_interrupt(required=bool(interrupt))

    @staticmethod
    def _wide_port(afi):
        """Let the high-performance port have 64 bits, should what booted the board have left it at 32."""
        for offset in _AFI_CHANNELS:
            control = afi.read(offset)
            if control & 1:
                afi.write(offset, control & ~1)

    @staticmethod
    def _open_interrupt(required):
        try:
            from pynq.interrupt import get_uio_irq

            path = get_uio_irq(INTERRUPT)
            if path is None:
                raise OSError("no device of user-space I/O has it")
            return os.open(path, os.O_RDWR)
        except (ImportError, OSError) as error:
            if required:
                raise DeviceError(f"interrupt {INTERRUPT} cannot be waited for: {error}; interrupt=False polls") from error
            return None

    def read_register(self, offset):
        self._check_register(offset)
        return int(self._mmio.read(offset))

    def write_register(self, offset, value):
        self._check_register(offset)
        self._mmio.write(offset, value & 0xFFFFFFFF)

    @staticmethod
    def _check_register(offset):
        if offset not in _OFFSETS:
            raise BusError(f"there is no register at {offset:#x}")

    def read_memory(self, address, count):
        self._check_range(address, count)
        part = self._buffer[address:address + count]
        part.invalidate()
        return part.tobytes()

    def write_memory(self, address, content):
        self._check_range(address, len(content))
        part = self._buffer[address:address + len(content)]
        part[:] = np.frombuffer(content, np.uint8)
        part.flush()

    def wait_interrupt(self, timeout, *, queued=False):
        if self._interrupt is None:
            return self._poll_finished(timeout, queued)
        end = time.monotonic() + timeout
        while True:
            os.write(self._interrupt, (1).to_bytes(4, "little"))       # let it come through; the kernel masks it each time
            if not select.select([self._interrupt], [], [], max(0.0, end - time.monotonic()))[0]:
                return False
            os.read(self._interrupt, 4)
            if self._finished(queued):      # and not that of a job before
                return True

    def close(self):
        if self._interrupt is not None:
            os.close(self._interrupt)
            self._interrupt = None
        if self._buffer is not None:
            self._buffer.freebuffer()
            self._buffer = None
