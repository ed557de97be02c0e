"""Serial bridge against its model, and the driver's back end against the bridge.

Plan: good requests of every kind and size up to the largest; unknown ops, counts 0 and too large, odd addresses, registers beyond the map, memory
beyond the end; damaged bytes, requests that stop anywhere, bytes between requests and during answers, glitches, low stop bits; ports that are slow. After all of it a good request must be answered.
A bridge that does not look at the checksum must fail. Then `UartDevice` reads and writes registers and memory through the RTL, over the
two lines alone.
"""
import re

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex import fpga, link, registers
from neuroflex.config import PRESETS
from neuroflex.fpga.serial_port import UartDevice
from neuroflex.hdl.block_memory import BlockMemory
from neuroflex.hdl.registers import RegisterFile
from neuroflex.hdl.uart_bridge import UartBridge
from neuroflex.link import LinkStatus, Op
from neuroflex.sim.uart import hear, line_of
from neuroflex.sim.uart_bridge import BridgeModel
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.serial_line import LinePort

DIVISOR = 4
MEMORY_BYTES = 1 << 12
POINTS = (*(status.name for status in LinkStatus), "forgotten", "largest request", "glitch", "low stop bit", "slow port", "noise")


def requests(rng, count, coverage):
    """Line to the bridge: requests good and bad, each after the answer to the one before can be over, but for some noise."""
    parts = [np.ones(20, np.uint8)]
    for number in range(count):
        op = Op(rng.choice(list(Op)))
        words = int(rng.choice([1, 2, 3, link.MAX_WORDS], p=[0.5, 0.3, 0.17, 0.03]))
        coverage.hit("largest request", words == link.MAX_WORDS)
        where = int(rng.integers(0, 64 if op >= Op.READ_REGISTERS else MEMORY_BYTES // 4 - 64)) * 4
        if rng.random() < 0.1:
            where = (252 if op >= Op.READ_REGISTERS else MEMORY_BYTES - 4) + 4 * int(rng.integers(0, 3))
        frame = bytearray(link.request_frame(op, where, words) if not op & 1 else
                          link.request_frame(op, where, words=[int(w) for w in rng.integers(0, 1 << 32, words)]))
        kind = rng.choice(["good", "damaged", "op", "count", "address", "cut", "stop bit"], p=[0.55, 0.1, 0.07, 0.07, 0.07, 0.07, 0.07])
        if number >= count - 2:
            kind = "good"
        if kind == "op":
            frame[1] = int(rng.integers(0x30, 0x100))
        elif kind == "count":
            frame[2] = int(rng.choice([0, 65, 255]))
        elif kind == "address":
            frame[3] |= 1
        elif kind == "damaged":
            frame[int(rng.integers(7, len(frame)))] ^= 1 << int(rng.integers(0, 8))
        elif kind == "cut":
            frame = frame[:int(rng.integers(1, len(frame)))]
        line = line_of(bytes(frame), DIVISOR, rng.integers(0, 3, len(frame)) * rng.integers(0, 40, len(frame)))
        if kind == "stop bit":
            low = int(rng.integers(0, len(line) - 12 * DIVISOR))
            line[low:low + 11 * DIVISOR] = 0
            coverage.hit("low stop bit")
        parts.append(line)
        # Enough for the answer; after what was cut off, for the bridge to forget it.
        rest = (link.GAP_BYTES + 2) * 10 * DIVISOR if kind in ("cut", "count", "op", "stop bit") or number >= count - 3 else 0
        idle = np.ones((8 + 4 * words) * 10 * DIVISOR + 60 * words + rest + int(rng.integers(0, 200)), np.uint8)
        if rng.random() < 0.2:
            at = int(rng.integers(0, len(idle) - 50))
            idle[at:at + 1] = 0
            coverage.hit("glitch")
        if rng.random() < 0.1 and kind == "good" and number < count - 3:
            noise = line_of(rng.integers(0, 256, 3).astype(int), DIVISOR)
            idle[:len(noise)] = noise
            coverage.hit("noise")
        parts.append(idle)
    return np.concatenate(parts)


def run_model(line, rng, coverage):
    """Ports that answer at random, and what the model does: stimulus, expected, where, model."""
    cycles = len(line)
    model = BridgeModel(hear(line, DIVISOR), DIVISOR)
    program = model.run()
    stimulus = {f"{port}_{name}": np.zeros(cycles, np.uint64) for port in ("registers", "memory")
                for name in ("request__ready", "response__valid", "response__payload")}
    stimulus["rx"] = line
    expected = {f"{port}_{name}": np.zeros(cycles, np.uint64) for port in ("registers", "memory")
                for name in ("request__valid", "response__ready")}
    payloads = {"registers": np.zeros(cycles, np.uint64), "memory": np.zeros((cycles, 2), np.uint64)}
    shown, waiting, held = next(program), 0, None
    for t in range(cycles):
        answer = None
        if shown is not None:
            port, *request = shown
            if request == ["answer"]:
                expected[f"{port}_response__ready"][t] = 1
                if waiting:
                    waiting -= 1
                    coverage.hit("slow port")
                else:
                    stimulus[f"{port}_response__valid"][t] = 1
                    stimulus[f"{port}_response__payload"][t] = held[0] | held[1] << 32
                    answer = held
            else:
                expected[f"{port}_request__valid"][t] = 1
                address, write, data = request
                if port == "registers":
                    payloads[port][t] = address | write << 8 | data << 9
                    answer = True if rng.random() < 0.5 else None
                else:
                    word = address | write << 32 | data << 33
                    payloads[port][t] = word & (1 << 64) - 1, word >> 64
                    answer = True if rng.random() < 0.5 else None
                if answer:
                    stimulus[f"{port}_request__ready"][t] = 1
                    outside = address >= MEMORY_BYTES if port == "memory" else address // 4 % 8 == 7
                    held = (0 if write or outside else int(rng.integers(0, 1 << 32)), int(outside))
                    waiting = int(rng.integers(0, 3))
        shown = program.send(answer)
    expected["tx"] = model.line(cycles)
    for port in payloads:
        expected[f"{port}_request__payload"] = payloads[port]
    for outcome in model.outcomes:
        coverage.hit("forgotten" if outcome is None else outcome.name)
    return stimulus, expected, model


def counting(expected):
    """Cycles in which the payloads count."""
    return {f"{port}_request__payload": expected[f"{port}_request__valid"].astype(bool) for port in ("registers", "memory")}


@pytest.mark.parametrize("engine,count", [("library", 70), pytest.param("library", 1_600, marks=pytest.mark.long), ("cocotb", 6)])
def test_uart_bridge(engine, count):
    coverage, rng = Coverage("uart bridge", points=POINTS), np.random.default_rng(5)
    stimulus, expected, model = run_model(requests(rng, count, coverage), rng, coverage)
    Bench(UartBridge(divisor=DIVISOR), name="uart_bridge").run(stimulus, expected, where=counting(expected), engine=engine, seed=5)
    assert model.outcomes[-1] in (LinkStatus.OK, LinkStatus.REFUSED), "the last requests are good ones and must be heard"
    if engine == "library":
        coverage.require(count // 70)


@pytest.mark.parametrize("pattern, text", [(r"= ! crc;", "= 1'b1;"), pytest.param(r"(?<!\w)fetched <= (\w+);", "fetched <= 32'h0;", marks=pytest.mark.long)],
                         ids=["checksum", "word"])
def test_fault_is_seen(pattern, text):
    """A bridge that takes every checksum for good; one that writes no word as it came."""
    rng, coverage = np.random.default_rng(6), Coverage("uart bridge", points=POINTS)
    stimulus, expected, _ = run_model(requests(rng, 40, coverage), rng, coverage)
    bench = Bench(UartBridge(divisor=DIVISOR), name="uart_bridge", verilog_edit=lambda verilog: re.sub(pattern, text, verilog))
    with pytest.raises(Mismatch):
        bench.run(stimulus, expected, where=counting(expected), seed=6)


# --- the back end through the RTL ---------------------------------------------------------------------------
class Board(wiring.Component):
    """Bridge, local memory and register file, without the rest of the accelerator."""

    def __init__(self, config):
        self._config = config
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge = bridge = UartBridge(divisor=DIVISOR)
        m.submodules.memory = memory = BlockMemory(config=self._config, depth=MEMORY_BYTES // self._config.line_bytes)
        m.submodules.registers = file = RegisterFile(config=self._config)
        wiring.connect(m, bridge.registers_request, file.request)
        wiring.connect(m, file.response, bridge.registers_response)
        wiring.connect(m, bridge.memory_request, memory.host_request)
        wiring.connect(m, memory.host_response, bridge.memory_response)
        m.d.comb += [bridge.rx.eq(self.rx), self.tx.eq(bridge.tx)]
        return m


def test_back_end_through_the_rtl():
    """Registers by name and memory in blocks, over the two lines; noise before a request; what is not there is refused."""
    config, rng = PRESETS["tiny"], np.random.default_rng(9)
    port = LinePort(Bench(Board(config), name="uart_board").session(), DIVISOR)
    device = UartDevice(port, memory_bytes=MEMORY_BYTES + 256, quiet=0)
    assert device.read_register(registers.register("identity").offset) == registers.IDENTITY
    for name, word in registers.config_words(config).items():
        assert device.read_register(registers.register(name).offset) == word
    device.write_register(registers.register("program").offset, 0x1234)
    assert device.read_register(registers.register("program").offset) == 0x1234
    content = rng.integers(0, 256, 1_000).astype(np.uint8).tobytes()
    device.write_memory(40, content)
    device.write_memory(0, bytes(40))
    assert device.read_memory(0, 1_044) == bytes(40) + content + device.read_memory(1_040, 4)
    port.write(bytes([link.REQUEST, Op.WRITE_MEMORY, 3, 0, 0]))     # stops in the middle
    assert device.read_memory(40, 8) == content[:8]
    with pytest.raises(fpga.BusError, match="no register at 0x24"):
        device.read_register(0x24)
    with pytest.raises(fpga.BusError, match="no memory at"):
        device.read_memory(MEMORY_BYTES - 4, 8)
    device.close()


def test_wrong_divisor():
    for divisor in (3, 1 << 16, 8.0, True):
        with pytest.raises(ValueError, match="cycles per bit"):
            UartBridge(divisor=divisor)
