"""The one table of energy coefficients: a set measured on this project's netlists, and one of published energies of operations."""

__all__ = ["DEFAULT", "EVENTS", "TRAFFIC", "Coefficient", "SETS", "energy_table", "markdown", "of_kind"]

from dataclasses import dataclass

from neuroflex.power.sram import published_energy

# What each coefficient counts. Those that work on masks and lines are for 128 bits and go with ``chunk_bits / 128``.
# Other kinds of SNN PE than dual_prefix (ArchConfig.snn_pe) count the same events differently, docs/pe_serial.md and docs/pe_binary.md: with serial addition and radix
# `pseudo` is an addition (of a level, of a bit), `fast_prefix` comes a second time and `speculation` is what else a match with several input levels costs; binary
# corrects bits. In the measured set they have values of their own, whose names are the kind, a dot, and the name here; without one that of dual_prefix holds.
EVENTS = {
    "join": "mask AND, queue and priority encoder of 128 bits, per match",
    "fast_prefix": "one fast prefix count over 128 bits, per match",
    "weight_read": "read of a weight out of a PE's slice, per match: of its byte",
    "weight_line": "the same of the whole line, as the circuits read it",
    "level_read": "read of a level out of a PE's slot, per match (SNN: only with several input levels): of its byte",
    "level_line": "the same of the whole line, as the circuits read it",
    "mac": "8×8 multiply and accumulate, per match of an ANN column",
    "pseudo": "add into the pseudo accumulator, per match of an SNN column",
    "speculation": "count within the group, wait, and spike word, per match of an SNN column with several input levels",
    "correction": "add into one correction accumulator: per match, once for each step its level lacks to L (binary: for each bit of that number)",
    "match_rest": "what else a match costs, per match of an SNN column whose additions are counted apart (serial, radix)",
    "laggy_chunk": "laggy prefix sum of one chunk of 128 bits, shared by the columns of a PE (charged with one input level too)",
    "chunk": "taking one chunk of 128 bits into a slot, shared by the columns of a PE",
    "mask_line": "read of a pair of column masks of 128 bits out of their memory, shared by two columns, per chunk",
    "scan": "what else a pair of masks costs",
    "ann_output": "end of a row on the ANN core, per output, besides the QCFS unit's steps",
    "qcfs_step": "one compare-subtract of the QCFS unit, per bit of L and output",
    "snn_output": "end of a row on the SNN core, per output, besides the neuron's steps",
    "weigh_step": "one step of the weighted sum, per bit of the input levels and output of an SNN column (binary, radix)",
    "pascif_step": "one step of the PASC-IF neuron, per output",
    "ann_cycle": "clock and registers of an ANN PE, per cycle in which it works",
    "snn_cycle": "clock and registers of an SNN PE, per cycle in which it works",
    "value_read": "read of one byte of a line, in a dense array that uses all of the line",
    "dense_mac": "8×8 multiply and accumulate in a register, in a dense array",
    "cache_line": "read or write of a line of 128 bits in FiberCache's memory of lines",
    "cache_read": "what else a read of FiberCache costs, per line: queue, look-up of tags and states, the way to the broadcaster",
    "cache_write": "the same of a write, per line that the compressor gives",
    "cache_fetch": "the same of a fetch, per chunk that is announced",
    "cache_fill": "the same of a line that comes from memory",
    "cache_cycle": "clock and registers of FiberCache, per cycle in which it has something under way",
    "pack_round": "a round of the compressor, that is an output of each PE of a core, on its way",
    "pack_line": "a line that the compressor gives to FiberCache",
    "pack_cycle": "clock and registers of the compressor, per cycle in which rounds go on their way",
}
# Those of FiberCache and compressor, which the golden cycle model counts by descriptor. They are for the preset `paper`; what they cost in others, neuroflex.sim.cost.traffic_weights.
TRAFFIC = tuple(name for name in EVENTS if name.startswith(("cache_", "pack_")))


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """Energy of one event in pJ, what the event is, where the number comes from, its standard error, and whether it is only assumed."""

    name: str
    picojoules: float
    event: str
    source: str
    error: float = 0.0
    assumed: bool = True


