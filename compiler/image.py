"""Program images: a compiled network as one versioned file, and tensors of activations in its memory.

File layout, little-endian::

    offset  bytes  content
    0       8      MAGIC
    8       4      version
    12      4      bytes of the header
    16      8      bytes of the memory
    24      32     SHA-256 of everything else, in order: bytes 0 to 23, header, memory
    56             header: JSON, UTF-8
                   memory: lines of chunk_bits / 8 bytes from address 0 on

Whatever is not exactly such a file is refused with an :class:`ImageError` that says why.
"""
import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neuroflex.atomic import write_atomically
from neuroflex.compiler.network import Network, NetworkError
from neuroflex.config import ArchConfig, ConfigError
from neuroflex.formats import CHUNK_LINES, MAX_LEVEL

__all__ = ["IMAGE_VERSION", "ImageError", "ProgramImage", "Tensor", "decode_tensor", "encode_tensor"]

MAGIC = b"NFLXPROG"
IMAGE_VERSION = 1

_PREFIX = struct.Struct("<8sIIQ")
_DIGEST_BYTES = 32


class ImageError(ValueError):
    """A file that is no program image, or not one that this version can use."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tensor:
    """Where a tensor of activations lies in memory.

    Attributes
    ----------
    name : str
    base : int
        Line address of the first chunk.
    height, width, chunks : int
        Grid of spines, and chunks per spine.
    positions : int64[channels]
        Position of each channel in its spine, ``0 ... chunks * chunk_bits - 1``; the other positions are zero.
    levels : int
        Largest level of a channel.
    """

    name: str
    base: int
    height: int
    width: int
    chunks: int
    positions: np.ndarray
    levels: int

    @property
    def lines(self):
        """Lines reserved from ``base`` on."""
        return self.height * self.width * self.chunks * CHUNK_LINES

    @property
    def shape(self):
        """``(channels, height, width)``."""
        return len(self.positions), self.height, self.width


def encode_tensor(levels, tensor, config):
    """A tensor as fibers.

    Parameters
    ----------
    levels : int array of shape ``tensor.shape``
    tensor : Tensor
    config : ArchConfig

    Returns
    -------
    uint8[tensor.lines, line_bytes]
        What belongs at ``tensor.base``; unused value lines are zero.

    Raises
    ------
    ValueError
        For another shape, or levels out of ``0 ... tensor.levels``.
    """
    levels = np.asarray(levels, np.int64)
    if levels.shape != tensor.shape:
        raise ValueError(f"tensor {tensor.name!r} has the shape {tensor.shape}, not {levels.shape}")
    if levels.size and not 0 <= levels.min() <= levels.max() <= tensor.levels:
        raise ValueError(f"tensor {tensor.name!r} takes levels from 0 to {tensor.levels}, not from {levels.min()} to {levels.max()}")
    spines = np.zeros((tensor.height * tensor.width, tensor.chunks * config.chunk_bits), np.int64)
    spines[:, tensor.positions] = levels.reshape(len(tensor.positions), -1).T
    chunks = spines.reshape(-1, config.chunk_bits)
    occupied = chunks != 0
    order = np.argsort(~occupied, axis=1, kind="stable")     # nonzero levels to the front, in their order
    masks = np.packbits(occupied, axis=1, bitorder="little")
    values = np.take_along_axis(chunks, order, axis=1).astype(np.uint8)
    return np.concatenate([masks, values], axis=1).reshape(-1, config.line_bytes)


def decode_tensor(memory, tensor, config):
    """The inverse of :func:`encode_tensor`, from a whole memory.

    Parameters
    ----------
    memory : uint8[lines, line_bytes]
        Memory from address 0 on.
    tensor : Tensor
    config : ArchConfig

    Returns
    -------
    int64[tensor.shape]

    Raises
    ------
    ValueError
        When the memory ends before the tensor does.
    """
    if tensor.base + tensor.lines > len(memory):
        raise ValueError(f"tensor {tensor.name!r} ends at line {tensor.base + tensor.lines}, the memory at {len(memory)}")
    fibers = np.asarray(memory[tensor.base:tensor.base + tensor.lines], np.uint8).reshape(-1, CHUNK_LINES * config.line_bytes)
    occupied = np.unpackbits(fibers[:, :config.line_bytes], axis=1, bitorder="little").astype(bool)
    values = fibers[:, config.line_bytes:]
    rank = np.maximum(np.cumsum(occupied, axis=1) - 1, 0)
    chunks = np.where(occupied, np.take_along_axis(values, rank, axis=1), 0).astype(np.int64)
    return chunks.reshape(tensor.height * tensor.width, -1)[:, tensor.positions].T.reshape(tensor.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgramImage:
    """A program, ready to be put into memory.

    Attributes
    ----------
    config : ArchConfig
        The accelerator it was compiled for.
    memory : uint8[lines, line_bytes]
        Memory from address 0 on: descriptors and load streams in place, room for the tensors.
    descriptors : tuple of int
        Line addresses of the descriptors, the program's start first.
    tensors : tuple of Tensor
    input, output : str
        Names of the tensors to fill before and to read after a job.
    about : dict
        Whatever else is to be kept: JSON values.
    """

    config: ArchConfig
    memory: np.ndarray
    descriptors: tuple
    tensors: tuple
    input: str
    output: str
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        memory = self.memory
        if not isinstance(memory, np.ndarray) or memory.dtype != np.uint8 or memory.shape[1:] != (self.config.line_bytes,):
            raise ValueError(f"memory must be uint8 lines of {self.config.line_bytes} bytes")
        if len(memory) > 1 << self.config.address_bits:
            raise ValueError(f"{len(memory)} lines are more than address_bits = {self.config.address_bits} reach")
        if not self.descriptors or not all(0 <= address < len(memory) for address in self.descriptors):
            raise ValueError("descriptors must be addresses in the memory, at least one")
        for tensor in self.tensors:
            positions = np.asarray(tensor.positions)
            if not (0 <= tensor.base and tensor.base + tensor.lines <= len(memory)):
                raise ValueError(f"tensor {tensor.name!r} does not lie within the memory")
            if len(np.unique(positions)) != len(positions) or (
                    len(positions) and not 0 <= positions.min() <= positions.max() < tensor.chunks * self.config.chunk_bits):
                raise ValueError(f"tensor {tensor.name!r}: positions must be different and within its spine")
            if not 0 < tensor.levels <= MAX_LEVEL:
                raise ValueError(f"tensor {tensor.name!r}: levels must be 1 to {MAX_LEVEL}, not {tensor.levels}")
        for name in (self.input, self.output):
            self.tensor(name)

    def tensor(self, name):
        """The tensor of that name; ``KeyError`` when there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"no tensor {name!r}; tensors: {', '.join(t.name for t in self.tensors)}")

    def with_input(self, levels):
        """The memory with an input in place: ``uint8[lines, line_bytes]``, from levels (channels, height, width)."""
        tensor = self.tensor(self.input)
        memory = self.memory.copy()
        memory[tensor.base:tensor.base + tensor.lines] = encode_tensor(levels, tensor, self.config)
        return memory

    def read_output(self, memory):
        """The output's levels, ``int64[channels, height, width]``, from the memory after a job."""
        return decode_tensor(memory, self.tensor(self.output), self.config)

    def network(self, origin="the program"):
        """The `Network` that was compiled, which ``about`` carries; ``origin`` is what messages call the image.

        Raises
        ------
        ImageError
            When there is none, or it is no network.
        neuroflex.compiler.network.NetworkError
            When the network is damaged.
        """
        try:
            return Network.from_bytes(base64.b64decode(self.about["network"]), origin=f"{origin}: its network")
        except NetworkError:
            raise
        except KeyError:
            raise ImageError(f"{origin}: holds no network; make it with `neuroflex compile`") from None
        except (TypeError, ValueError) as error:        # of base64 as well
            raise ImageError(f"{origin}: the network in it cannot be read: {error}") from error

    def to_bytes(self):
        """The file's content; equal images give equal bytes."""
        header = json.dumps({
            "config": self.config.to_dict(), "lines": len(self.memory), "descriptors": [int(a) for a in self.descriptors],
            "tensors": [{"name": t.name, "base": int(t.base), "height": int(t.height), "width": int(t.width),
                         "chunks": int(t.chunks), "positions": np.asarray(t.positions).tolist(), "levels": int(t.levels)}
                        for t in self.tensors],
            "input": self.input, "output": self.output, "about": self.about,
        }, sort_keys=True, separators=(",", ":")).encode()
        memory = np.ascontiguousarray(self.memory).tobytes()
        prefix = _PREFIX.pack(MAGIC, IMAGE_VERSION, len(header), len(memory))
        return prefix + _digest(prefix, header, memory) + header + memory

    @classmethod
    def from_bytes(cls, content, source="program image"):
        """An image from a file's content; ``source`` is what messages call it.

        Raises
        ------
        ImageError
        """
        if len(content) < _PREFIX.size + _DIGEST_BYTES:
            raise ImageError(f"{source}: {len(content)} bytes are too few for a program image")
        magic, version, header_bytes, memory_bytes = _PREFIX.unpack_from(content)
        if magic != MAGIC:
            what = "it is an .npz file; `neuroflex compile` makes a program of a network" if magic[:2] == b"PK" else f"it begins with {bytes(magic)!r}, not {MAGIC!r}"
            raise ImageError(f"{source}: not a program image: {what}")
        if version != IMAGE_VERSION:
            raise ImageError(f"{source}: version {version} of the format, this program reads version {IMAGE_VERSION}: "
                             "compile the network again")
        start = _PREFIX.size + _DIGEST_BYTES
        total = start + header_bytes + memory_bytes
        if len(content) != total:
            raise ImageError(f"{source}: {len(content)} bytes long, its header says {total}: "
                             f"{'truncated' if len(content) < total else 'something was appended'}")
        header, memory = content[start:start + header_bytes], content[start + header_bytes:]
        if content[_PREFIX.size:start] != _digest(content[:_PREFIX.size], header, memory):
            raise ImageError(f"{source}: the checksum does not match: the file was damaged or changed")
        try:
            fields = json.loads(header)
            config = ArchConfig.from_dict(fields["config"])
            return cls(config=config, memory=np.frombuffer(memory, np.uint8).reshape(fields["lines"], config.line_bytes).copy(),
                       descriptors=tuple(fields["descriptors"]),
                       tensors=tuple(Tensor(**{**t, "positions": np.array(t["positions"], np.int64)}) for t in fields["tensors"]),
                       input=fields["input"], output=fields["output"], about=fields["about"])
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ImageError(f"{source}: its contents do not make sense: {error}") from error

    def save(self, path):
        """Write the file, whole or not at all."""
        write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path):
        """Read a file.

        Raises
        ------
        ImageError
            When it is no intact image of this version.
        OSError
            When it cannot be read.
        """
        return cls.from_bytes(Path(path).read_bytes(), str(path))


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
