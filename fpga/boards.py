"""The boards: their parts, what these hold, and what an accelerator takes of them."""
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import neuroflex
from neuroflex.config import PRESETS, SNN_PES, ArchConfig

__all__ = ["BOARDS", "Board", "DoesNotFit", "KINDS", "check_fit", "estimate", "parts"]

KINDS = {"lut": "look-up tables", "ff": "flip-flops", "dsp": "multipliers", "bram": "block RAMs"}
_NUMBERS = tuple(f.name for f in fields(ArchConfig) if f.type is int)
_ONCE = ("FiberCache", "MemoryArbiter", "MemoryGuard", "Broadcaster", "Compressor", "Loader", "Sequencer", "RegisterFile")


class DoesNotFit(ValueError):
    """A configuration needs more than a part has."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Attributes
    ----------
    name, part : str
    package : str or None
        Where the part's name does not say it.
    family : str
        As in ``docs/resources.json``: ``"ecp5"`` or ``"xilinx"``.
    holds : dict
        Kind (`KINDS`) → how many the part has.
    blocks : tuple of str
        Recorded blocks that stand around the accelerator.
    besides : dict
        Kind → what the design takes besides all of them.
    config : str
        Preset or TOML file that is built by default.
    clock_mhz : int
        By default.
    loader : str
        What openFPGALoader calls the board.
    share : float
        How much of each kind may be used.
    """

    name: str
    part: str
    package: str | None = None
    family: str
    holds: dict
    config: str
    clock_mhz: int
    loader: str
    blocks: tuple = ()
    besides: dict = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    share: float = 1.0

    @property
    def device(self):
        """Part and package, as bitstreams say them (`neuroflex.fpga.build.part_of_bitstream`)."""
        return f"{self.part}-{self.package}" if self.package else self.part

    def room(self, kind):
        """How many of a kind a design may use."""
        return int(self.share * self.holds[kind])


_XC7Z020 = {"part": "xc7z020clg400-1", "family": "xilinx", "holds": {"lut": 53_200, "ff": 106_400, "dsp": 220, "bram": 140}, "share": 0.8,
            "blocks": ("AxiLite", "JobQueue", "AxiMaster", "Axi3Bridge"), "config": "pynq_z2", "clock_mhz": 100}

BOARDS = {board.name: board for board in (
    Board(name="ulx3s", part="LFE5U-85F", package="CABGA381", family="ecp5", holds={"lut": 83_640, "ff": 83_640, "dsp": 156, "bram": 208},
          besides={"lut": 1_000, "ff": 500, "dsp": 0, "bram": 65}, config=str(Path(__file__).with_name("ulx3s.toml")), clock_mhz=90, loader="ulx3s"),
    Board(name="pynq_z2", loader="pynq_z2", **_XC7Z020),
    Board(name="arty_z7_20", loader="arty_z7_20", **_XC7Z020),
)}


def _recorded(name):
    path = Path(neuroflex.__file__).parents[1] / "docs" / name
    return json.loads(path.read_text()) if path.is_file() else {"base": None, "blocks": {}}


def parts(config):
    """Blocks of an accelerator → how many of each it has."""
    return {"AnnPe": config.ann_pes, SNN_PES[config.snn_pe]: config.snn_pes, **dict.fromkeys(_ONCE, 1)}


def estimate(config, family, recorded=None, around=(), model=None):
    """What an accelerator takes, from the figures recorded for its blocks, and for those around it.

    A block's figure is that of the preset of this name, else of the recorded preset with the same chunk size, else of the largest smaller one, and of several the one most like it;
    each other field by which that preset differs multiplies it by a power of their ratio, which one measured change of that field gives (``docs/resource_model.json``).

    Parameters
    ----------
    config : ArchConfig
    family : str
    recorded, model : dict, optional
        Contents of ``docs/resources.json`` and ``docs/resource_model.json``.
    around : tuple of str
        Further blocks.

    Returns
    -------
    counts : dict
        Kind → sum over the blocks.
    missing : tuple of str
        Blocks without a figure; they count as nothing.
    """
    blocks = (_recorded("resources.json") if recorded is None else recorded)["blocks"]
    model = _recorded("resource_model.json") if model is None else model
    counts, missing = dict.fromkeys(KINDS, 0), []
    for block, times in (parts(config) | dict.fromkeys(around, 1)).items():
        rows = {name: row[family] for name, row in blocks.get(block, {}).items() if family in row}
        near = [name for name in rows if PRESETS[name].chunk_bits <= config.chunk_bits]
        if not near:
            missing.append(block)
            continue
        best = max(near, key=lambda name: (name == config.name, PRESETS[name].chunk_bits, -_distance(PRESETS[name], config)))
        for kind in KINDS:
            counts[kind] += times * rows[best][kind] * _scale(block, kind, family, PRESETS[best], config, rows, model)
    return counts, tuple(missing)


def _distance(one, other):
    """How far two configurations are apart: factors of two, over all fields."""
    return sum(abs(math.log2(getattr(one, field) / getattr(other, field))) for field in _NUMBERS)


def _scale(block, kind, family, preset, config, rows, model):
    """What a block takes with ``config`` over what it takes with ``preset``."""
    scale = 1.0
    for field, point in model["blocks"].get(block, {}).items() if model["base"] in rows else ():
        before, after = rows[model["base"]][kind], point[family][kind]
        if before and after:
            power = math.log(after / before) / math.log(point["to"] / getattr(PRESETS[model["base"]], field))
            scale *= (getattr(config, field) / getattr(preset, field)) ** power
    return scale


def check_fit(board, config, recorded=None, model=None):
    """Refuse a configuration that does not fit, before anything is synthesised.

    Raises
    ------
    DoesNotFit
        With what is over, and by how much.
    """
    counts, missing = estimate(config, board.family, recorded, board.blocks, model)
    needs = {kind: counts[kind] + board.besides[kind] for kind in KINDS}
    limit = f", of which {board.share:.0%} may be used" if board.share < 1 else ""
    over = [f"{needs[kind] - board.room(kind):,.0f} {what} too many ({needs[kind]:,.0f} of {board.holds[kind]:,}{limit})"
            for kind, what in KINDS.items() if needs[kind] > board.room(kind)]
    if over:
        at_least = f" (at least: nothing is recorded for {', '.join(missing)})" if missing else ""
        raise DoesNotFit(f"configuration {config.name!r} does not fit the {board.part} of {board.name}: {'; '.join(over)}{at_least}. "
                         "Fewer PEs, or shorter chunks, take less")
    return needs
