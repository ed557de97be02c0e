"""The integer network: what the compiler lowers to and the golden model evaluates.

A network is an input specification and a list of matrix layers in order. Every layer computes, for every output
position (row) ``m`` and every output channel (column) ``n``::

    Z[m, n] = sum over k of A[m, k] * W[k, n]
    y[m, n] = clip(floor((2 Z + 2 bias[n] + theta[n]) / (2 theta[n])), 0, levels[n])

and optionally takes the maximum of ``y`` over non-overlapping windows. A row of ``A`` is the concatenation of the channel
vectors (*spines*) of the positions in the window of each source; positions outside the grid are zero. All values between
layers are levels in 0 … 127.

The file format is described in ``docs/network_format.md``.
"""

__all__ = [
    "ACCUMULATOR_BITS", "FORMAT_VERSION", "MAX_KERNEL", "MAX_REPEAT", "Concat", "Examples", "InputSpec", "Layer",
    "Network", "NetworkError", "SealedFile", "SPLIT_VERSION", "Source", "Window", "seal", "unseal",
]

import hashlib
import io
import json
import struct
import zipfile
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from neuroflex.atomic import write_atomically
from neuroflex.formats import MAX_LEVEL

FORMAT_VERSION = 2         # 1: without concatenations; still written for networks that have none
SPLIT_VERSION = 4          # with host steps: `neuroflex.compiler.split`. No single flipped bit makes it of another version
_VERSIONS = 1, FORMAT_VERSION, SPLIT_VERSION
MAX_KERNEL = 7
MAX_REPEAT = 15
ACCUMULATOR_BITS = 32

_MAGIC = b"neuroflex-network/"
_SEAL_BYTES = len(_MAGIC) + 4 + len(b" sha256=") + 64


class NetworkError(ValueError):
    """A network, or a network file, that the hardware or the format cannot take."""


