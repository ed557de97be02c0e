"""AXI4-Lite slave, access by access."""
from neuroflex.axi import Response

__all__ = ["AxiLiteModel"]


class AxiLiteModel:
    """The slave one cycle at a time, in plain Python: software touches registers a few times per job.

    ``outputs()`` depends on the state only; ``step(inputs)`` advances one cycle. Both are dicts by port name.
    """

    def __init__(self):
        self.address = self.data = self.read = None      # what each incoming channel has brought: int, (data, strobe), int
        self.access = None          # ("write" or "read", "ask", "wait" or "tell") of the access in work
        self.turn = "read"
        self.answer = (0, Response.OKAY)

    def outputs(self):
        """Signals of this cycle; a payload is 0 while its valid is."""
        kind, stage = self.access or (None, None)
        data, response = self.answer
        request = (self.address | 1 << 12 | self.data[0] << 13 if kind == "write" else self.read) if stage == "ask" else 0
        written, fetched = (kind, stage) == ("write", "tell"), (kind, stage) == ("read", "tell")
        return {"bus__awready": int(self.address is None), "bus__wready": int(self.data is None), "bus__arready": int(self.read is None),
                "bus__bvalid": int(written), "bus__bresp": response * written,
                "bus__rvalid": int(fetched), "bus__rresp": response * fetched, "bus__rdata": data * fetched,
                "request__valid": int(stage == "ask"), "request__payload": request, "response__ready": int(stage == "wait")}

    def step(self, inputs):
        """One cycle."""
        out, kind = self.outputs(), self.access and self.access[0]
        pending = {"write": self.address is not None and self.data is not None, "read": self.read is not None}
        if self.access is None:
            other = "read" if self.turn == "write" else "write"
            chosen = self.turn if pending[self.turn] else other if pending[other] else None
            if chosen == "write" and self.data[1] != 15:
                self.access, self.answer = ("write", "tell"), (0, Response.SLVERR if self.data[1] else Response.OKAY)
            elif chosen:
                self.access = (chosen, "ask")
        elif out["request__valid"]:
            if inputs["request__ready"]:
                self.access = (kind, "wait")
        elif out["response__ready"]:
            if inputs["response__valid"]:
                payload = inputs["response__payload"]
                self.access, self.answer = (kind, "tell"), (payload & 0xFFFFFFFF, Response.SLVERR if payload >> 32 else Response.OKAY)
        elif inputs["bus__bready"] if kind == "write" else inputs["bus__rready"]:
            self.access, self.turn = None, "read" if kind == "write" else "write"
            if kind == "write":
                self.address = self.data = None
            else:
                self.read = None
        if inputs["bus__awvalid"] and out["bus__awready"]:
            self.address = inputs["bus__awaddr"]
        if inputs["bus__wvalid"] and out["bus__wready"]:
            self.data = (inputs["bus__wdata"], inputs["bus__wstrb"])
        if inputs["bus__arvalid"] and out["bus__arready"]:
            self.read = inputs["bus__araddr"]
