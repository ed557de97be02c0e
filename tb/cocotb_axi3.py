"""The cocotb test of `neuroflex.tb.test_axi3_bridge`: the bridge between cocotbext-axi's master and its AXI4-Lite memory, with pauses on all channels."""
import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiBurstType, AxiBus, AxiLiteBus, AxiLiteRam, AxiMaster, AxiResp

__all__ = ["read_and_write"]

PAGE = 4096


def _pauses(rng, chance):
    while True:
        yield rng.random() < chance


@cocotb.test()
async def read_and_write(dut):
    """Bytes from anywhere to anywhere in the page, against a plain array; FIXED bursts; errors of other addresses and of bursts that wrap."""
    rng, base = random.Random(int(os.environ["NEUROFLEX_SEED"])), int(os.environ["NEUROFLEX_BASE"])
    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value = 1
    master = AxiMaster(AxiBus.from_prefix(dut, "port"), dut.clk, dut.rst, max_burst_len=16)
    ram = AxiLiteRam(AxiLiteBus.from_prefix(dut, "registers"), dut.clk, dut.rst, size=PAGE)
    for side in (master, ram):
        for channel in (side.write_if.aw_channel, side.write_if.w_channel, side.write_if.b_channel, side.read_if.ar_channel, side.read_if.r_channel):
            channel.set_pause_generator(_pauses(rng, rng.uniform(0.1, 0.5)))
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    memory = bytearray(PAGE)
    for _ in range(150):
        length, size = rng.choice((1, 2, 4, 4, 4, 8, 30, rng.randrange(1, 200))), rng.choice((0, 1, 2, 2))
        start = rng.randrange(PAGE - length)
        content = rng.randbytes(length)
        answer = await master.write(base + start, content, size=size)
        assert answer.resp == AxiResp.OKAY
        memory[start:start + length] = content
        start = rng.randrange(PAGE - length)
        found = await master.read(base + start, length, size=size)
        assert found.resp == AxiResp.OKAY and found.data == bytes(memory[start:start + length])
    assert ram.read(0, PAGE) == memory
    words = [rng.randbytes(4) for _ in range(8)]
    assert (await master.write(base + 64, b"".join(words), burst=AxiBurstType.FIXED)).resp == AxiResp.OKAY
    assert ram.read(64, 8) == words[-1] + memory[68:72]
    for address, kind, response in ((base + PAGE, AxiBurstType.INCR, AxiResp.DECERR), (base - 64, AxiBurstType.INCR, AxiResp.DECERR),
                                    (base, AxiBurstType.WRAP, AxiResp.SLVERR)):
        before = ram.read(0, PAGE)
        assert (await master.write(address, bytes(range(16)), burst=kind)).resp == response
        assert (await master.read(address, 16, burst=kind)).resp == response
        assert ram.read(0, PAGE) == before
