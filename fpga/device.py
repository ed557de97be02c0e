"""What a driver needs of an accelerator, wherever it is: the interface of the back ends, and their errors."""
import time
from abc import ABC, abstractmethod

from neuroflex import registers
from neuroflex.formats import Status

__all__ = ["BusError", "Device", "DeviceError", "JobError", "LinkError", "TimedOut", "WrongDevice"]

_POLL_SECONDS = 0.002
_STATUS = registers.register("status")
_FINISHED = 1 << next(field for field in _STATUS.fields if field.name == "finished").lsb


class DeviceError(RuntimeError):
    """Something went wrong between driver and accelerator."""


class WrongDevice(DeviceError):
    """What answers is no NeuroFlex, of another version, or built for another configuration."""


class LinkError(DeviceError):
    """The connection does not work: nothing answers, or only garbage."""


class BusError(DeviceError):
    """There is no register, or no memory, at an address."""


class TimedOut(DeviceError):
    """A job did not end in time; it was stopped, and the accelerator is ready for the next."""


class JobError(DeviceError):
    """A job ended with an error.

    Attributes
    ----------
    status : Status
        Why it ended.
    descriptor : int
        Number of the program's descriptor at which it ended.
    MEANING : dict
        Status → words.
    """

    MEANING = {
        Status.BAD_OPCODE: "a descriptor's opcode or version is unknown", Status.BAD_CHECKSUM: "a descriptor's checksum is wrong",
        Status.BAD_SOURCE: "a source's shape, kernel, stride or padding cannot be", Status.BAD_OUTPUT: "an output's shape cannot be",
        Status.BAD_LOAD_RECORD: "a record of the load stream is wrong", Status.BAD_LOAD_LENGTH: "the load stream has the wrong length",
        Status.BUS_ERROR: "the memory answered with an error", Status.WATCHDOG: "nothing moved for as long as the watchdog allows",
        Status.BAD_PROGRAM: "the program, or what follows its last layer, lies beyond memory"}

    def __init__(self, status, descriptor):
        super().__init__(f"the job ended at descriptor {descriptor} with {status.name}: {self.MEANING.get(status, 'it did not finish')}")
        self.status, self.descriptor = status, descriptor


class Device(ABC):
    """An accelerator with its memory.

    Attributes
    ----------
    memory_bytes : int
        Size of its memory.
    clock_mhz : float or None
        Its clock, where it is known.
    """

    memory_bytes = 0
    clock_mhz = None

    @abstractmethod
    def read_register(self, offset):
        """The register at a byte offset; `BusError` when there is none."""

    @abstractmethod
    def write_register(self, offset, value):
        """Write a register; `BusError` when there is none."""

    @abstractmethod
    def read_memory(self, address, count):
        """``count`` bytes from a byte address on, as ``bytes``; both are multiples of four."""

    @abstractmethod
    def write_memory(self, address, content):
        """Write bytes from a byte address on; address and length are multiples of four."""

    @abstractmethod
    def wait_interrupt(self, timeout):
        """Whether the interrupt came within ``timeout`` seconds."""

    def close(self):
        """Let go of it."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _finished(self):
        """Whether ``status.finished`` is set."""
        return bool(self.read_register(_STATUS.offset) & _FINISHED)

    def _poll_finished(self, timeout):
        """`wait_interrupt` of a device without an interrupt."""
        end = time.monotonic() + timeout
        while not self._finished():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _check_range(self, address, count):
        if address % 4 or count % 4 or address < 0 or address + count > self.memory_bytes:
            raise BusError(f"memory from {address:#x} to {address + count:#x}: it has {self.memory_bytes:#x} bytes, and accesses are multiples of four")
