"""Formats that compiler, model, circuits and testbenches share: fiber, descriptor, load stream, status codes.

See ``docs/formats.md`` for the pictures. Everything is little-endian, and memory is addressed in lines of
``chunk_bits`` bits.
"""
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

__all__ = ["CHUNK_LINES", "DESCRIPTOR_FIELDS", "DESCRIPTOR_WORDS", "DESCRIPTOR_VERSION", "Core", "Field", "LOAD_BURST", "LoadKind", "Opcode",
           "RECORD_MAGIC", "Status", "StallCause", "LEVEL_BITS", "MAX_LEVEL", "column_record_lines", "descriptor_checksum",
           "descriptor_lines", "most_levels", "pack_chunk", "pack_descriptor", "unpack_chunk", "unpack_descriptor"]

LEVEL_BITS = 7        # activations are levels 0 ... 127, stored as INT8
MAX_LEVEL = 127
CHUNK_LINES = 9       # one mask line and eight value lines are reserved per chunk


class Core(IntEnum):
    ANN = 0
    SNN = 1


class Opcode(IntEnum):
    LAYER = 1
    END = 2


class LoadKind(IntEnum):
    """What a beat of the load bus carries into a PE's slice."""

    COLUMNS = 0   # data[7:0] = number of columns of this PE
    PARAMETER = 1  # address = column, data = {levels[7:0], bias[31:0], theta[31:0]}
    MASKS = 2     # address = pair, data = {base1, base0, mask1, mask0}
    VALUES = 3    # address = line, data = packed INT8 weights


class Status(IntEnum):
    """Why a job ended. 0 while it runs or before the first one."""

    NONE = 0
    DONE = 1
    BAD_OPCODE = 2           # descriptor opcode or version unknown
    BAD_CHECKSUM = 3         # descriptor checksum wrong
    BAD_SOURCE = 4           # a source's shape, kernel, stride or padding cannot exist
    BAD_OUTPUT = 5           # output size zero, chunks zero, pool zero, more groups than PEs allow
    BAD_LOAD_RECORD = 6      # load stream: magic, core, PE, column count, threshold or levels out of range, a PE twice
    BAD_LOAD_LENGTH = 7      # load stream longer or shorter than its records say, or over a slice's capacity
    BUS_ERROR = 8            # the memory answered with an error
    WATCHDOG = 9             # no progress for the set number of cycles
    BAD_PROGRAM = 10         # the program, or what follows its last layer, lies beyond memory


class StallCause(IntEnum):
    """Every cycle of a job is counted under exactly one of these, seen from the broadcaster."""

    CONTROL = 0      # fetching and checking descriptors
    LOAD = 1         # loading weights
    BROADCAST = 2    # a beat was broadcast: progress
    MEMORY = 3       # waiting for activations from cache or memory
    SLOT = 4         # a PE of the group has no free slot: the PEs are the bottleneck
    ROW = 5          # a PE has no free row buffer: neurons are the bottleneck
    OUTPUT = 6       # the compressor has not freed an output bank
    DRAIN = 7        # everything was broadcast, the tail of the layer is finishing


@dataclass(frozen=True)
class Field:
    """A field of the layer descriptor: ``bits`` bits at bit ``lsb`` of 32-bit word ``word``."""

    name: str
    word: int
    lsb: int
    bits: int
    doc: str


DESCRIPTOR_WORDS = 32
DESCRIPTOR_VERSION = 1


def _source(index, word):
    n = f"source{index}_"
    return [
        Field(n + "base", word, 0, 32, "line address of the tensor's first chunk"),
        Field(n + "height", word + 1, 0, 16, "rows of spines; 0 means that this source is absent (source 1 only)"),
        Field(n + "width", word + 1, 16, 16, "spines per row"),
        Field(n + "chunks", word + 2, 0, 12, "chunks per spine"),
        Field(n + "kernel_h", word + 2, 12, 4, "window height, 1 to 7"),
        Field(n + "kernel_w", word + 2, 16, 4, "window width, 1 to 7"),
        Field(n + "stride", word + 2, 20, 4, "stride, 1 to 7"),
        Field(n + "pad", word + 2, 24, 4, "padding on every side, 0 to 6, less than the kernel"),
        Field(n + "repeat", word + 2, 28, 4, "times the window is appended to the row, 1 to 15"),
    ]


DESCRIPTOR_FIELDS = tuple([
    Field("opcode", 0, 0, 8, "Opcode"),
    Field("version", 0, 8, 8, "DESCRIPTOR_VERSION"),
    Field("consume0", 0, 16, 1, "this layer is the last reader of source 0: its lines leave the cache at their last use"),
    Field("consume1", 0, 17, 1, "the same for source 1"),
    Field("to_memory", 0, 18, 1, "outputs go straight to memory, not into the cache"),
    Field("load_address", 1, 0, 32, "line address of the load stream"),
    Field("load_lines", 2, 0, 32, "lines of the load stream"),
    *_source(0, 3),
    *_source(1, 6),
    Field("out_base", 9, 0, 32, "line address of the output tensor's first chunk"),
    Field("out_height", 10, 0, 16, "rows of output spines, after pooling"),
    Field("out_width", 10, 16, 16, "output spines per row, after pooling"),
    Field("out_chunks", 11, 0, 12, "chunks per output spine, of all tiles together"),
    Field("out_first_chunk", 11, 12, 12, "first chunk of the spine that this tile writes"),
    Field("pool_h", 12, 0, 4, "height of the fused max pool, 1 to 7"),
    Field("pool_w", 12, 4, 4, "width of the fused max pool, 1 to 7"),
    Field("groups_log2", 12, 8, 4, "log2 of the number of PE groups that rows are split over"),
    Field("levels_in", 12, 12, 4, "levels of the sources, T1 of the PASC-IF neuron; 0 when no SNN column is used"),
    Field("fetch_lines", 12, 16, 4, "lines fetched ahead per missing chunk, 1 to 9"),
    Field("ann_rounds", 13, 0, 8, "most columns on a PE of the ANN core"),
    Field("snn_rounds", 13, 8, 8, "most columns on a PE of the SNN core"),
    Field("checksum", 31, 0, 32, "descriptor_checksum of words 0 to 30"),
])


