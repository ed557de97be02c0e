"""The accelerator's RTL with its AXI shell in a system: a processor that accesses registers, a memory with latency and stalls.

The Verilated :class:`~neuroflex.hdl.shell.AxiShell` runs as a library with the loop around it in C++ (``axi_system.cpp``): what a driver sees
of it is what it would see on a board.
"""
import ctypes
import functools
from pathlib import Path

import numpy as np

from neuroflex.axi import PAGE_BYTES, AxiConfig, Response
from neuroflex.hdl.shell import AxiShell
from neuroflex.tb.bench import Bench

__all__ = ["CHANNELS", "AxiSystem", "BusError", "SystemFault", "shell_bench"]

_SHIM = Path(__file__).with_name("axi_system.cpp")
_MASTER_IN = ("awready", "wready", "bvalid", "bresp", "arready", "rvalid", "rdata", "rresp", "rlast")
_SLAVE_IN = ("awvalid", "awaddr", "wvalid", "wdata", "wstrb", "bready", "arvalid", "araddr", "rready")
_MASTER_OUT = ("awvalid", "awaddr", "awlen", "wvalid", "wdata", "wstrb", "wlast", "bready", "arvalid", "araddr", "arlen", "rready")
_SLAVE_OUT = ("awready", "wready", "bvalid", "bresp", "arready", "rvalid", "rdata", "rresp")
_MOST = 1000            # cycles for a register access
CHANNELS = ("ar", "r", "aw", "w", "b")


class BusError(RuntimeError):
    """A register access was answered with SLVERR or DECERR."""


class SystemFault(RuntimeError):
    """The RTL did what nothing should make it do: left memory, did not answer, failed an assertion."""


@functools.cache        # making the Verilog takes longer than a run
def shell_bench(config, axi, verilog_edit=None, quick=False):
    """Bench of an `AxiShell`, with the system around it compiled in; arguments as for `AxiSystem`."""
    return Bench(AxiShell(config=config, axi=axi), name=f"axi_shell_{config.name}", verilog_edit=verilog_edit, quick=quick, extra=_SHIM.read_text(),
                 made_from=(config, axi))


