"""Memory with an AXI4 port, for models in a closed loop: random stalls, late effects, refused accesses, checks of the protocol."""
import numpy as np

from neuroflex.axi import PAGE_BYTES, Response
from neuroflex.tb.closed_loop import Offer, Take

__all__ = ["AxiMemory"]


class AxiMemory:
    """Reads and writes take effect at random times between address and answer, each direction in order: all that AXI promises.

    Parameters
    ----------
    rng : numpy.random.Generator
    axi : AxiConfig
    size : int
        Bytes; addresses count modulo it.
    refuse : float
        Chance that a beat, a burst, is answered with an error.
    speed : float
        Chance of being ready, of answering, in a cycle.

    Attributes
    ----------
    content : uint8[size]
    refused : list of (byte address, is a write)
        What was answered with an error.
    """

    def __init__(self, rng, axi, size, *, refuse=0.0, speed=0.6):
        self.rng, self.axi, self.refuse = rng, axi, refuse
        self.content = rng.integers(0, 256, size, np.uint8)
        self.refused, self.most_reads = [], 0
        self.take_ar, self.take_aw, self.take_w = (Take(rng, speed) for _ in range(3))
        self.answer, self.data = Offer(rng, speed), Offer(rng, speed)
        self.reads, self.writes, self.beats = [], [], []

    def drive_read(self):
        """Signals of the read channels, by name."""
        if self.reads and not self.data.entries and self.rng.random() < 0.8:
            address, left = self.reads[0]
            at = address % len(self.content)
            refused = self.rng.random() < self.refuse
            if refused:
                self.refused.append((address, False))
            self.data.entries.append((int.from_bytes(self.content[at:at + self.axi.beat_bytes].tobytes(), "little"),
                                      int(self.rng.integers(2, 4)) if refused else Response.OKAY, int(left == 1)))
        valid, beat = self.data()
        data, response, last = beat or (0, 0, 0)
        return {"arready": self.take_ar(), "rid": 0, "rvalid": valid, "rdata": data, "rresp": int(response), "rlast": last}

    def drive_write(self):
        """Signals of the write channels, by name."""
        if self.writes and len(self.beats) >= self.writes[0][1] and self.rng.random() < 0.3:
            self._write(*self.writes.pop(0))
        valid, response = self.answer()
        return {"awready": self.take_aw(), "wready": self.take_w(), "bid": 0, "bvalid": valid, "bresp": int(response or 0)}

    def _write(self, address, count):
        for number, (data, strobe, last) in enumerate(self.beats[:count]):
            assert last == (number == count - 1), "wlast must mark the burst's last beat"
            at = (address + number * self.axi.beat_bytes) % len(self.content)
            for i in range(self.axi.beat_bytes):
                if strobe >> i & 1:
                    self.content[at + i] = data >> 8 * i & 255
        del self.beats[:count]
        refused = self.rng.random() < self.refuse
        if refused:
            self.refused.append((address, True))
        self.answer.entries.append(int(self.rng.integers(2, 4)) if refused else Response.OKAY)

    def _checked(self, address, length):
        size = self.axi.beat_bytes
        assert address % size == 0, "bursts begin at a whole beat"
        assert address // PAGE_BYTES == (address + (length + 1) * size - 1) // PAGE_BYTES, "a burst crosses 4 KB"
        assert length < self.axi.burst_beats
        return address, length + 1

    def step_read(self, out, inputs):
        """End of a cycle: the master's read channels, and what :meth:`drive_read` gave."""
        if self.data.step(out["rready"]):
            address, left = self.reads.pop(0)
            if left > 1:
                self.reads.insert(0, (address + self.axi.beat_bytes, left - 1))
        if out["arvalid"] and inputs["arready"]:
            self.reads.append(self._checked(out["araddr"], out["arlen"]))
            self.most_reads = max(self.most_reads, len(self.reads))

    def step_write(self, out, inputs):
        """The same for the write channels."""
        self.answer.step(out["bready"])
        if out["awvalid"] and inputs["awready"]:
            self.writes.append(self._checked(out["awaddr"], out["awlen"]))
        if out["wvalid"] and inputs["wready"]:
            self.beats.append((out["wdata"], out["wstrb"], out["wlast"]))
