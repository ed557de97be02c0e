"""Software at the AXI4-Lite port of a shell that is stepped cycle by cycle: a script of accesses and waits, with random gaps on all channels."""
from neuroflex.tb.closed_loop import Offer, Take

__all__ = ["AxiSoftware"]


class AxiSoftware:
    """A script of register accesses as the master of an AXI4-Lite bus.

    Parameters
    ----------
    rng : numpy.random.Generator
        Of gaps, and of which of a write's channels comes first.
    script : generator
        Yields ``(offset, None)`` to read, ``(offset, value)`` to write, and is sent ``(data, response)``; yields a number to wait so many cycles, or
        ``"interrupt"`` to wait for it.

    Attributes
    ----------
    over : bool
        The script has come to its end.
    """

    def __init__(self, rng, script):
        self.script, self.over, self._waits = script, False, 0
        self._address, self._data, self._read = (Offer(rng, chance) for chance in (0.5, 0.5, 0.5))
        self._take_b, self._take_r = Take(rng, 0.7), Take(rng, 0.7)
        self._next(None)

    def _next(self, answer):
        try:
            wish = self.script.send(answer)
        except StopIteration:
            self.over, self._waits = True, "for ever"
            return
        if isinstance(wish, tuple):
            offset, value = wish
            self._waits = "answer"
            (self._read if value is None else self._address).entries.append(offset)
            if value is not None:
                self._data.entries.append(value)
        else:
            self._waits = wish

    def drive(self):
        """Inputs of the bus, by name."""
        (aw, address), (w, data), (ar, read) = self._address(), self._data(), self._read()
        return {"awvalid": aw, "awaddr": address or 0, "awprot": 0, "wvalid": w, "wdata": data or 0, "wstrb": 15 * w, "bready": self._take_b(),
                "arvalid": ar, "araddr": read or 0, "arprot": 0, "rready": self._take_r()}

    def step(self, out, inputs, irq):
        """End of a cycle: the bus's outputs, what :meth:`drive` gave, the interrupt."""
        self._address.step(out["awready"])
        self._data.step(out["wready"])
        self._read.step(out["arready"])
        if out["bvalid"] and inputs["bready"]:
            self._next((0, out["bresp"]))
        elif out["rvalid"] and inputs["rready"]:
            self._next((out["rdata"], out["rresp"]))
        elif isinstance(self._waits, int):
            self._waits -= 1
            if self._waits < 0:
                self._next(None)
        elif self._waits == "interrupt" and irq:
            self._next(None)
