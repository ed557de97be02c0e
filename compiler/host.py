"""What the host computes between two runs of the accelerator: the format of its steps. Their arithmetic: `neuroflex.sim.host`."""

__all__ = ["KINDS", "HostStep", "Operand"]

from dataclasses import dataclass, field

import numpy as np

from neuroflex.compiler.network import NetworkError
from neuroflex.formats import MAX_LEVEL

_ATTENTION, _SOFTMAX = "attention products (both operands are activations)", "softmax"
_NORM, _CONVERSION, _OTHER = "layer norm, additions", "levels to real numbers and back", "averages"


@dataclass(frozen=True, kw_only=True)
class Operand:
    """Channels ``first`` … ``first + channels − 1`` of a tensor."""

    tensor: str
    first: int = 0
    channels: int


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """``sources`` a step has, whether it reads and gives levels, names of its numbers and (with their number of dimensions) arrays."""

    sources: int = 1
    reads_levels: bool = False
    gives_levels: bool = False
    numbers: tuple = ()
    arrays: dict = field(default_factory=dict)


KINDS = {
    "values": _Kind(reads_levels=True, arrays={"step": 1, "zero": 1}),
    "levels": _Kind(gives_levels=True, numbers=("clip", "levels")),
    "layer_norm": _Kind(numbers=("eps",), arrays={"weight": 1, "bias": 1}),
    "attention": _Kind(sources=3, numbers=("heads", "scale")),
    "add": _Kind(sources=2),
    "offset": _Kind(arrays={"offset": 3}),
    "mean": _Kind(),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class HostStep:
    """One step of the host. Tensors are (C, H, W), positions of the grid are tokens.

    Attributes
    ----------
    name : str
        Also that of the tensor it makes.
    kind : str
        One of `KINDS`:

        ``values``
            Levels to real numbers, ``step[c]·(q − zero[c])``.
        ``levels``
            QCFS, ``clip(floor(x·levels/clip + 1/2), 0, levels)``.
        ``layer_norm``
            Over the channels of each position: ``(x − mean)/√(variance + eps)·weight[c] + bias[c]``.
        ``attention``
            Of query, key and value, in ``heads`` equal parts of their channels: ``softmax(scale·QKᵀ)·V`` over all positions.
        ``add``
            Of two tensors.
        ``offset``
            ``x + offset``, an array (C, H, W): a positional embedding.
        ``mean``
            Over all positions.
    sources : tuple of Operand
    parameters : dict
        Numbers and float64 arrays of the kind.
    """

    name: str
    kind: str
    sources: tuple
    parameters: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise NetworkError(f"host step {self.name!r}: no kind {self.kind!r}; there are {', '.join(KINDS)}")
        kind, parameters = KINDS[self.kind], dict(self.parameters)
        if set(parameters) != {*kind.numbers, *kind.arrays} or len(self.sources) != kind.sources:
            raise NetworkError(f"{self.title}: {kind.sources} source(s) and {', '.join((*kind.numbers, *kind.arrays)) or 'no parameters'} are wanted, "
                               f"not {len(self.sources)} and {', '.join(parameters) or 'none'}")
        for name, dimensions in kind.arrays.items():
            value = np.array(parameters[name], np.float64)
            if value.ndim != dimensions or not np.isfinite(value).all():
                raise NetworkError(f"{self.title}: {name} must be finite numbers in {dimensions} dimension(s), not of shape {value.shape}")
            value.setflags(write=False)
            parameters[name] = value
        for name in kind.numbers:
            whole = name in ("heads", "levels")
            if not np.isfinite(parameters[name]) or parameters[name] <= 0 or whole and parameters[name] != int(parameters[name]):
                raise NetworkError(f"{self.title}: {name} must be a positive {'integer' if whole else 'number'}, not {parameters[name]!r}")
            parameters[name] = (int if whole else float)(parameters[name])
        if parameters.get("levels", 1) > MAX_LEVEL:
            raise NetworkError(f"{self.title}: a tensor has at most {MAX_LEVEL} levels, not {parameters['levels']}")
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "parameters", parameters)

    @property
    def title(self):
        """For messages."""
        return f"host step {self.name!r} ({self.kind})"

    @property
    def reads_levels(self):
        """Whether its sources are levels, not real numbers."""
        return KINDS[self.kind].reads_levels

    @property
    def gives_levels(self):
        """Whether its tensor is levels, not real numbers."""
        return KINDS[self.kind].gives_levels

    def shape(self, shapes):
        """Shape (C, H, W) of its tensor, from those of all earlier ones; raises `NetworkError` where they do not fit."""
        for source in self.sources:
            if source.first < 0 or source.channels < 1 or source.first + source.channels > shapes[source.tensor][0]:
                raise NetworkError(f"{self.title}: {source.tensor!r} has {shapes[source.tensor][0]} channels, no channels {source.first} … "
                                   f"{source.first + source.channels - 1}")
        found = {(source.channels, *shapes[source.tensor][1:]) for source in self.sources}
        if len(found) != 1:
            raise NetworkError(f"{self.title}: its sources have different shapes, {' and '.join(map(str, sorted(found)))}")
        shape = found.pop()
        for name, value in self.parameters.items():
            if np.ndim(value) and value.shape != shape[:value.ndim]:
                raise NetworkError(f"{self.title}: {name} has shape {value.shape}, its source {shape}")
        if shape[0] % self.parameters.get("heads", 1):
            raise NetworkError(f"{self.title}: {shape[0]} channels cannot be split into {self.parameters['heads']} heads")
        return (shape[0], 1, 1) if self.kind == "mean" else shape

    def operations(self, shapes):
        """What it is to the report → additions, multiplications, comparisons, divisions and exponentials of one image."""
        channels, height, width = self.sources[0].channels, *shapes[self.sources[0].tensor][1:]
        tokens = height * width
        size = channels * tokens
        if self.kind == "attention":
            return {_ATTENTION: 4 * tokens * size, _SOFTMAX: 5 * self.parameters["heads"] * tokens * tokens}
        what, each = {"values": (_CONVERSION, 2), "levels": (_CONVERSION, 4), "layer_norm": (_NORM, 8), "add": (_NORM, 1), "offset": (_NORM, 1),
                      "mean": (_OTHER, 1)}[self.kind]
        return {what: each * size}
