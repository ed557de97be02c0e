"""PyTorch importer: modules whose weights are exact in INT8 must come out bit-exact, others close; every refusal."""
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the importer's tests need the `torch` extra")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from neuroflex.compiler.network import NetworkError  # noqa: E402
from neuroflex.compiler.torch_import import ImportRefused, import_torch  # noqa: E402
from neuroflex.compiler.torch_qcfs import QCFS  # noqa: E402
from neuroflex.sim.network import evaluate  # noqa: E402


class Wrap(nn.Module):
    """A forward function with its modules, after a quantiser of 4 levels for images of 0 … 16."""

    def __init__(self, function, **modules):
        super().__init__()
        self.image = QCFS(4, 1.0, trained=False)
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, self.image(x))


def exact(module, rng):
    """Gives a module double precision and weights that INT8 holds exactly: k / 64 with a largest |k| of 127 per column."""
    module.double().eval()
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            k = rng.integers(-127, 128, part.weight.shape) * (rng.random(part.weight.shape) < 0.6)
            k.reshape(len(k), -1)[:, 0] = 127
            part.weight.data = torch.tensor(k / 64.0)
            if part.bias is not None:
                part.bias.data = torch.tensor(rng.integers(-8, 8, part.bias.shape) / 4.0)
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
            part.weight.data = torch.tensor(rng.choice([-2.0, -1.0, 1.0, 2.0], part.weight.shape))
            part.running_var = torch.full_like(part.running_var, 4.0)
            part.running_mean = torch.tensor(rng.integers(-8, 8, part.running_mean.shape) / 4.0)
            part.bias.data = torch.tensor(rng.integers(-8, 8, part.bias.shape) / 4.0)
    return module


def compare(module, shape, *, exactly=True, seed=0, **options):
    """Imports and runs a module; returns the network. The last layer's levels times its step must be the module's result."""
    rng = np.random.default_rng(seed)
    if exactly:
        exact(module, rng)
    module.eval()
    images = rng.integers(0, 17, (6, *shape)).astype(np.uint8)
    network = import_torch(module, shape, name="module", pixel_scale=1 / 16, **options)
    got = evaluate(network, images).output
    with torch.no_grad():
        want = module(torch.tensor(images / 16.0, dtype=next(module.parameters()).dtype)).numpy()
    want = want.reshape(got.shape) / network.layers[-1].step
    if exactly:
        assert np.array_equal(got, want)
    assert len(np.unique(want)) > 2, "the comparison shows nothing"
    return network, got, want


def iadd(y, x):
    y += x
    return y


def branches(left, right):
    """Two readers of one tensor, of which the first sees it through an operation that gives the same tensor."""
    return lambda s, x: (lambda y: s.b(left(s, y) + right(s, y)))(s.a(s.c(x)))


def act(levels=4, clip=8.0):
    return QCFS(levels, clip)


