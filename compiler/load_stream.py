"""Load streams: the columns of a layer's PEs as the lines that the loader reads.

The format is pictured in :mod:`neuroflex.formats`. Weights are given dense, by PE; a stream holds one record for each
PE that has columns.
"""
from dataclasses import dataclass

import numpy as np

from neuroflex.formats import RECORD_MAGIC, Core, Status, column_record_lines, most_levels

__all__ = ["LoadStreamError", "PeRecord", "pack_load_stream", "pack_records", "record_lines", "unpack_load_stream"]

_PARAMETER_BYTES = 12


class LoadStreamError(ValueError):
    """A load stream that the loader would refuse.

    Attributes
    ----------
    line : int
        The line at which it is refused.
    status : Status
        The code that the loader reports.
    """

    def __init__(self, line, status, why):
        super().__init__(f"load stream, line {line}: {why} ({status.name})")
        self.line, self.status = line, status


@dataclass(frozen=True, eq=False)
class PeRecord:
    """The columns of one PE.

    Attributes
    ----------
    core : Core
    pe : int
        Number within the PE's group.
    weights : int64[columns, chunks * chunk_bits]
        INT8 weights, a column of the layer's matrix in each row, in the order in which the chunks are broadcast.
    levels, bias, theta : int64[columns]
        Levels, bias and threshold of each column.
    """

    core: Core
    pe: int
    weights: np.ndarray
    levels: np.ndarray
    bias: np.ndarray
    theta: np.ndarray


