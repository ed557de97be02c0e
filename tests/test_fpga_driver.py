"""The driver on the simulated board: values of the golden model, and every way in which a job can go wrong."""
import dataclasses

import numpy as np
import pytest

from neuroflex import fpga, registers
from neuroflex.axi import AxiConfig
from neuroflex.compiler.image import ImageError
from neuroflex.config import PRESETS
from neuroflex.flow import simulate_model
from neuroflex.formats import Status
from neuroflex.fpga import simulated
from neuroflex.fpga.driver import raw_pixels
from neuroflex.progress import Silent
from neuroflex.sim.network import evaluate, quantise
from neuroflex.tb.settling import SettlingRegisters
from neuroflex.tb.simulator import cached

TINY = PRESETS["tiny"]


@pytest.fixture
def accelerator():
    with fpga.open("sim") as opened:
        yield opened


def test_batch_equals_the_golden_model(accelerator, digits_program, digits, digits_job, tmp_path):
    """Values of a batch, and what was counted; the program from a file; an empty batch."""
    images, matches = digits.examples.test_images[:3], ("matches_ann", "matches_snn")
    accelerator.load(digits_program)
    levels = accelerator(images)
    np.testing.assert_array_equal(levels, evaluate(digits, images).output)
    assert levels.dtype == np.int64
    for tensor, report in zip(quantise(digits.input, images), accelerator.reports, strict=True):
        # The model starts right after reset with a cache at rest; here software starts later, and one job follows another.
        model = simulate_model(digits_job, tensor).counters
        assert {name: report.counters[name] for name in matches} == {name: model[name] for name in matches}
        assert report.cycles == report.counters["cycles"] == pytest.approx(model["cycles"], rel=0.01)
    digits_program.save(tmp_path / "digits.nfx")
    accelerator.load(tmp_path / "digits.nfx")
    np.testing.assert_array_equal(accelerator(images[1:2]), levels[1:2])
    assert accelerator(images[:0]).shape == (0, *levels.shape[1:])
    assert accelerator.status == Status.DONE


def test_wrong_programs_are_refused(accelerator, digits_program, digits):
    with pytest.raises(fpga.DeviceError, match="no program is loaded"):
        accelerator(digits.examples.test_images[:1])
    other = dataclasses.replace(digits_program, config=TINY.replace(snn_levels=4))
    with pytest.raises(fpga.WrongDevice, match="snn_levels is 8, the program's 4"):
        accelerator.load(other)
    with pytest.raises(fpga.WrongDevice, match="kind of SNN PE, widths, memories"):      # its sums could overflow unseen
        accelerator.load(dataclasses.replace(digits_program, config=TINY.replace(snn_pe="serial")))
    with fpga.open("sim", memory_bytes=4096) as small, pytest.raises(fpga.WrongDevice, match="takes 16,[0-9]{3} bytes, the accelerator's memory has 4,096"):
        small.load(digits_program)
    for about, words in (({}, "the program: holds no network"), ({"network": "a"}, "the program: the network in it cannot be read: ")):
        with pytest.raises(ImageError, match=words):
            accelerator.load(dataclasses.replace(digits_program, about=about))
    for program, error, words in ((digits, TypeError, "the path of a file that `neuroflex compile` wrote, not a Network"),
                                  ("digits", FileNotFoundError, "digits: there is no such file; `neuroflex compile NETWORK"), (__file__, ImageError, "not a program image")):
        with pytest.raises(error, match=words):
            accelerator.load(program)


@pytest.mark.parametrize("arguments, options, words", [
    (("usb",), {}, r"no back end 'usb'; there are sim, uart, pynq, as in fpga.open\(\"uart\", port="),
    (("uart",), {}, r"'uart' needs the option 'port', as in fpga.open\(\"uart\", port=\"/dev/ttyUSB0\"\)"),
    (("uart",), {"port": None}, "'uart' needs the option 'port'"),
    (("uart",), {"port": "x", "speed": 9600}, "'uart' has no option 'speed'; it has port, baud, memory_bytes"),
    (("sim",), {"port": "x"}, "'sim' has no option 'port'; it has config, shell, show, memory_bytes, latency, as in"),
    (("sim",), {"shell": "axi", "axi": 1}, "'sim' has no option 'axi'; it has config, shell, show, memory_bytes, latency, base, stall"),
    (("sim",), {"shell": "ahb"}, 'shell must be None, "axi" or an AxiConfig, not \'ahb\''), (("sim",), {"config": "huge"}, "'huge' is neither a preset"),
    (("pynq",), {"port": "x"}, "'pynq' has no option 'port'; it has overlay"),
])
def test_back_ends_and_options_that_there_are_not(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        fpga.open(*arguments, **options)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), "5", None])
def test_timeouts_are_positive_numbers(timeout):
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0, not"):
        fpga.Accelerator(Settling(TINY, 0), timeout=timeout)