# Published energies of operations at 45 nm and 0.9 V, times how many of them a part takes. Nothing is in this set that would have to be guessed: clock, registers, control.
# A match reads bytes, where the circuits read lines: a design without overhead.
_MULTIPLY = 0.2         # 8 × 8 bits


def _add(bits):
    """pJ of an addition: published are 0.03 for 8 bits and 0.1 for 32; in between and beyond, the line through both, below 8 bits in proportion."""
    return 0.03 + (bits - 8) * (0.1 - 0.03) / (32 - 8) if bits > 8 else 0.03 * bits / 8


_BYTE = published_energy(8, 16384)
_MULTIPLY_ADD = (_MULTIPLY + _add(26), "multiplication of 8 × 8 bits, addition of 26")
_LITERATURE = {
    "join": (_add(128), "lowest set bit of a mask of 128: one subtraction of 128 bits"),
    "fast_prefix": (120 * _add(1), "120 full adders count 128 bits"),
    "weight_read": (_BYTE, "a byte of 16 KB"),
    "level_read": (published_energy(8, 896), "a byte of 0.9 KB"),
    "mac": _MULTIPLY_ADD,
    "pseudo": (_add(20), "addition of 20 bits"),
    "correction": (_add(20), "addition of 20 bits"),
    "laggy_chunk": (128 * _add(8), "16 adders of 8 bits in 8 cycles, as LoAS has it"),
    "mask_line": (published_energy(256, 16384), "two masks of 128 bits out of 16 KB"),
    "qcfs_step": (_add(32), "subtraction of 32 bits"),
    "pascif_step": (_add(32), "addition of 32 bits"),
    "weigh_step": (_add(25), "addition of 25 bits"),
    "value_read": (_BYTE, "a byte of 16 KB"),
    "dense_mac": _MULTIPLY_ADD,
    "cache_line": (published_energy(128, 16384), "128 bits of the 16 KB of a bank"),
}
# scripts/measure_energy.py, preset tiny, what works on masks scaled to 128 bits: pJ and standard error. docs/energy.json holds the whole run, docs/energy.md the method.
# FiberCache and compressor are measured as they are in the preset paper.
_MEASURED = {
    "join": (58.91, 3.382),
    "fast_prefix": (3.144, 0.155),
    "weight_line": (326.84, 0.0),
    "level_line": (26.837, 3.762),
    "mac": (17.942, 1.839),
    "pseudo": (12.17, 3.891),
    "speculation": (14.043, 5.335),
    "correction": (14.007, 2.248),
    "laggy_chunk": (131.238, 66.888),
    "chunk": (70.83, 47.506),
    "mask_line": (763.807, 0.0),
    "scan": (114.514, 46.399),
    "ann_output": (62.268, 12.618),
    "qcfs_step": (3.132, 0.928),
    "snn_output": (79.008, 34.96),
    "pascif_step": (6.324, 2.22),
    "ann_cycle": (23.126, 1.281),
    "snn_cycle": (24.717, 0.851),
    "value_read": (20.428, 0.0),
    "dense_mac": (1.339, 1.839),
    "cache_line": (326.84, 0.0),
    "cache_read": (367.19, 18.361),
    "cache_write": (576.864, 12.917),
    "cache_fetch": (201.494, 12.82),
    "cache_fill": (864.437, 38.252),
    "cache_cycle": (632.287, 1.418),
    "pack_round": (25.867, 1.454),
    "pack_line": (22.352, 2.469),
    "pack_cycle": (46.758, 0.699),
}
_MEASURED_KINDS = {
    "serial": {
        "snn_output": (60.61, 7.071),
        "pascif_step": (4.551, 1.369),
        "snn_cycle": (21.809, 1.988),
        "pseudo": (13.779, 2.677),
        "match_rest": (0.93, 3.256),
        "speculation": (0.498, 4.149),
    },
    "binary": {
        "snn_output": (30.189, 6.662),
        "pascif_step": (2.591, 1.555),
        "snn_cycle": (25.632, 1.291),
        "pseudo": (13.268, 2.826),
        "speculation": (5.525, 4.71),
        "correction": (13.0, 4.253),
        "laggy_chunk": (176.522, 52.455),
        "weigh_step": (16.927, 7.115),
    },
    "radix": {
        "snn_output": (30.067, 6.694),
        "pascif_step": (2.789, 1.61),
        "snn_cycle": (21.641, 1.26),
        "pseudo": (14.785, 7.153),
        "match_rest": (0.0, 8.117),
        "speculation": (0.0, 3.451),
        "weigh_step": (19.802, 6.945),
    },
}
_MEMORY = "memories by " + "M. Horowitz, ISSCC 2014, scaled to 130 nm and 1.8 V"
_SOURCE = dict.fromkeys(("weight_line", "level_line", "mask_line", "value_read", "cache_line"), _MEMORY)


