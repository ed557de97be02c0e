"""ReLU networks to QCFS networks by calibration alone: clip values from histograms of the activations. Needs the ``torch`` extra."""

__all__ = ["best_clip", "calibrate", "choose"]

import copy
import operator

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from neuroflex.compiler.assemble import ImportRefused, positive
from neuroflex.compiler.torch_qcfs import QCFS, HandOver
from neuroflex.compiler.torch_trace import check_modules, trace
from neuroflex.formats import MAX_LEVEL

_MODULES = (nn.ReLU, nn.ReLU6)
_FUNCTIONS = (torch.relu, torch.relu_, functional.relu, functional.relu_, functional.relu6)
_METHODS = ("relu", "relu_")
_POOLS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_POOL_FUNCTIONS = (functional.avg_pool2d, functional.adaptive_avg_pool2d)
_LINEAR = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_HOST_MODULES = (nn.LayerNorm, nn.Softmax)
_HOST = (functional.layer_norm, functional.scaled_dot_product_attention, functional.softmax, torch.softmax, torch.mean, torch.matmul, torch.bmm, operator.matmul,
         "mean", "softmax", "matmul", "bmm")
_BINS = 4096
_BATCH = 256
_ROWS = 4096            # values of a channel that a hand-over's range is chosen from, about
_SHARES = np.linspace(0.1, 1.0, 46)


def calibrate(module, images, *, levels, tolerance=None, input_levels=None, host_levels=None, pixel_scale=1.0):
    """A copy of a ReLU network with a `QCFS` in place of each ReLU or ReLU6 and one in front, for `import_torch`.

    Where the host reads what a layer on the cores computes (before a layer norm, attention, an addition on the host), there is a `HandOver` then.

    Each clip value is the one with the smallest mean squared error between what the ReLU gives and QCFS on the activations that the images
    cause. Nothing is trained; with few levels, fine-tuning afterwards gains accuracy.

    Parameters
    ----------
    module : torch.nn.Module
        One argument, traceable with ``torch.fx``.
    images : array (B, C, H, W)
        Raw images, some hundred of them.
    levels : int
        L of every activation, 1 … 127.
    tolerance : float, optional
        Adaptive levels: each activation takes the fewest, at most ``levels``, with which the squared error is at most this
        share of the squared activation. Few levels make an SNN column cheap. The idea is PASCAL's (levels per layer from activation
        statistics), the criterion is ours.
    input_levels : int, optional
        Of the image; ``levels`` by default. Its full scale is the largest pixel of the images.
    host_levels : int, optional
        Of each channel that the cores hand to the host, 127 by default.
    pixel_scale : float
        What one unit of a raw pixel is to the module.

    Returns
    -------
    torch.fx.GraphModule
        In evaluation mode.

    Raises
    ------
    ImportRefused
        No images, pixels that are no finite numbers or negative, images that the module does not take, a ReLU that is never positive (with its name), what
        `neuroflex.compiler.torch_trace` refuses.
    """
    positive("pixel_scale", pixel_scale)
    images = np.asarray(images)
    if not len(images):
        raise ImportRefused("the calibration set is empty: give at least one image, better some hundred")
    if not np.isfinite(images).all() or images.min() < 0 or images.max() <= 0:
        raise ImportRefused("calibration images must hold finite pixels that are not negative, and not all 0")
    check_modules(module)           # before it is copied: what hooks compute cannot be
    module = copy.deepcopy(module).eval()
    graph = trace(module)
    modules = dict(module.named_modules())
    module = fx.GraphModule(module, graph)
    relus = [node for node in graph.nodes if _is_relu(node, modules)]
    parameter = next(module.parameters(), torch.zeros(1))
    pixels = torch.as_tensor(images * pixel_scale, dtype=parameter.dtype, device=parameter.device)
    try:
        with torch.no_grad():
            module(pixels[:1])
    except Exception as error:      # whatever the module raises for what it cannot take
        raise ImportRefused(f"the module does not take calibration images of shape {images.shape[1:]}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}") from None
    if tolerance is not None and not 0 < tolerance < 1:
        raise ImportRefused(f"tolerance must be a share of the squared activation between 0 and 1, not {tolerance!r}")
    averages = [node for node in graph.nodes if _is_average(node, modules) and not all(user in relus for user in node.users)]
    clips = _clips(module, relus, averages, pixels, levels, tolerance)
    handed = _handed_over(graph, modules)
    ranges = _ranges(module, handed, pixels, host_levels or MAX_LEVEL) if handed else {}
    for node, hand_over in ranges.items():
        _append(module, graph, node, f"{node.name}_out", hand_over)
    for index, node in enumerate(relus):
        _replace(module, graph, node, f"qcfs{index + 1}", QCFS(*clips[node]))
    for index, node in enumerate(node for node in averages if node in clips):
        _append(module, graph, node, f"qcfs_average{index + 1}", QCFS(*clips[node]))
    _put_first(module, graph, QCFS(input_levels or levels, float(pixels.max()), trained=False))
    graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return module.to(parameter).eval()        # where the module is, also the QCFS


