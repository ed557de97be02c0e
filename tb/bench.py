"""A block against its golden model, every output in every cycle.

`Bench` turns an Amaranth component into Verilog and that into a simulator. A
golden model computes the expected outputs of a whole run beforehand; the bench
applies the stimuli, records the outputs, and names the first difference.
"""

import re
from pathlib import Path

import numpy as np
from amaranth.hdl import Value
from amaranth.lib.wiring import Out

from neuroflex.eda import to_verilog
from neuroflex.generate import sources_digest

from .bits import Layout
from .simulator import TOP, Simulation, build_folder, build_library, cached

__all__ = ["Bench", "Mismatch", "Session"]

_BLOCK = 1 << 16        # cycles simulated and compared at a time
_WINDOW = 200           # cycles of waves before the first difference


class Mismatch(AssertionError):
    """Circuit and model differ.

    Attributes
    ----------
    cycle : int
        The first cycle in which an output differs; 0 is the first after reset.
    signal : str
        The port; the first in port order if several differ.
    got, want : int
        Values of the circuit and of the model, unsigned.
    waves : Path or None
        A VCD of the cycles up to the difference.
    """

    def __init__(self, message, *, cycle, signal, got, want, waves=None):
        super().__init__(message)
        self.cycle, self.signal, self.got, self.want, self.waves = cycle, signal, got, want, waves


def _kept_verilog(component, name, made_from):
    """The Verilog of a component, generated when it is needed for the first time with these sources."""
    key = (type(component).__qualname__, repr(made_from), sources_digest())
    return (cached(f"{name}-verilog", key, lambda folder: (folder / "design.v").write_text(to_verilog(component, name))) / "design.v").read_text()


