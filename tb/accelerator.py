"""The whole accelerator's RTL in a closed loop: registers, a memory with timing, and sums per layer.

The Verilated top runs as a library; the loop around it is C++ (``accelerator.cpp``), so that a run costs little more than the
simulation itself. What it measures does not depend on the golden model.
"""
import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuroflex import registers as regmap
from neuroflex.formats import StallCause, Status
from neuroflex.hdl.sequencer import Phase
from neuroflex.hdl.top import NeuroFlex, probe_layout
from neuroflex.sim.memory import MemoryTrace
from neuroflex.tb.bench import Bench

__all__ = ["AcceleratorError", "Call", "RtlAccelerator", "RtlDevice", "Run", "access_script"]

_SHIM = Path(__file__).with_name("accelerator.cpp")
_INPUTS = ("registers_request__valid", "registers_request__payload", "registers_response__ready", "memory__request__ready",
           "memory__write_data__ready", "memory__read_data__valid", "memory__read_data__payload", "memory__write_done__valid",
           "memory__write_done__payload")
_OUTPUTS = ("irq", "registers_request__ready", "registers_response__valid", "registers_response__payload", "memory__request__valid",
            "memory__request__payload", "memory__write_data__valid", "memory__write_data__payload", "memory__read_data__ready",
            "memory__write_done__ready")
TAIL = 4            # cycles after the last answer, so that the end of a run is seen


class AcceleratorError(RuntimeError):
    """The RTL did what no program should make it do: left memory, or never finished.

    Attributes
    ----------
    recorded : (stim, trace) or None
        Every input and output of every cycle until then, when they were to be recorded.
    first : str or None
        The first difference to the model until then, when they were compared.
    """

    def __init__(self, message, *, recorded=None, first=None):
        super().__init__(f"{message}; first difference: {first}" if first else message)
        self.recorded, self.first = recorded, first


@dataclass(frozen=True, eq=False)
class Run:
    """What a job did.

    Attributes
    ----------
    status : Status
    layer : int
        Number of the descriptor at which the job ended.
    counters : dict of str to int
        The performance counters as software reads them.
    layers : int64[n, len(StallCause) + 2]
        Per descriptor: cycles of each cause, then matches of the ANN and of the SNN core.
    cycles : int
        Simulated cycles, register accesses included.
    memory : uint8[lines, line_bytes]
        Memory after the job.
    stim, trace : uint64 arrays or None
        Every input and output of every cycle, packed as the bench does.
    """

    status: Status
    layer: int
    counters: dict
    layers: np.ndarray
    cycles: int
    memory: np.ndarray
    stim: np.ndarray | None = None
    trace: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Call:
    """A job as software starts it.

    Attributes
    ----------
    program : int
        Line address of the first descriptor.
    watchdog : int
        Value of the register.
    reset_after : int, optional
        Soft reset so many cycles after the start, instead of waiting for the interrupt.
    pause : int
        Cycles from the last register access of the job before to the first of this one.
    lines : uint8[lines, line_bytes], optional
        What software makes of memory, all of it, before the first access.
    during : tuple of (address, write, data, wait)
        Further accesses after the start, and ``after`` those between the reading of the counters and the clearing of the interrupt;
        ``wait`` as in :func:`access_script`.
    """

    program: int = 0
    watchdog: int = 1_000_000
    reset_after: int | None = None
    pause: int = 0
    lines: np.ndarray | None = None
    during: tuple = ()
    after: tuple = ()


INTERRUPT, AT_ONCE = -1, -2


def access_script(call):
    """Register accesses of a job: ``(address, write, data, wait)``.

    ``wait``: so many cycles after the last answer, or INTERRUPT, or AT_ONCE: in the cycle after the last request, though its answer is not taken yet.
    """
    offset = {r.name: r.offset for r in regmap.REGISTERS}
    script = [(offset["watchdog"], 1, call.watchdog, call.pause), (offset["program"], 1, call.program, 0), (offset["control"], 1, 0x101, 0)]
    if call.reset_after is not None:
        # The reset may come after the end of a short job: its interrupt must not be taken for the next one's.
        return script + [(offset["control"], 1, 0x102, call.reset_after), (offset["status"], 0, 0, 0), (offset["status"], 1, 2, 0)]
    script += [*call.during, (offset["status"], 0, 0, INTERRUPT)]
    script += [(offset[f"{c.name}_{half}"], 0, 0, 0) for c in regmap.COUNTERS for half in ("low", "high")]
    return script + [*call.after, (offset["status"], 1, 2, 0)]


