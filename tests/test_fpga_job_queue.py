"""Batches through the shell's queue of jobs: order, what goes wrong in the middle, what comes after it, and that the accelerator does not wait for the host.

On the RTL behind its AXI shell, with a small network; timeouts on a device with a clock of its own.
"""
import dataclasses
import types

import numpy as np
import pytest

from neuroflex import fpga, registers
from neuroflex.axi import AxiConfig
from neuroflex.compiler.synthetic import random_images, random_network
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network
from neuroflex.formats import Status
from neuroflex.fpga import job_queue
from neuroflex.program import program_image
from neuroflex.sim.network import evaluate

TINY = PRESETS["tiny"]
SHELL = AxiConfig(jobs=4)
OFFSET = {r.name: r.offset for r in registers.REGISTERS + registers.SHELL_REGISTERS}
COUNT = 9                       # images: more than twice what the queue holds


@pytest.fixture(scope="module")
def small():
    """A network of about a thousand cycles: its program, images, levels of the golden model."""
    network = random_network(4, layers=2, size=4, channels=12, snn_levels=TINY.snn_levels)
    images = random_images(network, COUNT, seed=4)
    want = evaluate(network, images).output
    assert len(np.unique(want.reshape(COUNT, -1), axis=0)) == COUNT, "a wrong order would not show"
    return types.SimpleNamespace(program=program_image(compile_network(network, TINY, calibration=images), policy="hybrid", seed=0), images=images, want=want)


@pytest.fixture
def accelerator():
    with fpga.open("sim", shell=SHELL, quick=True) as opened:
        yield opened


def at_rest(accelerator):
    return accelerator.read("queue_status") == 0 and not accelerator.read("status") & 3 and not accelerator.read("queue_control")


def test_batches_of_every_length(accelerator, small):
    """Order and values; cycles of each job are those that it takes alone; one image after the other, with all counters, gives the same."""
    accelerator.load(small.program)
    for count in (1, 4, 0, 5):
        np.testing.assert_array_equal(accelerator(small.images[:count]), small.want[:count])
        assert len(accelerator.reports) == count and at_rest(accelerator)
    accelerator(small.images)
    queued = [report.cycles for report in accelerator.reports]
    assert all(report.counters is None for report in accelerator.reports)
    np.testing.assert_array_equal(accelerator(small.images, queue=False), small.want)
    assert [report.cycles for report in accelerator.reports] == queued == [report.counters["cycles"] for report in accelerator.reports]
    assert accelerator.counters() == accelerator.reports[-1].counters


def test_the_accelerator_does_not_wait_for_the_host(accelerator, small, monkeypatch):
    """Each access to memory takes the host a while: with the queue this passes while jobs run."""
    accelerator.load(small.program)
    system, waiting = accelerator.device.system, []
    for name in ("write_memory", "read_memory"):
        monkeypatch.setattr(accelerator.device, name, lambda *arguments, do=getattr(accelerator.device, name): (system.wait(200), do(*arguments))[1])
    push = accelerator.device.write_register
    monkeypatch.setattr(accelerator.device, "write_register", lambda offset, value: (
        push(offset, value), offset == OFFSET["queue_push"] and waiting.append(accelerator.read("queue_status") & 255)))
    accelerator(small.images)           # the first job after a load takes longer
    took = {}
    for queue in (True, False):
        start = system.cycle
        np.testing.assert_array_equal(accelerator(small.images, queue=queue), small.want)
        took[queue] = system.cycle - start - sum(report.cycles for report in accelerator.reports)
    assert max(waiting) == 3, "one runs, three wait"
    assert took[True] < 120 * COUNT and took[False] > 600 * COUNT, took


