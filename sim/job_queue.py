"""Queue of jobs, access by access."""
from neuroflex import registers as regmap
from neuroflex.sim.stream_queue import StreamQueue

__all__ = ["JobQueueModel"]

_WORD = 0xFFFFFFFF
_SIMPLE = ("program_page", "tensor_page", "tensor_line", "queue_program")


def run_job(program):
    """What the queue does for a job, as the software that it stands for: yields ``(register, None to read or a value to write)`` or "interrupt", is
    sent what was read, returns the result."""
    while (yield "status", None) & 1:
        pass
    yield "status", 1 << 1
    yield "program", program
    yield "control", 1 << 8 | 1
    yield "interrupt"
    status = yield "status", None
    cycles = yield "cycles_low", None
    yield "status", 1 << 1
    yield "control", 0
    return status >> 8 & 255, status >> 16, cycles


def abandon_job():
    """The same for a flush."""
    yield "control", 1 << 1
    while (yield "status", None) & 1:
        pass
    yield "status", 1 << 1


class JobQueueModel:
    """The block one cycle at a time; see :class:`~neuroflex.sim.axi_lite.AxiLiteModel` for the form."""

    def __init__(self, axi):
        self.axi = axi
        self.values = {name: regmap.register(name).fields[0].reset for name in _SIMPLE} | regmap.shell_words(axi)
        self.enable = self.clear = self.flush = self.irq = 0
        self.jobs, self.results = StreamQueue(axi.jobs), StreamQueue(axi.jobs)
        self.work = self.wants = None       # script of the job in work, and what it has yielded last
        self.abandoning, self.page = False, 0
        self.found_rest = False             # the job in work has seen that the accelerator does nothing
        self.host = self.told = None
        self.port, self.last = None, None   # (whose, payload, taken) of the access at the accelerator; whose the last one was

    def outputs(self):
        whose, payload, taken = self.port or (None, 0, None)
        return {"host_request__ready": int(self.host is None and self.told is None), "host_response__valid": int(self.told is not None),
                "host_response__payload": self.told or 0, "core_request__valid": int(taken is False), "core_request__payload": payload,
                "core_response__ready": int(taken is True), "irq": self.irq, "program_page": self.values["program_page"],
                "tensor_page": self.page if self.work and self.found_rest else self.values["tensor_page"], "tensor_line": self.values["tensor_line"]}

    def _read(self, name):
        if name == "queue_control":
            return self.enable << 8
        if name == "queue_status":
            return len(self.jobs.entries) | bool(self.work) << 8 | len(self.results.entries) << 16
        if name in ("queue_result", "queue_result_cycles"):
            if not self.results.valid:
                return 0
            code, layer, cycles = self.results.head
            return cycles if name == "queue_result_cycles" else 1 | code << 8 | layer << 16
        return self.values.get(name, 0)

    def step(self, inputs):
        out, running = self.outputs(), self.work is not None
        answer = inputs["core_response__payload"] if self.port and self.port[2] and inputs["core_response__valid"] else None
        push, take, job, result, following = [], False, [], [], {}

        # The host's access: local, refused, or for the accelerator.
        host_wants, told = False, None
        clear = flush = 0
        if self.host is not None:
            address, write, data = self.host
            reg = next((r for r in regmap.SHELL_REGISTERS if r.offset == address & ~3), None)
            under_way = self.port is not None and self.port[0] == "host"
            if address >> 8 == 0 and (under_way or not (write and running)):
                host_wants = True
            elif reg is None:
                told = 1 << 32
            elif not write:
                told = self._read(reg.name)
            else:
                told = 0
                if reg.name in _SIMPLE:
                    following[reg.name] = data
                elif reg.name == "queue_control":
                    clear = flush = data & 1
                elif reg.name == "queue_push":
                    push = [(self.values["queue_program"], data)] if self.jobs.ready else []
                    told = 0 if push else 1 << 32
                elif reg.name == "queue_result":
                    take = data & 1 and self.results.valid
        irq = self.enable & self.results.valid | inputs["core_irq"] & (not running)
        if self.host is not None and write and reg and reg.name == "queue_control":
            self.enable = data >> 8 & 1

        # The register port: whose turn it is, from what both wanted at the cycle's start.
        port, last = self.port, self.last
        queue_wants = running and self.wants != "interrupt"
        if self.port is None:
            if queue_wants and (not host_wants or self.last == "host"):
                name, value = self.wants
                port = ("queue", regmap.register(name).offset | (value is not None) << 8 | (value or 0) << 9, False)
            elif host_wants:
                port = ("host", address & 255 | write << 8 | data << 9, False)
            last = port[0] if port else last
        elif not self.port[2] and inputs["core_request__ready"]:
            port = (*self.port[:2], True)
        elif answer is not None:
            port = None

        # The queue's script goes on.
        mine = answer is not None and self.port[0] == "queue"
        begins = not running and not self.flush and self.jobs.valid and self.results.ready
        cleared = not running
        if begins:
            program, self.page = self.jobs.head
            self.work, self.abandoning, self.found_rest = run_job(program), False, False
            self.wants = next(self.work)
        elif running and self.flush and not self.abandoning and (mine or self.wants == "interrupt"):
            self.work, self.abandoning = (abandon_job(), True) if self.found_rest else (None, False)
            self.wants = next(self.work) if self.work else None
        elif running and (mine or self.wants == "interrupt" and inputs["core_irq"]):
            try:
                self.wants = self.work.send(answer & _WORD if mine else None)
                self.found_rest |= self.wants == ("status", 1 << 1)
            except StopIteration as end:
                self.work = self.wants = None
                if self.abandoning:
                    cleared = True
                else:
                    result = [end.value]
        if self.clear:
            self.jobs, self.results = StreamQueue(self.axi.jobs), StreamQueue(self.axi.jobs)
        else:
            self.jobs.step(begins, *push)
            self.results.step(take, *result)
        self.clear, self.flush = clear, 1 if flush else 0 if cleared else self.flush
        self.irq = int(irq)

        # The host's side.
        if self.told is not None and inputs["host_response__ready"]:
            self.told = None
        if inputs["host_request__valid"] and out["host_request__ready"]:
            payload = inputs["host_request__payload"]
            self.host = (payload & 0xFFF, payload >> 12 & 1, payload >> 13)
        if told is None and answer is not None and self.port[0] == "host":
            told = answer
        if told is not None:
            self.host, self.told = None, told
        self.port, self.last = port, last
        self.values |= following
