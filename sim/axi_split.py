"""AXI bursts of a request, and when they come."""
from typing import NamedTuple

from neuroflex.axi import PAGE_BYTES
from neuroflex.sim.stream_queue import StreamQueue

__all__ = ["AxiSplitModel", "Burst", "bursts_of"]


class Burst(NamedTuple):
    """An AXI burst, see :func:`neuroflex.axi_bus.axi_burst_layout`."""

    write: int
    address: int
    length: int
    lane: int
    lines: int
    last: int

    def pack(self, config, axi):
        """The payload as an integer."""
        word, place = 0, 0
        bits = (1, axi.address_bits, 8, max(1, (axi.lanes(config) - 1).bit_length()), axi.window_lines(config).bit_length(), 1)
        for value, width in zip(self, bits):
            word |= value << place
            place += width
        return word


def bursts_of(config, axi, address, lines, write, program_page, tensor_page, tensor_line):
    """The bursts of a request in order: one for each aligned window of ``burst_bytes`` that it touches.

    Byte addresses are computed with numbers without limit and cut to the bus's width at the end.
    """
    line_bytes, found = config.line_bytes, []
    while lines:
        page = tensor_page if address >= tensor_line else program_page
        start = page * PAGE_BYTES + address * line_bytes
        window_end = start - start % axi.burst_bytes + axi.burst_bytes
        here = min(lines, (window_end - start) // line_bytes)
        end = start + here * line_bytes
        first_beat = start - start % axi.beat_bytes
        beats = -(-(end - first_beat) // axi.beat_bytes)
        found.append(Burst(write, first_beat % (1 << axi.address_bits), beats - 1, (start - first_beat) // line_bytes, here, int(here == lines)))
        address, lines = (address + here) % (1 << config.address_bits), lines - here
    return found


class AxiSplitModel:
    """Splitter one cycle at a time; see :class:`AxiLiteModel` for the form.

    A request's bursts leave it one per cycle into a register and from there, with their byte address, into a queue of two.
    """

    def __init__(self, config, axi):
        self.config, self.axi = config, axi
        self.left, self.cut, self.queue = [], None, StreamQueue(2)

    def outputs(self):
        head = self.queue.head
        return {"request__ready": int(not self.left), "burst__valid": self.queue.valid,
                "burst__payload": head.pack(self.config, self.axi) if head else 0}

    def step(self, inputs):
        bits = self.config.address_bits
        taken = inputs["request__valid"] and not self.left
        moves = self.queue.ready
        pushed = [self.cut] if self.cut and moves else []
        self.queue.step(self.queue.valid and inputs["burst__ready"], *pushed)
        if self.left and (moves or not self.cut):
            self.cut = self.left.pop(0)
        elif moves:
            self.cut = None
        if taken:
            payload = inputs["request__payload"]
            self.left = bursts_of(self.config, self.axi, payload & ((1 << bits) - 1), payload >> bits & 255, payload >> (bits + 8),
                                  inputs["program_page"], inputs["tensor_page"], inputs["tensor_line"])
