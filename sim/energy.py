"""The one table of energy coefficients. None of them was measured on this project's netlists: all are marked assumed."""

__all__ = ["COEFFICIENTS", "Coefficient", "SETS", "energy_table", "markdown"]

from dataclasses import dataclass

# Sketches of single parts, synthesised to SkyWater 130 nm cells: toggles × pin capacitance with 2 fF of wire per net, zero delay,
# without internal power, glitches and clock gating.
_SKETCH = "sketch"
_HOROWITZ = "M. Horowitz, ISSCC 2014 (45 nm)"


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """Energy of one event in pJ, what the event is, where the number comes from, and whether it is only assumed."""

    name: str
    picojoules: float
    event: str
    source: str
    assumed: bool = True


COEFFICIENTS = tuple(Coefficient(name=name, picojoules=value, event=event, source=source) for name, value, event, source in (
    ("join", 2.49, "mask AND and priority encoder of 128 bits, per match", _SKETCH + ", 11.6 matches per chunk"),
    ("fast_prefix", 1.68, "one fast prefix count over 128 bits, per match", _SKETCH + ", masked popcount"),
    ("mac", 1.95, "8×8 multiply and 32-bit accumulate, per match of an ANN column", _SKETCH + ", middle of 1.9 … 2.0"),
    ("pseudo", 0.71, "add into the pseudo accumulator, per match of an SNN column", _SKETCH),
    ("correction", 0.80, "add into one correction accumulator: per match, once for each step its level lacks to L",
     _SKETCH + ": (6.3 − 0.71) / 7 at L = 8"),
    ("laggy_chunk", 61.5, "laggy prefix sum of one chunk of 128 bits, shared by the columns of a PE", _SKETCH + ": 5.30 pJ per match × 11.6"),
    ("value_read", 8.1, "read of one byte from a PE's slice or slot; two per match",
     _HOROWITZ + ": 10 pJ for 64 bits of an 8 KB SRAM, × 6.5, the ratio of the two INT8 multiply-accumulates (1.95 / 0.3)"),
    ("qcfs_step", 1.1, "one compare-subtract of the QCFS unit, per bit of L and output",
     "the pseudo adder's 0.71 pJ, scaled from 20 to 32 bits"),
    ("pascif_step", 1.1, "one step of the PASC-IF neuron, per output", "as qcfs_step: one compare and add of about 32 bits"),
))

SETS = {"assumed-45nm": COEFFICIENTS}      # every set of coefficients that there is, the default first


def energy_table(which="assumed-45nm", **changes):
    """Coefficient name → pJ of a set in `SETS`, with some values replaced.

    Raises
    ------
    KeyError
        For a name that is not in the table.
    """
    table = {c.name: c.picojoules for c in SETS[which]}
    unknown = sorted(set(changes) - set(table))
    if unknown:
        raise KeyError(f"no energy coefficient {unknown[0]!r}; there are {', '.join(table)}")
    return table | {name: float(value) for name, value in changes.items()}


def markdown():
    """The table as Markdown, as it stands in the documentation."""
    lines = ["| coefficient | pJ | event | source | status |", "| --- | ---: | --- | --- | --- |"]
    lines += [f"| `{c.name}` | {c.picojoules:g} | {c.event} | {c.source} | {'assumed' if c.assumed else 'measured'} |"
              for c in COEFFICIENTS]
    return "\n".join(lines) + "\n"
