"""The serial back end against a bridge in software, on a line that loses and damages bytes."""
import struct

import numpy as np
import pytest

from neuroflex import fpga, link, registers
from neuroflex.fpga.serial_port import UartDevice
from neuroflex.link import LinkStatus, Op

MEMORY_BYTES = 4096


class SoftBridge:
    """Answers as the bridge does; ``spoil`` changes bytes on the way, given what is sent and in which direction."""

    def __init__(self, spoil=lambda content, to_board: content):
        self._spoil = spoil
        self._out = b""
        self.memory = bytearray(MEMORY_BYTES)
        self.registers = {r.offset: 0 for r in registers.REGISTERS}
        self.closed = False

    def write(self, content):
        content = self._spoil(content, True)
        start = content.find(link.REQUEST)
        if start < 0 or len(content) < start + 9:
            return
        body, sum_ = content[start + 1:-2], content[-2:]
        op, count, address = struct.unpack("<BBI", body[:6])
        words = struct.unpack_from(f"<{(len(body) - 6) // 4}I", body, 6)
        good = link.crc(body) == int.from_bytes(sum_, "big")
        self._out += self._spoil(link.answer_frame(*self._carry_out(op, count, address, words, good)), False)

    def _carry_out(self, op, count, address, words, good):
        if op not in list(Op):
            return LinkStatus.BAD_OP, ()
        if not 1 <= count <= link.MAX_WORDS:
            return LinkStatus.BAD_COUNT, ()
        if not good:
            return LinkStatus.BAD_CHECKSUM, ()
        found = []
        for i in range(count):
            at = address + 4 * i
            if op in (Op.READ_REGISTERS, Op.WRITE_REGISTERS):
                if at not in self.registers:
                    return LinkStatus.REFUSED, ()
                if op == Op.WRITE_REGISTERS:
                    self.registers[at] = words[i]
                found.append(self.registers[at])
            else:
                if at + 4 > MEMORY_BYTES:
                    return LinkStatus.REFUSED, ()
                if op == Op.WRITE_MEMORY:
                    self.memory[at:at + 4] = struct.pack("<I", words[i])
                found.append(struct.unpack("<I", self.memory[at:at + 4])[0])
        return LinkStatus.OK, () if op & 1 else found

    def read(self, count):
        found, self._out = self._out[:count], self._out[count:]
        return found

    def reset_input_buffer(self):
        self._out = b""

    def close(self):
        self.closed = True


def test_memory_and_registers():
    bridge = SoftBridge()
    device = UartDevice(bridge, memory_bytes=MEMORY_BYTES)
    content = np.random.default_rng(1).integers(0, 256, 3000).astype(np.uint8).tobytes()
    device.write_memory(8, content)
    assert device.read_memory(8, len(content)) == content == bytes(bridge.memory[8:8 + len(content)])
    device.write_register(0x10, 0xFFFFFFFF)
    assert device.read_register(0x10) == 0xFFFFFFFF
    with pytest.raises(fpga.BusError, match="no register at 0x24"):
        device.read_register(0x24)
    for address, count in ((2, 4), (0, 6), (MEMORY_BYTES - 4, 8), (-4, 4)):
        with pytest.raises(fpga.BusError, match="memory from"):
            device.read_memory(address, count)
    bridge.registers[registers.register("status").offset] = 2
    assert device.wait_interrupt(1)
    bridge.registers[registers.register("status").offset] = 0
    assert not device.wait_interrupt(0)
    device.close()
    assert bridge.closed


@pytest.mark.parametrize("what", ["lost", "damaged", "noise"])
def test_bad_line(what):
    """Every third frame is broken, in one direction or the other: memory arrives nevertheless."""
    rng, frames = np.random.default_rng(2), [0]

    def spoil(content, to_board):
        frames[0] += 1
        if frames[0] % 3 or not content:
            return content
        if what == "lost":
            return content[:-1]
        if what == "noise":
            return bytes([1, 2, 3]) + content
        at = int(rng.integers(3, len(content)))
        return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1:]

    device = UartDevice(SoftBridge(spoil), memory_bytes=MEMORY_BYTES, quiet=0)
    content = rng.integers(0, 256, MEMORY_BYTES).astype(np.uint8).tobytes()
    device.write_memory(0, content)
    assert device.read_memory(0, MEMORY_BYTES) == content


class LateBridge(SoftBridge):
    """Every third answer comes when nobody waits for it any more, and every fifth lacks a word."""

    number, held = 0, b""

    def write(self, content):
        self.number += 1
        super().write(content)
        late = self.number % 3 == 0
        self._out, self.held = (b"", self._out) if late else (self.held + self._out, b"")

    def _carry_out(self, *request):
        status, words = super()._carry_out(*request)
        return status, words if self.number % 5 else words[:-1]

    def reset_input_buffer(self):
        super().reset_input_buffer()
        self.held = b""


def test_answers_to_something_else_are_not_taken():
    bridge, content = LateBridge(), np.random.default_rng(3).integers(0, 256, MEMORY_BYTES).astype(np.uint8).tobytes()
    bridge.memory[:] = content
    device = UartDevice(bridge, memory_bytes=MEMORY_BYTES, quiet=0)
    assert b"".join(device.read_memory(start, 64) for start in range(0, MEMORY_BYTES, 64)) == content


def test_nobody_there():
    device = UartDevice(SoftBridge(lambda content, to_board: b""), memory_bytes=MEMORY_BYTES, quiet=0)
    with pytest.raises(fpga.LinkError, match="nothing came; is it the right port"):
        device.read_register(0)
    with pytest.raises(fpga.LinkError, match="may have been carried out or not"):
        device.write_register(8, 1)


def test_driver_refuses_what_is_no_accelerator():
    bridge = SoftBridge()
    with pytest.raises(fpga.WrongDevice, match="identity register reads 0x00000000"):
        fpga.open("uart", port=bridge)
    assert bridge.closed