def test_fractions_are_hardly_raw_pixels(digits):
    with pytest.warns(UserWarning, match="no pixel is above 1; 'digits' takes raw pixels from 0 to 16, .*: were they divided by their largest value"):
        raw_pixels(digits, digits.examples.test_images[:2] / 16)
    for images in (digits.examples.test_images[:2] / 4.0, digits.examples.test_images[:2] > 8, np.zeros((1, 1, 8, 8))):
        raw_pixels(digits, images)


@pytest.mark.parametrize("images, words", [
    ([], r"the array's shape is \(0,\); 'digits' takes raw pixels from 0 to 16, as an array of shape \(n, 1, 8, 8\)$"),
    (5, r"the array's shape is \(\); "), (np.zeros((1, 8, 9)), r"the array's shape is \(1, 8, 9\); "), (np.zeros((2, 8, 8, 1)), r"\(2, 8, 8, 1\); "), (np.zeros((0, 1, 9, 8)), r"\(0, 1, 9, 8\); "),
    (np.zeros((8, 8)), r"\(8, 8\); "), ([np.zeros(3), np.zeros(4)], "the images are of different shapes; 'digits' takes"),
    (np.full((1, 1, 8, 8), "a"), "the images are a ndarray of <U1, not of numbers; 'digits' takes"), (np.zeros((1, 1, 8, 8), complex), "of complex128, not of numbers"),
    (np.linspace(-1, 1, 64).reshape(1, 1, 8, 8), "pixels from -1 to 1; 'digits' takes raw pixels from 0 to 16, .*: not normalised ones"), (np.full((1, 1, 8, 8), np.nan), "64 pixels are NaN"),
])
def test_images_that_are_none_of_the_programs(digits_program, images, words):
    """They are refused before anything runs."""
    device = Settling(TINY, 0)
    accelerator = fpga.Accelerator(device)
    accelerator.load(digits_program)
    device.wait_interrupt = None
    with pytest.raises(ValueError, match=words):
        accelerator(images)


def test_images_may_leave_out_sizes_of_one(digits_program):
    accelerator = fpga.Accelerator(Settling(TINY, 0))
    accelerator.load(digits_program)
    for images in (np.zeros((2, 8, 8), bool), np.full((2, 1, 8, 8), -1e-9), np.zeros((2, 8, 8)).tolist()):
        assert len(accelerator(images)) == 2


def test_closed_accelerators_say_so(accelerator, digits_program):
    accelerator.close()
    for use in (lambda: accelerator([]), lambda: accelerator.load(digits_program), lambda: accelerator.status, accelerator.counters, accelerator.reset):
        with pytest.raises(fpga.DeviceError, match="was closed; open it again"):
            use()


def test_builds_are_told(tmp_path, monkeypatch, capfd):
    """On standard error, once for all of them; nothing is said when they are there, or to those who do not want to hear it."""

    class Building(Settling):
        def __init__(self, config, **options):
            super().__init__(config, 0)
            for name in ("runtime", "design"):
                cached(name, options, lambda folder: None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulated, "SimulatedDevice", Building)
    monkeypatch.setattr(simulated, "SimulatedShell", lambda config, shell, **options: Building(config, shell=shell))
    for options, told in (({}, "build the simulator of tiny (a minute"), ({}, ""), ({"shell": "axi"}, "build the simulator of tiny behind its AXI shell (minutes"), ({"shell": "axi"}, "")):
        fpga.open("sim", **options).close()
        out, err = capfd.readouterr()
        assert not out and err.startswith(f"[1] {told}" if told else "") and bool(err) == bool(told) and err.count("done, ") == bool(told)
    fpga.open("sim", shell=AxiConfig(jobs=8, reads=4), show=Silent()).close()
    assert capfd.readouterr() == ("", "")
    assert sorted(path.suffix for path in (tmp_path / "build" / "bench").iterdir()) == [""] * 6 + [".lock"] * 6


