"""Networks that the host and the accelerator share: segments of layers, each a network of its own, and host steps between them."""

__all__ = ["Segment", "SplitNetwork", "load"]

import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from neuroflex.compiler.host import HostStep, Operand
from neuroflex.compiler.network import SPLIT_VERSION, Examples, Network, NetworkError, SealedFile, seal, unseal
from neuroflex.sim.split import evaluate


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Layers that run as one program.

    Attributes
    ----------
    source : str
        The tensor of levels that it reads, or ``"input"``.
    network : Network
        Its layers. Its input has the shape and the levels of ``source``; its name is that of the tensor it makes.
    """

    source: str
    network: Network

    @property
    def name(self):
        """Of the last layer and its tensor."""
        return self.network.layers[-1].name


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitNetwork(SealedFile):
    """A validated network with host steps.

    Attributes
    ----------
    name : str
    steps : tuple of Segment and HostStep
        In order of execution. The first one is the segment that reads the image, and only it does; the tensor of the last one, a segment too, is the result.
    metadata : dict
    examples : Examples or None
    """

    name: str
    steps: tuple
    metadata: dict = field(default_factory=dict)
    examples: Examples | None = None

    def __post_init__(self):
        object.__setattr__(self, "steps", tuple(self.steps))
        self.shapes  # noqa: B018  (validates)
        if self.examples is not None:
            for name in ("test_images", "calibration_images"):
                shape = getattr(self.examples, name).shape[1:]
                if shape != self.input.image_shape:
                    raise NetworkError(f"network {self.name!r}: {name} have shape {shape}, the input is {self.input.image_shape}")

    @property
    def input(self):
        """How images become levels, `neuroflex.compiler.network.InputSpec`."""
        return self.steps[0].network.input

    @property
    def segments(self):
        """The segments, in order."""
        return tuple(step for step in self.steps if isinstance(step, Segment))

    @property
    def host_steps(self):
        """The host steps, in order."""
        return tuple(step for step in self.steps if isinstance(step, HostStep))

    @property
    def layers(self):
        """Layers of all segments, in order."""
        return tuple(layer for segment in self.segments for layer in segment.network.layers)

    def shape(self, tensor):
        """``(C, H, W)`` of ``"input"``, a layer or a host step."""
        if tensor in self.shapes:
            return self.shapes[tensor]
        return next(segment.network for segment in self.segments if tensor in {layer.name for layer in segment.network.layers}).shape(tensor)

    @cached_property
    def shapes(self):
        """``(C, H, W)`` by name of each tensor that passes between steps; raises on the first step that does not fit."""
        owner = f"network {self.name!r}"
        if not self.steps or not all(isinstance(step, Segment) for step in (self.steps[0], self.steps[-1])) or self.steps[0].source != "input":
            raise NetworkError(f"{owner}: the first and the last step must be segments of layers, and the first one must read the image")
        names = Counter([layer.name for layer in self.layers] + [step.name for step in self.host_steps] + ["input"])
        if names.most_common(1)[0][1] > 1:
            raise NetworkError(f"{owner}: the name {names.most_common(1)[0][0]!r} is taken")
        shapes, levels = {"input": self.input.shape}, {"input": self.input.levels}
        for index, step in enumerate(self.steps):
            sources = [operand.tensor for operand in step.sources] if isinstance(step, HostStep) else [step.source]
            for source in sources:
                wants = step.reads_levels if isinstance(step, HostStep) else True
                if source not in shapes or source == "input" and index:
                    raise NetworkError(f"{owner}: {step.name!r} reads {source!r}, which no earlier step makes")
                if (source in levels) != wants:
                    raise NetworkError(f"{owner}: {step.name!r} wants {'levels' if wants else 'real numbers'}; {source!r} is {'real' if wants else 'levels'}")
            if isinstance(step, HostStep):
                shapes[step.name] = step.shape(shapes)
                if step.gives_levels:
                    levels[step.name] = step.parameters["levels"]
                continue
            spec = step.network.input
            if index and (spec.image_shape, spec.levels, spec.pack) != (shapes[step.source], levels[step.source], None):
                raise NetworkError(f"{owner}: segment {step.name!r} takes {spec.image_shape} in {spec.levels} levels; {step.source!r} is {shapes[step.source]} "
                                   f"in {levels[step.source]}")
            shapes[step.name], levels[step.name] = step.network.shape(step.name), int(step.network.levels(step.name).max())
        return shapes

    @property
    def host(self):
        """What the host does → operations of one image (additions, multiplications, comparisons, divisions, exponentials)."""
        total = Counter()
        for step in self.host_steps:
            total.update(step.operations(self.shapes))
        return dict(total)

    @property
    def macs(self):
        """Multiplications of all layers if they were dense."""
        return sum(int(np.prod(segment.network.grid(layer))) * layer.weights.size for segment in self.segments for layer in segment.network.layers)

    @property
    def host_share(self):
        """Share of the operations that the host does, 0 … 1; a multiplication with its addition counts as two."""
        host = sum(self.host.values())
        return host / (host + 2 * self.macs)

    def alone(self, name):
        """The network of the segment ``name``, with what it reads for the images that are kept with this one."""
        found = next((segment for segment in self.segments if segment.name == name), None)
        if found is None:
            raise NetworkError(f"network {self.name!r} has no segment {name!r}; it has {', '.join(segment.name for segment in self.segments)}")
        if self.examples is None or found is self.steps[0]:
            return replace(found.network, examples=self.examples)
        read = {key: evaluate(self, images).tensors[found.source] if len(images) else np.zeros((0, *self.shapes[found.source]), np.uint8)
                for key, images in vars(self.examples).items() if key != "test_labels"}
        return replace(found.network, examples=replace(self.examples, **read))

    # -- file -------------------------------------------------------------------------------------------------------

    def to_bytes(self):
        """The network as a sealed ``.npz`` file (deterministic)."""
        steps, arrays = [], {}
        for index, step in enumerate(self.steps):
            if isinstance(step, Segment):
                steps.append({"source": step.source})
                arrays[f"step{index}_network"] = np.frombuffer(step.network.to_bytes(), np.uint8)
                continue
            steps.append({"name": step.name, "kind": step.kind, "sources": [asdict(source) for source in step.sources],
                          "parameters": {name: value for name, value in step.parameters.items() if not np.ndim(value)}})
            arrays |= {f"step{index}_{name}": value for name, value in step.parameters.items() if np.ndim(value)}
        text = json.dumps({"name": self.name, "steps": steps, "metadata": self.metadata}, ensure_ascii=True, sort_keys=True, allow_nan=False).encode("ascii")
        arrays = {"header": np.frombuffer(text, dtype=np.uint8)} | arrays
        if self.examples is not None:
            arrays |= {f"example_{name}": value for name, value in vars(self.examples).items()}
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        return seal(stream.getvalue(), SPLIT_VERSION)

    @classmethod
    def from_bytes(cls, data, *, origin="network file"):
        """Read what `to_bytes` wrote; anything else is refused with a `NetworkError` that names ``origin``."""
        body, version = unseal(data, origin)
        if version != SPLIT_VERSION:
            raise NetworkError(f"{origin}: holds a network without host steps")
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            arrays = dict(arrays)
        header = json.loads(arrays["header"].tobytes())
        steps = []
        for index, entry in enumerate(header["steps"]):
            own = {name.removeprefix(f"step{index}_"): value for name, value in arrays.items() if name.startswith(f"step{index}_")}
            if "kind" in entry:
                steps.append(HostStep(name=entry["name"], kind=entry["kind"], sources=[Operand(**source) for source in entry["sources"]],
                                      parameters=entry["parameters"] | own))
            else:
                steps.append(Segment(source=entry["source"], network=Network.from_bytes(own["network"].tobytes(), origin=f"{origin}, step {index}")))
        found = {name.removeprefix("example_"): value for name, value in arrays.items() if name.startswith("example_")}
        return cls(name=header["name"], steps=steps, metadata=header["metadata"], examples=Examples(**found) if found else None)


def load(path):
    """A network file of either kind: a `Network` or a `SplitNetwork`."""
    data = Path(path).read_bytes()
    _, version = unseal(data, str(path))
    return (SplitNetwork if version == SPLIT_VERSION else Network).from_bytes(data, origin=str(path))