class Bench:
    """Simulates a component and compares it with a model.

    The Verilog and its builds are made when first needed and kept in
    ``build/bench`` under a hash of the text, the flags, and the tool versions.

    Parameters
    ----------
    component : amaranth.lib.wiring.Component
        The block. It may have one clock domain, ``sync``, or none.
    name : str
        Name of the Verilog top module.
    verilog_edit : callable, optional
        Fault injection: takes the Verilog text and returns it changed. No waves are written then.
    quick : bool
        Do not optimise the library: large designs build in half of the time and run several times slower.
    extra : str
        C++ that goes into every library, so that runs with and without it share one build (see `neuroflex.tb.simulator.build_library`).
    made_from : object, optional
        Whose ``repr`` says all that the component was made from, besides this project's sources: its Verilog is then kept too, since large designs take longer to
        elaborate than to simulate.

    Attributes
    ----------
    verilog : str
        The text under test.
    inputs, outputs : dict of str to int
        Widths of the ports by their Verilog names.

    Raises
    ------
    ValueError
        If `verilog_edit` changes nothing.
    """

    def __init__(self, component, name, *, verilog_edit=None, quick=False, extra="", made_from=None):
        self.name = name
        ports = []
        for path, member, value in component.signature.flatten(component):
            shape = Value.cast(value).shape()
            ports.append(("__".join(map(str, path)), shape.width, shape.signed, member.flow is Out))
        self._stim = Layout(port[:3] for port in ports if not port[3])
        self._trace = Layout(port[:3] for port in ports if port[3])
        self.inputs = {port: place[1] for port, place in self._stim.places.items()}
        self.outputs = {port: place[1] for port, place in self._trace.places.items()}
        verilog = to_verilog(component, name) if made_from is None else _kept_verilog(component, name, made_from)
        self._broken_on_purpose = verilog_edit is not None
        self._quick, self._extra = quick, extra
        self._libraries = {}
        if verilog_edit is not None:
            edited = verilog_edit(verilog)
            if edited == verilog:
                raise ValueError(f"verilog_edit left the Verilog of {name} as it was")
            verilog = edited
        self.verilog = verilog

    def run(self, stimulus, expected, where=None, engine="library", seed=None):
        """Simulate and compare every output in every cycle.

        Parameters
        ----------
        stimulus : dict of str to array
            Values of input ports, one per cycle: 1-D integers up to 64 bits,
            ``(cycles, words)`` uint64 above (see `neuroflex.tb.bits`). A scalar
            holds for all cycles; ports left out are 0.
        expected : dict of str to array
            Values of *all* output ports, in the same form. Cycle 0 is the first
            after reset; an output's value is the one settled with that cycle's
            inputs, before the clock edge.
        where : dict of str to bool array, optional
            Cycles in which an output counts, for payloads without ``valid``.
        engine : {"library", "cocotb"}
            ``library`` runs the Verilated design in this process in blocks of
            cycles; ``cocotb`` runs the same vectors through a cocotb test.
        seed : int, optional
            Named in the message of a mismatch, to repeat the run.

        Returns
        -------
        int
            Number of cycles compared.

        Raises
        ------
        Mismatch
            At the first difference; a VCD of the cycles before it is written
            to ``build/waves``.
        ValueError
            If an output is missing in `expected` or lengths differ.
        """
        missing = self.outputs.keys() - expected.keys()
        if missing:
            raise ValueError(f"expected lacks the outputs {', '.join(sorted(missing))}")
        cycles = _cycles(expected)
        stim = self._stim.pack(stimulus, cycles, what="stimulus")
        want = self._trace.pack(expected, cycles, what="expected")
        mask = self._trace.mask(where, cycles) if where else None
        if engine == "library":
            found = self._first_difference(stim, want, mask)
        elif engine == "cocotb":
            from .replay import replay
            found = replay(self.name, self._wrapped(), stim, want, mask)
        else:
            raise ValueError(f"engine must be 'library' or 'cocotb', not {engine!r}")
        if found is not None:
            self._raise(*found, stim, want, mask, seed)
        return cycles

    def record(self, stimulus, signals=None, cycles=None):
        """Simulate without a model.

        Parameters
        ----------
        stimulus : dict of str to array
            As for `run`.
        signals : iterable of str, optional
            The outputs to return; all by default.
        cycles : int, optional
            Length of the run; by default that of the stimuli.

        Returns
        -------
        dict of str to ndarray
            int64 up to 63 bits and for signed ports of 64, else uint64.
        """
        with self.session() as session:
            return session.step(stimulus, signals, cycles)

    def session(self):
        """Start a simulation that is advanced piece by piece.

        Returns
        -------
        Session
            A context manager.
        """
        return Session(self._simulation(), self._stim, self._trace)

    def simulation(self, extra=""):
        """A simulation in packed words, with ``extra`` C++ compiled in instead of the bench's own."""
        return self._simulation(extra=extra)

    def build(self, extra=""):
        """Build the library that `simulation` with the same ``extra`` runs, unless there is one."""
        self._library(extra=extra)

    def _library(self, waves=False, extra=""):
        extra = extra or self._extra
        if (waves, extra) not in self._libraries:       # finding a build again means hashing all of the text
            self._libraries[waves, extra] = build_library(self.name, self._wrapped(), waves=waves, extra=extra, quick=self._quick)
        return self._libraries[waves, extra]

    def _simulation(self, waves=False, extra=""):
        return Simulation(self._library(waves, extra), self._stim.words, self._trace.words)

    def _first_difference(self, stim, want, mask):
        """``(cycle, trace words)`` of the first difference, or None."""
        with self._simulation() as simulation:
            for start in range(0, len(stim), _BLOCK):
                block = slice(start, start + _BLOCK)
                got = simulation.step(stim[block])
                if mask is None and np.array_equal(got, want[block]):
                    continue
                differ = got ^ want[block]
                if mask is not None:
                    differ &= mask[block]
                rows = differ.any(axis=1)
                if rows.any():
                    row = int(rows.argmax())
                    return start + row, got[row]
        return None

    def _raise(self, cycle, got_words, stim, want, mask, seed):
        counts = np.full(self._trace.words, 2**64 - 1, np.uint64) if mask is None else mask[cycle]
        got, expected = (self._trace.unpack((words & counts)[None]) for words in (got_words, want[cycle]))
        signal = next(name for name in got if not np.array_equal(got[name], expected[name]))
        got, expected = (_unsigned(values[signal], self.outputs[signal]) for values in (got, expected))
        waves = self.write_waves(stim, cycle)
        raise Mismatch(f"{self.name}: cycle {cycle}: {signal} is {got:#x}, the model says {expected:#x}"
                       f"{'' if seed is None else f' (seed {seed})'}; waves: {waves}",
                       cycle=cycle, signal=signal, got=got, want=expected, waves=waves)

    def write_waves(self, stim, cycle):
        """Run again, traced, and write the waves around a cycle to ``build/waves``.

        Parameters
        ----------
        stim : uint64[cycles, words]
            Every input of every cycle from reset on, packed.
        cycle : int
            The waves are those of the 200 cycles before it, and of the one after.

        Returns
        -------
        Path or None
            The VCD; time ``2 * t`` is cycle ``t``. None when the circuit is broken on purpose.
        """
        if self._broken_on_purpose:
            return None
        folder = build_folder() / "waves"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}-{cycle}.vcd"
        start = max(0, cycle - _WINDOW)
        with self._simulation(waves=True) as simulation:
            for block in range(0, start, _BLOCK):
                simulation.step(stim[block:min(block + _BLOCK, start)])
            simulation.open_waves(path)
            simulation.step(stim[start:cycle + 2])
        return path

    def _wrapped(self):
        """The Verilog under a top module that gathers the ports in two vectors.

        The outputs are sampled at the clock edge that ends a cycle, so that one
        read per cycle sees the settled outputs with every simulator.
        """
        head = re.search(rf"^module {self.name}\((.*?)\);", self.verilog, re.MULTILINE | re.DOTALL)
        clocked = {"clk", "rst"} & {port.strip() for port in head[1].split(",")}
        pins = [f".{pin}({pin})" for pin in sorted(clocked)]
        pins += [f".{name}(stim_vector[{start} +: {width}])" for name, (start, width, _) in self._stim.places.items()]
        pins += [f".{name}(settled[{start} +: {width}])" for name, (start, width, _) in self._trace.places.items()]
        wrapper = (f"module {TOP}(input clk, input rst, input [{64 * self._stim.words - 1}:0] stim_vector,"
                   f" output reg [{64 * self._trace.words - 1}:0] trace_vector);\n"
                   f"  wire [{64 * self._trace.words - 1}:0] settled;\n"
                   f"{self._unused_bits()}"
                   f"  {self.name} dut({', '.join(pins)});\n"
                   "  always @(posedge clk) trace_vector <= settled;\n"
                   "endmodule\n")
        return self.verilog + wrapper

    def _unused_bits(self):
        used = np.zeros(64 * self._trace.words, bool)
        for start, width, _ in self._trace.places.values():
            used[start:start + width] = True
        edges = np.flatnonzero(np.diff(np.r_[True, used, True].astype(int)))
        return "".join(f"  assign settled[{stop - 1}:{start}] = 0;\n" for start, stop in edges.reshape(-1, 2))


