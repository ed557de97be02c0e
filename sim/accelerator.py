"""The accelerator one cycle at a time, for models of what lies around it: registers, core and guard, behind the ports of ``NeuroFlex``."""
from collections import deque
from typing import NamedTuple

import numpy as np

from neuroflex.formats import DESCRIPTOR_WORDS, StallCause, Status, descriptor_lines
from neuroflex.registers import COUNTERS
from neuroflex.sim import broadcaster, fibercache, memory, memory_arbiter, memory_guard, sequencer, top
from neuroflex.sim.network import evaluate
from neuroflex.sim.registers import RegisterModel
from neuroflex.sim.run import final_memory, job_workloads

__all__ = ["AcceleratorModel", "Workload", "workload"]

_ZEROS = -1         # token of a line of zeros, which the guard sends for the core that was reset


class Workload(NamedTuple):
    """A job and an image as the cycle model wants them.

    Attributes
    ----------
    job : neuroflex.compiler.lower.Job
    tiles : list of TileArrays
    lines : list of int
        Every line of memory once the job has written it.
    output : int64[C, H, W]
        Levels of the last layer.
    """

    job: object
    tiles: list
    lines: list
    output: np.ndarray


def workload(job, tensor):
    """`Workload` of a job and an image's levels ``uint8[C, H, W]``, from the functional network."""
    trace = evaluate(job.network, np.asarray(tensor)[None], quantised=True)
    return Workload(job, job_workloads(job, trace), [int.from_bytes(row.tobytes(), "little") for row in final_memory(job, trace)],
                    trace.output[0].astype(np.int64))


