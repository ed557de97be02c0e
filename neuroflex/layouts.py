"""Payloads that cross block boundaries: each layout once, derived from the configuration and the formats.

All are functions of an :class:`~neuroflex.config.ArchConfig` and return an
:class:`amaranth.lib.data.StructLayout`. A **line** is ``chunk_bits`` bits, an address counts lines
(``address_bits`` bits). Payloads of plain valid-only buses carry their ``valid``; payloads of streams do not.
"""
from amaranth.hdl import Shape
from amaranth.lib import data

from neuroflex.formats import DESCRIPTOR_FIELDS, Core, LoadKind

__all__ = ["broadcast_layout", "burst_layout", "chunk_layout", "fetch_layout", "line_write_layout", "load_layout",
           "memory_request_layout", "read_data_layout", "read_layout", "response_layout", "settings_layout", "write_layout"]


def settings_layout(config):
    """What a layer's descriptor says, stable while the layer runs: every field but opcode, version and checksum.

    Names and widths are those of ``DESCRIPTOR_FIELDS`` (line addresses have 32 bits; blocks take the low
    ``address_bits``), so the layout is the same for every configuration.
    """
    return data.StructLayout({field.name: field.bits for field in DESCRIPTOR_FIELDS
                              if field.name not in ("opcode", "version", "checksum")})


def chunk_layout(config):
    """A chunk description, as the walks give it.

    Members
    -------
    address
        Line address of the chunk's mask; 0 when ``outside``.
    outside
        The position lies in the padding: the chunk is empty and is not read.
    group
        PE group the chunk is broadcast to.
    first_chunk, last_chunk
        First, last chunk of the convolution row.
    first_window, last_window
        First, last convolution row of the pooled output.
    new_block
        First chunk of a block of output positions.
    consume
        The chunk is read for the last time: its lines leave the cache.
    source
        0, or 1 for the residual source.
    last_of_layer
        Nothing follows.
    """
    return data.StructLayout({
        "address": config.address_bits,
        "outside": 1,
        "group": Shape.cast(range(config.max_groups)),
        "first_chunk": 1,
        "last_chunk": 1,
        "first_window": 1,
        "last_window": 1,
        "new_block": 1,
        "consume": 1,
        "source": 1,
        "last_of_layer": 1,
    })


def broadcast_layout(config):
    """The broadcast bus to both arrays: one beat of a chunk while ``valid``.

    ``mask`` and the four chunk flags are those of the chunk in all its beats; ``line`` holds the beat's packed
    levels (all zero for an empty chunk).
    """
    return data.StructLayout({
        "valid": 1,
        "group": Shape.cast(range(config.max_groups)),
        "first_chunk": 1,
        "last_chunk": 1,
        "first_window": 1,
        "last_window": 1,
        "first_beat": 1,
        "last_beat": 1,
        "mask": config.chunk_bits,
        "line": config.chunk_bits,
    })


def load_layout(config):
    """The load bus to both arrays: a write into a slice while ``valid``.

    ``pe`` is the PE's number within its group, ``kind`` a ``LoadKind``; ``address`` is a column, a pair of column
    masks or a value line, by kind.
    """
    return data.StructLayout({
        "valid": 1,
        "core": Shape.cast(Core),
        "pe": Shape.cast(range(config.lanes)),
        "kind": Shape.cast(LoadKind),
        "address": Shape.cast(range(max(config.value_lines, config.mask_pairs, config.columns_per_pe))),
        "data": max(2 * config.chunk_bits + 2 * config.value_base_bits, 72),
    })


def fetch_layout(config):
    """Stream to the cache: ``lines`` (1 ... 9) lines from ``address`` on will be read soon."""
    return data.StructLayout({"address": config.address_bits, "lines": 4})


def read_layout(config):
    """Stream to the cache: read the line at ``address``; ``consume``: it is not needed again."""
    return data.StructLayout({"address": config.address_bits, "consume": 1})


def response_layout(config):
    """The cache's answer to a read: ``line`` while ``valid``, in the order of the reads, not to be held up."""
    return data.StructLayout({"valid": 1, "line": config.chunk_bits})


def write_layout(config):
    """Stream to the cache: store ``line`` at ``address``; ``through``: straight to memory, not kept."""
    return data.StructLayout({"address": config.address_bits, "line": config.chunk_bits, "through": 1})


def line_write_layout(config):
    """Stream from the cache to the memory arbiter: store ``line`` at ``address``."""
    return data.StructLayout({"address": config.address_bits, "line": config.chunk_bits})


def memory_request_layout(config):
    """Stream to the memory port: a burst of ``lines`` (1 ... 255) lines from ``address`` on."""
    return data.StructLayout({"address": config.address_bits, "lines": 8, "write": 1})


def burst_layout(config):
    """Stream to the memory arbiter: read ``lines`` (1 ... 255) lines from ``address`` on."""
    return data.StructLayout({"address": config.address_bits, "lines": 8})


def read_data_layout(config):
    """Stream from the memory port: a line read, or the word that reading it failed."""
    return data.StructLayout({"line": config.chunk_bits, "error": 1})