def conv(c, n, k=3, **options):
    return nn.Conv2d(c, n, k, **{"padding": k // 2} | options)


CASES = {
    "conv": (lambda s, x: s.a(s.c(x)), {"c": lambda: conv(2, 5), "a": act}, (2, 6, 5)),
    "packed": (lambda s, x: s.a(s.c(x)), {"c": lambda: conv(1, 5, stride=2), "a": act}, (1, 7, 7)),
    "not packed": (lambda s, x: s.a(s.c(x)), {"c": lambda: conv(16, 5), "a": act}, (16, 4, 4)),
    "kernel 3×1": (lambda s, x: s.a(s.c(x)), {"c": lambda: nn.Conv2d(16, 5, (3, 1)), "a": act}, (16, 4, 4)),
    "grouped": (lambda s, x: s.a(s.c(x)), {"c": lambda: conv(4, 8, groups=2), "a": act}, (4, 5, 5)),
    "no bias": (lambda s, x: s.a(s.c(x)), {"c": lambda: conv(2, 5, bias=False), "a": act}, (2, 6, 5)),
    "batch norm": (lambda s, x: s.a(s.n(s.c(x))), {"c": lambda: conv(2, 5), "n": lambda: nn.BatchNorm2d(5), "a": act}, (2, 6, 5)),
    "max pool": (lambda s, x: s.p(s.a(s.c(x))), {"c": lambda: conv(2, 5), "p": lambda: nn.MaxPool2d(2), "a": act}, (2, 6, 5)),
    "max pool before": (lambda s, x: s.a(functional.max_pool2d(s.c(x), (2, 3))), {"c": lambda: conv(2, 5), "a": act}, (2, 6, 6)),
    "max pool of two": (lambda s, x: s.p(s.p(s.a(s.c(x)))),
                        {"c": lambda: conv(2, 5), "p": lambda: nn.MaxPool2d(2), "a": act}, (2, 8, 8)),
    "overlapping pool, stride 1": (lambda s, x: s.b(s.d(s.p(s.a(s.c(x))))),
                                   {"c": lambda: conv(2, 5), "a": act, "p": lambda: nn.MaxPool2d(3, 1, 1), "d": lambda: conv(5, 4), "b": act},
                                   (2, 5, 7)),
    "overlapping pool, stride 2": (lambda s, x: s.p(s.a(s.c(x))), {"c": lambda: conv(2, 5), "a": act, "p": lambda: nn.MaxPool2d(3, 2, 1)},
                                   (2, 6, 8)),
    "overlapping pool without padding": (lambda s, x: s.p(s.a(s.c(x))), {"c": lambda: conv(2, 5), "a": act, "p": lambda: nn.MaxPool2d(3, 2)},
                                         (2, 7, 9)),
    "overlapping pool, rounded up": (lambda s, x: s.p(s.a(s.c(x))),
                                     {"c": lambda: conv(2, 5), "a": act, "p": lambda: nn.MaxPool2d(3, 2, ceil_mode=True)}, (2, 6, 8)),
    "pool of the image": (lambda s, x: s.a(s.c(s.p(x))), {"p": lambda: nn.MaxPool2d(2, ceil_mode=True), "c": lambda: conv(2, 5), "a": act}, (2, 6, 8)),
    "average pool": (lambda s, x: s.b(functional.avg_pool2d(s.a(s.c(x)), 2)), {"c": lambda: conv(2, 5), "a": act, "b": act}, (2, 6, 6)),
    "average pool alone": (lambda s, x: s.b(s.d(functional.avg_pool2d(s.a(s.c(x)), 2))),
                           {"c": lambda: conv(2, 5), "a": act, "d": lambda: conv(5, 4, 1), "b": act}, (2, 6, 6)),
    "global average": (lambda s, x: s.b(s.l(torch.flatten(s.g(s.a(s.c(x))), 1))),
                       {"c": lambda: conv(2, 5), "a": act, "g": lambda: nn.AdaptiveAvgPool2d(1), "l": lambda: nn.Linear(5, 7),
                        "b": act}, (2, 4, 4)),
    "flatten": (lambda s, x: s.b(s.l(s.a(s.c(x)).flatten(1))),
                {"c": lambda: conv(2, 3), "a": act, "l": lambda: nn.Linear(3 * 4 * 5, 7), "b": lambda: act(15, 32.0)}, (2, 4, 5)),
    "flattened image": (lambda s, x: s.a(s.l(s.f(x))), {"f": nn.Flatten, "l": lambda: nn.Linear(100, 7), "a": act}, (1, 10, 10)),
    "residual": (lambda s, x: s.a3(s.n(s.c3(s.a2(s.c2(s.a1(s.c1(x)))))) + s.a1(s.c1(x))),
                 {"c1": lambda: conv(2, 4), "a1": act, "c2": lambda: conv(4, 4), "a2": act, "c3": lambda: conv(4, 4),
                  "n": lambda: nn.BatchNorm2d(4), "a3": lambda: act(8, 16.0)}, (2, 5, 5)),
    "downsampled": (lambda s, x: (lambda y: s.a2(s.c2(y) + s.c3(y)))(s.a1(s.c1(x))),
                    {"c1": lambda: conv(2, 4), "a1": act, "c2": lambda: conv(4, 6, stride=2),
                     "c3": lambda: nn.Conv2d(4, 6, 1, stride=2), "a2": act}, (2, 7, 7)),
    "sum of tensors": (lambda s, x: s.a3(s.a1(s.c1(x)).add(s.a2(s.c2(x)))),
                       {"c1": lambda: conv(2, 4), "a1": act, "c2": lambda: conv(2, 4), "a2": act, "a3": act}, (2, 5, 5)),
    "depthwise": (lambda s, x: s.b(s.d(s.a(s.c(x)))),
                  {"c": lambda: conv(2, 6), "a": act, "d": lambda: conv(6, 12, groups=6), "b": act}, (2, 5, 5)),
    "concatenation": (lambda s, x: s.e(s.d(torch.cat([s.a1(s.c1(x)), s.p(s.a2(s.c2(x))), s.a3(s.c3(x))], 1))),
                      {"c1": lambda: conv(2, 3, stride=2), "a1": act, "c2": lambda: conv(2, 5), "a2": lambda: act(6, 12.0),
                       "p": lambda: nn.MaxPool2d(2), "c3": lambda: nn.Conv2d(2, 4, 2, stride=2), "a3": act,
                       "d": lambda: conv(12, 6), "e": lambda: act(15, 30.0)}, (2, 6, 6)),
    "concatenation with other readers": (
        lambda s, x: (lambda y: s.e(s.d(torch.cat([torch.cat([y, s.a2(s.c2(y))], 1), x], 1)) + s.c3(y)))(s.a1(s.c1(x))),
        {"c1": lambda: conv(2, 3), "a1": lambda: act(4, 1.0), "c2": lambda: conv(3, 5), "a2": lambda: act(6, 1.5), "d": lambda: conv(10, 6),
         "c3": lambda: nn.Conv2d(3, 6, 1), "e": lambda: act(15, 30.0)}, (2, 5, 5)),
    "pooled concatenation": (
        lambda s, x: s.e(s.l(s.f(s.drop(functional.max_pool2d(torch.cat([s.a1(s.c1(x)), s.a2(s.c2(x))], 1), 2))))),
        {"c1": lambda: conv(2, 3), "a1": act, "c2": lambda: conv(2, 5), "a2": act, "drop": nn.Dropout, "f": nn.Flatten,
         "l": lambda: nn.Linear(8 * 4, 6), "e": lambda: act(15, 30.0)}, (2, 4, 4)),
    "pooled under another name": (branches(lambda s, y: s.e(functional.max_pool2d(y.contiguous(), 2)), lambda s, y: s.d(y)),
                                  {"c": lambda: conv(2, 4), "a": act, "d": lambda: nn.Conv2d(4, 5, 1, stride=2), "e": lambda: conv(4, 5), "b": lambda: act(15, 30.0)},
                                  (2, 6, 6)),
    "concatenated under another name": (branches(lambda s, y: s.e(torch.cat([y.view(y.shape), s.a2(s.c2(y))], 1)), lambda s, y: s.d(y)),
                                        {"c": lambda: conv(2, 4), "a": act, "c2": lambda: conv(4, 3), "a2": act, "d": lambda: nn.Conv2d(4, 5, 1),
                                         "e": lambda: conv(7, 5), "b": lambda: act(15, 30.0)}, (2, 4, 4)),
    "image under two names": (lambda s, x: s.b(s.e(torch.cat([s.a(s.c(x.contiguous())), s.a2(s.d(s.i(x)))], 1))),
                              {"c": lambda: nn.Conv2d(1, 4, (3, 1), stride=3), "a": act, "d": lambda: nn.Conv2d(1, 4, (1, 3), stride=3), "a2": act,
                               "i": nn.Identity, "e": lambda: nn.Conv2d(8, 5, 1), "b": lambda: act(15, 30.0)}, (1, 3, 3)),
    "in place": (lambda s, x: s.b(iadd(s.n(s.c(x)), s.a(s.d(x)))),
                 {"c": lambda: conv(2, 4), "n": lambda: nn.BatchNorm2d(4), "d": lambda: nn.Conv2d(2, 4, 1), "a": act, "b": lambda: act(8, 16.0)}, (2, 4, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_exact_modules_come_out_bit_exact(case):
    function, modules, shape = CASES[case]
    network, *_ = compare(Wrap(function, **{name: make() for name, make in modules.items()}), shape)
    if case in ("packed", "flattened image"):
        assert network.input.pack is not None and network.layers[0].sources[0].kernel_h == 1
    if case == "not packed":
        assert network.input.pack is None
    if case == "residual":
        assert [s.repeat for s in network.layers[-1].sources] == [1, 2]
    if case == "max pool":
        assert len(network.layers) == 1 and network.layers[0].pool_h == 2
    if case == "concatenation":
        assert [(c.name, c.parts) for c in network.concats] == [("cat", ("a1", "a2", "a3"))] and len(network.layers) == 4
    if case == "concatenation with other readers":
        assert [c.parts for c in network.concats] == [("cat_copy", "a2"), ("cat_1_copy", "cat_1_copy_2")]
    if case == "max pool of two":
        assert len(network.layers) == 2 and network.layers[1].sources[0].kernel_h == 1


def test_a_tensor_read_before_its_pool_keeps_its_size():
    module = Wrap(lambda s, x: (lambda y: s.b(functional.avg_pool2d(y, 2) + s.p(y)))(s.a(s.c(x))), c=conv(2, 4), a=act(), b=act(),
                  p=nn.MaxPool2d(2))
    network, *_ = compare(module, (2, 6, 6))
    assert [layer.name for layer in network.layers] == ["a", "p", "b"]


def test_averages_are_exact_up_to_127_levels_and_rounded_beyond():
    torch.manual_seed(0)
    module = Wrap(lambda s, x: s.b(s.l(torch.flatten(s.g(s.a(s.c(x))), 1))), c=conv(2, 5), a=act(4, 1.0),
                  g=nn.AdaptiveAvgPool2d(1), l=nn.Linear(5, 7), b=act(15, 0.5))
    network, *_ = compare(module, (2, 6, 6), exactly=False)
    average = network.layers[1]
    assert average.theta.tolist() == [2] * 5 and average.levels.tolist() == [72] * 5
    assert average.weights.max() == 1 and np.count_nonzero(average.weights) == 36 * 5


def test_float_weights_come_out_close():
    torch.manual_seed(1)
    module = Wrap(lambda s, x: s.a3(s.n3(s.c3(s.a2(s.n2(s.c2(x))))) + s.d(x)), c2=conv(2, 8), n2=nn.BatchNorm2d(8), a2=act(8, 1.5),
                  c3=conv(8, 8), n3=nn.BatchNorm2d(8), a3=act(8, 1.5), d=nn.Conv2d(2, 8, 1))
    _, got, want = compare(module, (2, 8, 8), exactly=False)
    assert np.abs(got - want).max() <= 1 + 1e-5 and (np.abs(got - want) > 0.5).mean() < 0.02


def test_logits_keep_the_order_of_the_classes():
    torch.manual_seed(2)
    module = Wrap(lambda s, x: s.l(torch.flatten(s.a(s.c(x)), 1)), c=conv(1, 8), a=act(8, 1.0), l=nn.Linear(8 * 36, 10)).eval()
    images = np.random.default_rng(3).integers(0, 17, (300, 1, 6, 6)).astype(np.uint8)
    network = import_torch(module, (1, 6, 6), name="logits", pixel_scale=1 / 16, calibration=images[:200])
    assert network.layers[-1].name == "logits" and network.layers[-1].levels.tolist() == [127] * 10
    assert len(set(network.layers[-1].theta.tolist())) == 1
    got = evaluate(network, images).output[..., 0, 0]
    with torch.no_grad():
        want = module(torch.tensor(images / 16.0, dtype=torch.float32)).numpy()
    top = np.sort(want, axis=1)
    clear = top[:, -1] - top[:, -2] > 0.05 * np.ptp(want)
    assert clear.sum() > 50 and (got.argmax(1) == want.argmax(1))[clear].all()
    # One scale: the levels of the upper classes are an affine function of the logits.
    inside = (got > 0) & (got < 127)
    assert np.corrcoef(got[inside], want[inside])[0, 1] > 0.99


def refuse(function, shape=(2, 6, 6), error=ImportRefused, message="", prepare=None, **modules):
    module = Wrap(function, **modules).eval()
    if prepare:
        prepare(module)
    with pytest.raises(error, match=message):
        import_torch(module, shape, name="refused", pixel_scale=1 / 16)


@pytest.mark.parametrize("modules, message", [
    ({"c": nn.Conv2d(2, 3, 3, dilation=2)}, r"'c' \(Conv2d\): dilation \(2, 2\)"),
    ({"c": nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")}, "'c' .*padding mode 'reflect'"),
    ({"c": nn.Conv2d(2, 3, 3, padding="same")}, "'c' .*padding 'same' is not supported; give it as a number"),
    ({"c": nn.Conv2d(2, 3, 3, stride=(1, 2))}, "'c' .*stride and padding must be the same in both directions"),
    ({"c": nn.ConvTranspose2d(2, 3, 3)}, r"'c' \(ConvTranspose2d\): this kind of module is not supported; supported: QCFS, Conv2d"),
    ({"c": nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())}, r"'c.1' \(ReLU\): this kind of module"),
    ({"c": nn.MaxPool2d(3, stride=2)}, r"'c' .*windows must not overlap or leave gaps: stride \(2, 2\)"),
    ({"c": nn.MaxPool2d(3, stride=2, ceil_mode=True, padding=1)}, "'c' .*windows must not overlap"),
    ({"c": nn.MaxPool2d(4, ceil_mode=True)}, "'c' .*padding, dilation, ceil_mode and return_indices"),
    ({"c": nn.MaxPool2d(2, padding=1)}, "'c' .*padding, dilation, ceil_mode and return_indices"),
    ({"c": nn.AvgPool2d(2, ceil_mode=True)}, "'c' .*ceil_mode, divisor_override and count_include_pad"),
    ({"c": nn.AdaptiveAvgPool2d(2)}, "'c' .*to 2 is not supported, only to 1"),
    ({"c": nn.Linear(6, 3)}, "'c' .*a linear layer on a 6×6 grid needs a flatten before it"),
    ({"c": nn.Flatten(0)}, "'c' .*only a flatten from dimension 1"),
    ({"c": nn.BatchNorm2d(2, track_running_stats=False)}, "'c' .*without running statistics"),
    ({"c": nn.Conv2d(2, 3, 7, bias=False)}, "'c' .*7×7 window with padding 0 does not fit on a 6×6 grid"),
    ({"c": nn.GELU()}, r"'c' \(GELU\): this kind of module is not supported"),
])
def test_modules_that_are_refused(modules, message):
    refuse(lambda s, x: s.a(s.c(x)), message=message, a=act(), **modules)


@pytest.mark.parametrize("function, message", [
    (lambda s, x: s.a(s.c(x) * 2), r"'mul' \(mul\): this operation is not supported"),
    (lambda s, x: s.a(torch.relu(s.c(x))), r"'relu' \(relu\): this operation"),
    (lambda s, x: s.a(s.c(x) + 1), r"'add' \(add\): its operand must be a tensor, not 1"),
    (lambda s, x: s.a(torch.add(s.c(x), s.c(x), alpha=2)), "'add' .*alpha = 2"),
    (lambda s, x: s.a(s.c(s.a(s.c(x)))), r"'c' \(Conv2d\): its kernel \(3, 2, 3, 3\) in 1 group\(s\) does not fit 3 input channels"),
    (lambda s, x: s.a(s.c(torch.cat([x, x], 2))), "'cat' .*only a concatenation of channels, dim=1, is supported, not dim=2"),
    (lambda s, x: s.a(s.c(torch.cat([x, x], 1))), "'cat' .*a tensor is concatenated with itself"),
    (lambda s, x: s.a(s.c2(torch.cat([s.a(s.c(x)), functional.max_pool2d(x, 2)], 1))), "'cat' .*different grids: 6×6, 3×3"),
    (lambda s, x: s.a(s.c(x).add(s.c(x), out=None)), "'add' .*these arguments are not supported"),
    (lambda s, x: s.a(s.c(x) + s.a(s.c(x)) + s.a(s.c(x))), "'a' .*it adds 3 branches"),
    (lambda s, x: s.a(s.c(x) + s.d(x)), "'a' .*one of the two branches of an add must be a tensor or a 1×1"),
    (lambda s, x: s.a(s.c(x) + x), r"'add' .*different shapes, \(3, 6, 6\) and \(2, 6, 6\)"),
    (lambda s, x: s.a(s.c(s.c2(x))), r"'c' \(Conv2d\): its operand is not quantised; put a QCFS before it"),
    (lambda s, x: s.a(s.n(functional.max_pool2d(s.c(x), 2))), "'n' .*between a max pool and the QCFS"),
    (lambda s, x: s.a(s.c(x)).clone(), r"'clone' \(clone\): this operation is not supported"),
    (lambda s, x: s.a(s.c(x)).view(-1, 100), r"'view' \(view\): these arguments do not fit \(2, 3, 6, 6\), two images"),
    (lambda s, x: s.a(s.c(x) + s.weight), r"'weight' \(get_attr\): a bare parameter"),
    (lambda s, x: s.a(s.c(x)) if x.sum() > 0 else x, "its forward cannot be traced"),
    (lambda s, x: s.c(x), "module's result: it does not end in a QCFS: give calibration images"),
    (lambda s, x: x, "module's result: one tensor computed by at least one layer"),
    (lambda s, x: (s.a(s.c(x)), x), "module's result: one tensor"),
    (lambda s, x: (lambda y: (s.a(y + y), y)[1])(s.a(s.c(x))), "must be the last layer's tensor, not 'a'"),
    (lambda s, x: s.a(s.c(torch.flatten(s.a(s.c(x)), 1))), "'c' .*was flattened; only a linear layer can follow"),
])
def test_forwards_that_are_refused(function, message):
    refuse(function, message=message, c=conv(2, 3), c2=conv(2, 2), d=conv(2, 3), n=nn.BatchNorm2d(3), a=act(),
           prepare=lambda m: setattr(m, "weight", nn.Parameter(torch.ones(1))))


def changed_under_another_name(s, x):
    y = s.c(x)
    z = y
    z += s.d(x)
    return s.a(y)


def changed_by_a_statement(s, x):
    y = s.c(x)
    y.add_(s.d(x))
    return s.a(y)


def changed_after_a_view(s, x):
    y = s.c(x)
    v = y.flatten(2)
    y += s.d(x)
    return s.a(v.view(-1, 3, 6, 6))


def changed_for_nobody(s, x):
    y = s.c(x)
    z = s.a(y)
    y += s.d(x)
    return z


@pytest.mark.parametrize("function, message", [
    (changed_under_another_name, r"'iadd' \(iadd\): it changes 'c' in place, which 'a' reads afterwards"),
    (changed_by_a_statement, r"'add_' \(add_\): it changes 'c' in place, which 'a' reads afterwards"),
    (changed_after_a_view, r"'iadd' \(iadd\): it changes 'c' in place, which 'view' reads afterwards"),
    (changed_for_nobody, r"'iadd' \(iadd\): it changes 'c' in place, and nothing reads its result"),
    (lambda s, x: s.a(s.weight.view(1).add_(s.c(x))), r"it changes the parameter 'weight'"),
    (lambda s, x: s.a(s.a(s.d(s.r(x))) + s.c(x)), r"'r' \(ReLU\): it changes 'image' in place, which 'c' reads afterwards"),
    (lambda s, x: s.a(s.c(x) + s.d(functional.relu6(x, True)) + s.d(x)), r"'relu6' \(relu6\): it changes 'image' in place, which 'd_1' reads afterwards"),
    (lambda s, x: s.a(functional.dropout(s.c(x), 0.5)), r"'dropout' \(dropout\): it drops values at random"),
])
def test_operations_that_a_graph_of_values_does_not_show(function, message):
    refuse(function, message=message, c=conv(2, 3), d=conv(2, 3, 1), r=nn.ReLU(inplace=True), a=act(),
           prepare=lambda m: setattr(m, "weight", nn.Parameter(torch.ones(1))))


@pytest.mark.parametrize("prepare, message", [
    (lambda m: m.c.register_forward_hook(lambda module, given, made: made * 2), r"'c' \(Conv2d\): a forward hook, .*lambda"),
    (lambda m: m.c.register_forward_pre_hook(lambda module, given: (given[0] * 0,)), r"'c' \(Conv2d\): a forward hook"),
    (lambda m: m.register_forward_hook(lambda module, given, made: made * 2), r"Wrap: a forward hook"),
    (lambda m: prune.l1_unstructured(m.c, "weight", 0.5), r"'c' \(Conv2d\): it is pruned by a hook, .*torch.nn.utils.prune.remove"),
    (lambda m: parametrizations.weight_norm(m.c), r"'c' \(Parametrized.*: its 'weight' is computed by a parametrization"),
    (lambda m: m.n.train(), r"'n' \(BatchNorm2d\): it is in training mode"),
    (lambda m: m.drop.train(), r"'drop' \(Dropout\): it drops values at random"),
])
def test_what_modules_compute_beside_their_forward(prepare, message):
    refuse(lambda s, x: s.a(s.drop(s.n(s.c(x)))), message=message, c=conv(2, 3), n=nn.BatchNorm2d(3), drop=nn.Dropout(), a=act(), prepare=prepare)


def test_a_forward_is_read_in_evaluation_mode():
    torch.manual_seed(0)
    module = Wrap(lambda s, x: s.a(s.c(functional.dropout(x, training=s.training)) if s.training else s.d(x)), c=conv(2, 3), d=conv(2, 3, 1), a=act())
    digests = {import_torch(module.train(mode), (2, 4, 4), name="mode", pixel_scale=1 / 16).digest for mode in (False, True)}
    assert len(digests) == 1 and module.training and module.d.training


def test_pruning_made_permanent_is_imported():
    module = exact(Wrap(lambda s, x: s.a(s.c(x)), c=conv(2, 5), a=act()), np.random.default_rng(0))
    prune.random_unstructured(module.c, "weight", 0.5)
    prune.remove(module.c, "weight")
    network, *_ = compare(module, (2, 6, 5), exactly=False)
    assert (network.layers[0].weights == 0).mean() > 0.6


def test_an_image_has_one_quantiser():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.q2, self.i, self.c, self.a = QCFS(4, 1.0), QCFS(8, 1.0), nn.Identity(), conv(2, 3), act()

        def forward(self, x):
            return self.a(self.c(self.q(self.i(x))) + self.c(self.q2(self.i(x))))

    with pytest.raises(ImportRefused, match="'q' .*or quantised twice"):
        import_torch(Twice(), (2, 4, 4), name="twice")


def test_windows_larger_than_the_hardware_are_refused():
    refuse(lambda s, x: s.b(s.l(torch.flatten(s.a(s.c(x)), 1))), shape=(1, 8, 8), message="'l' .*8×8 window is larger than 7×7",
           c=conv(1, 2), a=act(), l=nn.Linear(128, 4), b=act())
    refuse(lambda s, x: s.b(functional.adaptive_avg_pool2d(s.a(s.c(x)), 1)), shape=(1, 11, 11), c=conv(1, 2), a=act(), b=act(),
           message="'adaptive_avg_pool2d' .*11×11 window is larger than 7×7")


@pytest.mark.parametrize("side, levels, first", [(8, 8, 2), (9, 14, 3), (14, 2, 2)])
def test_an_average_over_a_large_grid_takes_two_steps(side, levels, first):
    """The first step is exact, so that both together are what one would be."""
    torch.manual_seed(0)
    module = nn.Sequential(QCFS(15, 15.0, trained=False), nn.Conv2d(1, 3, 1), QCFS(levels, 4.0), nn.AdaptiveAvgPool2d(1), QCFS(127, 3.0)).eval()
    network = import_torch(module, (1, side, side), name="average")
    assert [layer.name for layer in network.layers] == ["_2", "_2_average", "_4"] and not network.metadata["import"]["notes"]
    assert int(network.layers[1].levels.max()) == first ** 2 * levels and network.layers[1].theta.max() == 1
    images = np.random.default_rng(0).integers(0, 16, (20, 1, side, side))
    trace = evaluate(network, images)
    means = trace.layers["_2"].output.mean(axis=(2, 3)) * 4.0 / levels
    assert np.abs(trace.output[:, :, 0, 0] - np.clip(np.floor(means * 127 / 3.0 + 0.5), 0, 127)).max() <= 1


def test_a_threshold_that_rounds_to_zero_is_refused():
    def huge(module):
        module.c.weight.data.fill_(1000.0)
    refuse(lambda s, x: s.a(s.c(x)), c=conv(2, 3), a=act(4, 1.0), prepare=huge, message="'a' .*threshold of column 0 rounds to 0")


def test_an_accumulator_that_could_overflow_is_refused():
    def far(module):
        module.c.bias.data.fill_(1e9)
    refuse(lambda s, x: s.a(s.c(x)), c=conv(2, 3), a=act(4, 1.0), prepare=far, error=NetworkError, message="bias must lie in|can reach|far beyond")


def test_the_image_must_be_quantised_first():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.a = conv(2, 3), act()

        def forward(self, x):
            return self.a(self.c(x))

    with pytest.raises(ImportRefused, match="'c' .*the image must be quantised by a QCFS"):
        import_torch(Bare(), (2, 4, 4), name="bare")


def test_negative_clip_is_refused():
    refuse(lambda s, x: s.a(s.c(x)), c=conv(2, 3), a=act(), message="'a' .*its clip value is -1",
           prepare=lambda m: m.a.clip.data.fill_(-1.0))


def test_qcfs_values_and_gradient():
    qcfs = QCFS(4, 2.0)
    z = torch.tensor([-1.0, 0.2, 0.25, 0.8, 1.9, 5.0], requires_grad=True)
    y = qcfs(z)
    assert y.tolist() == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]
    y.sum().backward()
    assert z.grad.tolist() == [0, 1, 1, 1, 1, 0] and qcfs.clip.grad is not None
    assert repr(qcfs) == "QCFS(levels=4, clip=2)"
    for levels in (0, 128, True, 2.0):
        with pytest.raises(ValueError, match="QCFS levels must be an integer in 1 … 127"):
            QCFS(levels)
    with pytest.raises(ValueError, match="clip must be positive"):
        QCFS(4, 0.0)
