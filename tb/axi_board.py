"""A driver's view of an :class:`~neuroflex.tb.axi_system.AxiSystem`: a program in memory, tensors on pages of their own, registers by name."""
import numpy as np

from neuroflex import registers as regmap
from neuroflex.axi import PAGE_BYTES
from neuroflex.formats import Status

__all__ = ["OFFSET", "PROGRAM_AT", "Board"]

OFFSET = {r.name: r.offset for r in regmap.REGISTERS + regmap.SHELL_REGISTERS}
PROGRAM_AT = 1 << 20          # in memory, from its base on


class Board:
    """A program in a system's memory, and its tensors once per image."""

    def __init__(self, system, job):
        self.system, self.job = system, job
        self.line_bytes = job.config.line_bytes
        self.tensor_line = min(place.base for place in job.placements.values())
        content = job.memory.reshape(-1)
        split = self.tensor_line * self.line_bytes
        system.memory[PROGRAM_AT:PROGRAM_AT + split] = content[:split]
        self.size = -(-(len(content) - split) // PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES
        self.pages = lambda start: (system.base + start - split) // PAGE_BYTES % (1 << 32)
        self.set("program_page", (system.base + PROGRAM_AT) // PAGE_BYTES)
        self.set("tensor_line", self.tensor_line)

    def set(self, name, value):
        self.system.write(OFFSET[name], value)

    def get(self, name):
        return self.system.read(OFFSET[name])

    def place(self, number, tensor):
        """Put an image's tensors into memory; the start within it."""
        split = self.tensor_line * self.line_bytes
        start = PROGRAM_AT - (number + 1) * self.size
        start += (split - start) % PAGE_BYTES
        content = self.job.with_input(tensor).reshape(-1)[split:]
        self.system.memory[start:start + len(content)] = content
        return start

    def output(self, start):
        """Levels of the last layer."""
        split = self.tensor_line * self.line_bytes
        memory = np.zeros_like(self.job.memory).reshape(-1)
        memory[split:] = self.system.memory[start:start + len(memory) - split]
        return self.job.output(memory.reshape(self.job.memory.shape))

    def run(self, start, code=Status.DONE):
        """A job through the queue, with the interrupt; its result."""
        self.set("queue_control", 0x100)
        self.set("queue_program", self.job.program)
        self.set("queue_push", self.pages(start))
        self.system.wait(3_000_000, until_interrupt=True)
        word = self.get("queue_result")
        assert word & 1 and Status(word >> 8 & 255) == code
        cycles = self.get("queue_result_cycles")
        self.set("queue_result", 1)
        return cycles
