"""Formats: what is packed is unpacked; what does not fit is refused."""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import (CHUNK_LINES, DESCRIPTOR_FIELDS, DESCRIPTOR_VERSION, DESCRIPTOR_WORDS, Opcode, descriptor_checksum,
                               descriptor_lines, pack_chunk, pack_descriptor, unpack_chunk, unpack_descriptor)


@pytest.mark.parametrize("preset", PRESETS)
def test_chunks(preset):
    config, rng = PRESETS[preset], np.random.default_rng(5)
    for density in (0, 0.02, 0.3, 1):
        for length in (0, 1, config.chunk_bits - 1, config.chunk_bits):
            values = rng.integers(-128, 128, length) * (rng.random(length) < density)
            lines = pack_chunk(values, config)
            assert lines.shape == (1 + -(-np.count_nonzero(values) // config.line_bytes), config.line_bytes)
            assert len(lines) <= CHUNK_LINES
            np.testing.assert_array_equal(unpack_chunk(lines, config)[:length], values)
            assert not unpack_chunk(lines, config)[length:].any()
            surplus = np.concatenate([lines, np.full((1, config.line_bytes), 9, np.uint8)])
            np.testing.assert_array_equal(unpack_chunk(surplus, config), unpack_chunk(lines, config))


def test_a_chunk_by_hand():
    lines = pack_chunk([0, 5, 0, 0, 0, 0, 0, 0, -1], PRESETS["tiny"])
    np.testing.assert_array_equal(lines, [[2, 1, 0, 0], [5, 255, 0, 0]])


def test_wrong_chunks():
    config = PRESETS["tiny"]
    with pytest.raises(ValueError, match="at most 32 values"):
        pack_chunk(np.zeros(33), config)
    for value in (-129, 128):
        with pytest.raises(ValueError, match="does not fit INT8"):
            pack_chunk([value], config)
    with pytest.raises(ValueError, match="counts 5 values, but only 4 follow"):
        unpack_chunk(pack_chunk([1, 2, 3, 4, 5], config)[:-1], config)


def test_descriptors():
    rng = np.random.default_rng(6)
    for _ in range(100):
        values = {f.name: int(rng.integers(1 << f.bits)) for f in DESCRIPTOR_FIELDS if f.name != "checksum"}
        words = pack_descriptor(**values)
        assert words.dtype == np.uint32 and words.shape == (DESCRIPTOR_WORDS,)
        fields = unpack_descriptor(words)
        assert fields.pop("checksum") == descriptor_checksum(words[:-1])
        assert fields == values


def test_fields_do_not_overlap():
    used = np.zeros((DESCRIPTOR_WORDS, 32), int)
    for field in DESCRIPTOR_FIELDS:
        assert field.lsb + field.bits <= 32 and field.doc
        used[field.word, field.lsb:field.lsb + field.bits] += 1
    assert used.max() == 1


def test_descriptor_defaults_and_refusals():
    assert unpack_descriptor(pack_descriptor(opcode=Opcode.END))["version"] == DESCRIPTOR_VERSION
    for name in ("checksum", "colour"):
        with pytest.raises(ValueError, match=f"has no field '{name}' to set"):
            pack_descriptor(**{name: 1})
    for value in (-1, 256):
        with pytest.raises(ValueError, match=f"opcode = {value} does not fit 8 bits"):
            pack_descriptor(opcode=value)


def test_checksum():
    """The formula by hand for one word; any flipped bit, and words in another order, change it."""
    assert descriptor_checksum([]) == 0x4E464C58
    assert descriptor_checksum([3]) == (0x4E464C58 << 1) + 3
    rng = np.random.default_rng(7)
    words = rng.integers(1 << 32, size=DESCRIPTOR_WORDS - 1)
    good = descriptor_checksum(words)
    for word in range(len(words)):
        for bit in range(32):
            flipped = words.copy()
            flipped[word] ^= 1 << bit
            assert descriptor_checksum(flipped) != good
    assert descriptor_checksum(words[::-1]) != good


@pytest.mark.parametrize("preset", PRESETS)
def test_descriptor_lines(preset):
    assert descriptor_lines(PRESETS[preset]) * PRESETS[preset].line_bytes == 4 * DESCRIPTOR_WORDS
