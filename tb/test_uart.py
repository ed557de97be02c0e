"""Receiver and transmitter of a serial line against their model.

Plan: random bytes, without gaps and with gaps of any length; the smallest, an odd and a large divisor; glitches shorter than half a bit, low stop bits, a line that rests low, lines that are
nothing but noise; a sender slightly too fast and too slow. The transmitter has bytes on offer always, sometimes, and rarely. The two together, on one line: what is sent is heard.
Checks: every output in every cycle. Fault: a receiver that takes low stop bits, a transmitter whose bytes are a cycle short.
"""
import numpy as np
import pytest

from neuroflex.hdl.uart import UartReceiver, UartTransmitter
from neuroflex.sim.uart import hear, line_of
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage

DIVISORS = (7, *(pytest.param(divisor, marks=pytest.mark.long) for divisor in (4, 104)))      # the bridge's bench runs at 4
POINTS = ("heard", "without a gap", "after a gap", "glitch", "low stop bit", "noise", "clock off")
SEED = 41


def random_line(rng, divisor, count, coverage):
    """A line with ``count`` stretches, each followed by rest. It rests at first: the bench holds it low during reset, and the registers in front of the receiver have none."""
    parts = [np.ones(4 * divisor, np.uint8)]
    for _ in range(count):
        content = [int(b) for b in rng.integers(0, 256, rng.integers(1, 12))]
        gaps = rng.integers(0, 3 * divisor, len(content)) * rng.integers(0, 2, len(content))
        kind = rng.choice(["good", "glitch", "stop bit", "low", "noise", "clock"], p=[0.5, 0.15, 0.1, 0.05, 0.1, 0.1])
        line = line_of(content, divisor, gaps)
        coverage.hit("without a gap", bool((gaps[1:] == 0).any()))
        coverage.hit("after a gap", bool((gaps[1:] > 0).any()))
        if kind == "glitch":
            line = np.concatenate([np.ones(divisor, np.uint8), np.zeros(max(1, divisor // 3), np.uint8), np.ones(12 * divisor, np.uint8), line])
            coverage.hit("glitch")
        elif kind == "stop bit":
            line[-divisor:] = 0
            coverage.hit("low stop bit")
        elif kind == "low":
            line = np.zeros(int(rng.integers(1, 30 * divisor)), np.uint8)
        elif kind == "noise":
            line = np.repeat(rng.integers(0, 2, len(line)).astype(np.uint8), rng.integers(1, divisor))
            coverage.hit("noise")
        elif kind == "clock":       # 3 % off
            line = line[np.minimum(np.arange(len(line) + len(line) // 33) * 33 // 34, len(line) - 1)]
            coverage.hit("clock off")
        parts += [line, np.ones(int(rng.integers(1, 14)) * divisor, np.uint8)]
    return np.concatenate(parts)


def received(line, divisor, coverage):
    """The receiver's outputs."""
    heard = hear(line, divisor)
    coverage.hit("heard", len(heard) > 0)
    valid, byte = np.zeros(len(line), np.uint8), np.zeros(len(line), np.uint8)
    for cycle, value in heard.items():
        if cycle < len(line):
            valid[cycle], byte[cycle] = 1, value
    return {"valid": valid, "data": byte}, {"data": valid == 1}


def offered(rng, divisor, count):
    """Bytes on offer in every cycle, and what the transmitter does."""
    valid, payload, ready, tx = [], [], [], []
    for byte in rng.integers(0, 256, count):
        gap = int(rng.choice([0, 0, 1, 5 * divisor]))
        if ready:
            idle = max(0, gap - 10 * divisor)      # of the gap, what the byte before does not hide
            valid[-10 * divisor:] = [int(i >= gap) for i in range(10 * divisor)]
            valid += [0] * idle
            payload[-10 * divisor:] = [int(byte)] * (10 * divisor)
            payload += [int(byte)] * idle
            ready += [1] * idle
            tx += [1] * idle
        frame = [0] * (10 * divisor)
        valid += [1, *frame]
        payload += [int(byte), *frame]
        ready += [1, *frame]
        tx += [1, *line_of([int(byte)], divisor)]
    stimulus = {"i__valid": np.array(valid), "i__payload": np.array(payload)}
    return stimulus, {"i__ready": np.array(ready), "tx": np.array(tx)}


@pytest.mark.parametrize("scale", [1, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("divisor", DIVISORS)
def test_receiver(divisor, scale):
    coverage = Coverage("uart receiver", POINTS)
    line = random_line(np.random.default_rng(SEED), divisor, 120 * scale, coverage)
    expected, where = received(line, divisor, coverage)
    assert expected["valid"].sum() > 300 * scale
    Bench(UartReceiver(divisor=divisor), name="uart_receiver").run({"rx": line}, expected, where, seed=SEED)
    coverage.require(1)


@pytest.mark.parametrize("scale", [1, pytest.param(60, marks=pytest.mark.long)])
@pytest.mark.parametrize("divisor", DIVISORS)
def test_transmitter(divisor, scale):
    stimulus, expected = offered(np.random.default_rng(SEED), divisor, 200 * scale)
    assert hear(np.append(expected["tx"], np.ones(4, np.uint8)).astype(np.uint8), divisor), "what is sent is heard"
    Bench(UartTransmitter(divisor=divisor), name="uart_transmitter").run(stimulus, expected, seed=SEED)


def test_what_is_sent_is_heard():
    """By the model, at 2 % too slow and too fast; so a whole frame has room for the error of a divisor that is not exact."""
    rng = np.random.default_rng(SEED)
    content = [int(b) for b in rng.integers(0, 256, 300)]
    for sender, receiver in ((104, 104), (104, 102), (102, 104)):
        line = np.append(line_of(content, sender), np.ones(300, np.uint8))
        assert list(hear(line, receiver).values()) == content


@pytest.mark.long       # the bridge's cocotb case has this block in it
def test_cocotb():
    line = random_line(np.random.default_rng(SEED), 4, 20, Coverage("uart receiver", POINTS))
    expected, where = received(line, 4, Coverage("uart receiver", POINTS))
    Bench(UartReceiver(divisor=4), name="uart_receiver").run({"rx": line}, expected, where, engine="cocotb", seed=SEED)


def test_faults_are_seen():
    line = random_line(np.random.default_rng(SEED), 7, 60, Coverage("uart receiver", POINTS))
    expected, where = received(line, 7, Coverage("uart receiver", POINTS))
    credulous = Bench(UartReceiver(divisor=7), name="uart_receiver", verilog_edit=lambda text: text.replace("_09_ = _11_;", "_09_ = 1'h1;"))
    with pytest.raises(Mismatch, match="valid"):
        credulous.run({"rx": line}, expected, where)
    stimulus, expected = offered(np.random.default_rng(SEED), 7, 20)
    short = Bench(UartTransmitter(divisor=7), name="uart_transmitter", verilog_edit=lambda text: text.replace("3'h6", "3'h5"))
    with pytest.raises(Mismatch):
        short.run(stimulus, expected)
