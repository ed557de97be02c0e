"""PyTorch module → integer network. Needs the ``torch`` extra.

The module is traced with ``torch.fx``; its `QCFS` activations say how everything is quantised. A network of ReLUs gets them by
`neuroflex.compiler.torch_calibrate`. What the operations become: `neuroflex.compiler.assemble`.
"""

__all__ = ["ImportRefused", "import_torch"]

import operator

import numpy as np
import torch
import torch.nn.functional as functional
from torch import fx, nn

from neuroflex.compiler.assemble import Assembler, Image, ImportRefused, Sum
from neuroflex.compiler.torch_qcfs import QCFS


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
    graph = trace(module)
    builder = _Builder(module, graph, tuple(image_shape), pixel_scale)
    result = builder.run()
    if isinstance(result, Sum):
        builder.assembler.close_logits(result, calibration)
    return builder.assembler.network(name=name, metadata=metadata, examples=examples, about={"format": "torch"})


class Tracer(fx.Tracer):
    """Keeps `QCFS` modules whole."""

    def is_leaf_module(self, module, path):
        return isinstance(module, QCFS) or super().is_leaf_module(module, path)


def trace(module):
    """The module's graph; `ImportRefused` when its forward cannot be traced."""
    try:
        return Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ImportRefused(f"{type(module).__name__}: its forward cannot be traced ({error}); control flow must not depend "
                            "on data") from error


def _numbers(tensor):
    return None if tensor is None else tensor.detach().double().cpu().numpy()


class _Builder:
    """Walks the traced graph and calls the assembler's operations."""

    def __init__(self, module, graph, image_shape, pixel_scale):
        self.modules = dict(module.named_modules())
        self.graph = graph
        self.image_shape = image_shape
        self.pixel_scale = pixel_scale
        self.assembler = Assembler(closer="a QCFS")
        self.refuse = self.assembler.refuse
        self.module_handlers = {
            QCFS: self.qcfs, nn.Conv2d: self.conv2d, nn.Linear: self.linear, nn.BatchNorm2d: self.batch_norm,
            nn.BatchNorm1d: self.batch_norm, nn.Flatten: lambda node, m, x: self.flatten(node, x, m.start_dim, m.end_dim),
            nn.MaxPool2d: lambda node, m, x: self.max_pool(
                node, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices),
            nn.AvgPool2d: lambda node, m, x: self.avg_pool(
                node, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override),
            nn.AdaptiveAvgPool2d: lambda node, m, x: self.global_avg_pool(node, x, m.output_size),
            nn.Dropout: lambda node, m, x: x, nn.Dropout2d: lambda node, m, x: x, nn.Identity: lambda node, m, x: x,
        }
        self.function_handlers = {
            operator.add: self.add, operator.iadd: self.add, torch.add: self.add, torch.flatten: self.flatten,
            torch.cat: self.concat, torch.concat: self.concat,
            functional.max_pool2d: self.max_pool, torch.max_pool2d: self.max_pool, functional.avg_pool2d: self.avg_pool,
            functional.adaptive_avg_pool2d: self.global_avg_pool,
            functional.dropout: lambda node, x, p=0.5, training=True, inplace=False: x,
        }
        self.method_handlers = {"add": self.add, "add_": self.add, "flatten": self.flatten}

    # -- the walk ---------------------------------------------------------------------------------------------------

    def run(self):
        values = {}
        for node in self.graph.nodes:
            arguments = fx.map_arg(node.args, lambda n: values[n])
            keywords = fx.map_arg(node.kwargs, lambda n: values[n])
            if node.op == "placeholder":
                if any(isinstance(value, Image) for value in values.values()):
                    raise ImportRefused(f"argument {node.name!r}: a module with more than one argument")
                values[node] = self.assembler.image(self.image_shape)
            elif node.op == "output":
                self.assembler.place = "the module's result"
                return self.assembler.result(arguments[0])
            elif node.op == "call_module":
                module = self.modules[node.target]
                self.assembler.place = f"{node.target!r} ({type(module).__name__})"
                handler = self.module_handlers.get(type(module))
                if handler is None:
                    self.refuse("this kind of module is not supported; supported: "
                                + ", ".join(kind.__name__ for kind in self.module_handlers) + self.hint(type(module).__name__))
                values[node] = handler(node, module, *arguments, **keywords)
            elif node.op in ("call_function", "call_method"):
                label = node.target if isinstance(node.target, str) else node.target.__name__
                self.assembler.place = f"{node.name!r} ({label})"
                table = self.method_handlers if node.op == "call_method" else self.function_handlers
                handler = table.get(node.target)
                if handler is None:
                    self.refuse("this operation is not supported; supported: add, cat, dropout, flatten, max_pool2d, avg_pool2d "
                                "and adaptive_avg_pool2d to size 1" + self.hint(label))
                try:
                    values[node] = handler(node, *arguments, **keywords)
                except TypeError as error:
                    self.refuse(f"these arguments are not supported: {error}")
            else:
                self.assembler.place = f"{node.target!r} ({node.op})"
                self.refuse("a bare parameter or constant in the graph is not supported")
        raise AssertionError("a traced graph ends in its output")

    @staticmethod
    def hint(label):
        return "; calibrate the network first, which puts a QCFS in place of each ReLU" if "relu" in label.lower() else ""

    def alone(self, node):
        """Whether this node is the only reader of what it reads, looking through flattens and dropouts."""
        producer = node.all_input_nodes[0]
        while len(producer.users) == 1 and producer.op != "placeholder" and len(producer.all_input_nodes) == 1 and self.passes(producer):
            producer = producer.all_input_nodes[0]
        return len(producer.users) == 1

    def passes(self, node):
        if node.op == "call_module":
            return isinstance(self.modules[node.target], (nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity))
        return node.target in (torch.flatten, "flatten", functional.dropout)

    # -- operations -------------------------------------------------------------------------------------------------

    def qcfs(self, node, module, x):
        clip = module.clip.item()
        if not 0 < clip < np.inf:
            self.refuse(f"its clip value is {clip:g}; it must be positive")
        if isinstance(x, Image):
            if len(node.all_input_nodes[0].users) != 1:
                self.refuse("the image is used before it is quantised")
            return self.assembler.quantise_image(x, module.levels, clip / self.pixel_scale)(clip)
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

    def linear(self, node, module, x):
        x = self.assembler.tensor(x, node.all_input_nodes[0].name)
        return self.assembler.fully_connected(x, _numbers(module.weight), _numbers(module.bias), alone=self.alone(node))

    def batch_norm(self, node, module, x):
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
        return self.assembler.add(a, b)

    def concat(self, node, tensors, dim=0, **unknown):
        if dim not in (1, -3) or unknown:
            self.refuse(f"only a concatenation of channels, dim=1, is supported, not dim={dim}")
        alone = [len(producer.users) == 1 for producer in node.all_input_nodes]
        if len(alone) != len(tensors):
            self.refuse("a tensor is concatenated with itself")
        return self.assembler.concat(node.name, tensors, alone)

    def flatten(self, node, x, start_dim=0, end_dim=-1):
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
