"""Shapes of well-known networks, with stated densities: what to measure where no trained weights are at hand.

Every number that is not a published shape is an assumption, and `docs/comparison.md` says where it comes from.
"""

__all__ = ["LayerShape", "NetworkShape", "SHAPES", "host_work"]

from dataclasses import dataclass, replace

from neuroflex.compare.traces import TRACE_STEPS
from neuroflex.formats import MAX_LEVEL


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """One matrix layer: sizes, levels and densities.

    Attributes
    ----------
    name : str
    channels, height, width : int
        Of the tensor that it reads; linear layers are 1×1 windows, their rows (tokens, steps) a grid.
    columns : int
        N, output channels.
    kernel, stride, padding, pool : int
        Square window, and a max pool of ``pool × pool`` fused behind it.
    packed : bool
        The host gathers the windows, as for images of few channels: the accelerator reads rows of ``kernel²·channels``.
    skip : bool
        An identity skip is added: one more tap per column, read from the layer's own input, which has the shape of the skip.
    levels_in, levels_out : int
    activation_density, weight_density : float
        Means, see `neuroflex.compare.shaped`.
    trace : str
        Name of its input in the network's file of recorded spikes.
    """

    name: str
    channels: int
    columns: int
    height: int = 1
    width: int = 1
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    pool: int = 1
    packed: bool = False
    skip: bool = False
    levels_in: int = 4
    levels_out: int = 4
    activation_density: float = 0.3
    weight_density: float = 0.2
    trace: str = ""

    @property
    def analog(self):
        """Whether it reads an image's pixels: of their trace only the places that are not zero are known."""
        return self.levels_in == MAX_LEVEL

    @property
    def grid(self):
        """``(rows, columns)`` of output positions before the pool."""
        return tuple((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in (self.height, self.width))

    @property
    def rows(self):
        """M of the matrix product."""
        return self.grid[0] * self.grid[1]

    @property
    def inputs(self):
        """K of the matrix product."""
        return self.channels * (self.kernel ** 2 + self.skip)

    @property
    def weights(self):
        """Weights if none were zero."""
        return self.channels * self.kernel ** 2 * self.columns

    @property
    def macs(self):
        """Multiplications of the dense product; a skip is an addition."""
        return self.rows * self.weights

    def cut(self, rows):
        """A part of the layer with at most ``rows`` rows, as whole lines of pooled output from the top, one at least.

        Returns
        -------
        part : LayerShape
        fraction : float
            Rows of the part over rows of the layer; 1 when nothing was cut.
        """
        high, wide = self.grid
        lines = max(rows // (wide * self.pool), 1) * self.pool
        if self.rows <= rows or lines >= high // self.pool * self.pool:
            return self, 1.0
        part = replace(self, height=min((lines - 1) * self.stride + self.kernel - self.padding, self.height))
        while part.grid[0] > lines:      # the padding below adds windows
            part = replace(part, height=part.height - 1)
        return part, part.rows / self.rows


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """A network as a list of layers, and what of its work is left to the host.

    Attributes
    ----------
    name, title : str
    layers : tuple of LayerShape
    host : dict
        What the host does → operations (additions, multiplications, comparisons).
    source : str
        Where shapes and densities come from.
    chained : bool
        The layers run as one program, each reading what the one before has written.
    trace : str
        File of recorded spikes (`neuroflex.compare.traces`) that the layers read instead of drawn activations.
    """

    name: str
    title: str
    layers: tuple
    host: dict
    source: str
    chained: bool = False
    trace: str = ""

    @property
    def densities(self):
        """What of the operands is real, for the report."""
        return "activations: real spike traces, weights: synthetic" if self.trace else "synthetic densities"

    @property
    def macs(self):
        """Multiplications of all layers if they were dense."""
        return sum(layer.macs for layer in self.layers)


def host_work(network):
    """Share of a network's operations that the host does, 0 … 1; a multiplication with its addition counts as two."""
    host = sum(network.host.values())
    return host / (host + 2 * network.macs)


def _chain(layers, first, hidden):
    """Gives layers their levels: ``hidden`` those of their outputs, but of the last one, which is the classifier with its logits."""
    levels = [first, *hidden, MAX_LEVEL]
    if len(levels) != len(layers) + 1:
        raise ValueError(f"{len(layers)} layers want {len(layers) - 1} levels, not {len(hidden)}")
    return tuple(replace(layer, levels_in=into, levels_out=out) for layer, into, out in zip(layers, levels, levels[1:]))


def _vgg16(name, title, weights, linear, source):
    """VGG-16 for 32×32 images with two hidden linear layers of 4,096, and PASCAL's levels."""
    levels = (8, 4, 4, 1, 4, 4, 1, 1, 1, 1, 1, 4, 8, 8, 8)
    layers, channels, size = [], 3, 32
    for stage, (columns, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for number in range(1, count + 1):
            first = not layers
            layers.append(LayerShape(name=f"conv{stage}_{number}", channels=channels, columns=columns, height=size, width=size, kernel=3,
                                     padding=1, pool=2 if number == count else 1, packed=first,
                                     activation_density=0.95 if first else 0.26, weight_density=0.5 if first else weights))
            channels = columns
        size //= 2
    layers += [LayerShape(name=f"fc{number}", channels=inputs, columns=outputs, activation_density=0.26, weight_density=density)
               for number, inputs, outputs, density in ((6, 512, 4096, linear), (7, 4096, 4096, linear), (8, 4096, 10, 0.25))]
    return NetworkShape(name=name, title=title, layers=_chain(layers, MAX_LEVEL, levels), host={}, source=source)


def _resnet34():
    """ResNet-34 for 224×224 images; strided shortcuts are layers of their own."""
    half = dict(activation_density=0.40, weight_density=0.20)
    layers = [LayerShape(name="conv1", channels=3, columns=64, height=224, width=224, kernel=7, stride=2, padding=3, packed=True,
                         activation_density=0.95, weight_density=0.5, levels_in=MAX_LEVEL, levels_out=4)]
    channels, size = 64, 56
    # PASCAL's levels of ResNet-18, whose stages have two blocks each: further blocks are like the second one.
    levels = {1: (2, 4, 1, 4), 2: (2, 2, 1, 4), 3: (2, 2, 1, 4), 4: (1, 1, 1, 4)}
    into = 4
    for stage, (columns, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            middle, out = levels[stage][:2] if block == 1 else levels[stage][2:]
            if stride == 2:
                layers.append(LayerShape(name=f"conv{stage + 1}_{block}s", channels=channels, columns=columns, height=size, width=size,
                                         stride=2, levels_in=into, levels_out=out, **half))
            layers.append(LayerShape(name=f"conv{stage + 1}_{block}a", channels=channels, columns=columns, height=size, width=size, kernel=3,
                                     stride=stride, padding=1, levels_in=into, levels_out=middle, **half))
            size //= stride
            layers.append(LayerShape(name=f"conv{stage + 1}_{block}b", channels=columns, columns=columns, height=size, width=size, kernel=3,
                                     padding=1, skip=stride == 1, levels_in=middle, levels_out=out, **half))
            channels, into = columns, out
    layers.append(LayerShape(name="fc", channels=512, columns=1000, levels_in=into, levels_out=MAX_LEVEL, activation_density=0.40,
                             weight_density=0.20))
    return NetworkShape(name="resnet34", title="ResNet-34, 224×224", layers=tuple(layers),
                        host={"max pool 3×3, stride 2": 9 * 64 * 56 * 56, "average pool": 512 * 49},
                        source="shapes: He et al., CVPR 2016; levels: PASCAL's for ResNet-18, continued; activations: 40 % nonzero, LoAS's ResNet-19; "
                               "weights: 20 % nonzero, assumed")


_INCEPTIONS = (   # name, size, input channels, 1×1, 3×3 reduced, 3×3, 5×5 reduced, 5×5, pool projection
    ("3a", 28, 192, 64, 96, 128, 16, 32, 32), ("3b", 28, 256, 128, 128, 192, 32, 96, 64),
    ("4a", 14, 480, 192, 96, 208, 16, 48, 64), ("4b", 14, 512, 160, 112, 224, 24, 64, 64), ("4c", 14, 512, 128, 128, 256, 24, 64, 64),
    ("4d", 14, 512, 112, 144, 288, 32, 64, 64), ("4e", 14, 528, 256, 160, 320, 32, 128, 128),
    ("5a", 7, 832, 256, 160, 320, 32, 128, 128), ("5b", 7, 832, 384, 192, 384, 48, 128, 128))


def _googlenet():
    """GoogLeNet for 224×224 images: every branch of an inception module is a layer, concatenation is a matter of addresses."""
    common = dict(activation_density=0.35, weight_density=0.25)
    layers = [LayerShape(name="conv1", channels=3, columns=64, height=224, width=224, kernel=7, stride=2, padding=3, packed=True,
                         activation_density=0.95, weight_density=0.5, levels_in=MAX_LEVEL),
              LayerShape(name="conv2r", channels=64, columns=64, height=56, width=56, **common),
              LayerShape(name="conv2", channels=64, columns=192, height=56, width=56, kernel=3, padding=1, **common)]
    pools = 9 * (64 * 56 * 56 + 192 * 28 * 28 + 480 * 14 * 14 + 832 * 7 * 7)
    for name, size, channels, one, three_r, three, five_r, five, projection in _INCEPTIONS:
        here = dict(height=size, width=size, **common)
        layers += [LayerShape(name=f"{name}_1x1", channels=channels, columns=one, **here),
                   LayerShape(name=f"{name}_3x3r", channels=channels, columns=three_r, **here),
                   LayerShape(name=f"{name}_3x3", channels=three_r, columns=three, kernel=3, padding=1, **here),
                   LayerShape(name=f"{name}_5x5r", channels=channels, columns=five_r, **here),
                   LayerShape(name=f"{name}_5x5", channels=five_r, columns=five, kernel=5, padding=2, **here),
                   LayerShape(name=f"{name}_pool", channels=channels, columns=projection, **here)]
        pools += 9 * channels * size * size
    layers.append(LayerShape(name="fc", channels=1024, columns=1000, levels_out=MAX_LEVEL, activation_density=0.35, weight_density=0.10))
    return NetworkShape(name="googlenet", title="GoogLeNet, 224×224", layers=tuple(layers), host={"max pools 3×3": pools, "average pool": 1024 * 49},
                        source="shapes: Szegedy et al., CVPR 2015; 4 levels, activations 35 %, weights 25 % nonzero: assumed")


def _encoders(height, width, *, channels, inner, heads, count):
    """Linear layers of a transformer's encoders on ``height × width`` tokens, and the host's work between them."""
    grid = dict(height=height, width=width, weight_density=0.15)
    layers = []
    for block in range(count):
        layers += [LayerShape(name=f"{block}.{name}", channels=channels, columns=channels, activation_density=0.35, **grid)
                   for name in ("query", "key", "value", "output")]
        layers += [LayerShape(name=f"{block}.up", channels=channels, columns=inner, activation_density=0.35, **grid),
                   LayerShape(name=f"{block}.down", channels=inner, columns=channels, activation_density=0.12, **grid)]
    tokens = height * width
    host = {"attention products (both operands are activations)": count * 2 * 2 * tokens * tokens * channels, "softmax": count * 5 * heads * tokens * tokens,
            "layer norm, additions": count * 2 * 9 * tokens * channels}
    return layers, host


_ENCODER_DENSITIES = "4 levels, activations 35 % (after the nonlinearity 12 %), weights 15 % nonzero: assumed"


def _bert_base(tokens=128):
    """The linear layers of BERT-base's twelve encoders."""
    layers, host = _encoders(16, tokens // 16, channels=768, inner=3072, heads=12, count=12)
    return NetworkShape(name="bert_base", title=f"BERT-base, {tokens} tokens", layers=tuple(layers), host=host | {"embedding": 2 * tokens * 768},
                        source=f"shapes: Devlin et al., NAACL 2019, linear layers only; {_ENCODER_DENSITIES}")


def _vit_small():
    """ViT-S/16 for 224×224 images: patches, twelve encoders on 196 tokens, mean over tokens, classes."""
    layers, host = _encoders(14, 14, channels=384, inner=1536, heads=6, count=12)
    first = LayerShape(name="patches", channels=3, columns=384, height=224, width=224, kernel=16, stride=16, packed=True, activation_density=0.95, weight_density=0.5,
                       levels_in=MAX_LEVEL)
    last = LayerShape(name="classes", channels=384, columns=1000, levels_out=MAX_LEVEL, activation_density=0.35, weight_density=0.10)
    return NetworkShape(name="vit_small", title="ViT-S/16, 224×224", layers=(first, *layers, last), host=host | {"positions": 196 * 384, "mean over tokens": 196 * 384},
                        source=f"shapes: Touvron et al., ICML 2021, without class token; {_ENCODER_DENSITIES}, as are the other two: patches 95 % and 50 %, classes 35 % and 10 %")


def _loas(name, title, layers, weights, *, traced):
    """A network of LoAS with T = 4: its recorded spikes as inputs, or activations that are drawn with the same density in each layer."""
    common = dict(levels_in=TRACE_STEPS, levels_out=TRACE_STEPS, weight_density=weights)
    layers = [LayerShape(**common | layer) for layer in layers]
    layers[0] = replace(layers[0], packed=True, levels_in=MAX_LEVEL, weight_density=0.5)
    layers[-1] = replace(layers[-1], levels_out=MAX_LEVEL, weight_density=0.25)
    activations = ("activations: spikes of the LoAS networks on one CIFAR-10 image, T = 4 steps summed to levels, from the Prosperity artifact (MIT); "
                   "pixels of the first layer: drawn" if traced else "activations: drawn with the mean density that the spike traces have in each layer")
    return NetworkShape(
        name=f"loas_{name}" + ("" if traced else "_drawn"), title=f"{title}, " + ("LoAS's spike traces" if traced else "densities of LoAS's traces"),
        layers=tuple(layers), host={}, trace=f"spikes_{name}_cifar10.npz" if traced else "",
        source=f"{activations}; weights: synthetic, {100 * weights:.1f} % nonzero (LoAS's), first layer 50 %, last 25 %; thresholds and outputs follow from those weights")


def _loas_vgg16(traced):
    """The VGG-16 of the traces: 13 convolutions and one linear layer, 32×32 images."""
    densities = (1, 0.211, 0.210, 0.291, 0.219, 0.229, 0.221, 0.205, 0.257, 0.612, 0.394, 0.469, 0.604, 0.371)
    layers, channels, size = [], 3, 32
    for stage, (columns, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for number in range(1, count + 1):
            layers.append(dict(name=f"conv{stage}_{number}", channels=channels, columns=columns, height=size, width=size, kernel=3, padding=1,
                               pool=2 if number == count else 1, activation_density=densities[len(layers)], trace=f"conv2d_{len(layers):02}"))
            channels = columns
        size //= 2
    layers.append(dict(name="fc", channels=512, columns=10, activation_density=densities[-1], trace="linear_00"))
    return _loas("vgg16", "VGG-16, CIFAR size", layers, 0.018, traced=traced)


def _loas_alexnet(traced):
    """The AlexNet of the traces: five convolutions and one linear layer, 32×32 images; windows of 3×3, strides and pools as the sizes want them."""
    sizes = ((3, 64, 32, 1, dict(stride=2, pool=2)), (64, 192, 8, 0.140, {}), (192, 384, 8, 0.104, {}), (384, 256, 8, 0.360, {}), (256, 256, 8, 0.359, dict(pool=4)))
    layers = [dict(name=f"conv{number + 1}", channels=channels, columns=columns, height=size, width=size, kernel=3, padding=1, activation_density=density,
                   trace=f"conv2d_{number:02}", **more) for number, (channels, columns, size, density, more) in enumerate(sizes)]
    layers.append(dict(name="fc", channels=1024, columns=10, activation_density=0.520, trace="linear_00"))
    return _loas("alexnet", "AlexNet, CIFAR size", layers, 0.017, traced=traced)


def _peer(percent):
    """The fully connected network that other spiking accelerators were run on, 73 time steps as 73 rows."""
    layers = (LayerShape(name="fc1", channels=256, columns=128, height=73, levels_in=1, levels_out=1, activation_density=percent / 100,
                         weight_density=1.0),
              LayerShape(name="fc2", channels=128, columns=10, height=73, levels_in=1, levels_out=1, activation_density=percent / 100,
                         weight_density=1.0))
    return NetworkShape(name=f"peer_{percent}", title=f"256-128-10, 73 steps, {percent} % spikes", layers=layers, host={}, chained=True,
                        source="shape: the spiking peers' MNIST network; spikes of the stated density, dense weights")


SHAPES = {shape.name: shape for shape in (
    _vgg16("vgg16", "VGG-16, CIFAR size", 0.15, 0.05,
           "shapes and levels: PASCAL's VGG-16 for CIFAR; activations: 26 % nonzero, LoAS's VGG-16; weights: convolutions 15 %, "
           "hidden linear layers 5 % nonzero, assumed"),
    _vgg16("vgg16_sparse", "VGG-16, CIFAR size, LoAS's densities", 0.018, 0.018,
           "as vgg16, but all hidden weights 1.8 % nonzero: LoAS's VGG-16"),
    _resnet34(), _googlenet(), _bert_base(), _vit_small(), *map(_peer, (2, 10, 50, 100)),
    _loas_vgg16(True), _loas_alexnet(True), _loas_vgg16(False), _loas_alexnet(False),
)}
