"""The cocotb test of `neuroflex.tb.test_shell`: the shell between cocotbext-axi's master and its memory, with pauses on all channels."""
import json
import os
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

__all__ = ["run_program"]


def _pauses(rng, chance):
    while True:
        yield rng.random() < chance


@cocotb.test()
async def run_program(dut):
    """Load memory, run a job through the queue and one directly, save memory after each."""
    folder = Path(os.environ["NEUROFLEX_AXI"])
    task = json.loads((folder / "task.json").read_text())
    rng, offset = random.Random(task["seed"]), task["registers"]
    Clock(dut.aclk, 10, unit="ns").start()
    dut.aresetn.value = 0
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, dut.aresetn, reset_active_level=False)
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, reset_active_level=False, size=task["size"])
    write, read = (ram.write_if, ram.read_if)
    for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel, master.write_if.aw_channel, master.write_if.w_channel,
                    master.write_if.b_channel, master.read_if.ar_channel, master.read_if.r_channel):
        channel.set_pause_generator(_pauses(rng, rng.uniform(0.1, 0.5)))
    await ClockCycles(dut.aclk, 4)
    dut.aresetn.value = 1
    await ClockCycles(dut.aclk, 4)

    async def get(name):
        return int.from_bytes((await master.read(offset[name], 4)).data, "little")

    async def put(name, value):
        answer = await master.write(offset[name], value.to_bytes(4, "little"))
        assert int(answer.resp) == 0, name

    unmapped = await master.read(0x3C0, 4)
    assert int(unmapped.resp) == 2
    partial = await master.write(offset["program_page"], b"\x01")           # one strobe of four
    assert int(partial.resp) == 2 and await get("program_page") == 0
    codes = []
    for way in ("queue", "direct"):
        ram.write(0, (folder / "memory.bin").read_bytes())
        for name, value in task[way]:
            await put(name, value)
        while not int(dut.irq.value):
            await RisingEdge(dut.aclk)
        if way == "queue":
            codes.append(await get("queue_result") >> 8 & 255)
            await put("queue_result", 1)
            assert await get("queue_status") == 0
        else:
            codes.append(await get("status") >> 8 & 255)
            await put("status", 2)
        (folder / f"{way}.bin").write_bytes(ram.read(0, task["size"]))
    (folder / "result.json").write_text(json.dumps({"codes": codes, "identity": await get("identity")}))