class AxiSystem:
    """A simulation of the accelerator in a system; time passes only in register accesses and :meth:`wait`.

    Parameters
    ----------
    config : ArchConfig
    axi : AxiConfig
    memory_bytes : int
        Size of memory, whole pages.
    base : int
        Byte address of memory, a whole page.
    latency : int
        Cycles from a read's address to its first beat, from a write's last beat to its answer.
    stall : float
        Chance that a channel of memory waits in a cycle.
    seed : int
        Of the stalls.
    verilog_edit : callable, optional
        Fault injection, see :class:`~neuroflex.tb.bench.Bench`.
    quick : bool
        Build in half the time a simulator that runs at a fraction of the speed: for short runs.

    Attributes
    ----------
    memory : uint8[memory_bytes]
        Its content: read and write it at any time.
    """

    def __init__(self, config, axi=AxiConfig(), *, memory_bytes=1 << 22, base=0x1000_0000, latency=20, stall=0.0, seed=1, verilog_edit=None, quick=False):
        if memory_bytes % PAGE_BYTES or base % PAGE_BYTES or base + memory_bytes > 1 << axi.address_bits:
            raise ValueError(f"memory must be whole pages of {PAGE_BYTES} bytes within {axi.address_bits} address bits")
        self.config, self.axi, self.base = config, axi, base
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.bench = shell_bench(config, axi, verilog_edit, quick)
        stim, trace = self.bench._stim, self.bench._trace
        inputs = np.array([stim.places[f"m_axi_{n}"][:2] for n in _MASTER_IN] + [stim.places[f"s_axi_{n}"][:2] for n in _SLAVE_IN], np.int64)
        outputs = np.array([trace.places[f"m_axi_{n}"][:2] for n in _MASTER_OUT] + [trace.places[f"s_axi_{n}"][:2] for n in _SLAVE_OUT]
                           + [trace.places["irq"][:2]], np.int64)
        self._simulation = self.bench.simulation()
        library = self._library = self._simulation.library
        library.system_new.restype = ctypes.c_void_p
        library.system_access.restype = library.system_accesses.restype = library.system_wait.restype = ctypes.c_int64
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (inputs, outputs, self.memory)]
        self._system = ctypes.c_void_p(library.system_new(
            self._simulation.state, ctypes.c_int64(stim.words), ctypes.c_int64(trace.words), *pointers,
            *(ctypes.c_int64(v) for v in (base, memory_bytes, axi.beat_bytes, latency, round(256 * stall), seed))))

    def read(self, offset):
        """A register's value; ``offset`` in bytes. :class:`BusError` when the bus says so."""
        return self._access(0, offset, 0)

    def write(self, offset, value):
        """Write a register."""
        self._access(1, offset, value)

    def wait(self, cycles, *, until_interrupt=False):
        """Let cycles pass, fewer when the interrupt is awaited and up; returns how many."""
        passed = self._library.system_wait(self._system, ctypes.c_int64(cycles), ctypes.c_int64(until_interrupt))
        self._check()
        return passed

    @property
    def interrupt(self):
        """Whether the interrupt was up in the last cycle."""
        return bool(self._state()[1])

    @property
    def cycle(self):
        """Cycles since reset."""
        return int(self._state()[0])

    @property
    def traffic(self):
        """Most read bursts under way at a time, bursts read, bursts written."""
        return tuple(int(v) for v in self._state()[3:6])

    @property
    def faults(self):
        """Read bursts refused, write bursts refused, cycles in which a long stall held something up."""
        return tuple(int(v) for v in self._state()[6:])

    def refuse(self, *, read=-1, write=-1, response=Response.SLVERR, beat=-1):
        """Let memory refuse one burst: the read, the write with this number from now on, 0 is the next; -1 for none. The data of a refused read are wrong.

        ``beat`` is the one of a read's that has the error, counted from the last one; all of them by default, and with DECERR.
        """
        self._library.system_fail(self._system, *(ctypes.c_int64(int(v)) for v in (read, write, response, beat)))

    def manners(self, *, chaos=0.0, decodes=False, lies=False):
        """How memory behaves from now on: the chance that a burst is refused; whether what lies outside of memory is answered with DECERR, not taken for a fault of the
        circuit; whether refusals go untold (a fault of the system, to see that tests notice)."""
        self._library.system_manners(self._system, ctypes.c_int64(round(65536 * chaos)), ctypes.c_int64(decodes), ctypes.c_int64(lies))

    def stall(self, channel, after, cycles):
        """Nothing moves on one of `CHANNELS` for so many cycles, from ``after`` cycles on."""
        self._library.system_stall(self._system, *(ctypes.c_int64(int(v)) for v in (CHANNELS.index(channel), after, cycles)))

    def accesses(self, write, offsets, values, strobes):
        """Register accesses one after the other, arrays of one length: what was read (or written), and the responses."""
        what = np.asarray(write, np.int64) | np.asarray(strobes, np.int64) << 1
        offsets, values, responses = np.asarray(offsets, np.uint64), np.array(values, np.uint64), np.zeros(len(what), np.uint64)
        done = self._library.system_accesses(self._system, ctypes.c_int64(len(what)), *(ctypes.c_void_p(a.ctypes.data) for a in (what, offsets, values, responses)),
                                             ctypes.c_int64(_MOST))
        self._check()
        if done < len(what):
            raise SystemFault(f"the {'write to' if write[done] else 'read of'} register 0x{int(offsets[done]):03X} was not answered within {_MOST} cycles")
        return values & 0xFFFFFFFF, responses

    def close(self):
        """End the simulation."""
        if self._system:
            self._library.system_delete(self._system)
            self._simulation.close()
            self._system = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _access(self, write, offset, value):
        data, response = ctypes.c_uint64(value), ctypes.c_uint64(0)
        late = self._library.system_access(self._system, ctypes.c_int64(write), ctypes.c_uint64(offset), ctypes.byref(data), ctypes.byref(response),
                                           ctypes.c_int64(_MOST))
        if late:
            raise SystemFault(f"the {'write to' if write else 'read of'} register 0x{offset:03X} was not answered within {_MOST} cycles")
        self._check()
        if response.value:
            raise BusError(f"the {'write to' if write else 'read of'} register 0x{offset:03X} was refused")
        return data.value & 0xFFFFFFFF

    def _state(self):
        state = np.zeros(9, np.int64)
        self._library.system_state(self._system, ctypes.c_void_p(state.ctypes.data))
        return state

    def _check(self):
        failure, bad = self._library.simulation_failure(), int(self._state()[2])
        if failure:
            raise SystemFault(failure.decode())
        if bad >= 0:
            raise SystemFault(f"cycle {self.cycle}: the accelerator left memory, at 0x{bad:X}")
