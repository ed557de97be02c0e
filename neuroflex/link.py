"""The serial link between host and accelerator: frames, the one definition that circuit, model and driver derive from.

::

    request   A5  op     count  address (4)  count x 4 bytes (writes)        crc (2)
    answer    5A  status count               count x 4 bytes (good reads)    crc (2)

Addresses and words are little-endian; ``count`` is in words of 32 bits, addresses are bytes and multiples of four. The CRC (CCITT, 0x1021,
from 0xFFFF, high byte first) covers everything between the first byte and itself. An answer without words has the count 0. Each whole
request has one answer; a request that stops in the middle has none and is forgotten after `GAP_BYTES` byte times of silence.
"""
import binascii
import struct
from enum import IntEnum

__all__ = ["ANSWER", "GAP_BYTES", "LinkStatus", "MAX_WORDS", "Op", "REQUEST", "answer_frame", "crc", "request_frame"]

REQUEST, ANSWER = 0xA5, 0x5A
MAX_WORDS = 64
GAP_BYTES = 64          # of silence within a request, after which the next one may begin
CRC_POLYNOMIAL, CRC_INIT = 0x1021, 0xFFFF

_HEAD = struct.Struct("<BBI")


class Op(IntEnum):
    """What a request wants; bit 0: write."""

    READ_MEMORY = 0x10
    WRITE_MEMORY = 0x11
    READ_REGISTERS = 0x20
    WRITE_REGISTERS = 0x21


class LinkStatus(IntEnum):
    """First byte of an answer."""

    OK = 0
    BAD_OP = 1              # no such op
    BAD_COUNT = 2           # not 1 to MAX_WORDS
    BAD_ADDRESS = 3         # not a multiple of four
    BAD_CHECKSUM = 4        # nothing was done
    REFUSED = 5             # no register or no memory there; words before it were read or written


def crc(content):
    """Checksum of bytes."""
    return binascii.crc_hqx(content, CRC_INIT)


def request_frame(op, address, count=None, words=()):
    """Bytes of a request: ``count`` words to read, or ``words`` to write."""
    body = _HEAD.pack(op, len(words) if count is None else count, address) + struct.pack(f"<{len(words)}I", *words)
    return bytes([REQUEST]) + body + struct.pack(">H", crc(body))


def answer_frame(status, words=()):
    """Bytes of an answer."""
    body = bytes([status, len(words)]) + struct.pack(f"<{len(words)}I", *words)
    return bytes([ANSWER]) + body + struct.pack(">H", crc(body))