def _literature(name):
    value, source = _LITERATURE.get(name, (0.0, "not in this set"))
    return Coefficient(name=name, picojoules=float(f"{value:.3g}"), event=EVENTS[name], source=source)


def _measured(name):
    value, error = _MEASURED.get(name, (0.0, 0.0))      # events that dual_prefix and the ANN PE do not have
    return Coefficient(name=name, picojoules=value, error=error, event=EVENTS[name], assumed=name in _SOURCE,
                       source=_SOURCE.get(name, "netlist on sky130_fd_sc_hd (tt, 25 °C, 1.8 V) with the traffic of the testbench"))


# Of other kinds of SNN PE, by set.
_KINDS = {"measured-sky130": _MEASURED_KINDS, "literature-45nm": {}}
# Every set of coefficients that there is, the default first.
SETS = {"measured-sky130": tuple(map(_measured, EVENTS)), "literature-45nm": tuple(map(_literature, EVENTS))}
DEFAULT = "measured-sky130"


def energy_table(which=DEFAULT, **changes):
    """Coefficient name → pJ of a set in `SETS`, with some values replaced.

    Raises
    ------
    KeyError
        For a name that is not in the table.
    """
    own = {f"{kind}.{name}": value for kind, values in _KINDS[which].items() for name, (value, _) in values.items()}
    table = {c.name: c.picojoules for c in SETS[which]} | own
    unknown = sorted(set(changes) - set(table))
    if unknown:
        raise KeyError(f"no energy coefficient {unknown[0]!r}; there are {', '.join(table)}")
    return table | {name: float(value) for name, value in changes.items()}


def of_kind(table, kind):
    """A table as it holds for SNN PEs of this ``ArchConfig.snn_pe``: values of the kind's own, where there are any."""
    return {name: table.get(f"{kind}.{name}", value) for name, value in table.items() if "." not in name}


def markdown():
    """Both sets as Markdown, as they stand in the documentation."""
    lines = ["| coefficient | event | measured-sky130, pJ | literature-45nm, pJ | what that is |", "| --- | --- | ---: | ---: | --- |"]
    for ours, published in zip(*SETS.values()):
        spread = " (memory model)" if ours.assumed else f" ± {ours.error:.2g}"
        lines.append(f"| `{ours.name}` | {ours.event} | " + (f"{ours.picojoules:.3g}{spread}" if ours.picojoules else "-")
                     + f" | {f'{published.picojoules:g}' if published.picojoules else '-'} | {published.source} |")
    names = [name for name in EVENTS if any(name in table for table in _MEASURED_KINDS.values())]
    if not names:
        return "\n".join(lines) + "\n"
    lines += ["", "Of other kinds of SNN PE, `measured-sky130`, where they have their own:", "", "| coefficient | " + " | ".join(_MEASURED_KINDS) + " |",
              "| --- |" + " ---: |" * len(_MEASURED_KINDS)]
    for name in names:
        found = [table.get(name) for table in _MEASURED_KINDS.values()]
        lines.append(f"| `{name}` | " + " | ".join("" if one is None else f"{one[0]:.3g} ± {one[1]:.2g}" for one in found) + " |")
    return "\n".join(lines) + "\n"
