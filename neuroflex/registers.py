"""The register map of the accelerator: the one definition that circuit, driver, header and documentation derive from."""
from dataclasses import dataclass
from enum import Enum

from neuroflex.formats import StallCause

__all__ = ["COUNTERS", "IDENTITY", "MAX_LATENCY", "REGISTERS", "SHELL_REGISTERS", "Access", "Counter", "Register", "RegisterField", "VERSION", "WATCHDOG",
           "config_words", "register", "shell_words", "to_c_header", "to_json", "to_markdown"]

IDENTITY = 0x4E464C58   # "NFLX"
VERSION = 0x00010001


class Access(str, Enum):
    """Who may do what: RO read only, RW read and write, WO write only (reads 0), W1P write one for a pulse (reads 0), W1C write one to clear."""

    RO = "ro"
    RW = "rw"
    WO = "wo"
    W1P = "w1p"
    W1C = "w1c"


@dataclass(frozen=True)
class RegisterField:
    name: str
    lsb: int
    bits: int
    access: Access
    doc: str
    reset: int = 0


@dataclass(frozen=True)
class Register:
    """A 32-bit register at a byte ``offset``."""

    name: str
    offset: int
    doc: str
    fields: tuple


@dataclass(frozen=True)
class Counter:
    name: str
    doc: str


def _whole(name, offset, access, doc, reset=0):
    return Register(name, offset, doc, (RegisterField("value", 0, 32, access, doc, reset),))


COUNTERS = (
    Counter("cycles", "cycles from start to the end of the job"),
    *(Counter(f"cycles_{cause.name.lower()}", f"cycles whose cause was {cause.name}: see StallCause") for cause in StallCause),
    Counter("matches_ann", "matches issued by the ANN core"),
    Counter("matches_snn", "matches issued by the SNN core"),
    Counter("cache_hits", "cache reads that hit"),
    Counter("cache_misses", "cache reads that missed"),
    Counter("cache_evictions", "dirty lines written back"),
)
_COUNTER_BASE = 0x40

WATCHDOG = 1_000_000            # after reset
MAX_LATENCY = WATCHDOG // 2     # cycles of a memory in simulation: a slower one would come near the watchdog, which the model of jobs is without

REGISTERS = (
    _whole("identity", 0x00, Access.RO, "0x4E464C58, 'NFLX'", IDENTITY),
    _whole("version", 0x04, Access.RO, "major[31:16], minor[15:0]", VERSION),
    Register("control", 0x08, "starts and stops jobs", (
        RegisterField("start", 0, 1, Access.W1P, "start the program at `program`; ignored while busy"),
        RegisterField("soft_reset", 1, 1, Access.W1P, "abandon the job; the core stays busy until memory has answered what was asked"),
        RegisterField("interrupt_enable", 8, 1, Access.RW, "raise the interrupt while `status.finished` is set"),
    )),
    Register("status", 0x0C, "state of the job", (
        RegisterField("busy", 0, 1, Access.RO, "a job runs, or a soft reset is under way"),
        RegisterField("finished", 1, 1, Access.W1C, "a job ended, well or not, since this was last cleared"),
        RegisterField("code", 8, 8, Access.RO, "Status of the last job"),
        RegisterField("layer", 16, 16, Access.RO, "number of the descriptor in work, or at which the job ended"),
    )),
    _whole("program", 0x10, Access.RW, "line address of the first descriptor"),
    _whole("watchdog", 0x14, Access.RW, "cycles without progress after which a job is stopped; 0 = never", WATCHDOG),
    Register("config0", 0x18, "what was built", (
        RegisterField("chunk_bits", 0, 16, Access.RO, "ArchConfig.chunk_bits"),
        RegisterField("ann_pes", 16, 8, Access.RO, "ArchConfig.ann_pes"),
        RegisterField("snn_pes", 24, 8, Access.RO, "ArchConfig.snn_pes"),
    )),
    Register("config1", 0x1C, "what was built", (
        RegisterField("columns_per_pe", 0, 8, Access.RO, "ArchConfig.columns_per_pe"),
        RegisterField("slots", 8, 8, Access.RO, "ArchConfig.slots"),
        RegisterField("row_buffers", 16, 8, Access.RO, "ArchConfig.row_buffers"),
        RegisterField("snn_levels", 24, 8, Access.RO, "ArchConfig.snn_levels"),
    )),
    Register("config2", 0x20, "what was built", (
        RegisterField("fingerprint", 0, 32, Access.RO, "ArchConfig.fingerprint, by which configurations differ that are equal in the two registers before"),
    )),
    *(register for index, counter in enumerate(COUNTERS) for register in (
        _whole(f"{counter.name}_low", _COUNTER_BASE + 8 * index, Access.RO, f"{counter.doc}, bits 31:0"),
        _whole(f"{counter.name}_high", _COUNTER_BASE + 8 * index + 4, Access.RO, f"{counter.doc}, bits 47:32"))),
)