def _handed_over(graph, modules):
    """Nodes whose sums the cores have to hand to the host: those that a host operation reads, looking through changes of shape."""
    place = {}       # node → the node whose values it has, and whether these are "levels", "sums" or of the "host"
    found = {}

    def read(node):
        for operand in node.all_input_nodes:
            producer, kind = place[operand]
            if kind == "sums":
                found[producer] = None

    for node in graph.nodes:
        operands = [place[operand] for operand in node.all_input_nodes if operand in place]
        kinds = {kind for _, kind in operands}
        module = type(modules[node.target]) if node.op == "call_module" else None
        if node.op in ("placeholder", "output"):
            place[node] = node, "levels"
        elif node.op == "get_attr":
            place[node] = node, "host"
        elif _is_relu(node, modules):
            place[node] = node, "levels"
        elif module in _HOST_MODULES or module is None and node.target in _HOST or node.target in _ADDITIONS and "host" in kinds:
            read(node)
            place[node] = node, "host"
        elif module in _LINEAR or node.target in _ADDITIONS and operands:
            place[node] = node, "sums"
        else:
            place[node] = operands[0] if operands else (node, "levels")
    return list(found)


@torch.no_grad()
def _ranges(module, nodes, pixels, levels):
    """A `HandOver` for each node: each channel's range is the one with the smallest squared error on the images."""
    seen = {node: [] for node in nodes}
    dims = {}

    def keep(node, _, result):
        if not torch.isfinite(result).all():
            raise ImportRefused(f"{node.name!r}: it is NaN or infinite on calibration images; check the weights")
        dims[node] = 1 if result.ndim == 4 else -1
        rows = result.movedim(dims[node], -1).reshape(-1, result.shape[dims[node]])
        seen[node].append(rows[::max(len(rows) * len(pixels) // (_ROWS * min(_BATCH, len(pixels))), 1)].double().cpu().numpy())

    recorder = _Recorder(module, set(nodes), keep)
    for batch in pixels.split(_BATCH):
        recorder.run(batch)
    found = {}
    for node, parts in seen.items():
        values = np.concatenate(parts)
        zero = (levels + 1) // 2
        top = np.maximum(np.abs(values).max(axis=0), 1e-6 * max(np.abs(values).max(), 1e-30))
        steps = _SHARES[:, None] * top / zero
        error = [((values - step * np.clip(np.floor(values / step + 0.5), -zero, levels - zero)) ** 2).sum(axis=0) for step in steps]
        found[node] = HandOver(levels, steps[np.argmin(error, axis=0), np.arange(len(top))] * zero, dim=dims[node])
    return found


def _is_relu(node, modules):
    if node.op == "call_module":
        return isinstance(modules[node.target], _MODULES)
    return node.op == "call_function" and node.target in _FUNCTIONS or node.op == "call_method" and node.target in _METHODS


def _is_average(node, modules):
    if node.all_input_nodes and node.all_input_nodes[0].op == "get_attr":
        return False
    return node.op == "call_module" and isinstance(modules[node.target], _POOLS) or node.op == "call_function" and node.target in _POOL_FUNCTIONS


class _Recorder(fx.Interpreter):
    """Runs a graph and hands what the given nodes read and give to ``seen``."""

    def __init__(self, module, nodes, seen):
        super().__init__(module)
        self.nodes, self.seen = nodes, seen

    def run_node(self, node):
        operand = self.fetch_args_kwargs_from_env(node)[0][0] if node in self.nodes else None
        result = super().run_node(node)
        if operand is not None:
            self.seen(node, operand, result)
        return result


@torch.no_grad()
def _clips(module, relus, averages, pixels, levels, tolerance):
    """Levels and clip value of each ReLU, and of each average that needs one: one pass for the ranges, one for the histograms."""
    top = dict.fromkeys((*relus, *averages), 0.0)
    taps = {}

    def largest(node, operand, result):
        if not torch.isfinite(operand).all():
            raise ImportRefused(f"{node.name!r}: its operand is NaN or infinite on calibration images; check the weights before it")
        top[node] = max(top[node], float(result.max()))
        taps[node] = _taps(node, module, operand)

    counts = {node: np.zeros(_BINS) for node in top}

    def count(node, operand, result):
        # Of what it gives, which for a ReLU6 is less than what it reads; a ReLU's zeros are zeros with every clip value.
        values = result if node in averages else result[result > 0]
        counts[node] += torch.histc(values.float(), bins=_BINS, min=0.0, max=top[node]).double().cpu().numpy()

    def run(nodes, seen):
        recorder = _Recorder(module, set(nodes), seen)
        for batch in pixels.split(_BATCH):
            recorder.run(batch)

    run(top, largest)
    for node in relus:
        if not top[node] > 0:
            raise ImportRefused(f"{node.name!r}: its operand is never positive on the calibration images, so that there is no range to "
                                "quantise; remove the dead layer or give other images")
    averages = [node for node in averages if top[node] > 0 and taps[node] * levels > MAX_LEVEL]
    run((*relus, *averages), count)
    values = {node: (np.arange(_BINS) + 0.5) * top[node] / _BINS for node in (*relus, *averages)}
    return {node: choose(values[node], counts[node], levels, tolerance) if node in relus else choose(values[node], counts[node], MAX_LEVEL)
            for node in values}


def _taps(node, module, operand):
    """How many values a pool averages; a ReLU takes 1."""
    if not _is_average(node, dict(module.named_modules())):
        return 1
    pool = module.get_submodule(node.target) if node.op == "call_module" else None
    if isinstance(pool, nn.AdaptiveAvgPool2d) or node.target is functional.adaptive_avg_pool2d:
        return operand.shape[-1] * operand.shape[-2]
    size = pool.kernel_size if pool is not None else node.args[1] if len(node.args) > 1 else node.kwargs["kernel_size"]
    return int(np.prod(size)) if np.ndim(size) else size * size


def choose(values, counts, levels, tolerance=None):
    """``(L, λ)`` of a histogram: the fewest levels within ``tolerance``, all without one."""
    limit = np.inf if tolerance is None else tolerance * float(counts @ values ** 2)
    for some in range(levels if tolerance is None else 1, levels + 1):
        clip, error = best_clip(values, counts, some)
        if error <= limit:
            break
    return some, clip


def best_clip(values, counts, levels):
    """The λ with the smallest squared error between ``values`` (positive, with ``counts``) and their QCFS, and that error."""
    clips = values.max() * np.linspace(0.02, 1.0, 197)
    error = [counts @ (values - clip / levels * np.clip(np.floor(values * levels / clip + 0.5), 0, levels)) ** 2 for clip in clips]
    best = int(np.argmin(error))
    return float(clips[best]), float(error[best])


def _replace(module, graph, node, name, qcfs):
    module.add_module(name, qcfs)
    with graph.inserting_after(node):
        new = graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _append(module, graph, node, name, qcfs):
    module.add_module(name, qcfs)
    with graph.inserting_after(node):
        new = graph.call_module(name, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def _put_first(module, graph, qcfs):
    _append(module, graph, next(node for node in graph.nodes if node.op == "placeholder"), "qcfs_image", qcfs)
