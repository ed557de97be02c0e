"""NIR graph of spiking neurons → integer network. Needs the ``nir`` extra.

A NIR graph leaves open what its neurons do in discrete time. All of it is said by the caller in a `Reading` and kept with the
network; nothing is guessed. Which readings the hardware computes exactly, and why others are refused: ``docs/frontends.md``.
"""

__all__ = ["Reading", "import_nir"]

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nir
import numpy as np

from neuroflex.compiler.assemble import Assembler, ImportRefused, Sum, pair, positive
from neuroflex.compiler.fit import Rounding
from neuroflex.formats import MAX_LEVEL

_REASONS = {
    "CubaLIF": "its synaptic current carries over from step to step, which a sum of spikes does not show",
    "CubaLI": "its synaptic current carries over from step to step, which a sum of spikes does not show",
    "LI": "it forgets from step to step, so that its result depends on when spikes come",
    "Conv1d": "only convolutions in two dimensions are supported",
    "NIRGraph": "graphs within a graph are not supported; write their nodes into one graph",
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a NIR graph leaves open.

    Attributes
    ----------
    steps : int
        T, steps for which a neuron takes input and counts its spikes, 1 … 127: a tensor has T levels.
    dt : float
        Length of a step, in the unit of the graph's time constants.
    reset : str
        ``"subtract"``: a spike lowers the membrane by the threshold. ``"value"``: it sets the membrane to ``v_reset``.
    comparison : str
        ``">="`` or ``">"``: when the membrane that reaches the threshold fires.
    initial : float
        Membrane before the first step, as a share of the threshold, 0 ≤ share < 1.
    neuron : str
        ``"if"``: a neuron fires when its membrane says so, at most once per step, while its input is still coming.
        ``"pasc-if"``: it waits for all of its input and corrects its spikes (PASC-IF), so that the order of spikes does not matter.
    integration : str or None
        For leaky neurons: ``"euler"`` (the leak takes ``dt/τ`` of the membrane) or ``"exact"`` (``1 − exp(−dt/τ)``).
    """

    steps: int
    dt: float
    reset: str
    comparison: str
    initial: float
    neuron: str
    integration: str | None = None

    def __post_init__(self):
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= MAX_LEVEL:
            raise ImportRefused(f"steps must be an integer in 1 … {MAX_LEVEL}, not {self.steps!r}")
        if not 0 < self.dt < np.inf:
            raise ImportRefused(f"dt must be a positive number, not {self.dt!r}")
        if not 0 <= self.initial < 1:
            raise ImportRefused(f"initial must be a share of the threshold in 0 … 1, 1 excluded, not {self.initial!r}")
        for name, known in (("reset", ("subtract", "value")), ("comparison", (">=", ">")), ("neuron", ("if", "pasc-if")),
                            ("integration", (None, "euler", "exact"))):
            if getattr(self, name) not in known:
                raise ImportRefused(f"{name} must be one of {', '.join(map(repr, known))}, not {getattr(self, name)!r}")

    @property
    def rounding(self):
        return Rounding(share=self.initial, strict=self.comparison == ">")


def import_nir(graph, *, name, reading, input_levels, full_scale, image_shape=None, pixel_scale=1.0, calibration=None, metadata=None,
               examples=None):
    """Import a NIR graph as an integer network.

    The image is a current that stays the same in all steps. Spikes act in the step in which they are sent: edges have no delay.

    Parameters
    ----------
    graph : path or nir.NIRGraph
    name : str
    reading : Reading
    input_levels : int
        Levels of the image, 1 … 127.
    full_scale : float
        Current of the highest one.
    image_shape : (C, H, W), optional
        When the graph takes a flat vector.
    pixel_scale : float
        Current of one unit of a raw pixel.
    calibration : array (B, C, H, W), optional
        Raw images; needed when the graph does not end in a spiking neuron: they set the range of its result.
    metadata : dict, optional
    examples : neuroflex.compiler.network.Examples, optional

    Returns
    -------
    neuroflex.compiler.network.Network
        ``metadata["import"]`` holds the reading, and per layer how far its levels can be from the graph's.

    Raises
    ------
    ImportRefused
        What cannot be exactly a QCFS or PASC-IF column, with the node's name and the reason.
    NetworkError
        An accumulator that could overflow.
    """
    builder = _Builder(_load(graph), reading, image_shape)
    builder.assembler.place = "the image"
    if isinstance(input_levels, bool) or not isinstance(input_levels, int) or not 1 <= input_levels <= MAX_LEVEL:
        builder.refuse(f"input_levels must be an integer in 1 … {MAX_LEVEL}, not {input_levels!r}")
    builder.start(input_levels, full_scale, pixel_scale)
    builder.run(calibration)
    about = {"format": "nir"} | asdict(reading) | {"delay": "none: a spike acts in the step in which it is sent",
                                                  "input": "a current that is the same in all steps"}
    return builder.assembler.network(name=name, metadata=metadata, examples=examples, about=about)


def _load(graph):
    if isinstance(graph, nir.NIRGraph):
        return graph
    if not Path(graph).is_file():
        raise FileNotFoundError(f"{graph}: no such file")
    try:
        return nir.read(str(graph), type_check=False)     # shapes are checked here, where grouped convolutions are known
    except Exception as error:     # h5py and nir raise what the bytes happen to make of them
        raise ImportRefused(f"{graph}: not a NIR file, or cut short: {type(error).__name__}: {error}") from error


class _Builder:
    """Walks the graph in order of its edges and calls the assembler's operations.

    A sum holds the charge of all steps together: T times the image's current, or the spikes that arrived.
    """

    def __init__(self, graph, reading, image_shape):
        self.graph = graph
        self.reading = reading
        self.image_shape = image_shape
        self.assembler = Assembler(closer="a spiking neuron", exact_averages=True)
        self.refuse = self.assembler.refuse
        self.constant = set()      # nodes whose output is the same in every step
        self.handlers = {nir.Affine: self.affine, nir.Linear: self.linear, nir.Conv2d: self.conv, nir.SumPool2d: self.sum_pool,
                         nir.AvgPool2d: self.average_pool, nir.Flatten: self.flatten, nir.Scale: self.scale, nir.IF: self.neuron,
                         nir.LIF: self.leaky, nir.Threshold: self.threshold, nir.Delay: self.delay, nir.I: self.integrator}
        self.ends = {kind: [n for n, node in graph.nodes.items() if isinstance(node, kind)] for kind in (nir.Input, nir.Output)}
        for kind, found in self.ends.items():
            if len(found) != 1:
                raise ImportRefused(f"the graph has {len(found)} {kind.__name__} nodes ({', '.join(map(repr, found))}); one is needed")
        shape = np.asarray(graph.nodes[self.ends[nir.Input][0]].input_type["input"]).reshape(-1).tolist()
        self.flat = len(shape) == 1
        wanted = tuple(image_shape) if image_shape is not None else (shape[0], 1, 1) if self.flat else tuple(shape)
        self.assembler.place = f"node {self.ends[nir.Input][0]!r} (Input)"
        if int(np.prod(wanted)) != int(np.prod(shape)) or not self.flat and wanted != tuple(shape):
            self.refuse(f"the graph takes {tuple(shape)}, which images of shape {wanted} do not fit")
        self.image = self.assembler.image(wanted)

    def start(self, levels, full_scale, pixel_scale):
        positive("full_scale", full_scale)
        positive("pixel_scale", pixel_scale)
        image = self.assembler.quantise_image(self.image, levels, full_scale / pixel_scale)(full_scale * self.reading.steps)
        self.first = replace(image, flat=self.flat)

    # -- the walk ---------------------------------------------------------------------------------------------------

    def order(self):
        """Nodes so that each comes after those it reads; a cycle is refused."""
        before = {name: [] for name in self.graph.nodes}
        for source, target in self.graph.edges:
            missing = {source, target} - before.keys()
            if missing:
                raise ImportRefused(f"edge from {source!r} to {target!r}: the graph has no node {sorted(missing)[0]!r}")
            if source in before[target]:
                raise ImportRefused(f"edge from {source!r} to {target!r}: it is there more than once, so that its value would count as often")
            before[target].append(source)
        done, todo = [], list(self.graph.nodes)
        while todo:
            ready = [name for name in todo if all(source in done for source in before[name])]
            if not ready:
                raise ImportRefused(f"nodes {', '.join(map(repr, todo))}: they feed back into one another; recurrent graphs are not "
                                    "supported")
            done += ready
            todo = [name for name in todo if name not in ready]
        return done, before

    def run(self, calibration):
        order, before = self.order()
        if calibration is not None:
            self.assembler.check_images(calibration, self.image.shape)
        readers = {name: sum(source == name for source, _ in self.graph.edges) for name in order}
        values = {}
        for name in order:
            node = self.graph.nodes[name]
            kind = type(node).__name__
            self.assembler.place = f"node {name!r} ({kind})"
            if isinstance(node, nir.Input):
                values[name] = self.first
                self.constant.add(name)
                continue
            if not before[name]:
                self.refuse("nothing leads to it")
            operands = [values[source] for source in before[name]]
            self.name, self.alone = name, all(readers[source] == 1 for source in before[name])
            self.steady = all(source in self.constant for source in before[name])
            value = operands[0]
            for other in operands[1:]:
                value = self.assembler.add(value, other)
            if isinstance(node, nir.Output):
                return self.finish(value, calibration)
            handler = self.handlers.get(type(node))
            if handler is None:
                self.refuse(_REASONS.get(kind, "this kind of node is not supported") + "; supported: "
                            + ", ".join(known.__name__ for known in self.handlers))
            values[name] = handler(node, value)
            if self.steady and not isinstance(node, (nir.IF, nir.LIF, nir.Threshold)):
                self.constant.add(name)
        raise AssertionError("the output comes after all it reads")

    def finish(self, value, calibration):
        value = self.assembler.result(value)
        if isinstance(value, Sum):
            self.assembler.close_logits(value, calibration, "result")

    # -- linear nodes -----------------------------------------------------------------------------------------------

    def tensor(self, value):
        return self.assembler.tensor(value, self.name)

    def charge(self, bias):
        """A bias acts in every step."""
        return np.asarray(bias, np.float64) * self.reading.steps

    def affine(self, node, x):
        if np.ndim(node.weight) != 2:
            self.refuse(f"its weights have shape {np.shape(node.weight)}; a matrix is needed")
        bias = self.charge(node.bias) if isinstance(node, nir.Affine) else None
        return self.assembler.fully_connected(self.tensor(x), np.asarray(node.weight), bias, alone=self.alone)

    def linear(self, node, x):
        return self.affine(node, x)

    def conv(self, node, x):
        if pair(node.dilation) != (1, 1):
            self.refuse(f"dilation {tuple(pair(node.dilation))} is not supported, only 1")
        if isinstance(node.padding, str) and node.padding != "valid":
            self.refuse(f"padding {node.padding!r} is not supported; give it as a number")
        padding = 0 if isinstance(node.padding, str) else node.padding
        bias = None if node.bias is None else self.charge(node.bias)
        return self.assembler.convolution(self.assembler.grid_tensor(self.tensor(x)), np.asarray(node.weight), bias, stride=node.stride,
                                          padding=padding, groups=int(node.groups), alone=self.alone)

    def sum_pool(self, node, x):
        return self.assembler.avg_pool(self.tensor(x), node.kernel_size, node.stride, node.padding, factor=1.0)

    def average_pool(self, node, x):
        return self.assembler.avg_pool(self.tensor(x), node.kernel_size, node.stride, node.padding)

    def flatten(self, node, x):
        if node.start_dim != 0 or node.end_dim not in (-1, 2):
            self.refuse(f"it flattens dimensions {node.start_dim} to {node.end_dim}; shapes in NIR have no batch, so that only 0 to -1 makes a "
                        "vector")
        return self.assembler.flatten(x, self.name)

    def per_channel(self, values, shape, what):
        """One number per channel, from an array of the node's shape."""
        values = self.assembler.finite(what, values)
        channels = shape[0]
        if values.size == 1:
            return np.full(channels, values.reshape(-1)[0])
        if values.size not in (channels, int(np.prod(shape))):
            self.refuse(f"its {what} have shape {values.shape}, its input {shape}")
        values = values.reshape(channels, -1)
        if np.ptp(values, axis=1).any():
            self.refuse(f"its {what} differ within a channel; the hardware has one of each per channel")
        return values[:, 0]

    def scale(self, node, x):
        x = self.assembler.sum(x)
        return self.assembler.affine(x, self.per_channel(node.scale, x.shape, "factors"), np.zeros(x.shape[0]))

    def delay(self, node, x):
        if np.any(np.asarray(node.delay) != 0):
            self.refuse(f"a delay of {np.max(node.delay):g} is not supported: layers run one after another, so that edges have none")
        return x

    def integrator(self, node, x):
        if not any(source == self.name and target in self.ends[nir.Output] for source, target in self.graph.edges):
            self.refuse("an integrator is supported right before the output only; it does not fire")
        x = self.assembler.sum(x)
        return self.assembler.affine(x, self.per_channel(node.r, x.shape, "resistances") * self.reading.dt, np.zeros(x.shape[0]))

    # -- neurons ----------------------------------------------------------------------------------------------------

    def thresholds(self, node, x, values):
        theta = self.per_channel(values, x.shape, "thresholds")
        if (theta <= 0).any():
            self.refuse(f"threshold {theta.min():g} of channel {int(theta.argmin())}: thresholds must be positive")
        return theta

    def check_reset(self, node):
        if self.reading.steps > 1 and self.reading.reset != "subtract":
            self.refuse("a reset to a value loses what is above the threshold; over more than one step only reset by subtraction is exact")
        if self.reading.reset == "subtract" and np.any(np.asarray(node.v_reset) != 0):
            self.refuse(f"it resets to v_reset = {np.max(np.abs(node.v_reset)):g}, while the reading says reset by subtraction, "
                        "for which v_reset must be 0")

    def check_order(self):
        if self.reading.steps > 1 and self.reading.neuron == "if" and not self.steady:
            self.refuse("it receives spikes that come at different steps, and counts differently depending on their order; exact are one "
                        "step, neurons that a constant current drives, or neuron='pasc-if', which waits for all of its input")

    def neuron(self, node, x):
        self.check_reset(node)
        self.check_order()
        x = self.assembler.sum(x)
        theta = self.thresholds(node, x, node.v_threshold)
        gain = self.per_channel(node.r, x.shape, "resistances") * self.reading.dt
        return self.fire(self.assembler.affine(x, gain / theta, np.zeros(len(theta))))

    def fire(self, x):
        """Close a sum in units of the threshold: T levels, each worth one spike."""
        return self.assembler.close(self.name, x, 1.0, self.reading.steps, self.reading.rounding)

    def leaky(self, node, x):
        if self.reading.steps > 1:
            self.refuse(f"its membrane forgets (tau = {np.max(node.tau):g}), so that its count depends on when spikes come; only one step, "
                        "or IF neurons, are exact")
        if self.reading.integration is None:
            self.refuse("the reading does not say how its leak is integrated: 'euler' or 'exact'")
        self.check_reset(node)
        x = self.assembler.sum(x)
        theta = self.thresholds(node, x, node.v_threshold)
        tau = self.per_channel(node.tau, x.shape, "time constants")
        if (tau <= 0).any():
            self.refuse(f"its time constant {tau.min():g} is not positive")
        share = self.reading.dt / tau if self.reading.integration == "euler" else 1 - np.exp(-self.reading.dt / tau)
        gain = self.per_channel(node.r, x.shape, "resistances") * share / theta
        rest = share * (self.per_channel(node.v_leak, x.shape, "leak potentials") / theta - self.reading.initial)
        return self.fire(self.assembler.affine(x, gain, rest))

    def threshold(self, node, x):
        if self.reading.steps > 1:
            self.refuse("it keeps nothing from step to step, so that its count is no staircase of its input; only one step is exact")
        x = self.assembler.sum(x)
        theta = self.thresholds(node, x, node.threshold)
        return self.assembler.close(self.name, self.assembler.affine(x, 1 / theta, np.zeros(len(theta))), 1.0, 1,
                                    replace(self.reading.rounding, share=0.0))
