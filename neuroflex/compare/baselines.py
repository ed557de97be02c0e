"""Baselines that are computed, not run: iso-area machines and a dense systolic array (``docs/comparison.md``)."""

__all__ = ["IsoArea", "dense_cycles", "dense_energy", "dense_traffic", "iso_area", "iso_span", "slices", "systolic_array"]

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuroflex.config import SNN_PES
from neuroflex.compiler.schedule import ScheduleError, longest_first
from neuroflex.formats import Core
from neuroflex.sim.energy import TRAFFIC

RESOURCES = Path(__file__).parents[2] / "docs" / "resources.json"
_MOST_GROUPS = 8        # as `ArchConfig.max_groups`


def systolic_array(pes):
    """Height and width of an array of ``pes`` multipliers (a power of two), as square as can be, the width not the smaller one."""
    height = 1 << (pes.bit_length() - 1) // 2
    return height, pes // height


def dense_cycles(rows, inputs, columns, array):
    """Cycles of an output-stationary systolic array for one matrix product: folds, each ``inputs + height + width − 2``."""
    height, width = array
    return -(-rows // height) * -(-columns // width) * (inputs + height + width - 2)


def dense_energy(rows, inputs, columns, array, levels, energy):
    """Energy in pJ of the same: all multiplications, reads of operands once per fold, neurons.

    Parameters
    ----------
    levels : int array (columns,)
        Output levels.
    energy : dict
        From `neuroflex.sim.energy.energy_table`.
    """
    height, width = array
    reads = rows * inputs * -(-columns // width) + columns * inputs * -(-rows // height)
    bits = sum(int(level).bit_length() for level in levels)
    return rows * inputs * columns * energy["dense_mac"] + reads * energy["value_read"] + rows * bits * energy["qcfs_step"]


def dense_traffic(rows, inputs, columns, pooled, config):
    """What the same asks of a FiberCache like the accelerator's, in the order of `neuroflex.sim.energy.TRAFFIC`.

    Each row's inputs are read once into the array's own buffer, as bytes without masks, and stay there for all columns; its outputs, one of ``pooled`` rows,
    are written once. A cycle of the cache for each line, a fetch for eight; nothing is compressed. Inputs are there: no line comes from memory.
    """
    reads, writes = rows * inputs / config.line_bytes, rows / pooled * columns / config.line_bytes
    counts = {"cache_line": reads + writes, "cache_read": reads, "cache_fetch": reads / 8, "cache_write": writes, "cache_cycle": reads + writes}
    return np.array([counts.get(name, 0.0) for name in TRAFFIC])


def slices(figures):
    """Xilinx slices (four 6-input LUTs, eight flip-flops) that a block fills at least."""
    return max(figures["lut"] / 4, figures["ff"] / 8)


@dataclass(frozen=True, kw_only=True)
class IsoArea:
    """PEs that would fit in the area of both cores if they were all of one kind."""

    ann_pes: int
    snn_pes: int
    ann_slices: float
    snn_slices: float
    source: str

    def pes(self, core):
        """PEs of a machine of one kind."""
        return self.snn_pes if core == Core.SNN else self.ann_pes


def iso_area(config, resources=RESOURCES):
    """The iso-area machines of a configuration.

    Returns
    -------
    IsoArea, or str: why there is none
    """
    if not Path(resources).is_file():
        return f"{resources} is not there: it comes with the source tree"
    blocks = json.loads(Path(resources).read_text())["blocks"]
    names = "AnnPe", SNN_PES[config.snn_pe]
    found = [blocks.get(block, {}).get(config.name, {}).get("xilinx") for block in names]
    if None in found:
        return f"no area of {' and '.join(names)} is recorded for configuration {config.name!r} (make synthesis)"
    ann, snn = map(slices, found)
    area = config.ann_pes * ann + config.snn_pes * snn
    return IsoArea(ann_pes=int(area // ann), snn_pes=int(area // snn), ann_slices=ann, snn_slices=snn, source="LUT and FF of docs/resources.json")


def iso_span(delay, size, pes, *, columns_per_pe, values_per_pe, rows):
    """Makespan of a layer's columns on ``pes`` equal PEs, longest first, with the best number of row groups.

    Parameters
    ----------
    delay : float64 array (N,)
        Cycles of each column.
    size : int64 array (N,)
        Its nonzero weights.
    pes, columns_per_pe, values_per_pe : int
    rows : int
        Output positions, which row groups share.

    Returns
    -------
    (cycles, passes) : float, int
        Passes: how often the activations are broadcast.
    """
    order = np.argsort(-delay, kind="stable")
    best = None
    count = 1
    while count <= min(_MOST_GROUPS, pes, rows):
        lanes = pes // count
        tiles = -(-len(delay) // (lanes * columns_per_pe))
        while tiles <= len(delay):
            try:       # columns of like size together
                spans = [longest_first(delay[tile], size[tile], lanes, columns_per_pe, values_per_pe) for tile in np.array_split(order, tiles)]
            except ScheduleError:
                tiles += 1
                continue
            if best is None or sum(spans) / count < best[0]:
                best = sum(spans) / count, tiles
            break
        count *= 2
    if best is None:
        raise ScheduleError("a column does not fit on a PE")
    return best