class AcceleratorModel:
    """:class:`~neuroflex.hdl.top.NeuroFlex` between a register port and a memory port that others drive.

    ``outputs()`` depends on the state only; ``step(inputs)`` advances one cycle. Both are dicts by port name. Of what is read from memory it looks at
    descriptors and error flags; the workload says what load streams and activations are. Soft resets, error answers and wrong descriptors are followed to the
    cycle; the watchdog is not (it never strikes).

    Parameters
    ----------
    first : Workload
        Of the job to come.
    cycles : int
        The most that it will be stepped.

    Attributes
    ----------
    workload : Workload
        To be set, when another job is to come, before the cycle of its start pulse (``starting``).
    """

    def __init__(self, first, cycles):
        self.workload, self.config = first, first.job.config
        self.registers = RegisterModel(self.config)
        self._per = descriptor_lines(self.config)
        self._numbers = top.top_numbers(self.config)
        self._state, self._record = top.top_init(self.config, 1), top.recorder(self.config, cycles)
        self._state.memory[memory.DRIVEN] = 1
        self._tile = self._coming = first.tiles[0]
        self._verdict = self._address = 0
        self._read = deque(maxlen=self._per)        # the last lines from memory that the sequencer or the loader asked for
        self._count = {}

    @property
    def starting(self):
        """The start pulse is out in this cycle."""
        return bool(self.registers.start)

    def outputs(self):
        state, bits = self._state, self.config.address_bits
        guard, heads = state.guard, state.guard_heads
        resetting = guard[memory_guard.RESETTING]
        request, line = guard[memory_guard.REQUESTS] > 0, guard[memory_guard.LINES_QUEUED] > 0
        address, lines, write = (int(v) for v in state.guard_requests[heads[0]])
        token = int(state.guard_lines[heads[1]])
        registers = self.registers.outputs()
        return {
            "memory__request__valid": int(request), "memory__request__payload": address | lines << bits | write << (bits + 8) if request else 0,
            "memory__write_data__valid": int(line), "memory__write_data__payload": self.workload.lines[token] if line and token != _ZEROS else 0,
            "memory__read_data__ready": int(resetting or memory_arbiter.read_data_ready(state.arbiter)), "memory__write_done__ready": 1,
            "registers_request__ready": registers["request__ready"], "registers_response__valid": registers["response__valid"],
            "registers_response__payload": registers["response__payload"], "irq": registers["irq"]}

    def step(self, inputs):
        shown, state = self.registers.outputs(), self._state
        resetting, phase = int(state.guard[memory_guard.RESETTING]), int(state.sequencer[sequencer.PHASE])
        layer, code = (int(state.sequencer[i]) for i in (sequencer.LAYER, sequencer.CODE))
        busy, count = int(phase != sequencer.IDLE), self._counts(phase)
        if resetting:
            self._settle(inputs, shown["soft_reset"])
        else:
            self._advance(inputs, shown)
        payload = inputs["registers_request__payload"]
        self.registers.step(
            valid=inputs["registers_request__valid"], address=payload & 255, write=payload >> 8 & 1, data=payload >> 9,
            response_ready=inputs["registers_response__ready"], busy=busy | resetting, finish=int(phase == sequencer.RETURN), code=code, layer=layer,
            count=self._count)
        self._count = count         # counters are one register behind what they count

    def _counts(self, phase):
        """What this cycle adds to the counters."""
        state, now = self._state, self._state.scalars[top.NOW]
        count = dict.fromkeys((c.name for c in COUNTERS), 0)
        if phase != sequencer.IDLE:
            cause = sequencer.sequencer_cause(state.sequencer, state.broadcaster[broadcaster.CAUSE])
            count["cycles"] = count[f"cycles_{StallCause(int(cause)).name.lower()}"] = 1
            hit, miss, eviction, _ = fibercache.pulses(state.cache)
            count |= {"cache_hits": hit, "cache_misses": miss, "cache_evictions": eviction,
                      "matches_ann": int(self._record.ann_matches[now].sum()), "matches_snn": int(self._record.snn_matches[now].sum())}
        return count

    def _advance(self, inputs, shown):
        state, error = self._state, inputs["memory__read_data__payload"] >> self.config.chunk_bits & 1
        port = state.memory
        port[memory.REQUEST_READY], port[memory.WRITE_READY] = inputs["memory__request__ready"], inputs["memory__write_data__ready"]
        port[memory.LINE_VALID], port[memory.ANSWER_VALID] = inputs["memory__read_data__valid"], inputs["memory__write_done__valid"]
        port[memory.ANSWER_ERROR] = inputs["memory__write_done__payload"]
        now = int(state.scalars[top.NOW])
        if shown["start"]:
            self._address = shown["program_address"]
        if state.sequencer[sequencer.PHASE] == sequencer.CHECKSUM and not state.sequencer[sequencer.COUNT]:
            self._judge()
        if inputs["memory__read_data__valid"] and memory_arbiter.read_data_ready(state.arbiter) and memory_arbiter.read_is_the_sequencers(state.arbiter):
            self._read.append(inputs["memory__read_data__payload"] & (1 << self.config.chunk_bits) - 1)
        none = np.ones(1, np.uint8)
        ended = top.top_advance(state, self._tile, self._coming.settings, self._numbers, self._verdict, now if shown["start"] else -1, shown["program_address"], (none, none, none),
                                _ONE, 1, int(port[memory.LINES]) if error else -1, -1, self._record, now + 1, shown["soft_reset"])
        if ended == 1:
            self._address += self._per
            self._tile = self._coming

    def _judge(self):
        """The lines of a descriptor have all arrived: what it says, and its workload."""
        job = self.workload.job
        words = np.frombuffer(b"".join(line.to_bytes(self.config.line_bytes, "little") for line in self._read), np.uint32)[:DESCRIPTOR_WORDS]
        self._verdict = int(sequencer.check_descriptor(words, self.config))
        if self._verdict == Status.NONE:
            self._coming = self.workload.tiles[(self._address - job.program) // self._per]
            if not self.config.overlap:
                self._tile = self._coming

    def _settle(self, inputs, abandon):
        """A cycle of the core's reset: only the guard does something, and the core is as after reset in the next one."""
        state = self._state
        guard, heads, now = state.guard, state.guard_heads, int(state.scalars[top.NOW])
        request = guard[memory_guard.REQUESTS] > 0 and inputs["memory__request__ready"]
        line = guard[memory_guard.LINES_QUEUED] > 0 and inputs["memory__write_data__ready"]
        _, queued = memory_guard.guard_step(guard, abandon, 0, 0, 0, request, 0, line, inputs["memory__read_data__valid"], inputs["memory__write_done__valid"])
        if request:
            heads[0] = (heads[0] + 1) % 4
        if line:
            heads[1] = (heads[1] + 1) % 4
        if queued:
            state.guard_lines[(heads[1] + guard[memory_guard.LINES_QUEUED] - 1) % 4] = _ZEROS
        kept = {name: getattr(state, name) for name in ("guard", "guard_heads", "guard_requests", "guard_lines")}
        self._state = top.top_init(self.config, 1)._replace(**kept)
        self._state.memory[memory.DRIVEN], self._state.scalars[top.NOW] = 1, now + 1
        for events in self._record[1:]:
            events[now + 1:] = 0


_ONE = np.ones(1, np.int64)
