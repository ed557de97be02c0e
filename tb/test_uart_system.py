"""The whole system of a board without a processor, over its two lines alone.

Plan: software that loads a program, reads it back, runs a job, reads status, counters and the levels, resets a job in its middle, and starts another with a damaged program word; accesses
beyond memory and the map; a damaged frame.
Checks: both ports in every cycle, against the model made of the models of accelerator, memory and bridge; the levels that come back are the functional network's.
Then (long) the driver loads the digits network through the serial back end and gets the golden model's values; a damaged program is reported with its
status, and the next job is good. A line that is damaged on its way to the circuit alone must be seen.
"""
import dataclasses

import numpy as np
import pytest

from neuroflex import fpga, link, registers, zoo
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network
from neuroflex.formats import Status
from neuroflex.fpga.driver import Accelerator
from neuroflex.fpga.serial_port import UartDevice
from neuroflex.hdl.uart_system import UartSystem
from neuroflex.link import Op
from neuroflex.program import program_image
from neuroflex.sim.accelerator import workload
from neuroflex.sim.network import evaluate
from neuroflex.sim.uart import hear, line_of
from neuroflex.sim.uart_system import UartSystemModel
from neuroflex.tb.bench import Bench
from neuroflex.tb.networks import CORNERS, random_job
from neuroflex.tb.serial_line import LinePort

DIVISOR = 4
SMALL = CORNERS["least"]
OFFSET = {r.name: r.offset for r in registers.REGISTERS}
BYTE = 10 * DIVISOR


def blocks(total):
    return [(at, min(link.MAX_WORDS, total - at)) for at in range(0, total, link.MAX_WORDS)]


class Host:
    """A line to the system, frame by frame, each followed by time for its answer."""

    def __init__(self):
        self.parts = [np.ones(40, np.uint8)]

    def send(self, op, address, *words, count=None, wait=0, damage=0):
        frame = bytearray(link.request_frame(op, address, words=words) if op & 1 else link.request_frame(op, address, count or 1))
        frame[-1] ^= damage
        answered = 0 if op & 1 or damage else 4 * (count or 1)
        self.parts += [line_of(bytes(frame), DIVISOR), np.ones((7 + answered) * BYTE + 40 * (count or len(words)) + wait, np.uint8)]

    def set(self, name, value, wait=0):
        self.send(Op.WRITE_REGISTERS, OFFSET[name], value, wait=wait)

    def get(self, name, count=1):
        self.send(Op.READ_REGISTERS, OFFSET[name], count=count)

    @property
    def line(self):
        return np.concatenate(self.parts)


def answers(tx):
    """Frames on the line to the host: (status, words)."""
    content, found = bytes(hear(tx.astype(np.uint8), DIVISOR).values()), []
    while content:
        assert content[0] == link.ANSWER
        words = [int.from_bytes(content[3 + 4 * i:7 + 4 * i], "little") for i in range(content[2])]
        frame = link.answer_frame(content[1], words)
        assert content[:len(frame)] == frame
        found.append((link.LinkStatus(content[1]), words))
        content = content[len(frame):]
    return found


def session(job, memory, run_cycles):
    """What the host sends; numbers of the answers that hold a status and the output; the words of the output."""
    host, words = Host(), memory.reshape(-1).view(np.uint32)
    output = job.placements[job.tiles[-1].layer]
    at, count = output.base * job.config.line_bytes, len(memory) * job.config.line_bytes // 4 - output.base * job.config.line_bytes // 4
    marks = {"status": [], "output": [], "reset": []}
    sent = 0

    def step(kind, *arguments, mark=None, **options):
        nonlocal sent
        if mark:
            marks[mark].append(sent)
        getattr(host, kind)(*arguments, **options)
        sent += 1

    for start, size in blocks(len(words)):
        step("send", Op.WRITE_MEMORY, 4 * start, *(int(w) for w in words[start:start + size]))
    step("send", Op.WRITE_MEMORY, len(words) * 4, 7, damage=1)
    step("send", Op.READ_MEMORY, 1 << 20)
    step("send", Op.READ_REGISTERS, 0x24)
    step("send", Op.READ_MEMORY, job.program * job.config.line_bytes, count=32)

    def run(wait):
        step("set", "program", job.program)
        step("set", "control", 0x101, wait=wait)

    run(run_cycles)
    step("get", "status", mark="status")
    step("get", "cycles_low", count=28)
    step("set", "status", 2)
    for start, size in blocks(count):
        step("send", Op.READ_MEMORY, at + 4 * start, count=size, mark="output")
    run(0)
    step("set", "control", 2, wait=200)
    step("get", "status", mark="reset")
    step("send", Op.WRITE_MEMORY, job.program * job.config.line_bytes + 8, int(words[job.program * job.config.line_bytes // 4 + 2]) ^ 0x100)
    run(2_000)
    step("get", "status", mark="status")
    step("send", Op.WRITE_MEMORY, job.program * job.config.line_bytes + 8, int(words[job.program * job.config.line_bytes // 4 + 2]))
    run(run_cycles)
    step("get", "status", mark="status")
    return host.line, marks, count


def test_both_lines_in_every_cycle():
    """After the reset and the damaged word the same job is good again."""
    job, tensor = random_job(7, SMALL, policy="balanced", layers=2, size=5, channels=8)
    work, depth = workload(job, tensor), 1_024
    assert len(job.memory) <= depth
    line, marks, count = session(job, job.with_input(tensor), 2_500)
    expected = UartSystemModel(work, depth, DIVISOR, line).run()
    got = answers(expected["tx"])
    codes = [Status(got[i][1][0] >> 8 & 255) for i in marks["status"]]
    assert codes == [Status.DONE, Status.BAD_CHECKSUM, Status.DONE]
    assert got[marks["reset"][0]][1][0] & 3 == 0, "neither busy nor finished: the reset came in the middle"
    words = np.array([word for i in marks["output"] for word in got[i][1]], np.uint32)
    memory = job.memory.copy().reshape(-1).view(np.uint32)
    memory[len(memory) - count:] = words
    np.testing.assert_array_equal(job.output(memory.view(np.uint8).reshape(job.memory.shape)), work.output)
    bench = Bench(UartSystem(config=SMALL, depth=depth, divisor=DIVISOR), name="uart_system", quick=True)
    bench.run({"rx": line}, expected, seed=7)
    # A bit on its way to the circuit alone: the block is refused.
    wrong = line.copy()
    wrong[3_000:3_000 + DIVISOR] ^= 1
    got = bench.record({"rx": wrong}, ["tx"])["tx"]
    assert not np.array_equal(got, expected["tx"])


@pytest.mark.long
def test_digits_over_the_line():
    config, network, depth = PRESETS["tiny"], zoo.load("digits"), 8_192
    image = program_image(compile_network(network, config), policy="hybrid", seed=0)
    bench = Bench(UartSystem(config=config, depth=depth, divisor=DIVISOR), name="uart_system", quick=True)
    port = LinePort(bench.session(), DIVISOR)
    with Accelerator(UartDevice(port, memory_bytes=depth * config.line_bytes, quiet=0)) as accelerator:
        accelerator.load(image)
        images = network.examples.test_images[:1]
        want = evaluate(network, images).output
        np.testing.assert_array_equal(accelerator(images), want)
        damaged = image.memory.copy()
        damaged[0, 0] ^= 0x10
        accelerator.load(dataclasses.replace(image, memory=damaged))
        with pytest.raises(fpga.JobError) as caught:
            accelerator(images)
        assert caught.value.status == Status.BAD_CHECKSUM
        accelerator.load(image)
        np.testing.assert_array_equal(accelerator(images), want)
