"""Write bursts on AXI: when addresses, lines, beats and answers move, and what the beats are."""
from neuroflex.sim.stream_queue import StreamQueue

__all__ = ["AxiWriteModel"]

_CONSTANTS = {"bus__awid": 0, "bus__awburst": 1, "bus__awcache": 3, "bus__awprot": 0}


class AxiWriteModel:
    """Writer one cycle at a time. ``step`` takes the burst as an object; a burst is at once taken apart into the lines it needs."""

    def __init__(self, config, axi):
        self.config, self.axi = config, axi
        self.address = None                          # burst on AW
        self.bursts = StreamQueue(axi.writes)        # of lists of lines to send: (place in its beat, beat is complete, burst is)
        self.owed = StreamQueue(axi.writes)          # for each unanswered burst whether it is its request's last
        self.lines, self.beats, self.answers = StreamQueue(2), StreamQueue(2), StreamQueue(2)
        self.part, self.kept = 0, (0, 0)
        self.failed = self.done = 0

    def outputs(self):
        burst = self.address
        data, strobe, last = self.beats.head or (0, 0, 0)
        return {**_CONSTANTS, "bus__awsize": self.axi.beat_bytes.bit_length() - 1, "bus__awvalid": int(burst is not None),
                "bus__awaddr": burst.address if burst else 0, "bus__awlen": burst.length if burst else 0,
                "bus__wvalid": self.beats.valid, "bus__wdata": data, "bus__wstrb": strobe, "bus__wlast": last,
                "bus__bready": self.owed.valid & self.answers.ready, "burst__ready": int(burst is None and self.bursts.ready and self.owed.ready),
                "write_data__ready": self.lines.ready, "write_done__valid": self.answers.valid, "write_done__payload": self.answers.head,
                "done": self.done}

    def step(self, inputs):
        width, line_bytes, lanes = self.axi.data_bits, self.config.line_bytes, self.axi.lanes(self.config)
        out = self.outputs()
        accepted = inputs["burst__payload"] if inputs["burst__valid"] and out["burst__ready"] else None
        beat, used, over = [], False, False
        if self.lines.valid and self.bursts.valid and self.beats.ready:
            (place, complete, over), line = self.bursts.head[0], self.lines.head
            if self.axi.parts(self.config) > 1:
                piece = line >> self.part * width & (1 << width) - 1
                used = self.part == self.axi.parts(self.config) - 1
                beat = [(piece, (1 << self.axi.beat_bytes) - 1, int(used and over))]
                self.part = 0 if used else self.part + 1
            else:
                used = True
                self.kept = (self.kept[0] | line << place * self.config.chunk_bits, self.kept[1] | ((1 << line_bytes) - 1) << place * line_bytes)
                if complete:
                    beat, self.kept = [(*self.kept, int(over))], (0, 0)
            if used:
                self.bursts.head.pop(0)
            over = over and used
        taken = [inputs["write_data__payload"]] if inputs["write_data__valid"] and out["write_data__ready"] else []
        self.lines.step(used, *taken)
        self.beats.step(self.beats.valid and inputs["bus__wready"], *beat)
        self.done, answer = int(inputs["bus__bvalid"] and out["bus__bready"]), []
        if self.done:
            self.failed |= inputs["bus__bresp"] >> 1
            if self.owed.head:
                answer, self.failed = [self.failed], 0
        self.answers.step(self.answers.valid and inputs["write_done__ready"], *answer)
        plan, last = [], []
        if accepted:
            slots = range(accepted.lane, accepted.lane + accepted.lines)
            plan = [[(slot % lanes, slot % lanes == lanes - 1 or slot == slots[-1], slot == slots[-1]) for slot in slots]]
            last = [accepted.last]
        self.bursts.step(over, *plan)
        self.owed.step(self.done, *last)
        if accepted:
            self.address = accepted
        elif inputs["bus__awready"]:
            self.address = None
