"""The cocotb test that `neuroflex.tb.replay` runs inside the simulator.

It waits once per cycle, writes one vector and reads one; both whole traces are
arrays, compared in batches.
"""

import os
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.handle import Immediate
from cocotb.triggers import FallingEdge
from cocotb.types import LogicArray

__all__ = ["replay_vectors"]

_BATCH = 4096


def _bit_strings(words):
    """One string of bits per cycle, the most significant first."""
    octets = np.ascontiguousarray(words.astype("<u8")[:, ::-1]).view(np.uint8).reshape(len(words), -1, 8)[:, :, ::-1]
    bits = np.unpackbits(octets.reshape(len(words), -1), axis=1) + ord("0")
    return [row.tobytes().decode() for row in bits]


def _words(strings):
    """Undo `_bit_strings`."""
    bits = np.frombuffer("".join(strings).encode(), np.uint8).reshape(len(strings), -1) == ord("1")
    octets = np.packbits(bits, axis=1).reshape(len(strings), -1, 8)[:, :, ::-1]
    return np.ascontiguousarray(octets).view("<u8").reshape(len(strings), -1)[:, ::-1].astype(np.uint64)


@cocotb.test()
async def replay_vectors(dut):
    """Apply every stimulus vector; the trace equals the expected one in every cycle."""
    folder = Path(os.environ["NEUROFLEX_REPLAY"])
    data = np.load(folder / "vectors.npz")
    stim, want, mask = data["stim"], data["want"], data["mask"]
    clock, vector, trace = FallingEdge(dut.clk), dut.stim_vector, dut.trace_vector
    dut.rst.value = Immediate(1)
    vector.value = Immediate(0)
    Clock(dut.clk, 2, unit="step").start(start_high=False)
    for _ in range(2):
        await clock
    dut.rst.value = 0
    for start in range(0, len(stim), _BATCH):
        batch = slice(start, start + _BATCH)
        seen = []
        for bits in _bit_strings(stim[batch]):
            vector.value = LogicArray(bits)
            await clock                         # the edge that ends this cycle has sampled its outputs
            seen.append(str(trace.value))
        got = _words(seen)
        differ = got ^ want[batch]
        if mask.size:
            differ &= mask[batch]
        rows = differ.any(axis=1)
        if rows.any():
            row = int(rows.argmax())
            np.savez(folder / "result.npz", compared=start + row, difference=True, words=got[row])
            raise AssertionError(f"the outputs differ in cycle {start + row}")
    np.savez(folder / "result.npz", compared=len(stim), difference=False, words=[])
