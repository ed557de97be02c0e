"""The driver: NumPy in, NumPy out, the same on a board and in simulation."""
import dataclasses
import os
import time
import warnings
from dataclasses import dataclass
from numbers import Real

import numpy as np

from neuroflex import registers
from neuroflex.compiler.image import ProgramImage, decode_tensor, encode_tensor
from neuroflex.formats import Status
from neuroflex.fpga.device import DeviceError, JobError, TimedOut, WrongDevice, bit, field
from neuroflex.fpga.job_queue import JobQueue
from neuroflex.sim.network import quantise

__all__ = ["Accelerator", "JobReport", "raw_pixels"]

_BLOCK = 1 << 16        # bytes written at a time
_POLL_SECONDS = 0.0005
_BYTES_LIKE = 8         # full scale from which fractions up to 1 are hardly raw pixels
_ROUNDED = 1e-6         # of full scale: as much below 0 a pixel may be


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What the hardware counted in one job: ``cycles``, and all ``counters`` by name (docs/registers.md).

    Of a job that went through the queue there are its cycles alone (their lower 32 bits), and ``counters`` is None: the next job, which begins
    at once, counts in the same registers.
    """

    cycles: int
    counters: dict | None = None


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
        Of the images of the last call, in order; after an exception, of those before the one that it names.

    Raises
    ------
    ValueError
        When ``timeout`` is no positive number.
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
        if not isinstance(timeout, Real) or not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        self._device, self.timeout, self._closed = device, timeout, False
        self._image = self._network = self._queue = None
        self.reports = []
        identity, version = self.read("identity"), self.read("version")
        if identity != registers.IDENTITY:
            raise WrongDevice(f"the identity register reads {identity:#010x}, that of a NeuroFlex is {registers.IDENTITY:#010x}")
        if version >> 16 != registers.VERSION >> 16:
            raise WrongDevice(f"version {version >> 16}.{version & 0xFFFF} of the registers; this driver knows {registers.VERSION >> 16}.x")
        if device.page is not None:
            self._queue = JobQueue(device)
            self.reset()                # should a program that is gone have left jobs
            self._queue.begin()

    # --- registers ---------------------------------------------------------------------------
    def read(self, name):
        """A register by name; KeyError names the known ones."""
        self._check_open()
        return self._device.read_register(registers.register(name).offset)

    def write(self, name, value):
        """Write a register by name."""
        self._check_open()
        self._device.write_register(registers.register(name).offset, value)

    def _check_open(self):
        if self._closed:
            raise DeviceError("the accelerator was closed; open it again")

    @property
    def device(self):
        return self._device

    @property
    def status(self):
        """Status of the last job, `Status.NONE` while one runs or before the first."""
        return Status(field("status", "code", self.read("status")))

    def counters(self):
        """The performance counters: dict of name to value."""
        return {c.name: self.read(f"{c.name}_low") | self.read(f"{c.name}_high") << 32 for c in registers.COUNTERS}

    # --- programs ----------------------------------------------------------------------------
    def load(self, program):
        """Put a program into the accelerator's memory, and room for the tensors of as many images as the queue takes, or fit.

        Parameters
        ----------
        program : ProgramImage or path
            What ``neuroflex compile`` writes.

        Raises
        ------
        WrongDevice
            When it was compiled for another configuration, or memory is too small.
        TypeError, FileNotFoundError
            When it is neither, or there is no such file.
        neuroflex.compiler.image.ImageError
            When the file is no program image, or carries no network.
        TimedOut
            When an earlier job is still under way after ``timeout`` seconds.
        """
        image = _opened(program)
        network = image.network()
        for name, want in registers.config_words(image.config).items():
            got = self.read(name)
            different = [f"{f.name} is {field(name, f.name, got)}, the program's {field(name, f.name, want)}"
                         for f in registers.register(name).fields if field(name, f.name, got) != field(name, f.name, want)]
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
        if self._queue:
            self._queue.prepare(image)
        self.write("program", image.descriptors[0])
        self._image, self._network = image, network

    def __call__(self, images, *, queue=True):
        """Run a batch.

        Behind an AXI shell the images go through its queue of jobs: while one is in work, the next ones are written and wait, and results are read.

        Parameters
        ----------
        images : array (n, C, H, W)
            Raw pixels, as the network takes them: 0 to ``full_scale`` of its input; what is above counts as that. (n, H, W) where C is 1, (n, C) where H and W are. n may be 0.
        queue : bool
            False: one image after the other, so that all counters are those of each. Without a shell it is always so.

        Returns
        -------
        int64[n, C', H', W']
            Levels of the network's output, equal to those of the golden model.

        Raises
        ------
        ValueError
            When the images are of another shape than the loaded program takes, no numbers, not finite or negative; nothing has run then.
        DeviceError
            When no program is loaded.
        JobError
            When a job ended with an error status; the images behind that one are not run.
        TimedOut
            When a job, or one before it, did not end in ``timeout`` seconds; the same.
        """
        self._check_open()
        if self._image is None:
            raise DeviceError("no program is loaded; call load() first, with a file that `neuroflex compile` wrote")
        images = raw_pixels(self._network, images)
        levels = quantise(self._network.input, images) if len(images) else ()
        results = np.empty((len(levels), *self._image.tensor(self._image.output).shape), np.int64)
        self.reports = []

        def take(number, offset, cycles, counters=None):
            results[number] = self._read_output(offset)
            self.reports.append(JobReport(cycles=cycles, counters=counters))

        if self._queue and queue:
            self._settle()
            self._queue.run(len(levels), lambda number, offset: self._write_input(levels[number], offset), take, self.timeout)
            return results
        for number, tensor in enumerate(levels):
            self._settle()
            self._write_input(tensor)
            self._job(number)
            counters = self.counters()
            take(number, 0, counters["cycles"], counters)
        return results

    def _write_input(self, levels, offset=0):
        """Put an image into memory, ``offset`` bytes behind where the program image has it."""
        config, tensor = self._image.config, self._image.tensor(self._image.input)
        self._device.write_memory(tensor.base * config.line_bytes + offset, encode_tensor(levels, tensor, config).tobytes())

    def _read_output(self, offset):
        config, tensor = self._image.config, self._image.tensor(self._image.output)
        found = self._device.read_memory(tensor.base * config.line_bytes + offset, tensor.lines * config.line_bytes)
        return decode_tensor(np.frombuffer(found, np.uint8).reshape(-1, config.line_bytes), dataclasses.replace(tensor, base=0), config)

    def _job(self, number):
        """Start a job and wait for its end."""
        self.write("status", bit("status", "finished"))
        self.write("control", bit("control", "start") | bit("control", "interrupt_enable"))
        if not self._device.wait_interrupt(self.timeout):
            self.reset()
            raise TimedOut(f"image {number}: the job did not end within {self.timeout:g} s; it was stopped", number)
        word = self.read("status")
        self.write("status", bit("status", "finished"))
        status = Status(field("status", "code", word))
        if status != Status.DONE:
            raise JobError(status, field("status", "layer", word), number)

    def _settle(self):
        """Wait until nothing of an earlier job is under way.

        A job that was aborted has ended for software before it has for memory: until then a start is ignored, and writes that were promised
        still come.
        """
        end = time.monotonic() + self.timeout
        while field("status", "busy", self.read("status")):
            if time.monotonic() > end:
                self.reset()
                raise TimedOut(f"an earlier job was still under way after {self.timeout:g} s; it was stopped")
            time.sleep(_POLL_SECONDS)

    def reset(self):
        """Stop whatever runs (flush of the queue, soft reset) and wait until the accelerator is ready again.

        Raises
        ------
        DeviceError
            When it stays busy: the memory owes an answer that never comes.
        """
        self._check_open()
        if self._queue:
            self._queue.flush()         # while it works, it alone may write the registers of jobs
        self.write("control", bit("control", "soft_reset"))
        for _ in range(1000):
            if not field("status", "busy", self.read("status")):
                self.write("status", bit("status", "finished"))
                return
        raise DeviceError("the accelerator stays busy after a soft reset: its memory does not answer")

    def close(self):
        """Let go of the device."""
        self._closed = True
        self._device.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _opened(program):
    """The program image that a caller means."""
    if isinstance(program, ProgramImage):
        return program
    if not isinstance(program, (str, os.PathLike)):
        raise TypeError(f"a program is a ProgramImage, or the path of a file that `neuroflex compile` wrote, not {_kind(program)}")
    try:
        return ProgramImage.load(program)
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(program)}: there is no such file; `neuroflex compile NETWORK -o FILE` writes a program image") from None


def _kind(value):
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def raw_pixels(network, images):
    """Images as an array of shape (n, ...), refused with a ValueError when they are none for the network: what a network takes are raw pixels, never below 0."""
    spec = network.input
    wanted = f"{network.name!r} takes raw pixels from 0 to {spec.full_scale:g}, as an array of shape (n, {', '.join(map(str, spec.image_shape))})"
    try:
        pixels = np.asarray(images)
    except ValueError:      # NumPy's message is about sequences
        raise ValueError(f"the images are of different shapes; {wanted}") from None
    if pixels.dtype.kind not in "biuf":
        raise ValueError(f"the images are {_kind(images)} of {pixels.dtype}, not of numbers; {wanted}")
    channels, *grid = spec.image_shape
    shapes = [spec.image_shape] + [tuple(grid)] * (channels == 1) + [(channels,)] * (grid == [1, 1])
    if not pixels.ndim or pixels.shape[1:] not in shapes:
        hint = "; an image alone is a batch of one: images[None]" if pixels.shape == spec.image_shape else ""
        raise ValueError(f"the array's shape is {pixels.shape}; {wanted}{hint}")
    if pixels.size and pixels.min() < -_ROUNDED * spec.full_scale:
        raise ValueError(f"pixels from {pixels.min():g} to {pixels.max():g}; {wanted}: not normalised ones")
    if pixels.dtype.kind == "f" and pixels.size and 0 < pixels.max() <= 1 and spec.full_scale >= _BYTES_LIKE:
        warnings.warn(f"no pixel is above {pixels.max():g}; {wanted}: were they divided by their largest value?", stacklevel=3)
    return pixels