def test_errors_of_jobs_are_exceptions(accelerator, digits_program, digits):
    """A damaged descriptor, and a good job after it."""
    images = digits.examples.test_images[:1]
    memory = digits_program.memory.copy()
    memory[0, 0] ^= 0x10
    accelerator.load(dataclasses.replace(digits_program, memory=memory))
    with pytest.raises(fpga.JobError, match="descriptor 0 with BAD_CHECKSUM: a descriptor's checksum is wrong") as caught:
        accelerator(images)
    assert caught.value.status == Status.BAD_CHECKSUM and caught.value.descriptor == 0
    accelerator.load(digits_program)
    np.testing.assert_array_equal(accelerator(images), evaluate(digits, images).output)


def test_memory_that_ends_too_early(digits_program, digits):
    """What lies beyond memory is an error on the bus, not a hang; the driver is kept from noticing it beforehand."""
    with fpga.open("sim", memory_bytes=digits_program.tensor("act1").base * TINY.line_bytes) as accelerator:
        device = accelerator.device
        device.write_memory(0, digits_program.memory[:digits_program.tensor("act1").base].tobytes())
        accelerator.write("control", 0x101)
        assert device.wait_interrupt(10)
        assert accelerator.status == Status.BUS_ERROR
        with pytest.raises(fpga.BusError, match="memory from"):
            device.read_memory(device.memory_bytes, 4)


def test_timeout_stops_the_job(accelerator, digits_program, digits, monkeypatch):
    images = digits.examples.test_images[:1]
    accelerator.load(digits_program)
    monkeypatch.setattr(accelerator.device, "wait_interrupt", lambda timeout: False)
    with pytest.raises(fpga.TimedOut, match="within 60 s"):
        accelerator(images)
    monkeypatch.undo()
    np.testing.assert_array_equal(accelerator(images), evaluate(digits, images).output)


class Settling(fpga.Device):
    """A device of nothing but `SettlingRegisters`."""

    memory_bytes = 1 << 20

    def __init__(self, config, polls):
        self.registers = SettlingRegisters(config, polls)

    def read_register(self, offset):
        return self.registers.read(offset)

    def write_register(self, offset, value):
        self.registers.write(offset, value)

    def read_memory(self, address, count):
        return bytes(count)

    def write_memory(self, address, content):
        self.registers.early += ["memory"] * bool(self.registers.polls)

    def wait_interrupt(self, timeout):
        return self.registers.finished


def test_start_waits_while_the_accelerator_is_busy(digits_program, digits):
    device = Settling(TINY, 5)
    accelerator = fpga.Accelerator(device)
    accelerator.load(digits_program)
    device.registers.polls = 5
    assert not accelerator(digits.examples.test_images[:1]).any() and not device.registers.early
    device.registers.polls, accelerator.timeout = 1 << 30, 0.01
    with pytest.raises(fpga.TimedOut, match="an earlier job was still under way after 0.01 s; it was stopped"):
        accelerator(digits.examples.test_images[:1])
    assert not device.registers.early


def test_other_versions_are_refused(monkeypatch):
    """A minor one is not: registers were added."""
    for step, refused in ((1, False), (1 << 16, True)):
        device = Settling(TINY, 0)
        monkeypatch.setitem(device.registers._words, "version", registers.VERSION + step)
        if not refused:
            fpga.Accelerator(device)
            continue
        with pytest.raises(fpga.WrongDevice, match=r"of the registers; this driver knows \d+\.x"):
            fpga.Accelerator(device)


def test_reset_waits_and_leaves_nothing(monkeypatch):
    """What an earlier job left is taken back; a memory that never answers is named."""
    accelerator, written = fpga.Accelerator(Settling(TINY, 5)), []
    monkeypatch.setattr(accelerator, "write", lambda name, value: written.append((name, value)))
    accelerator.reset()
    assert written == [("control", 2), ("status", 2)] and not accelerator.device.registers.polls
    accelerator.device.registers.polls = 1 << 30
    with pytest.raises(fpga.DeviceError, match="stays busy after a soft reset: its memory does not answer"):
        accelerator.reset()


def test_registers(accelerator):
    assert accelerator.read("identity") == registers.IDENTITY
    for offset in (0x24, 0xFC):
        with pytest.raises(fpga.BusError, match="no register"):
            accelerator.device.read_register(offset)
        with pytest.raises(fpga.BusError, match="no register"):
            accelerator.device.write_register(offset, 1)
