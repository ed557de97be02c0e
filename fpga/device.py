"""What a driver needs of an accelerator, wherever it is: the interface of the back ends, and their errors."""
import time
from abc import ABC, abstractmethod

from neuroflex import registers
from neuroflex.formats import Status

__all__ = ["BusError", "Device", "DeviceError", "JobError", "LinkError", "TimedOut", "WrongDevice", "bit", "field"]

_POLL_SECONDS = 0.002


def field(register, name, word):
    """A field of a register's word."""
    found = next(f for f in registers.register(register).fields if f.name == name)
    return word >> found.lsb & ((1 << found.bits) - 1)


def bit(register, name):
    """The word in which only the lowest bit of a register's field is set."""
    return 1 << next(f for f in registers.register(register).fields if f.name == name).lsb


class DeviceError(RuntimeError):
    """Something went wrong between driver and accelerator."""


class WrongDevice(DeviceError):
    """What answers is no NeuroFlex, of another version, or built for another configuration."""


class LinkError(DeviceError):
    """The connection does not work: nothing answers, or only garbage."""


class BusError(DeviceError):
    """There is no register, or no memory, at an address."""


class TimedOut(DeviceError):
    """A job did not end in time; it was stopped, and the accelerator is ready for the next.

    Attributes
    ----------
    image : int or None
        Which one of its batch, counted from 0; None when it was a job from before.
    """

    def __init__(self, message, image=None):
        super().__init__(message)
        self.image = image


class JobError(DeviceError):
    """A job ended with an error.

    Attributes
    ----------
    status : Status
        Why it ended.
    descriptor : int
        Number of the program's descriptor at which it ended.
    image : int
        Which one of its batch, counted from 0.
    MEANING : dict
        Status → words.
    """

    MEANING = {
        Status.BAD_OPCODE: "a descriptor's opcode or version is unknown", Status.BAD_CHECKSUM: "a descriptor's checksum is wrong",
        Status.BAD_SOURCE: "a source's shape, kernel, stride or padding cannot be", Status.BAD_OUTPUT: "an output's shape cannot be",
        Status.BAD_LOAD_RECORD: "a record of the load stream is wrong", Status.BAD_LOAD_LENGTH: "the load stream has the wrong length",
        Status.BUS_ERROR: "the memory answered with an error", Status.WATCHDOG: "nothing moved for as long as the watchdog allows",
        Status.BAD_PROGRAM: "the program, or what follows its last layer, lies beyond memory"}

    def __init__(self, status, descriptor, image):
        super().__init__(f"image {image}: the job ended at descriptor {descriptor} with {status.name}: {self.MEANING.get(status, 'it did not finish')}")
        self.status, self.descriptor, self.image = status, descriptor, image


class Device(ABC):
    """An accelerator with its memory.

    Attributes
    ----------
    memory_bytes : int
        Size of its memory.
    clock_mhz : float or None
        Its clock, where it is known.
    page : int or None
        Page of its memory's first byte, as the registers of an AXI shell count pages. None where there is no shell, and so no queue of jobs.
    """

    memory_bytes = 0
    clock_mhz = None
    page = None

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
    def wait_interrupt(self, timeout, *, queued=False):
        """Whether the interrupt came within ``timeout`` seconds: that of a job's end, or, with ``queued``, that of a result in the queue."""

    def close(self):
        """Let go of it."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _finished(self, queued):
        """Whether there is what `wait_interrupt` waits for: ``status.finished``, or a result in the queue."""
        name, what = ("queue_result", "valid") if queued else ("status", "finished")
        return bool(field(name, what, self.read_register(registers.register(name).offset)))

    def _poll_finished(self, timeout, queued=False):
        """`wait_interrupt` of a device without an interrupt."""
        end = time.monotonic() + timeout
        while not self._finished(queued):
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _check_range(self, address, count):
        if address % 4 or count % 4 or address < 0 or address + count > self.memory_bytes:
            raise BusError(f"memory from {address:#x} to {address + count:#x}: it has {self.memory_bytes:#x} bytes, and accesses are multiples of four")
