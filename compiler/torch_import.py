"""PyTorch module → integer network. Needs the ``torch`` extra.

The module is traced (`neuroflex.compiler.torch_trace`); its `QCFS` activations say how everything is quantised. A network of ReLUs gets them by
`neuroflex.compiler.torch_calibrate`. What the operations become: `neuroflex.compiler.assemble`.
"""

__all__ = ["ImportRefused", "import_torch"]

import operator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as functional
from torch import fx, nn

from neuroflex.compiler.assemble import Assembler, Image, ImportRefused, Real, Sum, Tensor, positive
from neuroflex.compiler.network import Window
from neuroflex.compiler.torch_qcfs import QCFS, HandOver
from neuroflex.compiler.torch_tokens import BATCH, SHAPE_OPERATIONS, Constant, Scores, View, canonical, channels_last, view_of
from neuroflex.compiler.torch_trace import trace

_STORED = (Tensor, Sum, Real, View)
_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.pow, operator.neg,
               operator.iadd, operator.isub, operator.imul, operator.ifloordiv, operator.itruediv, operator.ipow)


def import_torch(module, image_shape, *, name, pixel_scale=1.0, calibration=None, metadata=None, examples=None):
    """Import a PyTorch module as an integer network.

    Parameters
    ----------
    module : torch.nn.Module
        One argument, a batch (B, C, H, W), in evaluation mode; batch norms are folded with their running statistics. Its first
        operation must be a `QCFS`, which says how the image is quantised.
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
        Or `neuroflex.compiler.split.SplitNetwork`, where the host has a part in it: layer norm, attention.

    Raises
    ------
    ImportRefused
        An operation or a setting that is not supported, a module that computes something beside its forward (hooks), or a threshold
        that would round to zero.
    NetworkError
        An accumulator that could overflow.
    """
    positive("pixel_scale", pixel_scale)
    graph = trace(module)
    builder = _Builder(module, graph, tuple(image_shape), pixel_scale)
    result = builder.run()
    if isinstance(result, Sum):
        builder.assembler.close_logits(result, calibration)
    return builder.assembler.network(name=name, metadata=metadata, examples=examples, about={"format": "torch"})


def _attribute(module, path):
    """A parameter or buffer by its path."""
    *owners, name = path.split(".")
    return getattr(module.get_submodule(".".join(owners)), name).detach().double().cpu()


def _held(value):
    """What is stored of a value: names of tensors, and what has none itself. A flattened tensor, its views and a fused pool are the same."""
    if isinstance(value, (tuple, list)):
        return set().union(*map(_held, value))
    if isinstance(value, View):
        return _held(value.value)
    return {value.name if isinstance(value, Tensor) else id(value)}


def _numbers(tensor):
    return None if tensor is None else tensor.detach().double().cpu().numpy()


