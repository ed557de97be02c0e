"""From a walk over a framework's graph to the layers of an integer network; what all front ends share.

A front end walks its graph in order and calls these operations. Linear ones (convolution, linear, batch norm, average pool,
add) are gathered into one weighted sum of quantised tensors, in real numbers, until an activation closes them into one
hardware layer. Whatever cannot be expressed that way is refused by name and place.
"""

__all__ = ["INPUT", "Assembler", "Image", "ImportRefused", "Real", "Sum", "Tensor", "Term", "pair", "positive"]

from dataclasses import dataclass, field, replace

import numpy as np

from neuroflex.compiler.fit import HALF_UP, ThresholdTooSmall, fit_column, split_repeated
from neuroflex.compiler.host import HostStep, Operand
from neuroflex.compiler.network import ACCUMULATOR_BITS, MAX_KERNEL, MAX_REPEAT, Concat, InputSpec, Layer, Network, NetworkError, Source, Window
from neuroflex.compiler.split import Segment, SplitNetwork
from neuroflex.formats import MAX_LEVEL
from neuroflex.sim.network import accumulate, evaluate, gather, quantise
from neuroflex.sim.split import run_steps

INPUT = InputSpec.name
PACK_BELOW = 16       # an input of fewer channels than this is packed window by window
_BATCH = 100          # calibration images whose tensors are held at a time, with host steps
_SAME = 1e-6          # relative difference of real numbers that a file keeps in single precision


class ImportRefused(NetworkError):
    """A network that cannot be imported; the message names the operation and its place."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """Levels that the hardware stores.

    ``step`` (C,) is the real value of one level of each channel, ``levels`` (C,) the largest, ``flat`` whether a flatten was
    applied.
    """

    name: str
    shape: tuple
    step: np.ndarray
    levels: np.ndarray
    flat: bool = False


@dataclass(frozen=True, eq=False)
class Image:
    """The network's argument, before anything quantised it."""

    shape: tuple


@dataclass(frozen=True, eq=False)
class Real:
    """Real numbers (C, H, W) that a host step makes."""

    name: str
    shape: tuple


@dataclass(frozen=True, eq=False)
class Term:
    """``weights`` (N, K), real numbers per real value of the tensor, applied to the windows of a tensor."""

    tensor: Tensor
    window: Window
    weights: np.ndarray

    @property
    def taps(self):
        return self.window.kernel_h * self.window.kernel_w

    @property
    def real(self):
        """Real output value per input level, (N, K)."""
        return self.weights * np.tile(self.tensor.step, self.taps)

    @property
    def peaks(self):
        """Largest level of each entry, (K,)."""
        return np.tile(self.tensor.levels, self.taps)


@dataclass(frozen=True, eq=False)
class Sum:
    """Weighted sum of tensors that no activation has closed yet; ``shape`` is that of its grid before ``pool``.

    ``rectified`` tells that a ReLU was applied, so that negative values are known to become 0, and ``ceiling`` above which
    real value it clips. ``slack`` is a real value by which the sum may differ from the source's because a quantiser in it was
    left out. ``label`` is the name that the source gives it, ``coding`` a quantiser with negative codes that waits for what
    comes next.
    """

    terms: tuple
    bias: np.ndarray
    shape: tuple
    pool: tuple = (1, 1)
    rectified: bool = False
    ceiling: float = np.inf
    slack: float = 0.0
    label: str = ""
    coding: object = None

    @property
    def nonnegative(self):
        return self.rectified or all((t.weights >= 0).all() for t in self.terms) and (self.bias >= 0).all()


def pair(value):
    """A size given once or for both directions, as two integers."""
    value = np.asarray(value).reshape(-1).tolist()
    return (int(value[0]), int(value[-1]))


