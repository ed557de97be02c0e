"""The memory port as an AXI4 master: splitter, reader and writer, and the order between them."""
from neuroflex.sim.axi_read import AxiReadModel
from neuroflex.sim.axi_split import AxiSplitModel
from neuroflex.sim.axi_write import AxiWriteModel

__all__ = ["AxiMasterModel"]


class AxiMasterModel:
    """Master one cycle at a time, made of the models of its parts.

    ``unanswered[write]`` lists the windows of bursts under way, oldest first. A burst that is held counts how many of the other direction
    have to be answered before it goes: those up to the youngest one in its window.
    """

    def __init__(self, config, axi):
        self.axi = axi
        self.split, self.halves = AxiSplitModel(config, axi), (AxiReadModel(config, axi), AxiWriteModel(config, axi))
        self.unanswered = ([], [])
        self.held, self.ahead = None, 0

    def _window(self, burst):
        return burst.address // self.axi.burst_bytes

    def _offered(self):
        """(to the reader, to the writer)."""
        most = (self.axi.reads, self.axi.writes)
        free = self.held is not None and self.ahead == 0
        return [int(free and self.held.write == write and len(self.unanswered[write]) < most[write]) for write in (0, 1)]

    def outputs(self):
        split, (read, write) = self.split.outputs(), (half.outputs() for half in self.halves)
        ports = {"memory__request__ready": split["request__ready"]}
        ports |= {f"memory__read_data__{name}": read[f"read_data__{name}"] for name in ("valid", "payload")}
        ports |= {f"memory__write_done__{name}": write[f"write_done__{name}"] for name in ("valid", "payload")}
        ports["memory__write_data__ready"] = write["write_data__ready"]
        for prefix, values in (("read", read), ("write", write)):
            ports |= {name.replace("bus", prefix, 1): value for name, value in values.items() if name.startswith("bus__")}
        return ports

    def step(self, inputs):
        offered, outs = self._offered(), [half.outputs() for half in self.halves]
        done = [out["done"] for out in outs]
        moved = [offered[write] and outs[write]["burst__ready"] for write in (0, 1)]
        following = self.split.queue.head or None
        loads = self.held is None
        for write, half in enumerate(self.halves):
            prefix = ("read", "write")[write]
            own = {name.replace(prefix, "bus", 1): value for name, value in inputs.items() if name.startswith(f"{prefix}__")}
            half.step(own | {"burst__valid": offered[write], "burst__payload": self.held,
                             "read_data__ready": inputs["memory__read_data__ready"], "write_done__ready": inputs["memory__write_done__ready"],
                             "write_data__valid": inputs["memory__write_data__valid"], "write_data__payload": inputs["memory__write_data__payload"]})
        pages = {name: inputs[name] for name in ("program_page", "tensor_page", "tensor_line")}
        self.split.step(pages | {"request__valid": inputs["memory__request__valid"], "request__payload": inputs["memory__request__payload"],
                                 "burst__ready": int(loads)})
        for write in (0, 1):
            if done[write]:
                self.unanswered[write].pop(0)
                if self.held is not None and self.held.write != write and self.ahead:
                    self.ahead -= 1
            if moved[write]:
                self.unanswered[write].append(self._window(self.held))
        if any(moved):
            self.held = None
        if loads and following:
            self.held = following
            others = self.unanswered[1 - following.write]
            self.ahead = max((i + 1 for i, window in enumerate(others) if window == self._window(following)), default=0)
