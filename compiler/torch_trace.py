"""PyTorch module → graph of operations whose values never change, with everything refused that such a graph cannot say. Needs the ``torch`` extra."""

__all__ = ["check_modules", "trace"]

import operator

from torch import fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from neuroflex.compiler.assemble import ImportRefused
from neuroflex.compiler.torch_qcfs import QCFS, HandOver
from neuroflex.compiler.torch_tokens import SHAPE_OPERATIONS

_PASSING = (nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity)     # modules that give what they read, perhaps with other axes
_FLAGGED = (functional.relu, functional.relu6)                    # their second argument is ``inplace``
_IN_PLACE = tuple(getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod"))


class _Proxy(fx.Proxy):
    """Tells ``y += x``, which changes a tensor, from ``y = y + x``: for `torch.fx` both are an addition."""


def _recorded(function):
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _function in _IN_PLACE:
    setattr(_Proxy, f"__{_function.__name__}__", _recorded(_function))


class _Tracer(fx.Tracer):
    """Keeps quantisers whole."""

    def is_leaf_module(self, module, path):
        return isinstance(module, (QCFS, HandOver)) or super().is_leaf_module(module, path)

    def proxy(self, node):
        return _Proxy(node, self)


def trace(module):
    """The module's graph in evaluation mode.

    Raises
    ------
    ImportRefused
        Its forward cannot be traced, or the graph would compute something else: hooks, parametrizations, operations that change a tensor which is read again.
    """
    check_modules(module)
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        graph = _Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ImportRefused(f"{type(module).__name__}: its forward cannot be traced ({error}); control flow must not depend "
                            "on data") from error
    finally:
        for part in training:
            part.training = True
    _check_in_place(graph, dict(module.named_modules()))
    return graph


def check_modules(module):
    """Refuses modules that compute something beside their forward, which a graph does not show: by name."""
    for name, part in module.named_modules():
        place = f"{name!r} ({type(part).__name__})" if name else type(part).__name__
        if parametrize.is_parametrized(part):
            raise ImportRefused(f"{place}: its {', '.join(map(repr, part.parametrizations))} is computed by a parametrization; keep its value: "
                                "torch.nn.utils.parametrize.remove_parametrizations")
        hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
        if not hooks:
            continue
        if isinstance(hooks[0], BasePruningMethod):
            raise ImportRefused(f"{place}: it is pruned by a hook, which computes its weights anew in each forward; make it permanent: torch.nn.utils.prune.remove")
        raise ImportRefused(f"{place}: a forward hook, {getattr(hooks[0], '__qualname__', type(hooks[0]).__name__)}, is registered on it, which an import would leave out; "
                            "remove it, and write what it computes into the forward")


def _check_in_place(graph, modules):
    """Refuses operations that change a tensor which is read again, under its name or as a view: values in a graph do not change."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    holders = {}            # node → the list of nodes so far that may share their numbers with it
    sizes = set()
    for node in graph.nodes:
        operands = node.all_input_nodes
        if _is_size(node) or operands and sizes.issuperset(operands):
            sizes.add(node)
            continue
        changes = bool(operands) and operands[0] in holders and _changes_operand(node, modules)
        shared = holders[operands[0]] if operands and (changes or _passes(node, modules)) else []
        if changes:
            _check_readers(node, shared, order, sizes, modules)
        holders[node] = shared
        shared.append(node)


def _check_readers(node, shared, order, sizes, modules):
    what = f"{node.target!r} ({type(modules[node.target]).__name__})" if node.op == "call_module" else f"{node.name!r} ({_label(node)})"
    instead = "let it make a tensor of its own, as y = y + x and inplace=False do"
    if shared[0].op == "get_attr":
        raise ImportRefused(f"{what}: it changes the parameter {shared[0].target!r}; {instead}")
    again = next((user for holder in shared for user in holder.users if order[user] > order[node] and user not in sizes and not _is_size(user)), None)
    if again is not None:
        raise ImportRefused(f"{what}: it changes {node.all_input_nodes[0].name!r} in place, which {again.name!r} reads afterwards; {instead}")
    if not node.users:
        raise ImportRefused(f"{what}: it changes {node.all_input_nodes[0].name!r} in place, and nothing reads its result; {instead}")


def _label(node):
    return node.target if isinstance(node.target, str) else node.target.__name__


def _is_size(node):
    return node.op == "call_method" and node.target in ("size", "dim", "numel") or node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")


def _changes_operand(node, modules):
    if node.op == "call_module":
        return getattr(modules[node.target], "inplace", False) and not isinstance(modules[node.target], _PASSING)
    if node.op not in ("call_function", "call_method") or node.target is functional.dropout:
        return False
    return (node.target in _IN_PLACE or _label(node).endswith("_") and not _label(node).endswith("__")
            or node.kwargs.get("inplace", False) or node.target in _FLAGGED and True in node.args[1:])


def _passes(node, modules):
    if node.op == "call_module":
        return isinstance(modules[node.target], _PASSING)
    return node.target in SHAPE_OPERATIONS or node.target is functional.dropout
