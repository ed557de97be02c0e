"""PyTorch module with QCFS activations → integer network. Needs the ``torch`` extra.

The module is traced with ``torch.fx``. Linear operations (convolution, linear, batch norm, average pool, residual add) are
gathered into one weighted sum of quantised tensors until a `QCFS` closes them into one hardware layer; whatever cannot be
expressed that way is refused by name and place.
"""

__all__ = ["ImportRefused", "import_torch"]

import operator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as functional
from torch import fx, nn

from neuroflex.compiler.network import MAX_KERNEL, MAX_REPEAT, InputSpec, Layer, Network, NetworkError, Source, Window
from neuroflex.compiler.torch_qcfs import QCFS
from neuroflex.formats import MAX_LEVEL
from neuroflex.sim.network import accumulate, evaluate, gather, quantise

INPUT = InputSpec.name
PACK_BELOW = 16       # an input of fewer channels than this is packed window by window


class ImportRefused(NetworkError):
    """A module that cannot be imported; the message names the operation and its place."""


@dataclass(frozen=True)
class _Tensor:
    """Levels that the hardware stores. ``step`` is the real value of one level, ``flat`` whether flatten was applied."""

    name: str
    shape: tuple
    step: float
    levels: int
    flat: bool = False


@dataclass(frozen=True)
class _Image:
    """The module's argument, before anything quantised it."""

    shape: tuple


@dataclass(frozen=True)
class _Term:
    """``weights`` (N, K), real numbers, applied to the windows of a tensor."""

    tensor: _Tensor
    window: Window
    weights: np.ndarray


@dataclass(frozen=True)
class _Sum:
    """Weighted sum of tensors that no activation has closed yet; ``shape`` is that of its grid before ``pool``."""

    terms: tuple
    bias: np.ndarray
    shape: tuple
    pool: tuple = (1, 1)


def import_torch(module, image_shape, *, name, pixel_scale=1.0, calibration=None, metadata=None, examples=None):
    """Import a PyTorch module as an integer network.

    Parameters
    ----------
    module : torch.nn.Module
        One argument, a batch (B, C, H, W); batch norms are folded with their running statistics. Its first operation must
        be a `QCFS`, which says how the image is quantised.
    image_shape : (C, H, W)
    name : str
        Name of the network.
    pixel_scale : float
        What one unit of a raw pixel is to the module (1/255 for bytes trained as 0 … 1).
    calibration : array (B, C, H, W), optional
        Raw images. Needed when the module does not end in a QCFS: they set the range in which the logits are quantised to
        128 levels with one scale for all classes, so that the largest logit keeps the highest level.
    metadata : dict, optional
    examples : neuroflex.compiler.network.Examples, optional

    Returns
    -------
    neuroflex.compiler.network.Network

    Raises
    ------
    ImportRefused
        An operation or a setting that is not supported, or a threshold that would round to zero.
    NetworkError
        An accumulator that could overflow.
    """
    graph = _trace(module)
    builder = _Builder(module, graph, tuple(image_shape), pixel_scale)
    result = builder.run()
    if isinstance(result, _Sum):
        builder.close_logits(result, calibration)
    return Network(name=name, input=builder.input, layers=builder.layers, metadata=metadata or {}, examples=examples)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, path):
        return isinstance(module, QCFS) or super().is_leaf_module(module, path)


def _trace(module):
    try:
        return _Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ImportRefused(f"{type(module).__name__}: its forward cannot be traced ({error}); control flow must not depend "
                            "on data") from error


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