class Session:
    """A simulation in progress, fed piece by piece.

    Attributes
    ----------
    cycle : int
        Number of cycles done; 0 is the first after reset.
    """

    def __init__(self, simulation, stim, trace):
        self._simulation, self._stim, self._trace = simulation, stim, trace

    @property
    def cycle(self):
        return self._simulation.cycle

    def step(self, stimulus, signals=None, cycles=None):
        """Simulate some cycles.

        Parameters
        ----------
        stimulus : dict of str to array
            As for `Bench.run`.
        signals : iterable of str, optional
            The outputs to return; all by default.
        cycles : int, optional
            How many; by default the length of the stimuli.

        Returns
        -------
        dict of str to ndarray
            As from `Bench.record`.
        """
        cycles = _cycles(stimulus) if cycles is None else cycles
        trace = self._simulation.step(self._stim.pack(stimulus, cycles, what="stimulus"))
        return self._trace.unpack(trace, signals)

    def step_words(self, stim_words):
        """As `step`, in packed words: ``(cycles, words)`` uint64 to the same."""
        return self._simulation.step(stim_words)

    def close(self):
        """End the simulation."""
        self._simulation.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _cycles(values):
    lengths = {len(array) for array in map(np.asarray, values.values()) if array.ndim}
    if len(lengths) != 1:
        raise ValueError(f"the arrays must have one length, not {sorted(lengths) or 'none'}")
    return lengths.pop()


def _unsigned(values, width):
    words = np.atleast_1d(values[0]).astype(np.uint64)
    return sum(int(word) << 64 * i for i, word in enumerate(words)) % 2**width