def positive(what, value):
    """Refuses a setting of the image that is no positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < np.inf:
        raise ImportRefused(f"the image: {what} must be a positive number, not {value!r}")


@dataclass
class Assembler:
    """Collects layers.

    Attributes
    ----------
    closer : str
        What the source framework calls the operation that quantises, for messages.
    exact_averages : bool
        Refuse averages that nothing quantises where they have to be rounded, instead of noting it.
    place : str
        The operation at hand, for messages.
    shapes : dict
        (C, H, W) of layers and host steps by name.
    report : dict
        Per layer name: how far it is from the source framework's, see `neuroflex.compiler.fit`.
    notes : list of str
        What the reader of the network should know about the import.
    """

    closer: str
    exact_averages: bool = False
    place: str = ""
    input: InputSpec | None = None
    layers: list = field(default_factory=list)
    concats: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    shapes: dict = field(default_factory=dict)
    report: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    def refuse(self, why):
        raise ImportRefused(f"{self.place}: {why}")

    def network(self, *, name, metadata, examples, about=None):
        """The finished network; ``about`` goes into the metadata, with the report and the notes, as ``import``."""
        metadata = dict(metadata or {})
        if about is not None:
            metadata["import"] = about | {"layers": self.report, "notes": self.notes}
        if self.steps:
            return SplitNetwork(name=name, steps=self.split(self.layers[-1].name), metadata=metadata, examples=examples)
        return Network(name=name, input=self.input, layers=self.layers, concats=self.concats, metadata=metadata, examples=examples)

    def result(self, value):
        """Checks what the source graph returns."""
        if isinstance(value, Real):
            self.refuse("it is computed by the host; the last operation must be a layer on the cores")
        if isinstance(value, Tensor) and value.name == INPUT or not isinstance(value, (Tensor, Sum)):
            self.refuse("one tensor computed by at least one layer is needed")
        if isinstance(value, Tensor) and value.name != self.layers[-1].name:
            self.refuse(f"it must be the last layer's tensor, not {value.name!r}")
        return value

    # -- operands ---------------------------------------------------------------------------------------------------

    @property
    def of_host(self):
        return f"its operand is computed by the host, in real numbers; put {self.closer} before it, which makes levels of them"

    def tensor(self, value, name="average"):
        """``value`` as a stored tensor; an average that nothing closes is rounded to as many levels as fit."""
        if isinstance(value, Image):
            self.refuse(f"the image must be quantised by {self.closer} before anything else")
        if isinstance(value, Sum):
            return self.close_average(value, name)
        if isinstance(value, Real):
            self.refuse(self.of_host)
        if not isinstance(value, Tensor):
            self.refuse(f"its operand must be a tensor, not {value!r}")
        return value

    def grid_tensor(self, value, name="average"):
        value = self.tensor(value, name)
        if value.flat and value.shape[1:] != (1, 1):
            self.refuse("its operand was flattened; only a linear layer can follow")
        return value

    def sum(self, value):
        """``value`` as a sum: a tensor becomes an identity term."""
        if isinstance(value, Tensor):
            return Sum((Term(value, Window(), np.eye(value.shape[0])),), np.zeros(value.shape[0]), value.shape)
        if isinstance(value, Image):
            self.refuse(f"the image must be quantised by {self.closer} before anything else")
        if isinstance(value, Real):
            self.refuse(self.of_host)
        if not isinstance(value, Sum):
            self.refuse(f"its operand must be a tensor, not {value!r}")
        return value

    def unpooled(self, value):
        value = self.sum(value)
        if value.pool != (1, 1):
            self.refuse(f"between a max pool and the {self.closer.split(' ', 1)[-1]} after it nothing else is supported")
        if value.rectified:
            self.refuse(f"its operand is not quantised; put {self.closer} after the ReLU before it")
        return value

    def window(self, kernel, stride, padding):
        kernel, stride, padding = pair(kernel), pair(stride), pair(padding)
        if stride[0] != stride[1] or padding[0] != padding[1]:
            self.refuse(f"stride and padding must be the same in both directions, not {stride} and {padding}")
        return Window(kernel_h=kernel[0], kernel_w=kernel[1], stride=stride[0], padding=padding[0])

    def finite(self, what, values):
        """``values`` as float64; refused when one is NaN or infinite."""
        values = np.asarray(values, np.float64)
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            self.refuse(f"{bad} of its {values.size} {what} are NaN or infinite; every number must be finite")
        return values

    # -- linear operations ------------------------------------------------------------------------------------------

    def image(self, shape):
        shape = tuple(int(size) for size in shape)
        if len(shape) != 3 or min(shape) < 1:
            self.place = "the image"
            self.refuse(f"its shape must be (C, H, W), each at least 1, not {shape}")
        return Image(shape)

    def check_images(self, images, shape):
        """Refuses raw images for calibration that are not numbers (n, C, H, W); sizes of 1 may be missing."""
        images = np.asarray(images)
        if images.dtype.kind not in "biuf" or [s for s in images.shape[1:] if s > 1] != [s for s in shape if s > 1] or not images.ndim:
            self.refuse(f"calibration images are {images.dtype} of shape {images.shape}; (n, {', '.join(map(str, shape))}) numbers are needed")
        bad = np.count_nonzero(~np.isfinite(images))
        if bad:
            self.refuse(f"{bad} pixels of the calibration images are NaN or infinite")

    def quantise_image(self, image, levels, full_scale):
        """The image's quantiser: ``full_scale`` is the raw pixel value of the highest level."""
        self.input = InputSpec(channels=image.shape[0], height=image.shape[1], width=image.shape[2], levels=levels,
                               full_scale=full_scale)
        channels = image.shape[0]
        return lambda value: Tensor(INPUT, image.shape, np.full(channels, value / levels), np.full(channels, levels))

    def convolution(self, x, kernel, bias, *, stride, padding, groups, alone):
        """``kernel`` (N, C / groups, h, w). Grouped and depthwise kernels become dense columns with structural zeros, which
        sparse weights make free."""
        n, per_group = kernel.shape[:2]
        window = self.window(kernel.shape[2:], stride, padding)
        if per_group * groups != x.shape[0] or n % groups:
            self.refuse(f"its kernel {kernel.shape} in {groups} group(s) does not fit {x.shape[0]} input channels")
        dense = np.zeros((n, x.shape[0], *kernel.shape[2:]))
        for column in range(n):
            first = column // (n // groups) * per_group
            dense[column, first:first + per_group] = kernel[column]
        return self.weighted(x, window, dense.transpose(0, 2, 3, 1).reshape(n, -1), bias, alone=alone)

    def fully_connected(self, x, weights, bias, *, alone):
        """``weights`` (N, C·H·W), in the order of a flattened (C, H, W)."""
        channels, height, width = x.shape
        if not x.flat and (height, width) != (1, 1):
            self.refuse(f"a linear layer on a {height}×{width} grid needs a flatten before it")
        if weights.shape[1] != channels * height * width:
            self.refuse(f"its weights {weights.shape} do not fit an input of {channels}×{height}×{width}")
        weights = weights.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(weights), -1)
        return self.weighted(x, Window(kernel_h=height, kernel_w=width), weights, bias, alone=alone)

    def weighted(self, x, window, weights, bias, *, alone):
        """One new sum; packs the image when ``alone``, this is its only reader, and its spines would be nearly empty."""
        try:
            grid = window.grid(*x.shape[1:])
        except NetworkError as error:
            self.refuse(str(error))
        weights = self.finite("weights", weights)
        bias = np.zeros(len(weights)) if bias is None else self.finite("biases", bias).reshape(-1)
        if len(bias) != len(weights):
            self.refuse(f"it has {len(weights)} columns and {len(bias)} biases")
        kernel = window.kernel_h * window.kernel_w
        if x.name == INPUT and self.input.pack is not None:
            self.refuse("it reads the image, which is packed for the windows of another layer")
        if x.name == INPUT and kernel > 1 and self.input.channels < PACK_BELOW and alone:
            self.input = replace(self.input, pack=window)
            x = replace(x, shape=self.input.shape, flat=False, step=np.tile(x.step, kernel), levels=np.tile(x.levels, kernel))
            window = Window()
        elif max(window.kernel_h, window.kernel_w) > MAX_KERNEL:
            self.refuse(f"a {window.kernel_h}×{window.kernel_w} window is larger than {MAX_KERNEL}×{MAX_KERNEL}")
        return Sum((Term(x, window, weights),), bias, (len(weights), *grid))

    def affine(self, value, scale, shift):
        """``value · scale + shift`` per channel: a batch norm."""
        x = self.unpooled(value)
        scale, shift = self.finite("factors", scale).reshape(-1), self.finite("shifts", shift).reshape(-1)
        if len({len(scale), len(shift), x.shape[0]}) != 1:
            self.refuse(f"it scales {len(scale)} channels; its operand has {x.shape[0]}")
        terms = tuple(replace(term, weights=term.weights * scale[:, None]) for term in x.terms)
        # A ceiling here is where a quantiser that was left out would saturate, which a note says; it is none of the result's.
        return replace(x, terms=terms, bias=x.bias * scale + shift, slack=x.slack * float(np.abs(scale).max()), ceiling=np.inf)

    def add(self, a, b):
        a, b = self.unpooled(a), self.unpooled(b)
        if a.shape != b.shape:
            self.refuse(f"its operands have different shapes, {a.shape} and {b.shape}")
        return Sum(a.terms + b.terms, a.bias + b.bias, a.shape, slack=a.slack + b.slack)

    # -- shape and pooling ------------------------------------------------------------------------------------------

    def flatten(self, x, name="average"):
        if isinstance(x, Image):
            return x
        if isinstance(x, Sum) and x.shape[1:] == (1, 1) and x.pool == (1, 1):
            return x
        return replace(self.tensor(x, name), flat=True)

    def concat(self, name, values, alone):
        """The channels of several tensors behind one another; ``alone`` says for each that nothing else reads it.

        The image, a tensor with other readers and one that is a concatenation itself are copied by an identity layer.
        """
        parts = [self.grid_tensor(value, f"{name}_{index}") for index, value in enumerate(values)]
        if len({part.shape[1:] for part in parts}) != 1:
            self.refuse(f"its operands have different grids: {', '.join('×'.join(map(str, p.shape[1:])) for p in parts)}")
        layers = {layer.name for layer in self.layers}
        names = [part.name if free and part.name in layers else self.copy(part, self.unique(f"{name}_copy")).name
                 for part, free in zip(parts, alone)]
        self.concats.append(Concat(name=self.unique(name), parts=tuple(names)))
        return Tensor(self.concats[-1].name, (sum(p.shape[0] for p in parts), *parts[0].shape[1:]),
                      np.concatenate([p.step for p in parts]), np.concatenate([p.levels for p in parts]))

    def copy(self, x, name, pool=(1, 1)):
        """An identity layer, with a max pool."""
        n = x.shape[0]
        return self.emit(name, replace(self.sum(x), pool=pool), [Source(tensor=x.name)], np.eye(n, dtype=np.int64), np.zeros(n, int),
                         np.ones(n, int), x.levels, x.step)

    def unique(self, name):
        taken = {INPUT, *(named.name for named in (*self.layers, *self.concats, *self.steps))}
        if name in taken:
            name = next(f"{name}_{i}" for i in range(2, 1 << 30) if f"{name}_{i}" not in taken)
        return name

    def max_pool(self, x, name, kernel, stride, padding, *, plain, ceil, alone):
        """``plain`` says that no option is set that the hardware lacks, ``ceil`` that incomplete windows count, ``alone`` that
        nothing else reads ``x``.

        Windows that do not overlap are fused into the layer before. 3×3 windows with stride 1 or 2 become layers, see
        `overlapping`.
        """
        kernel = pair(kernel)
        if kernel == (3, 3) and plain and isinstance(x, Tensor):
            found = self.overlapping(self.grid_tensor(x), name, pair(stride), pair(padding), ceil)
            if found is not None:
                return found
        if pair(stride) != kernel:
            self.refuse(f"windows must not overlap or leave gaps: stride {pair(stride)} for a {kernel} kernel")
        uneven = any(size % k for size, k in zip(x.shape[1:], kernel))
        if pair(padding) != (0, 0) or not plain or ceil and uneven:
            self.refuse("padding, dilation, ceil_mode and return_indices are not supported")
        if max(kernel) > MAX_KERNEL:
            self.refuse(f"a {kernel[0]}×{kernel[1]} window is larger than {MAX_KERNEL}×{MAX_KERNEL}")
        if isinstance(x, Sum):
            # The activation never decreases, so it commutes with the maximum.
            if x.pool != (1, 1):
                self.unpooled(x)
            return replace(x, pool=kernel)
        x = self.grid_tensor(x)
        last = self.layers[-1] if self.layers else None
        if alone and last is not None and last.name == x.name and last.pool_h == last.pool_w == 1:
            self.layers[-1] = replace(last, pool_h=kernel[0], pool_w=kernel[1])
            self.shapes[x.name] = x.shape[0], x.shape[1] // kernel[0], x.shape[2] // kernel[1]
            return replace(x, shape=self.shapes[x.name])
        return self.copy(x, self.unique(name), kernel)

    def overlapping(self, x, name, stride, padding, ceil):
        """3×3 max pool as layers: max(a, b) = a + clip(b − a, 0, L), exact in levels, where zero padding changes nothing.

        Stride 1: the maximum of three, along rows and then along columns. Stride 2: the maximum of two along both, and a fused
        2×2 pool. None where the grid does not allow it.
        """
        even = [size % 2 == 0 for size in x.shape[1:]]
        if stride == (1, 1) and padding == (1, 1):
            taps, pool = (-1, 0, 1), (1, 1)
        elif stride == (2, 2) and padding == (1, 1) and all(even) and not ceil:
            taps, pool = (-1, 0), (2, 2)
        elif stride == (2, 2) and padding == (0, 0) and (all(even) if ceil else not any(even)):
            taps, pool = (0, 1), (2, 2)
        else:
            return None
        before = len(self.layers)
        for across in (True, False):
            best, have = x, taps[0]
            for tap in taps[1:]:
                more = self.taps(self.unique(f"{name}_more"), (x, tap, 1), (best, have, -1), across)
                last = not across and tap == taps[-1]
                best = self.taps(self.unique(name if last else f"{name}_max"), (best, have, 1), (more, 0, 1), across, pool if last else (1, 1))
                have = 0
            x = best
        self.notes.append(f"{self.place}: windows overlap, so that it becomes {len(self.layers) - before} layers, exact in levels")
        return x

    def taps(self, name, first, second, across, pool=(1, 1)):
        """Layer clip(± a ± b, 0, L) of two tensors, each ``(tensor, shift, sign)`` read ``shift`` positions further on."""
        (a, at, plus), (b, to, minus) = first, second
        n = a.shape[0]
        eye = np.eye(n, dtype=np.int64)
        weights = np.zeros((3, 3, n, n), np.int64)
        place = lambda shift: (1, 1 + shift) if across else (1 + shift, 1)  # noqa: E731
        weights[place(at)] += plus * eye
        sources = [Source(tensor=a.name, kernel_h=3, kernel_w=3, padding=1)]
        parts = [weights]
        if a.name == b.name:
            weights[place(to)] += minus * eye
        elif to == 0:
            sources.append(Source(tensor=b.name))
            parts.append(minus * eye)
        else:
            raise AssertionError("only one of two tensors can be shifted")
        if at == 0 and a.name != b.name:
            sources[0], parts[0] = Source(tensor=a.name), plus * eye
        return self.emit(name, replace(self.sum(a), pool=pool), sources, np.concatenate([p.reshape(-1, n) for p in parts]),
                         np.zeros(n, int), np.ones(n, int), a.levels, a.step)

    def avg_pool(self, x, kernel, stride, padding, *, factor=None):
        """Average over windows, or the sum with ``factor`` 1. One over the whole of a grid that is too large for a window goes in two steps."""
        x = self.grid_tensor(x)
        window = self.window(kernel, stride, padding)
        size = (window.kernel_h, window.kernel_w)
        if max(size) > MAX_KERNEL and size == tuple(x.shape[1:]) and window.padding == 0:
            part = next((part for part in range(2, MAX_KERNEL + 1) if all(side % part == 0 and side // part <= MAX_KERNEL for side in size)), None)
            if part is not None:
                x = self.close_average(self.avg_pool(x, part, part, 0, factor=factor), f"{x.name}_average")
                window = Window(kernel_h=size[0] // part, kernel_w=size[1] // part)
        taps = window.kernel_h * window.kernel_w
        return self.weighted(x, window, np.tile(np.eye(x.shape[0]), (1, taps)) * (1 / taps if factor is None else factor), None,
                             alone=False)

    # -- closing a sum into a layer ---------------------------------------------------------------------------------

    def close(self, name, value, step, levels, rounding=HALF_UP, zero=0):
        """The layer that turns a sum into levels; ``step`` is the real value of one, or that of each column, ``zero`` the level that stands for 0."""
        x = self.sum(value)
        sources, terms = self.sources(x)
        steps = np.broadcast_to(np.asarray(step, np.float64), (x.shape[0],))
        far = np.abs(x.bias / steps)
        if far.max() >= 1 << 31:
            self.refuse(f"the bias of column {int(far.argmax())} is {far.max():g} output levels, far beyond what a column adds up")
        repeats = [source.repeat for source in sources]
        real, peaks = [term.real for term in terms], [term.peaks for term in terms]
        weights, bias, theta, worst = [], [], [], []
        for column in range(x.shape[0]):
            try:
                fitted = fit_column([v[column] for v in real], float(x.bias[column] + zero * steps[column]), float(steps[column]), peaks, repeats=repeats,
                                    levels=levels, rounding=rounding)
            except ThresholdTooSmall as error:
                self.refuse(f"the threshold of column {column} rounds to 0: its weights ({error.largest:g} per input level) are "
                            f"too large for output steps of {step:g}; train with a larger clip value or fewer levels")
            weights.append(np.concatenate([split_repeated(v, r) for v, r in zip(fitted.weights, repeats)]))
            bias.append(fitted.bias)
            theta.append(fitted.theta)
            worst.append(fitted.worst)
        name = self.unique(name)
        more = int(np.ceil(x.slack / steps.min() - 1e-9))
        self.report[name] = {"columns": x.shape[0], "equal_columns": 0 if more else int(sum(w == 0 for w in worst)),
                             "most_levels_apart": min(max(worst) + more, levels)}
        return self.emit(name, x, sources, np.array(weights).T, bias, theta, np.full(x.shape[0], levels), steps)

    def sources(self, x):
        """Sources of a sum and their terms, the skip branch last."""
        terms = list(x.terms)
        if len(terms) > 2:
            self.refuse(f"it adds {len(terms)} branches; two is the most, put {self.closer} between")
        real = [term.real for term in terms]
        skips = [term.window == Window(stride=term.window.stride) for term in terms]
        repeat = 1
        if len(terms) == 2:
            if not any(skips):
                self.refuse("one of the two branches of an add must be a tensor or a 1×1 convolution of it")
            if not skips[1] or skips[0] and np.abs(real[0]).max() > np.abs(real[1]).max():
                terms.reverse()
                real.reverse()
            main, skip = (np.abs(v).max(axis=1) for v in real)
            used = main > 0
            ratio = (skip[used] / main[used]).max() if used.any() else 1.0
            repeat = int(np.clip(np.ceil(ratio), 1, MAX_REPEAT))
        sources = [Source(tensor=term.tensor.name, repeat=1 if index == 0 else repeat, **vars(term.window))
                   for index, term in enumerate(terms)]
        return sources, terms

    def emit(self, name, x, sources, weights, bias, theta, levels, step):
        n = x.shape[0]
        step = np.broadcast_to(np.asarray(step, np.float64), (n,))
        try:
            self.layers.append(Layer(name=name, sources=sources, weights=weights, bias=np.array(bias, np.int64),
                                     theta=np.array(theta, np.int64), levels=np.asarray(levels, np.int64), pool_h=x.pool[0],
                                     pool_w=x.pool[1], step=float(step[0])))
        except NetworkError as error:
            self.refuse(str(error))
        shape = self.shapes[name] = n, x.shape[1] // x.pool[0], x.shape[2] // x.pool[1]
        return Tensor(name, shape, step, np.asarray(levels, np.int64))

    def close_average(self, x, name):
        """Layer for an average (or sum) that nothing else closes: exact while it fits 127 levels and is clipped at a level, if at all."""
        term = x.terms[0]
        ones = np.tile(np.eye(x.shape[0]), (1, term.taps))
        factor = float(term.weights[0, 0])
        if len(x.terms) != 1 or x.bias.any() or factor <= 0 or not np.array_equal(term.weights, ones * factor) or x.pool != (1, 1):
            self.refuse(f"its operand is not quantised; put {self.closer} before it")
        totals = np.full(x.shape[0], term.taps * int(term.tensor.levels.max()))
        clipped = x.ceiling / (term.tensor.step * factor)
        cut = clipped < totals * (1 - _SAME)
        if cut.any():
            whole = np.rint(clipped)
            if (whole < 1)[cut].any() or not np.allclose(whole[cut], clipped[cut], rtol=_SAME, atol=0):
                self.refuse(f"its operand is clipped at {x.ceiling:g}, between two of its levels (at level {clipped[cut][0]:g}); put {self.closer} "
                            "after the clip")
            totals[cut] = whole[cut]
        total = int(totals.max())
        theta = -(-total // MAX_LEVEL)
        levels = np.maximum((2 * totals + theta) // (2 * theta), 1)
        if theta > 1:
            if self.exact_averages:
                self.refuse(f"its operand is a sum over {term.taps} positions of up to {total}, which a tensor's {MAX_LEVEL} levels do not "
                            f"hold; put {self.closer} before it")
            self.notes.append(f"{self.place}: its operand, an average, is rounded to {levels.max()} levels")
        zero = np.zeros(x.shape[0], np.int64)
        return self.emit(self.unique(name), x, [Source(tensor=term.tensor.name, **vars(term.window))], ones.T.astype(np.int64), zero,
                         zero + theta, zero + levels, term.tensor.step * theta * factor)

    def calibration_tensors(self, names, images):
        """Tensors of levels by name, for raw images."""
        self.check_images(images, self.input.image_shape)
        levels = quantise(self.input, images)
        if not self.steps:
            if not self.layers:
                return {INPUT: levels}
            trace = evaluate(Network(name="calibration", input=self.input, layers=self.layers, concats=self.concats), levels, quantised=True)
            return {name: trace.tensor(name) for name in names}
        before, parts = self.split(), {name: [] for name in names}
        source, program = self.program(names, self.given())
        for start in range(0, len(levels), _BATCH):
            tensor = run_steps(before, levels[start:start + _BATCH]).tensors[source]
            trace = evaluate(program, tensor, quantised=True) if program else None
            for name, found in parts.items():
                found.append(tensor if name == source else trace.tensor(name))
        return {name: np.concatenate(found) for name, found in parts.items()}

    def close_logits(self, x, calibration, name="logits"):
        """Last layer that nothing quantises: 128 levels over the range of the largest logits, one scale for all classes.

        Behind a ReLU level 0 is 0, and behind a clip the highest level is where it clips.
        """
        if calibration is None:
            self.refuse(f"it does not end in {self.closer}: give calibration images, which set the range of the logits")
        if not len(calibration):
            self.refuse("the calibration set is empty: give at least one image, better some hundred")
        sources, terms = self.sources(x)
        real = [term.real for term in terms]
        repeats = [source.repeat for source in sources]
        unit = max(np.abs(v).max() / (127 * repeat) for v, repeat in zip(real, repeats))
        if unit == 0:
            self.refuse("all weights of the last layer are zero")
        weights = np.array([np.concatenate([split_repeated(np.rint(v[column] / unit).astype(np.int64), r) for v, r in zip(real, repeats)])
                            for column in range(x.shape[0])]).T
        bias = np.rint(x.bias / unit).astype(np.int64)
        tensors = self.calibration_tensors([s.tensor for s in sources], calibration)
        rows = np.concatenate([gather(tensors[s.tensor], s, s.repeat) for s in sources], axis=-1)
        clipped = min(x.ceiling / unit, 2.0**ACCUMULATOR_BITS)
        logits = np.minimum(accumulate(rows, weights) + bias, int(np.ceil(clipped)))
        ranked = np.sort((np.maximum(logits, 0) if x.rectified else logits).reshape(-1, x.shape[0]), axis=1)
        # Lower logits may clip at 0: only the highest has to stay distinct. An eighth of the range is kept on both sides
        # for images that calibration did not show.
        low, high = int(ranked[:, -2:].min()), int(ranked[:, -1].max())
        margin = (high - low) // 8 + 1
        first, last = 0 if x.rectified else low - margin, min(high + margin, int(np.ceil(clipped)))
        theta = -(-(last - first) // MAX_LEVEL)
        levels = int(np.clip(np.rint((clipped - first) / theta), 1, MAX_LEVEL))
        bias -= first
        return self.emit(self.unique(name), x, sources, weights, bias, [theta] * x.shape[0], np.full(x.shape[0], levels), unit * theta)

    # -- steps of the host ------------------------------------------------------------------------------------------

    def step(self, kind, name, operands, shape, **parameters):
        """A host step; ``operands`` are pairs of a value and its first channel, or values."""
        pairs = [operand if isinstance(operand, tuple) else (operand, 0) for operand in operands]
        width = pairs[0][0].shape[0] if kind != "attention" else shape[0]
        try:
            self.steps.append(HostStep(name=self.unique(name), kind=kind, parameters=parameters,
                                       sources=[Operand(tensor=value.name, first=first, channels=width) for value, first in pairs]))
        except NetworkError as error:
            self.refuse(str(error))
        self.shapes[self.steps[-1].name] = tuple(shape)
        return Real(self.steps[-1].name, tuple(shape))

    def real(self, value):
        """``value`` as real numbers on the host."""
        if isinstance(value, Tensor):
            known = next((step for step in self.steps if step.kind == "values" and step.sources[0].tensor == value.name), None)
            if known is not None:
                return Real(known.name, value.shape)
            return self.step("values", f"{value.name}_values", [value], value.shape, step=value.step, zero=np.zeros(value.shape[0]))
        if isinstance(value, Sum):
            self.refuse("its operand is a sum on the cores, which give levels only; put a HandOver between them, or calibrate the network, which does")
        if not isinstance(value, Real):
            self.refuse(f"its operand must be a tensor, not {value!r}")
        return value

    def hand_over(self, name, value, step, levels, zero):
        """A layer whose levels the host reads as ``step·(level − zero)``."""
        x = self.unpooled(value)
        if np.shape(step) != (x.shape[0],):
            self.refuse(f"it has {len(step)} channels; its operand has {x.shape[0]}")
        tensor = self.close(name, x, step, levels, zero=zero)
        return self.step("values", f"{tensor.name}_values", [tensor], tensor.shape, step=step, zero=np.full(x.shape[0], zero))

    def levels(self, name, value, clip, levels):
        """Real numbers of the host as levels for the cores."""
        made = self.step("levels", name, [value], value.shape, clip=clip, levels=levels)
        return Tensor(made.name, made.shape, np.full(made.shape[0], clip / levels), np.full(made.shape[0], levels))

    def given(self, result=None):
        """Layers whose tensors programs give: those that the host reads, and ``result``."""
        read = {step.sources[0].tensor for step in self.steps if step.reads_levels}
        return {layer.name for layer in self.layers if layer.name in read or layer.name == result}

    def program(self, roots, given):
        """``(source, network)`` of the layers that the tensors ``roots`` need from those ``given`` by other programs and the host: the tensor that
        they read, and None where there are no layers."""
        layers, concats = {layer.name: layer for layer in self.layers}, {concat.name: concat for concat in self.concats}
        found, joined, outside, left = set(), set(), {}, list(roots)
        while left:
            name = left.pop()
            if name in concats:
                joined.add(name)
                left += concats[name].parts
            elif name not in layers or name in given and name not in roots:
                outside[name] = True
            elif name not in found:
                found.add(name)
                left += [source.tensor for source in layers[name].sources]
        if len(outside) != 1:
            self.refuse(f"it needs {' and '.join(map(repr, outside))}, which the host or other programs make; layers that run as one program read one tensor")
        source = next(iter(outside))
        if not found:
            return source, None
        own = [replace(layer, sources=[replace(s, tensor=INPUT) if s.tensor == source else s for s in layer.sources])
               for layer in self.layers if layer.name in found]
        spec = self.input
        if source != INPUT:
            made = next(one for one in (*self.steps, *self.layers) if one.name == source)
            levels = int(made.levels.max()) if isinstance(made, Layer) else made.parameters["levels"]
            spec = InputSpec(**dict(zip(("channels", "height", "width"), self.shapes[source])), levels=levels, full_scale=float(levels))
        return source, Network(name=own[-1].name, input=spec, layers=own, concats=[concat for concat in self.concats if concat.name in joined])

    def split(self, result=None):
        """Segments and host steps in order, for all of ``steps`` and, if given, for the tensor ``result``."""
        given, steps, done = self.given(result), [], set()

        def segment(name):
            if name in done or name not in given:
                return
            source, network = self.program([name], given)
            segment(source)
            twice = done & {layer.name for layer in network.layers}
            if twice:
                self.refuse(f"layer {sorted(twice)[0]!r} is read by several layers that the host reads; a program gives one tensor")
            done.update(layer.name for layer in network.layers)
            steps.append(Segment(source=source, network=network))

        for step in self.steps:
            if step.reads_levels:
                segment(step.sources[0].tensor)
            steps.append(step)
        if result is not None:
            segment(result)
        return steps