class _Builder:
    """Walks the traced graph and makes one layer for every QCFS."""

    def __init__(self, module, graph, image_shape, pixel_scale):
        self.modules = dict(module.named_modules())
        self.graph = graph
        self.image_shape = image_shape
        self.pixel_scale = pixel_scale
        self.input = None
        self.layers = []
        self.place = ""
        handlers = {
            QCFS: self.qcfs, nn.Conv2d: self.conv2d, nn.Linear: self.linear, nn.BatchNorm2d: self.batch_norm,
            nn.BatchNorm1d: self.batch_norm, nn.Flatten: self.flatten_module,
            nn.MaxPool2d: lambda node, m, x: self.max_pool(
                node, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices),
            nn.AvgPool2d: lambda node, m, x: self.avg_pool(
                node, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override),
            nn.AdaptiveAvgPool2d: lambda node, m, x: self.global_avg_pool(node, x, m.output_size),
        }
        self.module_handlers = handlers
        self.function_handlers = {
            operator.add: self.add, operator.iadd: self.add, torch.add: self.add, torch.flatten: self.flatten,
            functional.max_pool2d: self.max_pool, torch.max_pool2d: self.max_pool, functional.avg_pool2d: self.avg_pool,
            functional.adaptive_avg_pool2d: self.global_avg_pool,
        }
        self.method_handlers = {"add": self.add, "add_": self.add, "flatten": self.flatten}

    # -- the walk ---------------------------------------------------------------------------------------------------

    def run(self):
        values = {}
        for node in self.graph.nodes:
            arguments = fx.map_arg(node.args, lambda n: values[n])
            keywords = fx.map_arg(node.kwargs, lambda n: values[n])
            if node.op == "placeholder":
                if any(isinstance(value, _Image) for value in values.values()):
                    raise ImportRefused(f"argument {node.name!r}: a module with more than one argument")
                values[node] = _Image(self.image_shape)
            elif node.op == "output":
                self.place = "the module's result"
                return self.result(arguments[0])
            elif node.op == "call_module":
                module = self.modules[node.target]
                self.place = f"{node.target!r} ({type(module).__name__})"
                handler = self.module_handlers.get(type(module))
                if handler is None:
                    self.refuse("this kind of module is not supported; supported: "
                                + ", ".join(kind.__name__ for kind in self.module_handlers))
                values[node] = handler(node, module, *arguments, **keywords)
            elif node.op in ("call_function", "call_method"):
                label = node.target if isinstance(node.target, str) else node.target.__name__
                self.place = f"{node.name!r} ({label})"
                table = self.method_handlers if node.op == "call_method" else self.function_handlers
                handler = table.get(node.target)
                if handler is None:
                    self.refuse("this operation is not supported; supported: add, flatten, max_pool2d, avg_pool2d and "
                                "adaptive_avg_pool2d to size 1")
                try:
                    values[node] = handler(node, *arguments, **keywords)
                except TypeError as error:
                    self.refuse(f"these arguments are not supported: {error}")
            else:
                self.place = f"{node.target!r} ({node.op})"
                self.refuse("a bare parameter or constant in the graph is not supported")
        raise AssertionError("a traced graph ends in its output")

    def refuse(self, why):
        raise ImportRefused(f"{self.place}: {why}")

    def result(self, value):
        if isinstance(value, _Tensor) and value.name == INPUT or not isinstance(value, (_Tensor, _Sum)):
            self.refuse("one tensor computed by at least one layer is needed")
        if isinstance(value, _Tensor) and value.name != self.layers[-1].name:
            self.refuse(f"it must be the last layer's tensor, not {value.name!r}")
        return value

    # -- operands ---------------------------------------------------------------------------------------------------

    def tensor(self, node, value):
        """``value`` as a stored tensor; an average that no QCFS closes is rounded to as many levels as fit."""
        if isinstance(value, _Image):
            self.refuse("the image must be quantised by a QCFS before anything else")
        if isinstance(value, _Sum):
            return self.close_average(node, value)
        if not isinstance(value, _Tensor):
            self.refuse(f"its operand must be a tensor, not {value!r}")
        return value

    def grid_tensor(self, node, value):
        value = self.tensor(node, value)
        if value.flat and value.shape[1:] != (1, 1):
            self.refuse("its operand was flattened; only a linear layer can follow")
        return value

    def sum(self, value):
        """``value`` as a sum: a tensor becomes an identity term."""
        if isinstance(value, _Tensor):
            eye = np.eye(value.shape[0]) * 1.0
            return _Sum((_Term(value, Window(), eye),), np.zeros(value.shape[0]), value.shape)
        if isinstance(value, _Image):
            self.refuse("the image must be quantised by a QCFS before anything else")
        if not isinstance(value, _Sum):
            self.refuse(f"its operand must be a tensor, not {value!r}")
        return value

    def unpooled(self, value):
        value = self.sum(value)
        if value.pool != (1, 1):
            self.refuse("between a max pool and the QCFS after it nothing else is supported")
        return value

    def window(self, kernel, stride, padding):
        kernel, stride, padding = _pair(kernel), _pair(stride), _pair(padding)
        if stride[0] != stride[1] or padding[0] != padding[1]:
            self.refuse(f"stride and padding must be the same in both directions, not {stride} and {padding}")
        return Window(kernel_h=kernel[0], kernel_w=kernel[1], stride=stride[0], padding=padding[0])

    # -- linear operations ------------------------------------------------------------------------------------------

    def conv2d(self, node, module, x):
        x = self.grid_tensor(node, x)
        if module.dilation != (1, 1):
            self.refuse(f"dilation {module.dilation} is not supported, only 1")
        if module.padding_mode != "zeros":
            self.refuse(f"padding mode {module.padding_mode!r} is not supported, only 'zeros'")
        if isinstance(module.padding, str) and module.padding != "valid":
            self.refuse(f"padding {module.padding!r} is not supported; give it as a number")
        padding = 0 if module.padding == "valid" else module.padding
        window = self.window(module.kernel_size, module.stride, padding)
        kernel = module.weight.detach().double().numpy()
        n, per_group, groups = kernel.shape[0], kernel.shape[1], module.groups
        dense = np.zeros((n, x.shape[0], *kernel.shape[2:]))
        for column in range(n):
            first = column // (n // groups) * per_group
            dense[column, first:first + per_group] = kernel[column]
        return self.weighted(node, x, window, dense.transpose(0, 2, 3, 1).reshape(n, -1), module.bias)

    def linear(self, node, module, x):
        x = self.tensor(node, x)
        channels, height, width = x.shape
        if not x.flat and (height, width) != (1, 1):
            self.refuse(f"a linear layer on a {height}×{width} grid needs a flatten before it")
        weights = module.weight.detach().double().numpy()
        weights = weights.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(weights), -1)
        return self.weighted(node, x, Window(kernel_h=height, kernel_w=width), weights, module.bias)

    def weighted(self, node, x, window, weights, bias):
        """One new sum; packs the image when this is its only reader and its spines would be nearly empty."""
        try:
            grid = window.grid(*x.shape[1:])
        except NetworkError as error:
            self.refuse(str(error))
        kernel = window.kernel_h * window.kernel_w
        producer = node.all_input_nodes[0]
        alone = len(producer.users) == 1 and self.readers(producer) == 1
        if x.name == INPUT and kernel > 1 and self.input.channels < PACK_BELOW and alone:
            self.input = replace(self.input, pack=window)
            x = replace(x, shape=self.input.shape, flat=False)
            window = Window()
        elif max(window.kernel_h, window.kernel_w) > MAX_KERNEL:
            self.refuse(f"a {window.kernel_h}×{window.kernel_w} window is larger than {MAX_KERNEL}×{MAX_KERNEL}")
        bias = np.zeros(len(weights)) if bias is None else bias.detach().double().numpy()
        return _Sum((_Term(x, window, weights),), bias, (len(weights), *grid))

    @staticmethod
    def readers(node):
        """Users of the nearest node upstream that is no flatten."""
        while node.op != "placeholder" and len(node.all_input_nodes) == 1 and "flatten" in node.name.lower():
            node = node.all_input_nodes[0]
        return len(node.users)

    def batch_norm(self, node, module, x):
        x = self.unpooled(x)
        if module.running_var is None:
            self.refuse("a batch norm without running statistics cannot be folded")
        scale = 1 / np.sqrt(module.running_var.double().numpy() + module.eps)
        shift = 0.0
        if module.affine:
            scale = scale * module.weight.detach().double().numpy()
            shift = module.bias.detach().double().numpy()
        bias = (x.bias - module.running_mean.double().numpy()) * scale + shift
        terms = tuple(replace(term, weights=term.weights * scale[:, None]) for term in x.terms)
        return replace(x, terms=terms, bias=bias)

    def add(self, node, a, b, *, alpha=1):
        if alpha != 1:
            self.refuse(f"alpha = {alpha} is not supported, only 1")
        a, b = self.unpooled(a), self.unpooled(b)
        if a.shape != b.shape:
            self.refuse(f"its operands have different shapes, {a.shape} and {b.shape}")
        return _Sum(a.terms + b.terms, a.bias + b.bias, a.shape)

    # -- shape and pooling ------------------------------------------------------------------------------------------

    def flatten_module(self, node, module, x):
        return self.flatten(node, x, module.start_dim, module.end_dim)

    def flatten(self, node, x, start_dim=0, end_dim=-1):
        if start_dim != 1 or end_dim not in (-1, 3):
            self.refuse("only a flatten from dimension 1 to the last is supported")
        if isinstance(x, _Sum) and x.shape[1:] == (1, 1) and x.pool == (1, 1):
            return x
        return replace(self.tensor(node, x), flat=True)

    def max_pool(self, node, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        kernel = _pair(kernel_size)
        if stride not in (None, []) and _pair(stride) != kernel:
            self.refuse(f"windows must not overlap or leave gaps: stride {_pair(stride)} for a {kernel} kernel")
        if _pair(padding) != (0, 0) or _pair(dilation) != (1, 1) or ceil_mode or return_indices:
            self.refuse("padding, dilation, ceil_mode and return_indices are not supported")
        if isinstance(x, _Sum):
            # QCFS never decreases, so it commutes with the maximum.
            return replace(self.unpooled(x), pool=kernel)
        x = self.grid_tensor(node, x)
        alone = len(node.all_input_nodes[0].users) == 1
        if alone and self.layers and self.layers[-1].name == x.name and self.layers[-1].pool_h == self.layers[-1].pool_w == 1:
            self.layers[-1] = replace(self.layers[-1], pool_h=kernel[0], pool_w=kernel[1])
        else:
            eye = np.eye(x.shape[0], dtype=np.int64)
            layer = Layer(name=node.name, sources=[Source(tensor=x.name)], weights=eye, bias=np.zeros(x.shape[0], int),
                          theta=np.ones(x.shape[0], int), levels=np.full(x.shape[0], x.levels), pool_h=kernel[0],
                          pool_w=kernel[1], step=x.step)
            self.layers.append(layer)
        return replace(x, name=self.layers[-1].name,
                       shape=(x.shape[0], x.shape[1] // kernel[0], x.shape[2] // kernel[1]))

    def avg_pool(self, node, x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                 divisor_override=None):
        x = self.grid_tensor(node, x)
        kernel = _pair(kernel_size)
        window = self.window(kernel, kernel if stride in (None, []) else stride, padding)
        if ceil_mode or divisor_override is not None or window.padding and not count_include_pad:
            self.refuse("ceil_mode, divisor_override and count_include_pad=False are not supported")
        ones = np.tile(np.eye(x.shape[0]), (1, kernel[0] * kernel[1])) / (kernel[0] * kernel[1])
        return self.weighted(node, x, window, ones, None)

    def global_avg_pool(self, node, x, output_size):
        if _pair(output_size) != (1, 1):
            self.refuse(f"an adaptive average pool to {output_size} is not supported, only to 1")
        x = self.grid_tensor(node, x)
        return self.avg_pool(node, x, x.shape[1:], 1)

    # -- closing a sum into a layer ---------------------------------------------------------------------------------

    def qcfs(self, node, module, x):
        clip = module.clip.item()
        if not clip > 0:
            self.refuse(f"its clip value is {clip:g}; it must be positive")
        if isinstance(x, _Image):
            if len(node.all_input_nodes[0].users) != 1:
                self.refuse("the image is used before it is quantised")
            self.input = InputSpec(channels=x.shape[0], height=x.shape[1], width=x.shape[2], levels=module.levels,
                                   full_scale=clip / self.pixel_scale)
            return _Tensor(INPUT, x.shape, clip / module.levels, module.levels)
        x = self.sum(x)
        step = clip / module.levels
        sources, real = self.sources(x)
        weights, bias, theta = [], [], []
        for column in range(x.shape[0]):
            unit, level = self.unit(column, [v[column] for v in real], [s.repeat for s in sources], step)
            weights.append(self.integers([v[column] / unit for v in real], [s.repeat for s in sources]))
            bias.append(round(x.bias[column] / unit))
            theta.append(level)
        return self.emit(node.name, x, sources, np.array(weights).T, bias, theta, module.levels, step)

    def sources(self, x):
        """Sources of a sum, the skip branch last, and per source its weights times the step of its tensor (N, K)."""
        terms = list(x.terms)
        if len(terms) > 2:
            self.refuse(f"it adds {len(terms)} branches; two is the most, put a QCFS between")
        reach = [np.abs(term.weights).max() * term.tensor.step for term in terms]
        skips = [term.window == Window(stride=term.window.stride) for term in terms]
        repeat = 1
        if len(terms) == 2:
            if not any(skips):
                self.refuse("one of the two branches of an add must be a tensor or a 1×1 convolution of it")
            if not skips[1] or skips[0] and reach[0] > reach[1]:
                terms.reverse()
        real = [term.weights * term.tensor.step for term in terms]
        if len(terms) == 2:
            main, skip = (np.abs(v).max(axis=1) for v in real)
            used = main > 0
            ratio = (skip[used] / main[used]).max() if used.any() else 1.0
            repeat = int(np.clip(np.ceil(ratio), 1, MAX_REPEAT))
        sources = [Source(tensor=term.tensor.name, repeat=1 if index == 0 else repeat, **vars(term.window))
                   for index, term in enumerate(terms)]
        return sources, real

    def unit(self, column, real, repeats, step):
        """Real value of one accumulator unit of a column, and its threshold.

        The finest unit in which all weights fit INT8 is taken, made a little coarser so that the threshold, one output
        step, is a whole number of units: rounding it would scale the column by up to half a unit in θ.
        """
        magnitudes = np.unique(np.concatenate([np.abs(v[v != 0]) for v in real]))
        if not magnitudes.size:
            return step / 127, 127
        if len(real) == 1 and np.ptp(magnitudes) < 1e-9 * magnitudes[0]:
            for weight in range(1, 128):      # averages and identities: the smallest integers that are exact
                theta = step * weight / magnitudes[0]
                if theta > 0.5 and abs(theta - round(theta)) < 1e-6 * theta:
                    return magnitudes[0] / weight, round(theta)
        finest = max(np.abs(v).max() / (127 * repeat) for v, repeat in zip(real, repeats))
        if round(step / finest) < 1:
            self.refuse(f"the threshold of column {column} rounds to 0: its weights ({magnitudes[-1]:g} per input level) are "
                        f"too large for output steps of {step:g}; train with a larger clip value or fewer levels")
        theta = max(int(step / finest), 1)
        return max(step / theta, finest), theta

    @staticmethod
    def integers(scaled, repeats):
        """INT8 weights of one column: each source's entries, a repeated one split as evenly as integers allow."""
        parts = []
        for values, repeat in zip(scaled, repeats):
            whole = np.rint(values).astype(np.int64)
            size, sign = np.abs(whole), np.sign(whole)
            parts += [sign * np.minimum((size + index) // repeat, 127) for index in range(repeat)]
        return np.concatenate(parts)

    def emit(self, name, x, sources, weights, bias, theta, levels, step):
        n = x.shape[0]
        try:
            self.layers.append(Layer(name=name, sources=sources, weights=weights, bias=np.array(bias, np.int64),
                                     theta=np.array(theta, np.int64), levels=np.full(n, levels), pool_h=x.pool[0],
                                     pool_w=x.pool[1], step=step))
        except NetworkError as error:
            self.refuse(str(error))
        shape = (n, x.shape[1] // x.pool[0], x.shape[2] // x.pool[1])
        return _Tensor(name, shape, step, levels)

    def close_average(self, node, x):
        """Layer for an average that something other than a QCFS reads: exact while it fits 127 levels."""
        term = x.terms[0]
        taps = term.window.kernel_h * term.window.kernel_w
        ones = np.tile(np.eye(x.shape[0]), (1, taps))
        if len(x.terms) != 1 or x.bias.any() or not np.array_equal(term.weights * taps, ones) or x.pool != (1, 1):
            self.refuse("its operand is not quantised; put a QCFS before it")
        total = taps * term.tensor.levels
        theta = -(-total // MAX_LEVEL)
        levels = (2 * total + theta) // (2 * theta)
        name = node.all_input_nodes[0].name
        zero = np.zeros(x.shape[0], np.int64)
        return self.emit(name, x, [Source(tensor=term.tensor.name, **vars(term.window))], ones.T.astype(np.int64), zero,
                         zero + theta, levels, term.tensor.step * theta / taps)

    def close_logits(self, x, calibration):
        """Last layer without a QCFS: 128 levels over the range of the largest logits, one scale for all classes."""
        if calibration is None:
            self.refuse("it does not end in a QCFS: give calibration images, which set the range of the logits")
        sources, real = self.sources(x)
        repeats = [source.repeat for source in sources]
        unit = max(np.abs(v).max() / (127 * repeat) for v, repeat in zip(real, repeats))
        if unit == 0:
            self.refuse("all weights of the last layer are zero")
        weights = np.array([self.integers([v[column] / unit for v in real], repeats) for column in range(x.shape[0])]).T
        bias = np.rint(x.bias / unit).astype(np.int64)
        levels = quantise(self.input, calibration)
        tensors = {INPUT: levels}
        if self.layers:
            trace = evaluate(Network(name="calibration", input=self.input, layers=self.layers), levels, quantised=True)
            tensors |= {name: layer.output for name, layer in trace.layers.items()}
        rows = np.concatenate([gather(tensors[s.tensor], s, s.repeat) for s in sources], axis=-1)
        ranked = np.sort((accumulate(rows, weights) + bias).reshape(-1, x.shape[0]), axis=1)
        # Lower logits may clip at 0: only the highest has to stay distinct. An eighth of the range is kept on both sides
        # for images that calibration did not show.
        low, high = int(ranked[:, -2:].min()), int(ranked[:, -1].max())
        margin = (high - low) // 8 + 1
        theta = -(-(high - low + 2 * margin) // MAX_LEVEL)
        bias -= low - margin
        return self.emit("logits", x, sources, weights, bias, [theta] * x.shape[0], MAX_LEVEL, unit * theta)
