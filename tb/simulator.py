"""Verilated designs as libraries: built once, cached, run in blocks of cycles.

The design's inputs are bits of one input vector ``stim_vector`` and its outputs are
bits of one output vector ``trace_vector``. A small C++ shim applies one stimulus per
cycle and stores one trace per cycle, so Python acts once per block.
"""

import ctypes
import functools
import hashlib
import os
import subprocess
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path

import cocotb_tools.config
import numpy as np
from filelock import FileLock

from neuroflex.atomic import work_folder
from neuroflex.eda import ToolError, Verilator

__all__ = ["Simulation", "build_cocotb", "build_folder", "build_library", "cached", "telling"]

TOP = "bench"

_SHIM = """\
#include "Vbench.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif
#include <cstdint>
#include <cstring>

static char failure[1024];
void vl_stop(const char*, int, const char*) VL_MT_UNSAFE {
    if (!failure[0]) strcpy(failure, "an assertion in the design failed");
}
void vl_fatal(const char*, int, const char*, const char* message) VL_MT_UNSAFE {
    if (!failure[0]) { strncpy(failure, message, sizeof failure - 1); }
}

struct Simulation {
    VerilatedContext context;
    Vbench top{&context};
    int64_t cycle = 0;
#if VM_TRACE
    VerilatedVcdC vcd;
#endif
    void dump(int half) {
#if VM_TRACE
        if (vcd.isOpen()) vcd.dump(uint64_t(2 * cycle + half));
#endif
    }
    void step() {
        top.clk = 0; top.eval(); dump(0);
        top.clk = 1; top.eval(); dump(1);
        cycle++;
    }
};

#pragma GCC visibility push(default)
extern "C" {
void* simulation_new() {
    auto* s = new Simulation;
    failure[0] = 0;
#if VM_TRACE
    s->context.traceEverOn(true);
    s->top.trace(&s->vcd, 99);
#endif
    memset(&s->top.stim_vector, 0, sizeof s->top.stim_vector);
    s->top.rst = 1;
    s->cycle = -2;
    s->step(); s->step();
    s->top.rst = 0;
    return s;
}
void simulation_delete(void* p) {
    auto* s = static_cast<Simulation*>(p);
#if VM_TRACE
    s->vcd.close();
#endif
    s->top.final();
    delete s;
}
const char* simulation_failure() { return failure; }
void simulation_waves(void* p, const char* path) {
#if VM_TRACE
    static_cast<Simulation*>(p)->vcd.open(path);
#endif
}
int64_t simulation_run(void* p, int64_t cycles, const char* stim, char* trace) {
    auto* s = static_cast<Simulation*>(p);
    for (int64_t i = 0; i < cycles; i++) {
        memcpy(&s->top.stim_vector, stim + i * sizeof s->top.stim_vector, sizeof s->top.stim_vector);
        s->step();
        memcpy(trace + i * sizeof s->top.trace_vector, &s->top.trace_vector, sizeof s->top.trace_vector);
        if (failure[0]) return i;
    }
    return cycles;
}
}
#pragma GCC visibility pop
"""

# VerilatedContext's thread pool wants pthread.
_COMPILE = ("-O1", "-std=gnu++17", "-fPIC", "-w", "-pthread",
            "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0",
            "-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0")