class RtlAccelerator:
    """The Verilated accelerator of a configuration.

    Parameters
    ----------
    config : ArchConfig
    verilog_edit : callable, optional
        Fault injection, see :class:`Bench`.
    quick : bool
        Build in half of the time, run several times slower: for a few short jobs.
    """

    def __init__(self, config, *, verilog_edit=None, quick=False):
        self.config = config
        self.bench = Bench(NeuroFlex(config=config, probe=True), name=f"neuroflex_{config.name}", verilog_edit=verilog_edit, quick=quick, made_from=config)
        places = self.bench._trace.places | self.bench._stim.places
        probe_start = places["probe"][0]
        self._in = np.array([places[name][:2] for name in _INPUTS], np.int64)
        probe = probe_layout(config)
        inside = [(probe_start + probe[name].offset, probe[name].width) for name in ("layer", "cause", "phase", "ann_matches", "snn_matches")]
        self._out = np.array([places[name][:2] for name in _OUTPUTS] + inside + [(config.address_bits, 0)], np.int64)

    def build(self):
        """Build the simulator now; without this the first run builds it."""
        self.bench.build(extra=_SHIM.read_text())

    def run(self, memory, *, program=0, trace=None, watchdog=1_000_000, most=200_000_000, layers=0, record=False, calls=None, take=None):
        """Run a job, or several one after the other, from reset to the end of the last.

        Parameters
        ----------
        memory : uint8[lines, line_bytes]
            Memory before the job; it is not changed.
        program : int
            Line address of the first descriptor.
        trace : MemoryTrace, optional
            Timing of memory; 20 cycles of latency by default.
        watchdog : int
            Value of the register.
        most : int
            Give up after so many cycles.
        layers : int
            Descriptors to keep sums for.
        record : bool
            Keep every input and output of every cycle.
        calls : list of Call, optional
            Instead of ``program`` and ``watchdog``. Status, layer and counters are those of the last one.
        take : bool[period], optional
            Whether software takes the answer to a register access in cycle ``t % period``; always by default.

        Raises
        ------
        AcceleratorError
            When the RTL asks for a line outside of memory, or does not end in time.
        """
        (status, layer, counters, _), sums, cycles, memory, stim, out = self._run(
            memory, calls or [Call(program=program, watchdog=watchdog)], trace, most, layers, record, take)
        return Run(status=status[-1], layer=layer[-1], counters=counters[-1], layers=sums, cycles=cycles, memory=memory, stim=stim, trace=out)

    def run_calls(self, memory, calls, *, trace=None, most=1_000_000):
        """Run several jobs one after the other, the first from reset.

        Parameters
        ----------
        memory, trace, most
            As for :meth:`run`.
        calls : list of Call

        Returns
        -------
        statuses : list of Status
            Of each job; of one that was reset, what the register says right after.
        phases : list of Phase or None
            What the sequencer was doing when a job was reset; None for one that was not.
        memory : uint8[lines, line_bytes]
            After the last job.
        """
        (statuses, _, _, phases), _, _, memory, _, _ = self._run(memory, calls, trace, most, 0, False)
        return list(statuses), list(phases), memory

    def device(self, memory, *, latency=20):
        """The accelerator as software sees it, from reset on.

        Parameters
        ----------
        memory : uint8[lines, line_bytes]
            Its memory, read and written in place; lines beyond it are answered with a bus error.
        latency : int
            Cycles from the acceptance of a read or of the last line of a write to the answer.

        Returns
        -------
        RtlDevice
        """
        return RtlDevice(self.bench.simulation(extra=_SHIM.read_text()), (self.bench._stim.words, self.bench._trace.words), (self._in, self._out),
                         memory, latency)

    def _run(self, memory, calls, trace, most, layers, record, take=None):
        take = np.ones(1, np.uint8) if take is None else np.ascontiguousarray(take, np.uint8)
        trace = trace or MemoryTrace.constant()
        memory = np.ascontiguousarray(memory, np.uint8).copy()
        scripts = [access_script(call) for call in calls]
        starts = np.cumsum([0] + [len(script) for script in scripts])
        fresh_at = np.array([start for start, call in zip(starts, calls) if call.lines is not None], np.int64)
        fresh = np.concatenate([memory[:0]] + [call.lines for call in calls if call.lines is not None])
        if len(fresh) != len(fresh_at) * len(memory):
            raise ValueError(f"a call's lines must be all {len(memory)} lines of memory")
        accesses = [access for script in scripts for access in script]
        script = np.array([address | write << 8 | data << 9 for address, write, data, _ in accesses], np.uint64)
        wait = np.array([access[3] for access in accesses], np.int64)
        answers, phases = np.zeros(len(script), np.uint64), np.zeros(len(script), np.int64)
        sums = np.zeros((max(1, layers), len(StallCause) + 2), np.int64)
        stim_words, trace_words = self.bench._stim.words, self.bench._trace.words
        size = most if record else 0
        stim, out = np.empty((size, stim_words), np.uint64), np.empty((size, trace_words), np.uint64)
        bad = ctypes.c_int64(-1)
        with self.bench.simulation(extra=_SHIM.read_text()) as simulation:
            function = simulation.library.accelerator_run
            function.restype = ctypes.c_int64
            arguments = [simulation.state, stim_words, trace_words, self._in, self._out, memory, len(memory), self.config.line_bytes]
            for pattern in (trace.request_ready, trace.write_ready, trace.read_go, trace.latency):
                arguments += [pattern, len(pattern)]
            arguments += [trace.answer_latency, trace.error_line, trace.error_write, take, len(take), script, wait, len(script), answers,
                          phases, fresh, fresh_at, len(fresh_at), sums, layers, len(StallCause), most, TAIL,
                          stim if record else None, out if record else None, ctypes.byref(bad)]
            cycles = function(*(_argument(a) for a in arguments))
            failure = simulation.library.simulation_failure()
        problem = None
        if failure:
            problem = f"cycle {cycles}: {failure.decode()}"
        elif bad.value >= 0:
            problem = f"cycle {cycles}: the accelerator asked for line {bad.value}, memory has {len(memory)}"
        elif cycles == most:
            problem = f"the job did not end within {most} cycles"
        if problem:
            raise AcceleratorError(problem, recorded=(stim[:cycles], out[:cycles]) if record else None)
        found = []
        for start, call, script in zip(starts, calls, scripts):
            values = [int(a) & 0xFFFFFFFF for a in answers[start:start + len(script)]]
            # The first read after the interrupt or the reset is that of the status.
            from_ = next(i for i, access in enumerate(script) if access[3] == INTERRUPT or access[:3] == (8, 1, 0x102))
            first = next(i for i in range(from_, len(script)) if not script[i][1])
            numbers = values[first + 1:first + 1 + 2 * len(regmap.COUNTERS)]
            counters = dict(zip((c.name for c in regmap.COUNTERS), (low | high << 32 for low, high in zip(numbers[::2], numbers[1::2]))))
            phase = None if call.reset_after is None else Phase(int(phases[start + from_]))
            found.append((Status(values[first] >> 8 & 255), values[first] >> 16, counters, phase))
        return (tuple(zip(*found)), sums[:layers], cycles, memory, stim[:cycles] if record else None, out[:cycles] if record else None)