# Registers of the AXI shell, in the same page as the accelerator's: docs/axi.md. Pages of memory have 4096 bytes.
SHELL_REGISTERS = (
    Register("shell", 0x100, "what was built", (
        RegisterField("data_bytes", 0, 8, Access.RO, "bytes of a beat of the memory bus"),
        RegisterField("burst_beats_log2", 8, 8, Access.RO, "log2 of the most beats of a burst"),
        RegisterField("address_bits", 16, 8, Access.RO, "bits of a byte address"),
        RegisterField("jobs", 24, 8, Access.RO, "jobs that the queue holds besides the one that runs"),
    )),
    _whole("program_page", 0x104, Access.RW, "page of line 0, for lines below tensor_line"),
    _whole("tensor_page", 0x108, Access.RW, "page of line 0, for lines from tensor_line on, of jobs that are started directly"),
    _whole("tensor_line", 0x10C, Access.RW, "line address from which the tensors' page counts", 0xFFFFFFFF),
    Register("queue_control", 0x110, "the queue of jobs", (
        RegisterField("flush", 0, 1, Access.W1P, "forget waiting jobs and results, abandon the queued job that runs"),
        RegisterField("interrupt_enable", 8, 1, Access.RW, "raise the interrupt while a result waits"),
    )),
    Register("queue_status", 0x114, "the queue of jobs", (
        RegisterField("waiting", 0, 8, Access.RO, "jobs that have not begun"),
        RegisterField("running", 8, 1, Access.RO, "a queued job is in work, or being abandoned"),
        RegisterField("results", 16, 8, Access.RO, "results that have not been taken"),
    )),
    _whole("queue_program", 0x118, Access.RW, "line address of the first descriptor, for jobs pushed from now on"),
    _whole("queue_push", 0x11C, Access.WO, "queue a job whose tensors' page is this; refused with an error when the queue is full"),
    Register("queue_result", 0x120, "the oldest result", (
        RegisterField("valid", 0, 1, Access.W1C, "there is one; write 1 to take it"),
        RegisterField("code", 8, 8, Access.RO, "Status of the job"),
        RegisterField("layer", 16, 16, Access.RO, "number of the descriptor at which the job ended"),
    )),
    _whole("queue_result_cycles", 0x124, Access.RO, "cycles of that job, bits 31:0"),
)


def register(name):
    """A register by name, the shell's too; KeyError names the known ones."""
    for candidate in REGISTERS + SHELL_REGISTERS:
        if candidate.name == name:
            return candidate
    raise KeyError(f"no register {name!r}; there are {', '.join(r.name for r in REGISTERS + SHELL_REGISTERS)}")


def shell_words(axi):
    """Values of the registers that describe the AXI shell, by register name."""
    return {"shell": axi.beat_bytes | (axi.burst_beats.bit_length() - 1) << 8 | axi.address_bits << 16 | axi.jobs << 24}


def config_words(config):
    """Values of the registers that describe the configuration, by register name."""
    return {reg.name: sum(getattr(config, f.name) << f.lsb for f in reg.fields)
            for reg in REGISTERS if reg.name.startswith("config")}


def to_json(registers=REGISTERS):
    """The map as plain data, for ``json.dump``."""
    return [{"name": r.name, "offset": r.offset, "doc": r.doc,
             "fields": [{"name": f.name, "lsb": f.lsb, "bits": f.bits, "access": f.access.value, "reset": f.reset,
                         "doc": f.doc} for f in r.fields]} for r in registers]


def to_c_header(registers=REGISTERS):
    """The map as a C header: offsets, and shift and mask of each field."""
    lines = ["/* Register map of the NeuroFlex accelerator; generated, do not edit. */", "#ifndef NEUROFLEX_REGISTERS_H",
             "#define NEUROFLEX_REGISTERS_H", ""]
    for r in registers:
        base = f"NEUROFLEX_{r.name.upper()}"
        lines += [f"/* {r.doc} */", f"#define {base} 0x{r.offset:02X}u"]
        for f in r.fields:
            if f.bits == 32:
                continue
            name = f"{base}_{f.name.upper()}"
            lines += [f"#define {name}_SHIFT {f.lsb}u  /* {f.access.value}: {f.doc} */",
                      f"#define {name}_MASK 0x{((1 << f.bits) - 1) << f.lsb:08X}u"]
    return "\n".join(lines + ["", "#endif", ""])


def to_markdown(registers=REGISTERS):
    """The map as Markdown tables."""
    lines = ["# Registers", "", "All are 32 bits wide; offsets are bytes. Generated from `neuroflex/registers.py`.", "",
             "| offset | register | bits | field | access | reset | meaning |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for r in registers:
        for f in r.fields:
            lines.append(f"| 0x{r.offset:02X} | {r.name} | {f.lsb + f.bits - 1}:{f.lsb} | {f.name} | {f.access.value} | "
                         f"0x{f.reset:X} | {f.doc} |")
    return "\n".join(lines) + "\n"