def record_lines(record, config):
    """Lines of a record: ``(all, mask pairs, value lines)``."""
    columns, positions = np.shape(record.weights)
    pairs = positions // config.chunk_bits * -(-columns // 2)
    values = -(-int(np.count_nonzero(record.weights)) // config.line_bytes)
    return 2 + columns * column_record_lines(config) + 2 * pairs + values, pairs, values


def _check(record, config, groups_log2):
    where = f"{Core(record.core).name} PE {record.pe}"
    pes = (config.snn_pes if record.core == Core.SNN else config.ann_pes) >> groups_log2
    if not 0 <= record.pe < pes:
        raise ValueError(f"{where}: a group of {1 << groups_log2} has only {pes} PEs")
    weights = np.asarray(record.weights)
    if weights.ndim != 2 or not 1 <= len(weights) <= config.columns_per_pe:
        raise ValueError(f"{where}: weights must be of 1 to {config.columns_per_pe} columns, not of shape {weights.shape}")
    if weights.shape[1] == 0 or weights.shape[1] % config.chunk_bits:
        raise ValueError(f"{where}: a row must be whole chunks of {config.chunk_bits} positions, not {weights.shape[1]}")
    if weights.min() < -128 or weights.max() > 127:
        raise ValueError(f"{where}: a weight does not fit INT8")
    for name, low, high in (("levels", 1, most_levels(record.core, config)), ("bias", -1 << 31, (1 << 31) - 1),
                            ("theta", 1, (1 << config.theta_bits) - 1)):
        values = np.asarray(getattr(record, name), np.int64)
        if values.shape != (len(weights),):
            raise ValueError(f"{where}: {name} must be {len(weights)} values, not of shape {values.shape}")
        if values.min() < low or values.max() > high:
            raise ValueError(f"{where}: {name} has a value out of {low} ... {high}")
    _, pairs, values = record_lines(record, config)
    if pairs > config.mask_pairs:
        raise ValueError(f"{where}: {pairs} mask pairs are more than mask_pairs = {config.mask_pairs} of its slice")
    if values > config.value_lines:
        raise ValueError(f"{where}: {values} lines of weights are more than value_lines = {config.value_lines} of its slice")


def _pack_record(record, config):
    weights = np.asarray(record.weights, np.int64)
    columns, positions = weights.shape
    line_bytes = config.line_bytes
    _, pairs, value_lines = record_lines(record, config)
    header = np.zeros((2, line_bytes), np.uint8)
    header[0, :4] = record.core, record.pe, columns, RECORD_MAGIC
    header[1, :4] = pairs & 255, pairs >> 8, value_lines & 255, value_lines >> 8

    parameters = np.zeros((columns, column_record_lines(config) * line_bytes), np.uint8)
    parameters[:, :_PARAMETER_BYTES] = np.stack(
        [np.asarray(values, np.int64) & 0xFFFFFFFF for values in (record.theta, record.bias, record.levels)],
        axis=1).astype("<u4").view(np.uint8)

    padded = np.zeros((columns + columns % 2, positions), np.int64)
    padded[:columns] = weights
    chunks = padded.reshape(len(padded), -1, config.chunk_bits).transpose(1, 0, 2)
    masks = np.packbits(chunks != 0, axis=-1, bitorder="little")
    values = np.zeros(value_lines * line_bytes, np.uint8)
    nonzero = chunks[chunks != 0].astype(np.int8).view(np.uint8)
    values[:len(nonzero)] = nonzero
    return [part.reshape(-1, line_bytes) for part in (header, parameters, masks, values)]


def pack_load_stream(config, weights, core, pe, index, *, theta, bias, levels, groups_log2=0):
    """The load stream of a layer's columns, spread over the PEs.

    Parameters
    ----------
    config : ArchConfig
    weights : int64[chunks, chunk_bits, columns]
        INT8 weights: the layer's matrix, the rows in the order in which the chunks are broadcast.
    core, pe, index : int64[columns]
        Core of each column, PE number within its group, and place among that PE's columns (0, 1, ... without gaps).
    theta, bias, levels : int64[columns]
    groups_log2 : int

    Returns
    -------
    uint8[lines, line_bytes]
        Records in order of core and PE.

    Raises
    ------
    ValueError
        When a value does not fit, a PE does not exist, places have gaps, or a slice is too small.
    """
    weights = np.asarray(weights, np.int64)
    core, pe, index, theta, bias, levels = (np.asarray(a, np.int64) for a in (core, pe, index, theta, bias, levels))
    if weights.ndim != 3 or weights.shape[1] != config.chunk_bits:
        raise ValueError(f"weights must have the shape (chunks, {config.chunk_bits}, columns), not {weights.shape}")
    for name, values in (("core", core), ("pe", pe), ("index", index), ("theta", theta), ("bias", bias), ("levels", levels)):
        if values.shape != weights.shape[2:]:
            raise ValueError(f"{name} must be one value for each of {weights.shape[2]} columns, not of shape {values.shape}")
    rows = weights.reshape(-1, weights.shape[2]).T
    records = []
    for which, number in np.unique(np.stack([core, pe], axis=1), axis=0):
        mine = np.flatnonzero((core == which) & (pe == number))
        mine = mine[np.argsort(index[mine], kind="stable")]
        if not np.array_equal(index[mine], np.arange(len(mine))):
            raise ValueError(f"{Core(which).name} PE {number}: places {index[mine].tolist()} are not 0 to {len(mine) - 1}")
        records.append(PeRecord(Core(which), int(number), rows[mine], levels[mine], bias[mine], theta[mine]))
    return pack_records(records, config, groups_log2)


def pack_records(records, config, groups_log2=0):
    """A load stream from records, in their order.

    Parameters
    ----------
    records : iterable of PeRecord
        The PEs that have columns, of both cores; one record per PE number, which all groups get.
    config : ArchConfig
    groups_log2 : int

    Returns
    -------
    uint8[lines, line_bytes]

    Raises
    ------
    ValueError
        When a value does not fit, a PE does not exist or comes twice, or a slice is too small.
    """
    records = list(records)
    seen = set()
    lines = []
    for record in records:
        _check(record, config, groups_log2)
        if (record.core, record.pe) in seen:
            raise ValueError(f"{Core(record.core).name} PE {record.pe} has two records")
        seen.add((record.core, record.pe))
        lines += _pack_record(record, config)
    if not lines:
        raise ValueError("a load stream needs at least one record: a layer without columns cannot be run")
    return np.concatenate(lines)


class _Reader:
    def __init__(self, lines, config):
        self.lines = np.asarray(lines, np.uint8).reshape(-1, config.line_bytes)
        self.at = 0

    def take(self, count, what):
        if self.at + count > len(self.lines):
            raise LoadStreamError(len(self.lines) - 1, Status.BAD_LOAD_LENGTH, f"the stream ends within {what}")
        self.at += count
        return self.lines[self.at - count:self.at]

    def refuse(self, status, why):
        raise LoadStreamError(self.at - 1, status, why)


def unpack_load_stream(lines, config, groups_log2=0):
    """The records of a load stream; the inverse of :func:`pack_records`.

    Parameters
    ----------
    lines : uint8[n, line_bytes]
    config : ArchConfig
    groups_log2 : int

    Returns
    -------
    list of PeRecord

    Raises
    ------
    LoadStreamError
        When the loader would refuse the stream.
    """
    reader = _Reader(lines, config)
    if not len(reader.lines):
        raise LoadStreamError(0, Status.BAD_LOAD_LENGTH, "the stream is empty")
    records, seen = [], set()
    while reader.at < len(reader.lines):
        records.append(_unpack_record(reader, config, groups_log2, seen))
    return records


def _unpack_record(reader, config, groups_log2, seen):
    core, pe, columns, magic = (int(byte) for byte in reader.take(1, "a header")[0, :4])
    pes = (config.snn_pes if core == Core.SNN else config.ann_pes) >> groups_log2
    if magic != RECORD_MAGIC:
        reader.refuse(Status.BAD_LOAD_RECORD, f"a record begins with {RECORD_MAGIC:#x}, not {magic:#x}")
    if core not in (Core.ANN, Core.SNN):
        reader.refuse(Status.BAD_LOAD_RECORD, f"there is no core {core}")
    if pe >= pes:
        reader.refuse(Status.BAD_LOAD_RECORD, f"there is no PE {pe} in groups of {pes}")
    if not 1 <= columns <= config.columns_per_pe:
        reader.refuse(Status.BAD_LOAD_RECORD, f"{columns} columns are not 1 to {config.columns_per_pe}")
    if (core, pe) in seen:
        reader.refuse(Status.BAD_LOAD_RECORD, f"{Core(core).name} PE {pe} had a record before")
    seen.add((core, pe))

    sizes = reader.take(1, "a header")[0, :4].astype(np.int64)
    pairs, value_lines = int(sizes[0] | sizes[1] << 8), int(sizes[2] | sizes[3] << 8)
    if not 1 <= pairs <= config.mask_pairs:
        reader.refuse(Status.BAD_LOAD_LENGTH, f"{pairs} mask pairs are not 1 to {config.mask_pairs}")
    if value_lines > config.value_lines:
        reader.refuse(Status.BAD_LOAD_LENGTH, f"{value_lines} value lines are more than {config.value_lines}")

    words, most = np.zeros((columns, 3), np.int64), most_levels(core, config)
    for column in range(columns):
        lines = reader.take(column_record_lines(config), "the parameters")
        words[column] = theta, _, levels = lines.reshape(-1)[:_PARAMETER_BYTES].copy().view("<u4").astype(np.int64)
        if not 1 <= theta < 1 << config.theta_bits:
            reader.refuse(Status.BAD_LOAD_RECORD, f"theta {theta} of column {column} is not 1 to {(1 << config.theta_bits) - 1}")
        if not 1 <= levels <= (most := most_levels(core, config)):
            reader.refuse(Status.BAD_LOAD_RECORD, f"{levels} levels of column {column} are not 1 to {most}")
    chunk_pairs = -(-columns // 2)
    begin = reader.at
    masks = np.unpackbits(reader.take(2 * pairs, "the masks"), axis=-1, bitorder="little").astype(bool)
    phantom = masks.any(axis=1) & (np.arange(2 * pairs) % (2 * chunk_pairs) >= columns)
    over = np.cumsum(masks.sum(axis=1)) > value_lines * config.line_bytes
    bad = phantom | over
    if bad.any():
        reader.at = begin + int(bad.argmax()) + 1
        if phantom[bad.argmax()]:
            reader.refuse(Status.BAD_LOAD_RECORD, f"a mask of column {columns}, of {columns}")
        reader.refuse(Status.BAD_LOAD_LENGTH, f"the masks count more weights than {value_lines} lines hold")
    if pairs % chunk_pairs:
        reader.refuse(Status.BAD_LOAD_LENGTH, f"{pairs} mask pairs are not whole chunks of {chunk_pairs}")
    values = reader.take(value_lines, "the weights").reshape(-1).view(np.int8)
    dense = np.zeros(masks.shape, np.int64)
    dense[masks] = values[:int(masks.sum())]
    weights = dense.reshape(-1, 2 * chunk_pairs, config.chunk_bits)[:, :columns].transpose(1, 0, 2).reshape(columns, -1)
    bias = words[:, 1] - (words[:, 1] >> 31 << 32)
    return PeRecord(Core(core), pe, weights, words[:, 2], bias, words[:, 0])