def descriptor_checksum(words):
    """Sum of the words plus the rotated-left-by-one running value, mod 2**32: order matters.

    ``c = 0x4E464C58; for w in words: c = rotl1(c) + w``.
    """
    check = 0x4E464C58
    for word in words:
        check = (((check << 1) | (check >> 31)) + int(word)) & 0xFFFFFFFF
    return check


def pack_descriptor(**values):
    """A descriptor as ``uint32[DESCRIPTOR_WORDS]``; opcode's version and checksum are filled in.

    Raises
    ------
    ValueError
        When a name is unknown or a value does not fit its field.
    """
    words = [0] * DESCRIPTOR_WORDS
    fields = {field.name: field for field in DESCRIPTOR_FIELDS}
    for name, value in {"version": DESCRIPTOR_VERSION, **values}.items():
        if name not in fields or name == "checksum":
            raise ValueError(f"descriptor has no field {name!r} to set")
        field = fields[name]
        if not 0 <= int(value) < 1 << field.bits:
            raise ValueError(f"descriptor field {name} = {value} does not fit {field.bits} bits")
        words[field.word] |= int(value) << field.lsb
    words[-1] = descriptor_checksum(words[:-1])
    return np.array(words, np.uint32)


def unpack_descriptor(words):
    """Field values of a descriptor, by name; nothing is checked."""
    return {f.name: (int(words[f.word]) >> f.lsb) & ((1 << f.bits) - 1) for f in DESCRIPTOR_FIELDS}


def descriptor_lines(config):
    """Lines of a descriptor in memory."""
    return DESCRIPTOR_WORDS * 32 // config.chunk_bits


# --- load stream -----------------------------------------------------------------------------------
# One record per PE that has columns, in any order:
#   line 0   RECORD_MAGIC[31:24] | columns[23:16] | pe[15:8] | core[7:0]        (upper bits of the line 0)
#   line 1   value_lines[31:16] | mask_pairs[15:0]
#   column_record_lines(config) lines per column: 96 bits {levels[95:64], bias[63:32], theta[31:0]}
#   2 * mask_pairs lines: masks in (chunk, column) order, an odd column count padded with an empty mask
#   value_lines lines: the nonzero weights in the same order, INT8, packed
# `pe` is the number within the PE's group; all groups get the same record.
RECORD_MAGIC = 0xA5
LOAD_BURST = 64       # most lines that the loader asks for at a time


def column_record_lines(config):
    """Lines of one column's parameters in the load stream."""
    return -(-96 // config.chunk_bits)


def most_levels(core, config):
    """Largest number of levels that a column may have on a core."""
    return config.snn_levels if core == Core.SNN else MAX_LEVEL


# --- fibers ----------------------------------------------------------------------------------------
def pack_chunk(values, config):
    """A chunk of up to ``chunk_bits`` INT8 values as lines.

    Parameters
    ----------
    values : array of integers, shape (n,), n <= chunk_bits
        Levels or weights, -128 ... 127; missing positions count as zero.

    Returns
    -------
    uint8[1 + ceil(nonzeros / line_bytes), line_bytes]
        The mask line (position ``i`` is bit ``i % 8`` of byte ``i // 8``), then the nonzero values in order of
        position, zero padded.
    """
    values = np.asarray(values, np.int64)
    if values.ndim != 1 or len(values) > config.chunk_bits:
        raise ValueError(f"a chunk takes at most {config.chunk_bits} values, not shape {values.shape}")
    if len(values) and (values.min() < -128 or values.max() > 127):
        raise ValueError("a value does not fit INT8")
    dense = np.zeros(config.chunk_bits, np.int64)
    dense[:len(values)] = values
    packed = dense[dense != 0]
    lines = np.zeros((1 + -(-len(packed) // config.line_bytes), config.line_bytes), np.uint8)
    lines[0] = np.packbits(dense != 0, bitorder="little")
    lines[1:].reshape(-1)[:len(packed)] = packed.astype(np.int8).view(np.uint8)
    return lines


def unpack_chunk(lines, config):
    """Inverse of :func:`pack_chunk`: ``int64[chunk_bits]``; surplus lines are ignored.

    Raises
    ------
    ValueError
        When the mask counts more values than the lines hold.
    """
    lines = np.asarray(lines, np.uint8).reshape(-1, config.line_bytes)
    mask = np.unpackbits(lines[0], bitorder="little").astype(bool)
    values = lines[1:].reshape(-1).view(np.int8).astype(np.int64)
    count = int(mask.sum())
    if count > len(values):
        raise ValueError(f"chunk mask counts {count} values, but only {len(values)} follow")
    dense = np.zeros(config.chunk_bits, np.int64)
    dense[mask] = values[:count]
    return dense