class _Builder:
    """Walks the traced graph and calls the assembler's operations."""

    def __init__(self, module, graph, image_shape, pixel_scale):
        self.module = module
        self.modules = dict(module.named_modules())
        self.graph = graph
        self.image_shape = image_shape
        self.pixel_scale = pixel_scale
        self.assembler = Assembler(closer="a QCFS")
        self.values = {}
        self.refuse = self.assembler.refuse
        self.module_handlers = {
            QCFS: self.qcfs, nn.Conv2d: self.conv2d, nn.Linear: self.linear, nn.BatchNorm2d: self.batch_norm,
            nn.BatchNorm1d: self.batch_norm, nn.Flatten: lambda node, m, x: self.flatten(node, x, m.start_dim, m.end_dim),
            nn.MaxPool2d: lambda node, m, x: self.max_pool(
                node, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices),
            nn.AvgPool2d: lambda node, m, x: self.avg_pool(
                node, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override),
            nn.AdaptiveAvgPool2d: lambda node, m, x: self.global_avg_pool(node, x, m.output_size),
            nn.Dropout: self.dropout_module, nn.Dropout2d: self.dropout_module, nn.Identity: lambda node, m, x: x,
            HandOver: self.hand_over, nn.LayerNorm: self.layer_norm_module, nn.Softmax: lambda node, m, x: self.softmax(node, x, m.dim),
        }
        self.function_handlers = {
            operator.add: self.add, operator.iadd: self.add, torch.add: self.add, torch.flatten: self.flatten,
            torch.cat: self.concat, torch.concat: self.concat,
            functional.max_pool2d: self.max_pool, torch.max_pool2d: self.max_pool, functional.avg_pool2d: self.avg_pool,
            functional.adaptive_avg_pool2d: self.global_avg_pool,
            functional.dropout: self.dropout,
            functional.layer_norm: self.layer_norm, functional.scaled_dot_product_attention: self.attention, torch.mean: self.mean,
            operator.matmul: self.matmul, torch.matmul: self.matmul, torch.bmm: self.matmul, torch.softmax: self.softmax, functional.softmax: self.softmax,
            operator.mul: self.scale, operator.imul: self.scale, operator.truediv: self.divide, operator.itruediv: self.divide, getattr: self.size,
        }
        self.method_handlers = {"add": self.add, "add_": self.add, "flatten": self.flatten, "mean": self.mean, "matmul": self.matmul, "bmm": self.matmul,
                                "softmax": self.softmax, "size": lambda node, x, dim=None: self.size(node, x, "shape", dim)}
        # What can read values whose axes were permuted; all others read (B, C, H, W), or vectors.
        self.of_tokens = (QCFS, HandOver, nn.Linear, nn.LayerNorm, nn.Softmax, nn.Dropout, nn.Identity, nn.Flatten, functional.dropout, functional.layer_norm,
                          functional.scaled_dot_product_attention, functional.softmax, torch.mean, torch.matmul, torch.bmm, torch.softmax, operator.add,
                          operator.iadd, operator.matmul, operator.mul, operator.imul, operator.truediv, operator.itruediv, torch.add, torch.flatten,
                          getattr, *self.method_handlers)

    # -- the walk ---------------------------------------------------------------------------------------------------

    def run(self):
        values = self.values
        for node in self.graph.nodes:
            arguments = fx.map_arg(node.args, lambda n: values[n])
            keywords = fx.map_arg(node.kwargs, lambda n: values[n])
            if node.op == "placeholder":
                if any(isinstance(value, Image) for value in values.values()):
                    raise ImportRefused(f"argument {node.name!r}: a module with more than one argument")
                values[node] = self.assembler.image(self.image_shape)
            elif node.op == "output":
                self.assembler.place = "the module's result"
                return self.assembler.result(self.in_order(arguments[0]))
            elif node.op == "call_module":
                module = self.modules[node.target]
                self.assembler.place = f"{node.target!r} ({type(module).__name__})"
                handler = self.module_handlers.get(type(module))
                if handler is None:
                    self.refuse("this kind of module is not supported; supported: "
                                + ", ".join(kind.__name__ for kind in self.module_handlers) + self.hint(type(module).__name__))
                self.check_layout(type(module), arguments)
                values[node] = handler(node, module, *arguments, **keywords)
            elif node.op in ("call_function", "call_method"):
                label = node.target if isinstance(node.target, str) else node.target.__name__
                self.assembler.place = f"{node.name!r} ({label})"
                values[node] = self.call(node, label, arguments, keywords)
            else:
                values[node] = Constant(node.target, _attribute(self.module, node.target))
        raise AssertionError("a traced graph ends in its output")

    def call(self, node, label, arguments, keywords):
        """The value of a function or method."""
        if node.target in _ARITHMETIC and not any(isinstance(one, (*_STORED, Constant, Scores, Image)) for one in arguments):
            return node.target(*arguments)      # of sizes
        if node.target is operator.getitem and isinstance(arguments[0], (tuple, list)):
            return arguments[0][arguments[1]]
        constants = [one for one in arguments if isinstance(one, Constant)]
        if constants and not any(isinstance(one, (*_STORED, Scores, Image)) for one in (*arguments, *keywords.values())):
            function = getattr(torch.Tensor, node.target) if node.op == "call_method" else node.target
            try:
                return Constant(constants[0].name, function(*(one.tensor if isinstance(one, Constant) else one for one in arguments), **keywords))
            except (RuntimeError, TypeError) as error:
                self.refuse(f"these arguments do not fit the parameter {constants[0].name!r}: {error}")
        table = self.method_handlers if node.op == "call_method" else self.function_handlers
        handler = table.get(node.target)
        try:
            if node.target in SHAPE_OPERATIONS and isinstance(arguments[0], _STORED) and not self.plain_flatten(arguments, keywords, label):
                return self.reshape(SHAPE_OPERATIONS[node.target], arguments, keywords)
            if handler is None:
                self.refuse("this operation is not supported; supported: add, cat, dropout, flatten, max_pool2d, avg_pool2d and adaptive_avg_pool2d to size 1; "
                            "for tokens also layer_norm, scaled_dot_product_attention, matmul, softmax, mean and what permutes axes" + self.hint(label))
            self.check_layout(node.target, arguments)
            return handler(node, *arguments, **keywords)
        except TypeError as error:
            self.refuse(f"these arguments are not supported: {error}")

    @staticmethod
    def hint(label):
        return "; calibrate the network first, which puts a QCFS in place of each ReLU" if "relu" in label.lower() else ""

    def alone(self, node, operand=None):
        """Whether this node is the only reader of the tensor that ``operand``, by default its first, holds, whatever the nodes that hold the same."""
        operand = operand or node.all_input_nodes[0]
        holders = {holder for holder, value in self.values.items() if _held(value) & _held(self.values[operand])}
        return {user for holder in holders for user in holder.users} - holders == {node}

    # -- axes -------------------------------------------------------------------------------------------------------

    @staticmethod
    def plain_flatten(arguments, keywords, label):
        """Whether it makes a vector of each image, which is an operation of its own."""
        start, *end = (*arguments[1:], *keywords.values()) or (0,)
        return label == "flatten" and not isinstance(arguments[0], View) and start == 1 and (not end or end[0] in (-1, 3))

    def reshape(self, operation, arguments, keywords):
        """A shape operation on the places of a value: a view, or several."""
        x = view_of(arguments[0])
        if isinstance(x.value, Sum) and x.value.pool != (1, 1):
            self.refuse("axes of a max pool cannot be permuted before a QCFS closes it")
        try:
            made = operation(x.places, *arguments[1:], **keywords)
        except (RuntimeError, IndexError) as error:
            self.refuse(f"these arguments do not fit {tuple(x.places.shape)}, two images as they come in here: {error}")
        return tuple(self.viewed(x.value, one) for one in made) if isinstance(made, (tuple, list)) else self.viewed(x.value, made)

    @staticmethod
    def viewed(value, places):
        """A view, or the value itself where the axes are as they are stored."""
        return value if places.shape[1:] == tuple(value.shape) and torch.equal(places, canonical(value.shape)) else View(value, places)

    def in_order(self, x):
        """The value of a view that is (B, C, …) in the order of a flattened (C, H, W)."""
        if not isinstance(x, View):
            return x
        if not x.channels_first:
            self.refuse("its axes are permuted or parts of a tensor, which only linear layers, layer norm, attention, additions and means over tokens can read")
        return replace(x.value, flat=True) if isinstance(x.value, Tensor) else x.value

    def check_layout(self, target, arguments):
        """Refuses what an operation cannot read."""
        for x in (one for x in arguments for one in (x if isinstance(x, (tuple, list)) else [x])):
            if isinstance(x, Constant) and target not in (operator.add, operator.iadd, torch.add):
                self.refuse("a bare parameter or constant in the graph is not supported, but added to a value of the host")
            if isinstance(x, (View, Scores)) and target not in self.of_tokens:
                self.refuse("its operand's axes are permuted or those of attention; only linear layers, layer norm, attention, additions and means over tokens can read it")

    def by_token(self, x):
        """A view that is (B, tokens, C)."""
        x = view_of(x)
        if not x.tokens:
            self.refuse(f"its operand must have the channels as its last axis, all of them, and the tokens before it; it has axes {tuple(x.places.shape[1:])} of a "
                        f"tensor (C, H, W) = {tuple(x.value.shape)}")
        return x

    def elementwise(self, x):
        """A view that has each element once."""
        x = view_of(x)
        if not x.whole:
            self.refuse("it acts on a part of a tensor; let it act on all of it")
        return x

    def size(self, node, x, name, dim=None):
        if name != "shape" or not isinstance(x, (*_STORED, Image)):
            self.refuse(f"{name!r} of a tensor is not supported, only its shape")
        shape = (BATCH, *x.shape) if isinstance(x, Image) else tuple(view_of(x).places.shape)
        return shape if dim is None else shape[dim]

    # -- operations -------------------------------------------------------------------------------------------------

    def qcfs(self, node, module, x):
        if isinstance(x, View):
            x = self.elementwise(x)
            return View(self.qcfs(node, module, x.value), x.places)
        clip = module.clip.item()
        if not 0 < clip < np.inf:
            self.refuse(f"its clip value is {clip:g}; it must be positive")
        if isinstance(x, Image):
            if not self.alone(node):
                self.refuse("the image is used before it is quantised, or quantised twice")
            return self.assembler.quantise_image(x, module.levels, clip / self.pixel_scale)(clip)
        if isinstance(x, Real):
            return self.assembler.levels(node.name, x, clip, module.levels)
        return self.assembler.close(node.name, x, clip / module.levels, module.levels)

    def conv2d(self, node, module, x):
        x = self.assembler.grid_tensor(x, node.all_input_nodes[0].name)
        if module.dilation != (1, 1):
            self.refuse(f"dilation {module.dilation} is not supported, only 1")
        if module.padding_mode != "zeros":
            self.refuse(f"padding mode {module.padding_mode!r} is not supported, only 'zeros'")
        if isinstance(module.padding, str) and module.padding != "valid":
            self.refuse(f"padding {module.padding!r} is not supported; give it as a number")
        return self.assembler.convolution(x, _numbers(module.weight), _numbers(module.bias), stride=module.stride,
                                          padding=0 if module.padding == "valid" else module.padding, groups=module.groups,
                                          alone=self.alone(node))

    def hand_over(self, node, module, x):
        step = _numbers(module.clip) / module.zero
        if not (np.isfinite(step) & (step > 0)).all():
            self.refuse("its clip values must be positive and finite")
        if isinstance(x, View) and module.dim == -1:
            x = self.by_token(x)
            return View(self.assembler.hand_over(node.name, x.value, step, module.levels, module.zero), x.places)
        x = self.in_order(x)
        if module.dim == -1 and x.shape[1:] != (1, 1):
            self.refuse("its last axis is not that of the channels")
        return self.assembler.hand_over(node.name, x, step, module.levels, module.zero)

    def linear(self, node, module, x):
        if isinstance(x, View) and not (x.channels_first and x.places.ndim == 2):
            x = self.by_token(x)
            made = self.assembler.weighted(self.assembler.tensor(x.value), Window(), _numbers(module.weight), _numbers(module.bias), alone=False)
            return View(made, channels_last(made.shape).reshape(*x.places.shape[:-1], made.shape[0]))
        x = self.in_order(x)
        x = self.assembler.tensor(x, node.all_input_nodes[0].name)
        return self.assembler.fully_connected(x, _numbers(module.weight), _numbers(module.bias), alone=self.alone(node))

    def dropout_module(self, node, module, x):
        return self.dropout(node, x, module.p, module.training)

    def dropout(self, node, x, p=0.5, training=True, inplace=False):
        if training and p > 0:
            self.refuse("it drops values at random; call the module's eval(), and give the function training=self.training")
        return x

    def batch_norm(self, node, module, x):
        if module.training:
            self.refuse("it is in training mode, with the statistics of each batch; call the module's eval()")
        if module.running_var is None:
            self.refuse("a batch norm without running statistics cannot be folded")
        scale = 1 / np.sqrt(_numbers(module.running_var) + module.eps)
        shift = 0.0
        if module.affine:
            scale = scale * _numbers(module.weight)
            shift = _numbers(module.bias)
        return self.assembler.affine(x, scale, shift - _numbers(module.running_mean) * scale)

    def add(self, node, a, b, *, alpha=1):
        if alpha != 1:
            self.refuse(f"alpha = {alpha} is not supported, only 1")
        if isinstance(a, Constant):
            a, b = b, a
        if isinstance(b, Constant):
            return self.offset(node, a, b)
        if not any(isinstance(x, View) for x in (a, b)):
            return self.total(node, a, b)
        for x in (a, b):
            if not isinstance(x, _STORED):
                self.refuse(f"its operand must be a tensor, not {x!r}")
        a, b = self.elementwise(a), self.elementwise(b)
        if a.value.shape != b.value.shape or not torch.equal(a.places, b.places):
            self.refuse(f"its operands have different axes, {tuple(a.places.shape[1:])} of {tuple(a.value.shape)} and {tuple(b.places.shape[1:])} of {tuple(b.value.shape)}")
        return View(self.total(node, a.value, b.value), a.places)

    def total(self, node, a, b):
        """A sum of the host where it has one of its operands already, of the cores otherwise."""
        if not any(isinstance(x, Real) for x in (a, b)):
            return self.assembler.add(a, b)
        a, b = self.assembler.real(a), self.assembler.real(b)
        if a.shape != b.shape:
            self.refuse(f"its operands have different shapes, {a.shape} and {b.shape}")
        return self.assembler.step("add", node.name, [a, b], a.shape)

    def offset(self, node, x, constant):
        """A positional embedding."""
        if not isinstance(x, _STORED):
            self.refuse(f"its operand must be a tensor, not {x!r}")
        x = self.elementwise(x)
        if isinstance(x.value, Sum):
            self.assembler.place = f"{constant.name!r} (get_attr)"
            self.refuse("a bare parameter is added to a sum of the cores; put it into a layer's bias, or a HandOver before the addition")
        value = self.assembler.real(x.value)
        try:
            added = constant.tensor.expand(x.places[:1].shape)
        except RuntimeError:
            self.refuse(f"{constant.name!r} of shape {tuple(constant.tensor.shape)} cannot be added to all images alike, with axes {tuple(x.places.shape[1:])}")
        offset = torch.empty(canonical(value.shape)[0].numel(), dtype=torch.float64)
        offset[x.places[0].flatten()] = added.flatten()
        made = self.assembler.step("offset", node.name, [value], value.shape, offset=offset.reshape(value.shape).numpy())
        return self.viewed(made, x.places)

    def layer_norm_module(self, node, module, x):
        return self.layer_norm(node, x, module.normalized_shape, module.weight, module.bias, module.eps)

    def layer_norm(self, node, x, normalized_shape, weight=None, bias=None, eps=1e-5):
        x = self.by_token(x)
        channels = x.value.shape[0]
        if tuple(normalized_shape) != (channels,):
            self.refuse(f"it must be over the {channels} channels, not over {tuple(normalized_shape)}")
        if any(isinstance(value, Constant) for value in (weight, bias)):
            self.refuse("use an nn.LayerNorm, which holds its weights")
        weight, bias = (np.full(channels, default) if value is None else self.assembler.finite("weights", _numbers(value))
                        for value, default in ((weight, 1.0), (bias, 0.0)))
        return View(self.assembler.step("layer_norm", node.name, [self.assembler.real(x.value)], x.value.shape, weight=weight, bias=bias, eps=eps), x.places)

    def mean(self, node, x, dim=None, keepdim=False, **unknown):
        if unknown or not isinstance(x, _STORED):
            self.refuse("only a mean of a tensor over its tokens is supported")
        x = self.elementwise(x)
        axes = {d % x.places.ndim for d in ([dim] if isinstance(dim, int) else dim or range(x.places.ndim))}
        if x.tokens and axes == set(range(1, x.places.ndim - 1)):
            last = True
        elif x.channels_first and x.places.ndim > 2 and x.places.shape[1] == x.value.shape[0] and axes == set(range(2, x.places.ndim)):
            last = False
        else:
            self.refuse(f"only a mean over all tokens is supported, not over dim={dim} of {tuple(x.places.shape[1:])}")
        shape = x.value.shape[0], 1, 1
        made = self.assembler.step("mean", node.name, [self.assembler.real(x.value)], shape)
        kept = [1] * len(axes) * bool(keepdim)
        return self.viewed(made, canonical(shape).reshape(BATCH, *(*kept, shape[0]) if last else (shape[0], *kept)))

    # -- attention --------------------------------------------------------------------------------------------------

    def part(self, x, what):
        """Query, key or value: the channels of a tensor on the host, and (first, heads, width)."""
        found = view_of(x).heads() if isinstance(x, (Tensor, Sum, Real, View)) else None
        if found is None:
            axes = tuple(view_of(x).places.shape[1:]) if isinstance(x, _STORED) else x
            self.refuse(f"its {what} must be (B, heads, tokens, width) of neighbouring channels of one tensor, with all tokens in order; its axes are {axes}")
        return self.assembler.real(view_of(x).value), found

    def attention(self, node, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if attn_mask is not None or is_causal or enable_gqa:
            self.refuse("masks, is_causal and enable_gqa are not supported")
        (q, (_, heads, width)), (k, of_key), (v, of_value) = parts = [self.part(x, what) for x, what in ((query, "query"), (key, "key"), (value, "value"))]
        if {of_key[1:], of_value[1:]} != {(heads, width)}:
            self.refuse(f"query, key and value must have the same heads; they have (heads, width) = {', '.join(str(one[1:]) for _, one in parts)}")
        shape = heads * width, *q.shape[1:]
        made = self.assembler.step("attention", node.name, [(x, first) for x, (first, *_) in parts], shape, heads=heads, scale=width ** -0.5 if scale is None else scale)
        places = canonical(shape).reshape(BATCH, heads, width, -1).transpose(2, 3)
        return View(made, places if view_of(query).places.ndim == 4 else places[:, 0])

    def matmul(self, node, a, b):
        if isinstance(a, Scores) and a.soft:
            return self.attention(node, a.query, a.key, b, scale=a.scale)
        if not isinstance(a, View) or not isinstance(b, View):
            self.refuse("only the two products of attention are supported, Q·Kᵀ and that of its softmax with V")
        return Scores(a, self.viewed(b.value, b.places.transpose(-1, -2)))

    def divide(self, node, x, divisor):
        return self.scale(node, x, 1 / divisor if isinstance(divisor, (int, float)) else divisor)

    def scale(self, node, x, factor):
        if isinstance(factor, Scores):
            x, factor = factor, x
        if isinstance(factor, (int, float)) and isinstance(x, Scores) and not x.soft:
            return replace(x, scale=x.scale * factor)
        self.refuse("this operation is not supported, but by a number on the scores of attention before their softmax")

    def softmax(self, node, x, dim=None, dtype=None, **unknown):
        if not isinstance(x, Scores) or x.soft or dim not in (-1, x.query.places.ndim - 1) or dtype is not None:
            self.refuse("only the softmax over the last axis of attention's scores is supported, and none at the end: it keeps the order of the classes")
        return replace(x, soft=True)

    def concat(self, node, tensors, dim=0, **unknown):
        if dim not in (1, -3) or unknown:
            self.refuse(f"only a concatenation of channels, dim=1, is supported, not dim={dim}")
        if len(set().union(*map(_held, tensors))) != len(tensors):
            self.refuse("a tensor is concatenated with itself")
        alone = [self.alone(node, operand) for operand in node.all_input_nodes]
        return self.assembler.concat(node.name, tensors, alone)

    def flatten(self, node, x, start_dim=0, end_dim=-1):
        if isinstance(x, View) or isinstance(x, _STORED) and start_dim == 2:
            return self.reshape(torch.flatten, (x, start_dim, end_dim), {})
        if start_dim != 1 or end_dim not in (-1, 3):
            self.refuse("only a flatten from dimension 1 to the last is supported")
        return self.assembler.flatten(x, node.all_input_nodes[0].name)

    def max_pool(self, node, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        plain = dilation in (1, (1, 1), [1, 1]) and not return_indices
        return self.assembler.max_pool(x, node.name, kernel_size, kernel_size if stride in (None, []) else stride, padding,
                                       plain=plain, ceil=ceil_mode, alone=self.alone(node))

    def avg_pool(self, node, x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                 divisor_override=None):
        x = self.assembler.grid_tensor(x, node.all_input_nodes[0].name)
        if ceil_mode or divisor_override is not None or np.any(padding) and not count_include_pad:
            self.refuse("ceil_mode, divisor_override and count_include_pad=False are not supported")
        return self.assembler.avg_pool(x, kernel_size, kernel_size if stride in (None, []) else stride, padding)

    def global_avg_pool(self, node, x, output_size):
        x = self.assembler.grid_tensor(x, node.all_input_nodes[0].name)
        if output_size not in (1, (1, 1), [1, 1]):
            self.refuse(f"an adaptive average pool to {output_size} is not supported, only to 1")
        return self.assembler.avg_pool(x, x.shape[1:], 1, 0)
