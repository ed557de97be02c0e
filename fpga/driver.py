"""The driver: NumPy in, NumPy out, the same on a board and in simulation."""
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuroflex import registers
from neuroflex.compiler.image import ProgramImage, decode_tensor, encode_tensor
from neuroflex.formats import Status
from neuroflex.fpga.device import DeviceError, JobError, TimedOut, WrongDevice
from neuroflex.sim.network import quantise

__all__ = ["Accelerator", "JobReport"]

_BLOCK = 1 << 16        # bytes written at a time
_POLL_SECONDS = 0.0005


def _field(register, name, word):
    field = next(f for f in registers.register(register).fields if f.name == name)
    return word >> field.lsb & ((1 << field.bits) - 1)


def _bit(register, name):
    return 1 << next(f for f in registers.register(register).fields if f.name == name).lsb


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What the hardware counted in one job: ``cycles``, and all ``counters`` by name (docs/registers.md)."""

    cycles: int
    counters: dict


class Accelerator:
    """A NeuroFlex behind a `Device`.

    Parameters
    ----------
    device : Device
    timeout : float
        Seconds that a job may take.

    Attributes
    ----------
    reports : list of JobReport
        Of the images of the last call, in order.

    Raises
    ------
    WrongDevice
        When no NeuroFlex of this version answers.

    Examples
    --------
    >>> from neuroflex import fpga
    >>> with fpga.open("sim") as accelerator:
    ...     accelerator.load("build/digits.nfx")
    ...     levels = accelerator(images)
    """

    def __init__(self, device, *, timeout=60.0):
        self._device, self.timeout = device, timeout
        self._image = self._network = None
        self.reports = []
        identity, version = self.read("identity"), self.read("version")
        if identity != registers.IDENTITY:
            raise WrongDevice(f"the identity register reads {identity:#010x}, that of a NeuroFlex is {registers.IDENTITY:#010x}")
        if version >> 16 != registers.VERSION >> 16:
            raise WrongDevice(f"version {version >> 16}.{version & 0xFFFF} of the registers; this driver knows {registers.VERSION >> 16}.x")

    # --- registers ---------------------------------------------------------------------------
    def read(self, name):
        """A register by name."""
        return self._device.read_register(registers.register(name).offset)

    def write(self, name, value):
        """Write a register by name."""
        self._device.write_register(registers.register(name).offset, value)

    @property
    def device(self):
        return self._device

    @property
    def status(self):
        """Status of the last job, `Status.NONE` while one runs or before the first."""
        return Status(_field("status", "code", self.read("status")))

    def counters(self):
        """The performance counters: dict of name to value."""
        return {c.name: self.read(f"{c.name}_low") | self.read(f"{c.name}_high") << 32 for c in registers.COUNTERS}

    # --- programs ----------------------------------------------------------------------------
    def load(self, program):
        """Put a program into the accelerator's memory.

        Parameters
        ----------
        program : ProgramImage or path
            What ``neuroflex compile`` writes.

        Raises
        ------
        WrongDevice
            When it was compiled for another configuration, or memory is too small.
        neuroflex.compiler.image.ImageError
            When the file is none, or carries no network.
        TimedOut
            When an earlier job is still under way after ``timeout`` seconds.
        """
        image = program if isinstance(program, ProgramImage) else ProgramImage.load(Path(program))
        network = image.network()
        for name, want in registers.config_words(image.config).items():
            got = self.read(name)
            different = [f"{f.name} is {_field(name, f.name, got)}, the program's {_field(name, f.name, want)}"
                         for f in registers.register(name).fields if _field(name, f.name, got) != _field(name, f.name, want)]
            if name == "config2" and different:
                different = ["what registers do not show one by one (kind of SNN PE, widths, memories) differs"]
            if different:
                raise WrongDevice(f"the program was compiled for the configuration {image.config.name!r}, the accelerator has another: {', '.join(different)}")
        if image.memory.nbytes > self._device.memory_bytes:
            raise WrongDevice(f"the program takes {image.memory.nbytes:,} bytes, the accelerator's memory has {self._device.memory_bytes:,}")
        content = image.memory.tobytes()
        self._image = None
        self._settle()
        for start in range(0, len(content), _BLOCK):
            self._device.write_memory(start, content[start:start + _BLOCK])
        self.write("program", image.descriptors[0])
        self._image, self._network = image, network

    def __call__(self, images):
        """Run a batch.

        Parameters
        ----------
        images : array (n, C, H, W)
            Raw pixels, as the network takes them.

        Returns
        -------
        int64[n, C', H', W']
            Levels of the network's output, equal to those of the golden model.

        Raises
        ------
        JobError
            When a job ended with an error status.
        TimedOut
            When a job, or one before it, did not end in ``timeout`` seconds.
        """
        if self._image is None:
            raise DeviceError("no program is loaded; call load() first")
        levels = quantise(self._network.input, images) if len(images) else ()
        reports = []
        results = np.empty((len(levels), *self._image.tensor(self._image.output).shape), np.int64)
        for number, tensor in enumerate(levels):
            results[number] = self._job(tensor)
            counters = self.counters()
            reports.append(JobReport(cycles=counters["cycles"], counters=counters))
        self.reports = reports
        return results

    def _job(self, tensor):
        image, config = self._image, self._image.config
        source, result = image.tensor(image.input), image.tensor(image.output)
        self._settle()
        self._device.write_memory(source.base * config.line_bytes, encode_tensor(tensor, source, config).tobytes())
        self.write("status", _bit("status", "finished"))
        self.write("control", _bit("control", "start") | _bit("control", "interrupt_enable"))
        if not self._device.wait_interrupt(self.timeout):
            self.reset()
            raise TimedOut(f"the job did not end within {self.timeout:g} s; it was stopped")
        word = self.read("status")
        self.write("status", _bit("status", "finished"))
        status = Status(_field("status", "code", word))
        if status != Status.DONE:
            raise JobError(status, _field("status", "layer", word))
        found = self._device.read_memory(result.base * config.line_bytes, result.lines * config.line_bytes)
        lines = np.frombuffer(found, np.uint8).reshape(-1, config.line_bytes)
        return decode_tensor(lines, _at_zero(result), config)

    def _settle(self):
        """Wait until nothing of an earlier job is under way.

        A job that was aborted has ended for software before it has for memory: until then a start is ignored, and writes that were promised
        still come.
        """
        end = time.monotonic() + self.timeout
        while _field("status", "busy", self.read("status")):
            if time.monotonic() > end:
                self.reset()
                raise TimedOut(f"an earlier job was still under way after {self.timeout:g} s; it was stopped")
            time.sleep(_POLL_SECONDS)

    def reset(self):
        """Stop whatever runs (soft reset) and wait until the accelerator is ready again.

        Raises
        ------
        DeviceError
            When it stays busy: the memory owes an answer that never comes.
        """
        self.write("control", _bit("control", "soft_reset"))
        for _ in range(1000):
            if not _field("status", "busy", self.read("status")):
                self.write("status", _bit("status", "finished"))
                return
        raise DeviceError("the accelerator stays busy after a soft reset: its memory does not answer")

    def close(self):
        """Let go of the device."""
        self._device.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _at_zero(tensor):
    """The same tensor in a memory that begins with it."""
    return dataclasses.replace(tensor, base=0)
