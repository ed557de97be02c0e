"""Read bursts on AXI: when addresses, beats and lines move, and what the lines are."""
from neuroflex.sim.stream_queue import StreamQueue

__all__ = ["AxiReadModel"]

_CONSTANTS = {"bus__arid": 0, "bus__arburst": 1, "bus__arcache": 3, "bus__arprot": 0}


class AxiReadModel:
    """Reader one cycle at a time. ``step`` takes the burst as an object (``burst__payload``); a burst is at once taken apart into the lines it will give."""

    def __init__(self, config, axi):
        self.config, self.axi = config, axi
        self.address = None                     # burst on AR
        self.bursts = StreamQueue(axi.reads)    # of lists of lines to come: (place in its beat, beat is over)
        self.beats, self.lines = StreamQueue(2), StreamQueue(2)
        self.parts = []                         # of the line in work, when it is wider than a beat
        self.done = 0

    def outputs(self):
        burst = self.address
        return {**_CONSTANTS, "bus__arsize": self.axi.beat_bytes.bit_length() - 1, "bus__arvalid": int(burst is not None),
                "bus__araddr": burst.address if burst else 0, "bus__arlen": burst.length if burst else 0, "bus__rready": self.beats.ready,
                "burst__ready": int(burst is None and self.bursts.ready), "read_data__valid": self.lines.valid,
                "read_data__payload": self.lines.head, "done": self.done}

    def step(self, inputs):
        bits, lanes, parts = self.config.chunk_bits, self.axi.lanes(self.config), self.axi.parts(self.config)
        out = self.outputs()
        accepted = inputs["burst__payload"] if inputs["burst__valid"] and out["burst__ready"] else None
        used, line, self.done = False, [], 0
        if self.beats.valid and self.bursts.valid:
            (place, over), (data, error) = self.bursts.head[0], self.beats.head
            if len(self.parts) < parts - 1:
                self.parts.append((data, error))
                used = True
            elif self.lines.ready:
                whole = [*self.parts, (data >> place * bits & (1 << bits) - 1, error)]
                line = [sum(d << i * self.axi.data_bits for i, (d, _) in enumerate(whole)) | any(e for _, e in whole) << bits]
                self.parts, used = [], over
                self.bursts.head.pop(0)
                self.done = int(not self.bursts.head)
        self.lines.step(self.lines.valid and inputs["read_data__ready"], *line)
        beat = [(inputs["bus__rdata"], inputs["bus__rresp"] >> 1)] if inputs["bus__rvalid"] and out["bus__rready"] else []
        self.beats.step(used, *beat)
        plan = []
        if accepted:
            slots = range(accepted.lane, accepted.lane + accepted.lines)
            plan = [[(slot % lanes, slot % lanes == lanes - 1 or slot == slots[-1]) for slot in slots]]
        self.bursts.step(self.done, *plan)
        if accepted:
            self.address = accepted
        elif inputs["bus__arready"]:
            self.address = None
