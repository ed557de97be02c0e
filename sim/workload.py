"""What a tile asks of the machine: chunks, lines, matches and nonzero outputs as arrays, from the functional network."""
from dataclasses import dataclass

import numpy as np

from neuroflex.formats import CHUNK_LINES
from neuroflex.sim.compressor import layout_rounds
from neuroflex.sim.walk import ADDRESS, FIRST_CHUNK, GROUP, OUTSIDE, SOURCE, walk_chunks

__all__ = ["Workload", "chunk_rows", "tile_workload"]


@dataclass(frozen=True, eq=False)
class Workload:
    """Everything the cycle model needs to know of a tile and an image.

    Attributes
    ----------
    chunks : int64[n, fields]
        :func:`~neuroflex.sim.walk.walk_chunks`.
    lines : int64[n]
        Value lines of each chunk.
    empty : uint8[n]
        The chunk's mask is empty.
    matches : int32[2, n, P, pairs]
        Matches of each pair of columns of each PE of a group, by core; PEs and pairs padded to the larger core. Additions on SNN PEs that add serially.
    columns : int64[2, P]
        Columns of each PE of a group.
    levels : int64[2, P, columns]
        Output levels of each column.
    nonzeros : int64[positions, rounds]
        Nonzero outputs of each round, in the compressor's order.
    """

    chunks: np.ndarray
    lines: np.ndarray
    empty: np.ndarray
    matches: np.ndarray
    columns: np.ndarray
    levels: np.ndarray
    nonzeros: np.ndarray


def chunk_rows(chunks, config):
    """Number of each chunk within its convolution row, int64[n]: chunks of a row come in order, groups interleaved."""
    row = np.empty(len(chunks), np.int64)
    group = chunks[:, GROUP]
    for g in range(int(group.max(initial=0)) + 1):
        mine = np.flatnonzero(group == g)
        first = chunks[mine, FIRST_CHUNK].astype(bool)
        number = np.arange(len(mine))
        row[mine] = number - np.maximum.accumulate(np.where(first, number, 0))
    return row


def tile_workload(tile, weights, sources, spines, levels, config):
    """Build a tile's workload.

    Parameters
    ----------
    tile : neuroflex.compiler.lower.Tile
    weights : bool[row_chunks, chunk_bits, N]
        Nonzero weights of the tile's columns by physical position.
    sources : list of (base, uint8[spine chunks, chunk_bits])
        Base address of each source tensor, and its levels chunk by chunk.
    spines : bool[positions, chunks * chunk_bits]
        Nonzero outputs of this tile, by position in the spine part that it writes.
    levels : int64[N]
        Output levels of the tile's columns.
    config : ArchConfig

    Returns
    -------
    Workload
    """
    chunks = walk_chunks(tile.settings, config=config)
    outside = chunks[:, OUTSIDE].astype(bool)
    serial = config.snn_pe == "serial"
    active = np.zeros((len(chunks), config.chunk_bits), np.float32)
    levels_in = np.zeros_like(active) if serial else None
    for number, (base, levels_of) in enumerate(sources):
        mine = np.flatnonzero(~outside & (chunks[:, SOURCE] == number))
        at = (chunks[mine, ADDRESS] - base) // CHUNK_LINES
        active[mine] = (levels_of != 0)[at]
        if serial:
            levels_in[mine] = levels_of[at]
    counts = active.sum(axis=1).astype(np.int64)

    lanes = [config.ann_pes >> tile.groups_log2, config.snn_pes >> tile.groups_log2]
    most = max(lanes)
    columns = np.zeros((2, most), np.int64)
    np.add.at(columns, (tile.core, tile.pe), 1)
    pairs = max(1, int(-(-columns.max() // 2)))
    column_levels = np.zeros((2, most, 2 * pairs), np.int64)
    column_levels[tile.core, tile.pe, tile.index] = levels

    # The two columns of a pair are matched one after the other: their sum is all that counts.
    place = (tile.core * most + tile.pe) * pairs + tile.index // 2
    paired = np.zeros((weights.shape[0], config.chunk_bits, 2 * most * pairs), np.float32)
    for n, at in enumerate(place):
        paired[:, :, at] += weights[:, :, n]
    row = chunk_rows(chunks, config)
    matches = np.empty((len(chunks), 2 * most * pairs), np.int32)
    snn = most * pairs      # the first place of the SNN core
    for number in range(weights.shape[0]):
        mine = np.flatnonzero(row == number)
        if serial:          # a match takes as many cycles as its level; sums of levels are far below 2**24
            matches[mine, :snn] = active[mine] @ paired[number, :, :snn]
            matches[mine, snn:] = levels_in[mine] @ paired[number, :, snn:]
        else:
            matches[mine] = active[mine] @ paired[number]
    matches = np.ascontiguousarray(matches.reshape(len(chunks), 2, most, pairs).transpose(1, 0, 2, 3))

    nonzeros = np.stack([spines[:, at:at + width].sum(axis=1) for _, _, at, width in
                         layout_rounds(config, tile.groups_log2, *tile.rounds)], axis=1).astype(np.int64)
    return Workload(chunks=chunks, lines=-(-counts // config.line_bytes), empty=(counts == 0).astype(np.uint8), matches=matches,
                    columns=columns, levels=column_levels, nonzeros=nonzeros)
