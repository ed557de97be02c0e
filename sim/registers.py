"""Register file, access by access."""
import numpy as np

from neuroflex import registers as regmap

__all__ = ["RegisterModel"]


class RegisterModel:
    """The register file one cycle at a time, in plain Python: software touches it a few times per job.

    ``outputs()`` depends on the state only; ``step(...)`` advances one cycle. Counters are 48 bits.
    """

    def __init__(self, config):
        self.values = {r.name: sum(f.reset << f.lsb for f in r.fields) for r in regmap.REGISTERS}
        self.values |= regmap.config_words(config)
        self.counters = dict.fromkeys((c.name for c in regmap.COUNTERS), 0)
        self.start = self.soft_reset = 0
        self.finished = self.enable = self.code = self.layer = 0
        self.answer = None
        self.last_answer = (0, 0)

    def outputs(self):
        """Signals of this cycle, by port name."""
        data, error = self.last_answer
        return {"request__ready": int(self.answer is None), "response__valid": int(self.answer is not None),
                "response__payload": data | error << 32, "start": self.start, "soft_reset": self.soft_reset,
                "program_address": self.values["program"], "watchdog": self.values["watchdog"],
                "irq": self.finished & self.enable}

    @property
    def settled(self):
        """No answer waits and no pulse is out: without an access or the end of a job only counters and layer change."""
        return self.answer is None and not self.start and not self.soft_reset

    def skip(self, counts, layer):
        """Some cycles at once while :attr:`settled`: what the counters grow by, and the last layer seen while busy, None if never."""
        for name, count in counts.items():
            self.counters[name] = (self.counters[name] + count) % (1 << 48)
        if layer is not None:
            self.layer = layer

    def read(self, name, busy):
        """Value of a register now."""
        if name == "control":
            return self.enable << 8
        if name == "status":
            return busy | self.finished << 1 | self.code << 8 | self.layer << 16
        for counter, value in self.counters.items():
            if name == f"{counter}_low":
                return value & 0xFFFFFFFF
            if name == f"{counter}_high":
                return value >> 32
        return self.values[name]

    def step(self, *, valid, address, write, data, response_ready, busy, finish, code, layer, count):
        """One cycle; ``count`` maps counter names to increments."""
        reg = next((r for r in regmap.REGISTERS if r.offset == address & ~3), None)
        accept = valid and self.answer is None
        started, start, soft_reset, finished = self.start, 0, 0, self.finished
        following = {}
        if accept:
            self.answer = self.last_answer = (self.read(reg.name, busy) if reg and not write else 0, int(reg is None))
            if write and reg:
                if reg.name in ("program", "watchdog"):
                    following[reg.name] = data
                elif reg.name == "control":
                    start, soft_reset = (data & 1) & ~busy & ~started & 1, data >> 1 & 1
                    self.enable = data >> 8 & 1
                elif reg.name == "status" and data >> 1 & 1:
                    finished = 0
        elif response_ready:
            self.answer = None
        if started:
            self.code = 0
        elif finish:
            finished, self.code = 1, code
        if busy or finish:
            self.layer = layer
        for name in self.counters:
            self.counters[name] = 0 if started else (self.counters[name] + int(count.get(name, 0))) % (1 << 48)
        self.start, self.soft_reset, self.finished = start, soft_reset, finished
        self.values |= following
