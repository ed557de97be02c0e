"""The shell's queue of jobs as the driver uses it: kept filled, so that the accelerator works while the host encodes and decodes (docs/axi.md)."""
import time

from neuroflex import registers
from neuroflex.axi import PAGE_BYTES
from neuroflex.formats import Status
from neuroflex.fpga.device import DeviceError, JobError, TimedOut, bit, field

__all__ = ["JobQueue"]

_BUSY_POLLS = 1000
_CACHE_LINE = 64        # bytes, at most, of a processor's cache: no two places share one, as one is written by the host while the other is by the accelerator


class JobQueue:
    """The queue of an accelerator behind an AXI shell.

    Each job that is under way has a **place**: tensors of its own in memory. Place 0 is where the program image has its tensors, the others follow the image, whole
    pages apart; program and weights lie in memory once. There are never more jobs under way than the queue holds, so that no push is ever refused (on a Zynq's
    processor an access that is answered with an error ends the program).

    Parameters
    ----------
    device : Device
        One with a ``page``.

    Attributes
    ----------
    places : int
        How many jobs of the program in memory may be under way; 0 before there is one.
    """

    def __init__(self, device):
        self._device, self.places = device, 0
        self._depth = field("shell", "jobs", self._read("shell"))
        self._stride = 0

    def _read(self, name):
        return self._device.read_register(registers.register(name).offset)

    def _write(self, name, value):
        self._device.write_register(registers.register(name).offset, value)

    def begin(self):
        """Tell the shell where memory is; nothing may be under way."""
        for name in ("program_page", "tensor_page"):
            self._write(name, self._device.page)

    def prepare(self, image):
        """Make places for the jobs of a program.

        Parameters
        ----------
        image : neuroflex.compiler.image.ProgramImage
            It lies in memory from address 0 on, and its tensors behind everything else.
        """
        line = min(tensor.base for tensor in image.tensors)
        tensors = image.memory[line:].tobytes()
        self._stride = -(-(len(tensors) + _CACHE_LINE) // PAGE_BYTES) * PAGE_BYTES
        self.places = min(self._depth, 1 + (self._device.memory_bytes - image.memory.nbytes) // self._stride)
        for place in range(1, self.places):
            self._device.write_memory(line * image.config.line_bytes + place * self._stride, tensors)
        self._write("tensor_line", line)
        self._write("queue_program", image.descriptors[0])

    def run(self, count, fill, take, timeout):
        """Run a batch.

        Parameters
        ----------
        count : int
            Jobs.
        fill : callable
            Called as ``fill(number, offset)`` to put the input of a job into memory: ``offset`` bytes behind where the program image has it.
        take : callable
            Called as ``take(number, offset, cycles)`` when a job has ended well, in order.
        timeout : float
            Seconds that each job may take.

        Raises
        ------
        JobError, TimedOut
            The jobs behind that one are forgotten; nothing is under way any more.
        """
        self._write("queue_control", bit("queue_control", "interrupt_enable"))
        pushed, since = 0, time.monotonic()
        try:
            for number in range(count):
                while pushed < min(count, number + self.places):
                    offset = pushed % self.places * self._stride
                    fill(pushed, offset)
                    if pushed == number:
                        since = time.monotonic()        # nothing was under way
                    self._write("queue_push", self._device.page + offset // PAGE_BYTES)
                    pushed += 1
                cycles = self._result(number, since + timeout, timeout)
                since = time.monotonic()                # the next one began shortly before, at the earliest
                take(number, number % self.places * self._stride, cycles)
        except BaseException:
            self.flush()
            raise
        self._write("queue_control", 0)

    def _result(self, number, deadline, timeout):
        """Cycles of the oldest job."""
        word = self._read("queue_result")
        if not field("queue_result", "valid", word):
            if not self._device.wait_interrupt(max(0.0, deadline - time.monotonic()), queued=True):
                raise TimedOut(f"image {number}: the job did not end within {timeout:g} s; it was stopped", number)
            word = self._read("queue_result")
            if not field("queue_result", "valid", word):
                raise TimedOut(f"image {number}: the interrupt came without a result; the job was stopped", number)
        cycles, status = self._read("queue_result_cycles"), Status(field("queue_result", "code", word))
        self._write("queue_result", bit("queue_result", "valid"))
        if status != Status.DONE:
            raise JobError(status, field("queue_result", "layer", word), number)
        return cycles

    def flush(self):
        """Forget all jobs, and abandon the one that runs.

        Raises
        ------
        DeviceError
            When memory owes an answer that never comes.
        """
        self._write("queue_control", bit("queue_control", "flush"))
        for _ in range(_BUSY_POLLS):
            if not field("queue_status", "running", self._read("queue_status")):
                return
        raise DeviceError("the queue of jobs stays busy after it was flushed: memory does not answer")