@pytest.mark.parametrize("places", [1, 2])
def test_memory_for_few_places(small, places):
    """The images share what room there is."""
    line = min(tensor.base for tensor in small.program.tensors)
    whole = small.program.memory.nbytes + (places - 1) * -(-(small.program.memory.nbytes - line * TINY.line_bytes + 64) // 4096) * 4096
    with fpga.open("sim", shell=SHELL, quick=True, memory_bytes=-(-whole // 4096) * 4096) as accelerator:
        accelerator.load(small.program)
        assert accelerator._queue.places == places
        np.testing.assert_array_equal(accelerator(small.images), small.want)


def test_refused_burst_in_the_middle(accelerator, small):
    """The image that it hit is named, the others before it are reported; the rest of the queue is forgotten, and the next batch is good."""
    accelerator.load(small.program)
    bursts = []
    for image in small.images[:6]:
        before = accelerator.device.system.traffic[1]
        accelerator(image[None])
        bursts.append(accelerator.device.system.traffic[1] - before)
    accelerator.device.system.refuse(read=sum(bursts[:5]) + bursts[5] // 2)
    with pytest.raises(fpga.JobError, match=r"image 5: the job ended at descriptor \d with BUS_ERROR: the memory answered with an error") as caught:
        accelerator(small.images)
    assert caught.value.image == 5 and caught.value.status == Status.BUS_ERROR and len(accelerator.reports) == 5 and at_rest(accelerator)
    np.testing.assert_array_equal(accelerator(small.images), small.want)


def test_damaged_program_in_the_middle(accelerator, small, monkeypatch):
    """Somebody writes over the program while jobs run; loaded again, all is well."""
    accelerator.load(small.program)
    write, written = accelerator.device.write_memory, []

    def damage(address, content):
        write(address, content)
        written.append(address)
        if len(written) == 7:
            write(small.program.descriptors[0] * TINY.line_bytes, bytes(4))

    monkeypatch.setattr(accelerator.device, "write_memory", damage)
    with pytest.raises(fpga.JobError, match=r"image \d: .* BAD_") as caught:
        accelerator(small.images)
    assert 2 <= caught.value.image == len(accelerator.reports) <= 6 and at_rest(accelerator)
    monkeypatch.undo()
    accelerator.load(small.program)
    np.testing.assert_array_equal(accelerator(small.images), small.want)


def test_timeout_in_the_middle(accelerator, small, monkeypatch):
    """The job is abandoned where it is, with those that wait behind it; soft reset by hand changes nothing."""
    accelerator.load(small.program)
    wait = accelerator.device.wait_interrupt
    monkeypatch.setattr(accelerator.device, "wait_interrupt", lambda timeout, *, queued: wait(timeout, queued=queued) if len(accelerator.reports) != 6
                        else accelerator.device.system.wait(100) < 0)
    with pytest.raises(fpga.TimedOut, match="image 6: the job did not end within 60 s; it was stopped") as caught:
        accelerator(small.images)
    assert caught.value.image == 6 and len(accelerator.reports) == 6 and at_rest(accelerator)
    monkeypatch.undo()
    np.testing.assert_array_equal(accelerator(small.images), small.want)
    accelerator.reset()
    assert at_rest(accelerator)
    np.testing.assert_array_equal(accelerator(small.images), small.want)


def test_host_that_gives_up_in_the_middle(accelerator, small, monkeypatch):
    """Also then nothing is left under way."""
    accelerator.load(small.program)

    def interrupted(address, count):
        raise KeyboardInterrupt

    monkeypatch.setattr(accelerator.device, "read_memory", interrupted)
    with pytest.raises(KeyboardInterrupt):
        accelerator(small.images)
    monkeypatch.undo()
    assert at_rest(accelerator)
    np.testing.assert_array_equal(accelerator(small.images, queue=False), small.want)


def test_jobs_that_a_program_before_has_left(accelerator, small):
    """A driver that is opened takes the results of nobody else's jobs for its own."""
    accelerator.load(small.program)
    for _ in range(3):
        accelerator.write("queue_push", accelerator.device.page)
    accelerator.device.system.wait(1500)
    with pytest.raises(fpga.BusError):
        accelerator.write("control", 1)                 # the queue's, while it works
    again = fpga.Accelerator(accelerator.device)
    assert at_rest(again)
    again.load(small.program)
    np.testing.assert_array_equal(again(small.images), small.want)


def test_faults_are_seen(accelerator, small, monkeypatch):
    """Jobs in another order, results in another order, a place that is used again too early, more jobs than the queue holds."""
    accelerator.load(small.program)
    images, want, queue = small.images[:5], small.want[:5], accelerator._queue
    write, read, pushed = accelerator.device.write_register, accelerator._read_output, []

    def exchange(offset, value):
        """The second and the third job change places on their way."""
        if offset == OFFSET["queue_push"]:
            value += {1: 1, 2: -1}.get(len(pushed), 0) * queue._stride // 4096
            pushed.append(value)
        write(offset, value)

    for target, name, fault, wrong in (
            (accelerator.device, "write_register", exchange, [1]),
            (accelerator, "_read_output", lambda offset: read((offset + queue._stride) % (4 * queue._stride)), [0, 1, 2, 3]),
            (queue, "_stride", 0, [0, 1, 2])):
        monkeypatch.setattr(target, name, fault)
        found = accelerator(images)
        monkeypatch.undo()
        assert set(wrong) <= {number for number in range(5) if (found[number] != want[number]).any()}, name
    monkeypatch.setattr(queue, "places", 6)
    with pytest.raises(fpga.BusError, match="refused"):
        accelerator(small.images)


class Clockwork(fpga.Device):
    """A shell without an accelerator: job by job it is told how long they take. Time passes in waiting, and ``host`` seconds in each access to memory."""

    memory_bytes, page = 1 << 20, 16

    def __init__(self, seconds):
        self.seconds, self.ends, self.pushed, self.free, self.now, self.host = seconds, [], 0, 0.0, 0.0, 0.0
        self.words = {"identity": registers.IDENTITY, "version": registers.VERSION, **registers.config_words(TINY), "shell": SHELL.jobs << 24,
                      "queue_result_cycles": 7}
        self.names = {offset: name for name, offset in OFFSET.items()}

    def read_register(self, offset):
        if self.names[offset] == "queue_result":
            return int(bool(self.ends) and self.ends[0] <= self.now) * (1 | Status.DONE << 8)
        return self.words.get(self.names[offset], 0)

    def write_register(self, offset, value):
        name = self.names[offset]
        if name == "queue_push":
            assert len(self.ends) < SHELL.jobs
            self.free = max(self.now, self.free) + self.seconds[self.pushed]
            self.ends.append(self.free)
            self.pushed += 1
        elif name == "queue_result":
            del self.ends[0]
        elif name == "queue_control" and value & 1:
            self.ends.clear()

    def read_memory(self, address, count):
        self.now += self.host
        return bytes(count)

    def write_memory(self, address, content):
        self.now += self.host

    def wait_interrupt(self, timeout, *, queued=False):
        assert queued and timeout >= 0
        reached, self.now = self.ends[0] <= self.now + timeout, min(max(self.now, self.ends[0]), self.now + timeout)
        return reached


@pytest.mark.parametrize("seconds, host, late, total", [
    ((10,) * COUNT, 1.0, None, 1 + 10 * COUNT + 1),         # the host's time shows before the first and after the last
    ((10,) * COUNT, 30.0, None, 30 * 2 * COUNT),            # the host is slower than a job may be: no matter
    ((10, 10, 10, 10, 20, 10, 10, 10, 10), 0.0, 4, 40 + 15),
    ((16,) + (1,) * (COUNT - 1), 0.0, 0, 15)])
def test_each_job_has_the_whole_timeout(small, monkeypatch, seconds, host, late, total):
    """However many images there are, and wherever in the batch a job is."""
    device = Clockwork(seconds)
    monkeypatch.setattr(job_queue, "time", types.SimpleNamespace(monotonic=lambda: device.now))
    accelerator = fpga.Accelerator(device, timeout=15.0)
    accelerator.load(small.program)
    device.host = host
    if late is None:
        assert not accelerator(small.images).any() and [report.cycles for report in accelerator.reports] == [7] * COUNT
    else:
        with pytest.raises(fpga.TimedOut) as caught:
            accelerator(small.images)
        assert caught.value.image == late and not device.ends
    assert device.now == total


def test_a_queue_that_stays_busy(small, monkeypatch):
    device = Clockwork((1,) * COUNT)
    accelerator = fpga.Accelerator(device)
    device.words["queue_status"] = 1 << 8
    with pytest.raises(fpga.DeviceError, match="stays busy after it was flushed: memory does not answer"):
        accelerator.reset()


def test_other_shells_are_refused():
    with pytest.raises(ValueError, match="shell must be None, \"axi\" or an AxiConfig, not 'spi'"):
        fpga.open("sim", shell="spi")


def test_programs_for_other_configurations_leave_the_queue_alone(accelerator, small):
    with pytest.raises(fpga.WrongDevice):
        accelerator.load(dataclasses.replace(small.program, config=TINY.replace(snn_levels=4)))
    assert accelerator._queue.places == 0