def _integer(owner, name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{owner}: {name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise NetworkError(f"{owner}: {name} must be in {low} … {high}, not {value}")


def _array(owner, name, value, dtype, ndim, low, high):
    """Read-only copy of ``value`` as ``dtype``, refused when a value is not an integer in ``low … high``."""
    value = np.asarray(value)
    if value.ndim != ndim:
        raise NetworkError(f"{owner}: {name} must have {ndim} dimension(s), not shape {value.shape}")
    if not np.issubdtype(value.dtype, np.integer):
        raise TypeError(f"{owner}: {name} must hold integers, not {value.dtype}")
    if value.size and (int(value.min()) < low or int(value.max()) > high):
        raise NetworkError(f"{owner}: {name} must lie in {low} … {high}; "
                           f"its values span {value.min()} … {value.max()}")
    value = value.astype(dtype)
    value.setflags(write=False)
    return value


@dataclass(frozen=True, kw_only=True)
class Window:
    """A sliding window over a grid of spines: kernel and padding in positions, one stride for both directions."""

    kernel_h: int = 1
    kernel_w: int = 1
    stride: int = 1
    padding: int = 0

    def grid(self, height, width):
        """``(rows, columns)`` of window positions on a ``height × width`` grid; raises if there is none."""
        out = tuple((size + 2 * self.padding - kernel) // self.stride + 1
                    for size, kernel in ((height, self.kernel_h), (width, self.kernel_w)))
        if min(out) < 1:
            raise NetworkError(f"a {self.kernel_h}×{self.kernel_w} window with padding {self.padding} does not fit "
                               f"on a {height}×{width} grid")
        return out

    def _check(self, owner, largest):
        _integer(owner, "kernel_h", self.kernel_h, 1, largest)
        _integer(owner, "kernel_w", self.kernel_w, 1, largest)
        _integer(owner, "stride", self.stride, 1, largest)
        _integer(owner, "padding", self.padding, 0, min(self.kernel_h, self.kernel_w) - 1)


@dataclass(frozen=True, kw_only=True)
class Source(Window):
    """One operand of a layer: a tensor, the window it is read through, and how often each window is repeated along K.

    ``repeat`` > 1 lets a ratio of scales that one INT8 weight cannot hold be split over several weights. The second
    source of a layer is a skip branch: a 1×1 window with its own stride and repeat.
    """

    tensor: str
    repeat: int = 1

    def __post_init__(self):
        owner = f"source {self.tensor!r}"
        if not isinstance(self.tensor, str) or not self.tensor:
            raise TypeError(f"source: tensor must be a name, not {self.tensor!r}")
        self._check(owner, MAX_KERNEL)
        _integer(owner, "repeat", self.repeat, 1, MAX_REPEAT)
        if self.repeat > 1 and (self.kernel_h, self.kernel_w) != (1, 1):
            raise NetworkError(f"{owner}: only a 1×1 window can be repeated")

    def entries(self, channels):
        """Number of K entries that this source fills for spines of ``channels`` channels."""
        return self.repeat * self.kernel_h * self.kernel_w * channels


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How raw images become the input tensor of levels.

    Attributes
    ----------
    channels, height, width : int
        Shape of the raw image, ``(C, H, W)``.
    levels : int
        L_in, 1 … 127.
    full_scale : float
        Raw value that maps to level ``levels``: ``q = clip(floor(x·L/full_scale + 1/2), 0, L)``.
    pack : Window or None
        When given, the host gathers each window of the image into one spine of ``kernel_h·kernel_w·C`` channels, in
        (row, column, channel) order, so that few input channels still make full fibers.
    """

    channels: int
    height: int
    width: int
    levels: int
    full_scale: float
    pack: Window | None = None

    name = "input"

    def __post_init__(self):
        for name, high in (("channels", 65535), ("height", 65535), ("width", 65535), ("levels", MAX_LEVEL)):
            _integer("input", name, getattr(self, name), 1, high)
        if not np.isfinite(self.full_scale) or self.full_scale <= 0:
            raise NetworkError(f"input: full_scale must be a positive number, not {self.full_scale!r}")
        if self.pack is not None:
            self.pack._check("input packing", max(self.height, self.width, MAX_KERNEL))
            self.pack.grid(self.height, self.width)

    @property
    def image_shape(self):
        """``(C, H, W)`` of one raw image."""
        return self.channels, self.height, self.width

    @property
    def shape(self):
        """``(C, H, W)`` of the input tensor that the accelerator reads, after packing."""
        if self.pack is None:
            return self.image_shape
        return (self.channels * self.pack.kernel_h * self.pack.kernel_w,
                *self.pack.grid(self.height, self.width))


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One matrix layer with its activation and an optional fused max pool.

    Attributes
    ----------
    name : str
        Also the name of the tensor that the layer makes (after pooling).
    sources : tuple of Source
        One or two.
    weights : int8 array (K, N)
        K runs over (source, kernel row or repeat, kernel column, channel).
    bias : int32 array (N,)
        In accumulator units.
    theta : int32 array (N,)
        One output level in accumulator units, positive.
    levels : uint8 array (N,)
        Largest output level of each column, 1 … 127.
    pool_h, pool_w : int
        Non-overlapping max pool over the output grid; rows and columns that do not fill a window are dropped.
    step : float
        Real value of one output level (λ/L); documentation only, no hardware reads it.
    """

    name: str
    sources: tuple
    weights: np.ndarray
    bias: np.ndarray
    theta: np.ndarray
    levels: np.ndarray
    pool_h: int = 1
    pool_w: int = 1
    step: float = 1.0

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"layer: name must be a text, not {self.name!r}")
        owner = f"layer {self.name!r}"
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (the dataclass is frozen)
        put("sources", tuple(self.sources))
        if len(self.sources) not in (1, 2) or not all(isinstance(s, Source) for s in self.sources):
            raise NetworkError(f"{owner}: one or two sources are needed, not {self.sources!r}")
        if self.sources[0].repeat != 1:
            raise NetworkError(f"{owner}: only the second source can be repeated")
        if len(self.sources) == 2:
            skip = self.sources[1]
            if (skip.kernel_h, skip.kernel_w, skip.padding) != (1, 1, 0):
                raise NetworkError(f"{owner}: the skip branch {skip.tensor!r} must be read through a 1×1 window "
                                   f"without padding, not {skip.kernel_h}×{skip.kernel_w} padding {skip.padding}")
        put("weights", _array(owner, "weights", self.weights, np.int8, 2, -128, 127))
        n = self.weights.shape[1]
        top = 2 ** (ACCUMULATOR_BITS - 1) - 1
        put("bias", _array(owner, "bias", self.bias, np.int32, 1, -top - 1, top))
        put("theta", _array(owner, "theta", self.theta, np.int32, 1, 1, top))
        put("levels", _array(owner, "levels", self.levels, np.uint8, 1, 1, MAX_LEVEL))
        for name in ("bias", "theta", "levels"):
            if len(getattr(self, name)) != n:
                raise NetworkError(f"{owner}: {name} has {len(getattr(self, name))} entries for {n} columns")
        if n < 1:
            raise NetworkError(f"{owner}: at least one column is needed")
        _integer(owner, "pool_h", self.pool_h, 1, MAX_KERNEL)
        _integer(owner, "pool_w", self.pool_w, 1, MAX_KERNEL)

    @property
    def columns(self):
        """N, the number of output channels."""
        return self.weights.shape[1]

    def accumulator_range(self, input_levels):
        """Smallest and largest value that any partial sum can reach, per column.

        Parameters
        ----------
        input_levels : int array (K,)
            Largest level that each K entry can carry.

        Returns
        -------
        low, high : int64 arrays (N,)
            Every partial sum of ``bias + A·W``, in any order of the terms and with or without the bias, lies between them
            (they include 0 and the bias itself).
        """
        # In float64 the BLAS computes them, exactly: all sums are integers far below 2**53.
        peak = np.asarray(input_levels, dtype=np.float64)
        low, high = ((peak @ part(self.weights, 0).astype(np.float64)).astype(np.int64) for part in (np.minimum, np.maximum))
        bias = self.bias.astype(np.int64)
        low += np.minimum(bias, 0)
        high += np.maximum(bias, 0)
        return low, high


@dataclass(frozen=True, kw_only=True)
class Concat:
    """A tensor that holds the channels of several layers behind one another: parallel branches that come together.

    The layers write into it directly (their chunks lie side by side in its spines), so that it costs nothing; in return a
    part belongs to one concatenation and is read through it only. It exists from the last of its parts on.
    """

    name: str
    parts: tuple

    def __post_init__(self):
        object.__setattr__(self, "parts", tuple(self.parts))
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"concatenation: name must be a text, not {self.name!r}")
        if len(self.parts) < 2:
            raise NetworkError(f"concatenation {self.name!r}: at least two parts are needed, not {self.parts!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Real images kept with a network, so that it can be profiled and shown without any data set.

    ``test_images`` (n, C, H, W) and ``test_labels`` (n,) are unseen by training; ``calibration_images`` come from the
    training set. Raw pixel values, uint8.
    """

    test_images: np.ndarray
    test_labels: np.ndarray
    calibration_images: np.ndarray

    def __post_init__(self):
        for name, ndim in (("test_images", 4), ("test_labels", 1), ("calibration_images", 4)):
            value = _array("examples", name, getattr(self, name), np.uint8, ndim, 0, 255)
            object.__setattr__(self, name, value)
        if len(self.test_images) != len(self.test_labels):
            raise NetworkError(f"examples: {len(self.test_images)} test images but {len(self.test_labels)} labels")


class SealedFile:
    """What is kept as a sealed file: the classes that derive from this have ``to_bytes`` and ``from_bytes``."""

    def save(self, path):
        """Write the network file at ``path``, replacing it in one step: a reader never sees half a file."""
        write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path):
        """Read a network file; raises `NetworkError` when it is damaged or not one, `OSError` when it cannot be read."""
        return cls.from_bytes(Path(path).read_bytes(), origin=str(path))

    @property
    def digest(self):
        """SHA-256 of the file that `save` writes, in hexadecimal: names the network in reports and caches."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(SealedFile):
    """A validated integer network.

    Attributes
    ----------
    name : str
    input : InputSpec
    layers : tuple of Layer
        In order of execution; a layer may read the input and any earlier layer. The last layer's tensor is the result.
    concats : tuple of Concat
    metadata : dict
        Anything that JSON holds: how it was trained, accuracies.
    examples : Examples or None
    """

    name: str
    input: InputSpec
    layers: tuple
    concats: tuple = ()
    metadata: dict = field(default_factory=dict)
    examples: Examples | None = None

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "concats", tuple(self.concats))
        if not self.layers:
            raise NetworkError(f"network {self.name!r}: at least one layer is needed")
        self._tensors  # noqa: B018  (validates)
        if self.examples is not None:
            for name in ("test_images", "calibration_images"):
                shape = getattr(self.examples, name).shape[1:]
                if shape != self.input.image_shape:
                    raise NetworkError(f"network {self.name!r}: {name} have shape {shape}, the input is "
                                       f"{self.input.image_shape}")

    @cached_property
    def _tensors(self):
        """name → (shape, levels per channel); raises on the first layer that does not fit."""
        known = {self.input.name: (self.input.shape, np.full(self.input.shape[0], self.input.levels, np.int64))}
        part_of = self._part_of
        for layer in self.layers:
            owner = f"network {self.name!r}, layer {layer.name!r}"
            if layer.name in known:
                raise NetworkError(f"{owner}: the name is taken")
            grids, k = [], 0
            for source in layer.sources:
                if source.tensor in part_of:
                    raise NetworkError(f"{owner}: source {source.tensor!r} is part of the concatenation "
                                       f"{part_of[source.tensor].name!r}, and can be read through it only; copy it")
                if source.tensor not in known:
                    raise NetworkError(f"{owner}: source {source.tensor!r} is not the input or an earlier layer "
                                       f"(known: {', '.join(known)})")
                (channels, height, width), _ = known[source.tensor]
                try:
                    grids.append(source.grid(height, width))
                except NetworkError as error:
                    raise NetworkError(f"{owner}: source {source.tensor!r}: {error}") from None
                k += source.entries(channels)
            if len(set(grids)) != 1:
                raise NetworkError(f"{owner}: its sources have different grids, {grids[0]} and {grids[1]}")
            if layer.weights.shape[0] != k:
                raise NetworkError(f"{owner}: its sources make K = {k}, the weights have {layer.weights.shape[0]} rows")
            self._check_range(owner, layer, self._levels_of_k(layer, known))
            shape = grids[0][0] // layer.pool_h, grids[0][1] // layer.pool_w
            if min(shape) < 1:
                raise NetworkError(f"{owner}: a {layer.pool_h}×{layer.pool_w} pool does not fit on a "
                                   f"{grids[0][0]}×{grids[0][1]} grid")
            known[layer.name] = ((layer.columns, *shape), layer.levels.astype(np.int64))
            concat = part_of.get(layer.name)
            if concat is not None and all(part in known for part in concat.parts):
                known[concat.name] = self._join(concat, known)
        for concat in self.concats:
            if concat.name not in known:
                raise NetworkError(f"network {self.name!r}, concatenation {concat.name!r}: its parts "
                                   f"{', '.join(map(repr, concat.parts))} must be layers")
        return known

    @property
    def _part_of(self):
        """Layer name → the concatenation that it is part of."""
        found = {}
        for concat in self.concats:
            owner = f"network {self.name!r}, concatenation {concat.name!r}"
            if concat.name in {self.input.name, *(layer.name for layer in self.layers)} or concat in found.values():
                raise NetworkError(f"{owner}: the name is taken")
            for part in concat.parts:
                if part in found:
                    raise NetworkError(f"{owner}: {part!r} is already part of {found[part].name!r}; copy it")
                if part == self.input.name or part in (other.name for other in self.concats):
                    raise NetworkError(f"{owner}: its part {part!r} is not a layer; copy it")
                found[part] = concat
        return found

    def _join(self, concat, known):
        shapes = [known[part][0] for part in concat.parts]
        if len({shape[1:] for shape in shapes}) != 1:
            raise NetworkError(f"network {self.name!r}, concatenation {concat.name!r}: its parts have different grids, "
                               + ", ".join(f"{part} {h}×{w}" for part, (_, h, w) in zip(concat.parts, shapes)))
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]), np.concatenate([known[part][1] for part in concat.parts])

    def parts(self, tensor):
        """The layers whose channels a tensor holds: its own name alone, unless it is a concatenation."""
        return next((concat.parts for concat in self.concats if concat.name == tensor), (tensor,))

    @staticmethod
    def _levels_of_k(layer, known):
        return np.concatenate([np.tile(known[s.tensor][1], s.kernel_h * s.kernel_w * s.repeat) for s in layer.sources])

    @staticmethod
    def _check_range(owner, layer, input_levels):
        # The neuron works on 2Z + 2b + θ and compares it with 2θ·2^i up to the top bit of L.
        low, high = layer.accumulator_range(input_levels)
        theta = layer.theta.astype(np.int64)
        top = 2 ** (ACCUMULATOR_BITS - 1) - 1
        bits = np.array([int(level).bit_length() for level in layer.levels], dtype=np.int64)
        need = np.maximum(np.maximum(-2 * low, 2 * high + theta), theta << bits)
        worst = int(need.argmax())
        if need[worst] > top:
            raise NetworkError(f"{owner}: column {worst} can reach {need[worst]} in doubled accumulator units, beyond "
                               f"{ACCUMULATOR_BITS} bits (at most {top}); use smaller weights, bias, theta or levels")

    def layer(self, name):
        """The layer called ``name``."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"network {self.name!r} has no layer {name!r}; it has "
                       f"{', '.join(layer.name for layer in self.layers)}")

    def shape(self, tensor):
        """``(C, H, W)`` of a tensor: ``"input"`` or the name of a layer (after its pool)."""
        return self._tensors[tensor][0]

    def levels(self, tensor):
        """Largest level of each channel of a tensor, int64 (C,)."""
        return self._tensors[tensor][1]

    def row_chunks(self, layer, chunk_bits):
        """Chunks of one row of A, the layer's input, when its tensors are packed tightly."""
        return sum(s.entries(-(-self.shape(part)[0] // chunk_bits)) for s in layer.sources for part in self.parts(s.tensor))

    def grid(self, layer):
        """``(rows, columns)`` of the output grid of a layer before its pool."""
        source = layer.sources[0]
        return source.grid(*self.shape(source.tensor)[1:])

    def input_levels(self, layer):
        """Largest level that each K entry of a layer can carry, int64 (K,)."""
        return self._levels_of_k(layer, self._tensors)

    # -- file -------------------------------------------------------------------------------------------------------

    def to_bytes(self):
        """The network as a sealed ``.npz`` file (deterministic)."""
        header = {
            "name": self.name,
            "input": asdict(self.input),
            "layers": [{"name": layer.name, "sources": [asdict(s) for s in layer.sources], "pool_h": layer.pool_h,
                        "pool_w": layer.pool_w, "step": layer.step} for layer in self.layers],
            "metadata": self.metadata,
        }
        if self.concats:
            header["concats"] = [asdict(concat) for concat in self.concats]
        text = json.dumps(header, ensure_ascii=True, sort_keys=True, allow_nan=False).encode("ascii")
        arrays = {"header": np.frombuffer(text, dtype=np.uint8)}
        for index, layer in enumerate(self.layers):
            for name in ("weights", "bias", "theta", "levels"):
                arrays[f"layer{index}_{name}"] = getattr(layer, name)
        if self.examples is not None:
            arrays |= {f"example_{name}": value for name, value in vars(self.examples).items()}
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        return seal(stream.getvalue(), FORMAT_VERSION if self.concats else 1)

    @classmethod
    def from_bytes(cls, data, *, origin="network file"):
        """Read what `to_bytes` wrote; anything else is refused with a `NetworkError` that names ``origin``."""
        body, version = unseal(data, origin)
        if version == SPLIT_VERSION:
            raise NetworkError(f"{origin}: holds a network with steps of the host, which is no single program")
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            arrays = dict(arrays)
        header = json.loads(arrays["header"].tobytes())
        spec = header["input"]
        spec["pack"] = None if spec["pack"] is None else Window(**spec["pack"])
        layers = []
        for index, entry in enumerate(header["layers"]):
            entry["sources"] = [Source(**source) for source in entry["sources"]]
            values = {name: arrays[f"layer{index}_{name}"] for name in ("weights", "bias", "theta", "levels")}
            layers.append(Layer(**entry, **values))
        found = {name.removeprefix("example_"): value for name, value in arrays.items() if name.startswith("example_")}
        return cls(name=header["name"], input=InputSpec(**spec), layers=layers, metadata=header["metadata"],
                   concats=[Concat(**concat) for concat in header.get("concats", [])],
                   examples=Examples(**found) if found else None)


# The seal is the ZIP archive's comment: format, version and the SHA-256 of every other byte of the file. The archive stays
# readable by numpy.load, and no bit of it, in use or not, can change without being noticed.

def seal(archive, version):
    """The bytes of an ``.npz`` archive with a seal of that format version at the end."""
    if archive[-2:] != b"\0\0":
        raise AssertionError("numpy wrote an archive that does not end in an empty comment")
    seal = _MAGIC + b"%04d sha256=%s" % (version, hashlib.sha256(archive).hexdigest().encode())
    return archive[:-2] + struct.pack("<H", len(seal)) + seal


def unseal(data, origin):
    """``(archive, version)`` of a sealed file; `NetworkError` with ``origin`` when it is cut short, damaged or of an unknown version."""
    if not zipfile.is_zipfile(io.BytesIO(data)) and _MAGIC not in data[-_SEAL_BYTES:]:
        raise NetworkError(f"{origin}: not a network file, or cut short: it does not end in a NeuroFlex seal")
    seal = data[-_SEAL_BYTES:]
    if not seal.startswith(_MAGIC):
        raise NetworkError(f"{origin}: not a NeuroFlex network file, or damaged: its seal is missing")
    version = seal[len(_MAGIC):len(_MAGIC) + 4]
    if version not in [b"%04d" % known for known in _VERSIONS]:
        raise NetworkError(f"{origin}: network format version {version.decode('ascii', 'replace')!r}; this program reads "
                           f"versions {', '.join(f'{known:04d}' for known in _VERSIONS)}")
    archive = data[:-_SEAL_BYTES - 2] + b"\0\0"
    expected = b" sha256=" + hashlib.sha256(archive).hexdigest().encode()
    length = data[-_SEAL_BYTES - 2:-_SEAL_BYTES]
    if seal[len(_MAGIC) + 4:] != expected or length != struct.pack("<H", _SEAL_BYTES):
        raise NetworkError(f"{origin}: damaged: the content does not match its SHA-256 checksum")
    return archive, int(version)
