"""Program images: what is saved is loaded, and nothing else is."""
import struct

import numpy as np
import pytest

from neuroflex.compiler.image import IMAGE_VERSION, ImageError, ProgramImage, Tensor, decode_tensor, encode_tensor
from neuroflex.config import PRESETS
from neuroflex.formats import CHUNK_LINES, pack_chunk

CONFIG = PRESETS["tiny"]


@pytest.fixture
def rng():
    return np.random.default_rng(31)


def make_image(rng, **changes):
    tensors = (
        Tensor(name="image", base=40, height=3, width=2, chunks=1, positions=np.arange(3), levels=127),
        Tensor(name="scores", base=40 + 6 * CHUNK_LINES, height=1, width=1, chunks=2, positions=rng.permutation(64)[:10], levels=15),
    )
    fields = dict(config=CONFIG, memory=rng.integers(0, 256, (120, CONFIG.line_bytes), dtype=np.uint8), descriptors=(0, 32),
                  tensors=tensors, input="image", output="scores", about={"network": "test"})
    return ProgramImage(**fields | changes)


def test_saved_and_loaded(rng, tmp_path):
    image = make_image(rng)
    path = tmp_path / "net.nflx"
    image.save(path)
    again = ProgramImage.load(path)
    assert again.to_bytes() == image.to_bytes() == path.read_bytes()
    assert again.config == CONFIG
    assert again.descriptors == (0, 32)
    assert again.about == {"network": "test"}
    np.testing.assert_array_equal(again.memory, image.memory)
    np.testing.assert_array_equal(again.tensor("scores").positions, image.tensor("scores").positions)
    assert [p.name for p in tmp_path.iterdir()] == ["net.nflx"]


def test_a_failed_save_leaves_the_old_file(rng, tmp_path, monkeypatch):
    path = tmp_path / "net.nflx"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_image(rng).save(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.nflx"]


def test_every_flipped_bit_is_refused(rng):
    content = make_image(rng).to_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        with pytest.raises(ImageError):
            ProgramImage.from_bytes(bytes(damaged))


def test_every_truncation_is_refused(rng):
    content = make_image(rng).to_bytes()
    for length in range(len(content)):
        with pytest.raises(ImageError, match="too few|truncated"):
            ProgramImage.from_bytes(content[:length])


def test_messages(rng, tmp_path):
    content = make_image(rng).to_bytes()
    path = tmp_path / "net.nflx"
    for damaged, message in (
            (content + b"x", "something was appended"),
            (b"\x7fELF" + content[4:], "not a program image: it begins with"), (b"PK" + content[2:], "it is an .npz file; `neuroflex compile` makes a program of a network"),
            (content[:8] + struct.pack("<I", IMAGE_VERSION + 1) + content[12:],
             f"version {IMAGE_VERSION + 1} of the format, this program reads version {IMAGE_VERSION}: compile the network again"),
            (content[:-1] + bytes([content[-1] ^ 1]), "the checksum does not match: the file was damaged or changed")):
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=f"net.nflx: .*{message}"):
            ProgramImage.load(path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"memory": np.zeros((120, 8), np.uint8)}, "memory must be uint8 lines of 4 bytes"),
    ({"descriptors": ()}, "descriptors must be addresses in the memory, at least one"),
    ({"descriptors": (120,)}, "descriptors must be addresses in the memory, at least one"),
    ({"tensors": (Tensor(name="t", base=115, height=1, width=1, chunks=1, positions=np.arange(2), levels=3),)},
     "tensor 't' does not lie within the memory"),
    ({"tensors": (Tensor(name="t", base=0, height=1, width=1, chunks=1, positions=np.array([1, 1]), levels=3),)},
     "tensor 't': positions must be different and within its spine"),
    ({"tensors": (Tensor(name="t", base=0, height=1, width=1, chunks=1, positions=np.array([0, 32]), levels=3),)},
     "tensor 't': positions must be different and within its spine"),
    ({"tensors": (Tensor(name="t", base=0, height=1, width=1, chunks=1, positions=np.arange(2), levels=128),)},
     "tensor 't': levels must be 1 to 127, not 128"),
])
def test_contradictions_are_refused(rng, changes, message):
    with pytest.raises(ValueError, match=message):
        make_image(rng, **changes)


def test_unknown_tensor(rng):
    with pytest.raises(KeyError, match="no tensor 'x'; tensors: image, scores"):
        make_image(rng, input="x")


@pytest.mark.parametrize("preset", PRESETS)
def test_tensors(rng, preset):
    config = PRESETS[preset]
    chunks = 3
    positions = rng.permutation(chunks * config.chunk_bits)[:50]
    tensor = Tensor(name="t", base=5, height=4, width=3, chunks=chunks, positions=positions, levels=127)
    levels = rng.integers(0, 128, tensor.shape) * (rng.random(tensor.shape) < 0.5)
    levels[:, 0, 0] = 0
    lines = encode_tensor(levels, tensor, config)
    assert lines.shape == (tensor.lines, config.line_bytes)
    memory = rng.integers(0, 256, (5 + tensor.lines + 7, config.line_bytes), dtype=np.uint8)
    memory[5:5 + tensor.lines] = lines
    np.testing.assert_array_equal(decode_tensor(memory, tensor, config), levels)

    dense = np.zeros((12, chunks * config.chunk_bits), np.int64)
    dense[:, positions] = levels.reshape(50, -1).T
    for number, chunk in enumerate(dense.reshape(-1, config.chunk_bits)):
        packed = pack_chunk(chunk, config)
        np.testing.assert_array_equal(lines[number * CHUNK_LINES:][:len(packed)], packed)
        memory[5 + number * CHUNK_LINES + len(packed):5 + (number + 1) * CHUNK_LINES] = 0xAA     # what the circuit leaves there
    np.testing.assert_array_equal(decode_tensor(memory, tensor, config), levels)


def test_input_and_output(rng):
    image = make_image(rng)
    levels = rng.integers(0, 128, (3, 3, 2))
    memory = image.with_input(levels)
    np.testing.assert_array_equal(decode_tensor(memory, image.tensor("image"), CONFIG), levels)
    scores = rng.integers(0, 16, (10, 1, 1))
    tensor = image.tensor("scores")
    memory[tensor.base:tensor.base + tensor.lines] = encode_tensor(scores, tensor, CONFIG)
    np.testing.assert_array_equal(image.read_output(memory), scores)
    with pytest.raises(ValueError, match=r"tensor 'image' has the shape \(3, 3, 2\), not \(3, 2, 3\)"):
        image.with_input(levels.reshape(3, 2, 3))
    with pytest.raises(ValueError, match="tensor 'scores' takes levels from 0 to 15, not from 16 to 16"):
        encode_tensor(np.full((10, 1, 1), 16), tensor, CONFIG)
    with pytest.raises(ValueError, match="tensor 'scores' ends at line 112, the memory at 100"):
        decode_tensor(memory[:100], tensor, CONFIG)