# The shim's own vl_stop and vl_fatal: a failed assertion must not end this process. The rest keeps several designs
# in one process apart.
_LIBRARY = ("-DVL_USER_STOP", "-DVL_USER_FATAL", "-fvisibility=hidden", "-fno-gnu-unique")
_VERILATE = ("--cc", "-O3", "--no-timing", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--top-module", TOP)
def _public(ports):
    """Verilator's file that shows these ports of the top to cocotb, and nothing else: all signals cost a factor of 4."""
    return "`verilator_config\n" + "".join(f'public_flat_rw -module "{TOP}" -var "{port}"\n' for port in ports)


def build_folder():
    """Folder of everything that can be built again: ``build`` where the command was started."""
    return Path.cwd() / "build"


_begin = ContextVar("begin", default=lambda: None)      # called when something has to be built


@contextmanager
def telling(show, text):
    """A block whose first build, if there is one, begins a step of ``show`` (`neuroflex.progress.Display`), which ends with the block."""
    with ExitStack() as steps:
        token = _begin.set(functools.cache(lambda: steps.enter_context(show.step(text))))
        try:
            yield
        finally:
            _begin.reset(token)


def cached(name, key, make):
    """Folder ``build/bench/<name>-<hash of key>``, made by ``make(folder)`` if it is not there.

    Safe with several processes: one builds, the others wait, and a folder
    appears under its name only when it is complete. What a build that was killed
    has left is removed by the next one.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    folder = build_folder() / "bench" / f"{name}-{digest}"
    if not folder.exists():
        _begin.get()()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                with work_folder(folder.parent, ".work") as work:
                    make(work)
                    os.rename(work, folder)
    return folder


def build_library(name, verilog, *, waves=False, extra="", quick=False):
    """Compile a design with ports ``clk``, ``rst``, ``stim_vector``, ``trace_vector`` and top module ``bench``.

    Parameters
    ----------
    name : str
        What to call the folder.
    verilog : str
        The text. Both vectors must have more than 64 bits.
    waves : bool
        Whether the library can write a VCD (slower to build and to run).
    extra : str
        C++ to compile behind the shim, for a loop of its own around ``Simulation``.
    quick : bool
        Compile without optimisation.

    Returns
    -------
    Path
        The shared library.
    """
    tool = Verilator.find()
    flags = (*_COMPILE, *_LIBRARY, f"-DVM_TRACE={int(waves)}", f"-DVM_TRACE_VCD={int(waves)}",
             *_includes(tool))
    optimise = ("-O0",) if quick else ()
    verilate = (*_VERILATE, "--prefix", "Vbench", *(("--trace-vcd",) if waves else ()))
    parts = ("verilated", "verilated_threads", *(("verilated_vcd_c",) if waves else ()))
    runtime = cached("runtime-waves" if waves else "runtime", (tool.version, flags),
                     lambda folder: _compile_runtime(folder, tool, flags, parts))

    def make(folder):
        _verilate(name, verilog, tool, verilate, folder, _SHIM + extra)
        _gxx(*flags, *optimise, "-shared", "all.cpp", *sorted(runtime.glob("*.o")), "-o", "design.so", cwd=folder)
        for path in folder.glob("V*"):
            path.unlink()

    return cached(name, (verilog, _SHIM, extra, tool.version, verilate, flags, optimise), make) / "design.so"


def build_cocotb(name, verilog, ports=("clk", "rst", "stim_vector", "trace_vector")):
    """Compile a design with the top module ``bench`` into a simulator that cocotb drives.

    Parameters
    ----------
    name : str
        What to call the folder.
    verilog : str
        The text.
    ports : tuple of str
        Of the top module: all that the cocotb test uses.

    Returns
    -------
    Path
        The executable, ``bench``.
    """
    tool = Verilator.find()
    flags = (*_COMPILE, "-DVM_TRACE=0", "-DVM_TRACE_VCD=0", *_includes(tool))
    verilate = (*_VERILATE, "--vpi", "--prefix", "Vtop", "public.vlt")
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    libraries, public = cocotb_tools.config.libs_dir, _public(ports)
    runtime = cached("runtime-cocotb", (tool.version, flags), lambda folder: _compile_runtime(
        folder, tool, flags, ("verilated", "verilated_threads", "verilated_vpi")))

    def make(folder):
        (folder / "public.vlt").write_text(public)
        _verilate(name, verilog, tool, verilate, folder, f'#include "{main}"\n')
        _gxx(*flags, "-I.", "-rdynamic", "all.cpp", *sorted(runtime.glob("*.o")), f"-Wl,-rpath,{libraries}", f"-L{libraries}",
             "-lcocotbvpi_verilator", "-o", TOP, cwd=folder)
        for path in folder.glob("V*"):
            path.unlink()

    return cached(f"{name}-cocotb", (verilog, public, tool.version, verilate, flags, str(libraries),
                                     metadata.version("cocotb")), make) / TOP


def _includes(tool):
    return f"-I{tool.root / 'include'}", f"-I{tool.root / 'include' / 'vltstd'}"


def _verilate(name, verilog, tool, arguments, folder, main):
    """Write ``all.cpp`` in `folder`: the design as C++ and then `main`."""
    (folder / "design.v").write_text(verilog)
    done = tool.run(*arguments, "--Mdir", ".", "design.v", cwd=folder)
    if done.returncode:
        raise ToolError(f"Verilator refused {name}; it printed last:\n{done.stdout[-2000:]}")
    sources = sorted(path.name for path in folder.glob("V*.cpp"))
    (folder / "all.cpp").write_text("".join(f'#include "{path}"\n' for path in sources) + main)


def _compile_runtime(folder, tool, flags, parts):
    for part in parts:
        _gxx(*flags, "-c", tool.root / "include" / f"{part}.cpp", "-o", f"{part}.o", cwd=folder)


def _gxx(*arguments, cwd):
    done = subprocess.run(["g++", *map(str, arguments)], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise ToolError("g++ failed; it printed:\n" + done.stdout[:2000])


class Simulation:
    """One run of a library made by `build_library`, from reset on.

    Parameters
    ----------
    library : Path
        The shared library.
    stim_words, trace_words : int
        Lengths of the two vectors in 64-bit words.
    """

    def __init__(self, library, stim_words, trace_words):
        self._state = None
        self._library = lib = ctypes.CDLL(str(library))
        lib.simulation_new.restype = ctypes.c_void_p
        lib.simulation_failure.restype = ctypes.c_char_p
        lib.simulation_run.restype = ctypes.c_int64
        lib.simulation_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        lib.simulation_waves.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.simulation_delete.argtypes = [ctypes.c_void_p]
        self._words = (stim_words, trace_words)
        self._state = lib.simulation_new()
        self.cycle = 0

    def step(self, stim):
        """Simulate one cycle per row of `stim`.

        Parameters
        ----------
        stim : ndarray of uint64, shape (cycles, stim_words)

        Returns
        -------
        ndarray of uint64, shape (cycles, trace_words)
            The outputs of each cycle, settled with that cycle's inputs.

        Raises
        ------
        AssertionError
            If an assertion in the design fails, with the cycle.
        """
        stim_words, trace_words = self._words
        stim = np.ascontiguousarray(stim, np.uint64)
        if stim.ndim != 2 or stim.shape[1] != stim_words:
            raise ValueError(f"stim must have the shape (cycles, {stim_words}), not {stim.shape}")
        trace = np.empty((len(stim), trace_words), np.uint64)
        done = self._library.simulation_run(self._state, len(stim), stim.ctypes.data, trace.ctypes.data)
        self.cycle += done
        if done < len(stim):
            raise AssertionError(f"cycle {self.cycle}: {self._library.simulation_failure().decode()}")
        return trace

    @property
    def library(self):
        """The loaded library, for functions compiled with it as ``extra``."""
        return self._library

    @property
    def state(self):
        """Pointer to the library's ``Simulation``."""
        return ctypes.c_void_p(self._state)

    def open_waves(self, path):
        """Write a VCD from the next cycle on; the library must have been built with waves."""
        self._library.simulation_waves(self._state, str(path).encode())

    def close(self):
        """End the simulation and close its VCD."""
        if self._state:
            self._library.simulation_delete(self._state)
            self._state = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    __del__ = close
