"""The AXI3 bridge, access by access."""
from neuroflex.axi import AXI_LITE_ADDRESS_BITS, Burst, Response

__all__ = ["Axi3BridgeModel"]

_PAGE = 1 << AXI_LITE_ADDRESS_BITS


class _Burst:
    """A burst: the word of each beat, or why it is refused."""

    def __init__(self, base, entry):
        self.id, self.start, self.length, size, kind = entry
        self.step = 1 << size if kind == Burst.INCR else 0
        self.beat = 0
        self.refusal = (Response.DECERR if self.start // _PAGE != base // _PAGE else
                        Response.SLVERR if kind not in (Burst.FIXED, Burst.INCR) or size > 2 else None)

    @property
    def word(self):
        return (self.start + self.beat * self.step) % _PAGE // 4 * 4


class Axi3BridgeModel:
    """The bridge one cycle at a time; ``outputs()`` depends on the state only, ``step(inputs)`` advances one cycle. Both are dicts by port name.

    Parameters
    ----------
    base : int
        Byte address of the page of registers.
    """

    def __init__(self, *, base):
        self._base = base
        self.write, self.write_stage, self.beat, self.sent, self.worst = None, None, None, set(), Response.OKAY
        self.read, self.read_stage, self.asked, self.answer = None, None, False, (0, Response.OKAY)

    def outputs(self):
        """Signals of this cycle; a payload is 0 while its valid is."""
        writing, reading = self.write_stage == "access", self.read_stage == "access"
        aw, w, ar = writing and "address" not in self.sent, writing and "data" not in self.sent, reading and not self.asked
        answered, fetched = self.write_stage == "answer", self.read_stage == "answer"
        data, response = self.answer
        return {"port__awready": int(self.write is None), "port__wready": int(self.write_stage == "data"),
                "port__bvalid": int(answered), "port__bid": self.write.id if answered else 0, "port__bresp": self.worst if answered else 0,
                "port__arready": int(self.read is None), "port__rvalid": int(fetched), "port__rid": self.read.id if fetched else 0,
                "port__rdata": data if fetched else 0, "port__rresp": response if fetched else 0,
                "port__rlast": int(fetched and self.read.beat == self.read.length),
                "registers__awvalid": int(aw), "registers__awaddr": self.write.word if aw else 0, "registers__awprot": 0,
                "registers__wvalid": int(w), "registers__wdata": self.beat[0] if w else 0, "registers__wstrb": self.beat[1] if w else 0,
                "registers__bready": int(writing), "registers__arvalid": int(ar), "registers__araddr": self.read.word if ar else 0,
                "registers__arprot": 0, "registers__rready": int(reading)}

    def step(self, inputs):
        """One cycle."""
        self._write(inputs)
        self._read(inputs)

    def _write(self, inputs):
        if self.write is None:
            if inputs["port__awvalid"]:
                self.write = _Burst(self._base, [inputs[f"port__aw{name}"] for name in ("id", "addr", "len", "size", "burst")])
                self.write_stage, self.worst = "data", Response.OKAY
        elif self.write_stage == "data":
            if inputs["port__wvalid"]:
                self.beat, self.sent = (inputs["port__wdata"], inputs["port__wstrb"], inputs["port__wlast"]), set()
                if self.write.refusal is None:
                    self.write_stage = "access"
                elif inputs["port__wlast"]:
                    self.worst, self.write_stage = self.write.refusal, "answer"
        elif self.write_stage == "access":
            self.sent |= {name for name, letters in (("address", "aw"), ("data", "w")) if inputs[f"registers__{letters}ready"]}
            if inputs["registers__bvalid"]:
                self.worst = max(self.worst, inputs["registers__bresp"])
                self.write.beat += 1
                self.write_stage = "answer" if self.beat[2] else "data"
        elif inputs["port__bready"]:
            self.write = self.write_stage = None

    def _read(self, inputs):
        if self.read is None:
            if inputs["port__arvalid"]:
                self.read, self.read_stage = _Burst(self._base, [inputs[f"port__ar{name}"] for name in ("id", "addr", "len", "size", "burst")]), "decide"
        elif self.read_stage == "decide":
            self._next_read()
        elif self.read_stage == "access":
            self.asked = self.asked or bool(inputs["registers__arready"])
            if inputs["registers__rvalid"]:
                self.answer, self.read_stage = (inputs["registers__rdata"], inputs["registers__rresp"]), "answer"
        elif inputs["port__rready"]:
            if self.read.beat == self.read.length:
                self.read = self.read_stage = None
            else:
                self.read.beat += 1
                self._next_read()

    def _next_read(self):
        if self.read.refusal is None:
            self.read_stage, self.asked = "access", False
        else:
            self.read_stage, self.answer = "answer", (0, self.read.refusal)