class RtlDevice:
    """A running simulation, advanced by accesses to registers and by waiting.

    Attributes
    ----------
    cycles : int
        Simulated while waiting.
    """

    _ANSWER_CYCLES = 1000       # a register answers in two

    def __init__(self, simulation, words, fields, memory, latency):
        if memory.dtype != np.uint8 or memory.ndim != 2 or not memory.flags.c_contiguous:
            raise ValueError("memory must be contiguous uint8 lines")
        self._simulation, self._kept = simulation, (*fields, memory, np.array([latency], np.int64))
        library = simulation.library
        library.device_new.restype = ctypes.c_void_p
        library.device_access.restype = library.device_wait.restype = ctypes.c_int64
        arguments = (simulation.state, *words, *fields, memory, len(memory), memory.shape[1], self._kept[-1])
        self._device = ctypes.c_void_p(library.device_new(*(_argument(a) for a in arguments)))
        self.cycles = 0

    def access(self, address, *, write=False, data=0):
        """Read or write a register.

        Returns
        -------
        int or None
            What was read, 0 for writes; None when there is no register.
        """
        answer = ctypes.c_uint64()
        request = address & 0xFF | bool(write) << 8 | (data & 0xFFFFFFFF) << 9
        if not self._simulation.library.device_access(self._device, ctypes.c_uint64(request), ctypes.byref(answer), ctypes.c_int64(self._ANSWER_CYCLES)):
            raise AcceleratorError(self._failure() or f"no answer from register {address:#x} within {self._ANSWER_CYCLES} cycles")
        return None if answer.value >> 32 else answer.value

    def wait(self, most):
        """Simulate until the interrupt is up; whether it was within ``most`` cycles."""
        cycles = self._simulation.library.device_wait(self._device, ctypes.c_int64(most))
        if cycles < 0 and self._failure():
            raise AcceleratorError(self._failure())
        self.cycles += most if cycles < 0 else cycles
        return cycles >= 0

    def close(self):
        """End the simulation."""
        if self._device:
            self._simulation.library.device_delete(self._device)
            self._device = None
            self._simulation.close()

    def _failure(self):
        return self._simulation.library.simulation_failure().decode()


def _argument(value):
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, (int, np.integer)):
        return ctypes.c_int64(int(value))
    return value
