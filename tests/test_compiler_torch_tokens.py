"""PyTorch importer on vision transformers: equal values where weights are exact in INT8, layouts of tokens and heads, calibration, refusals by name."""
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the importer's tests need the `torch` extra")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from neuroflex.compiler.split import SplitNetwork  # noqa: E402
from neuroflex.compiler.torch_calibrate import calibrate  # noqa: E402
from neuroflex.compiler.torch_import import ImportRefused, import_torch  # noqa: E402
from neuroflex.compiler.torch_qcfs import QCFS, HandOver  # noqa: E402
from neuroflex.sim.split import evaluate  # noqa: E402
from neuroflex.training.networks import VisionTransformer  # noqa: E402

C, HEADS, WIDTH = 8, 2, 4


def exact(module, rng):
    """Gives a module double precision, weights that INT8 holds exactly, and scales that are powers of two: a multiple of 1/64 everywhere on the cores."""
    module.double().eval()
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            k = rng.integers(-127, 128, part.weight.shape) * (rng.random(part.weight.shape) < 0.6)
            k.reshape(len(k), -1)[:, 0] = 127
            part.weight.data = torch.tensor(k / 64.0)
            if part.bias is not None:
                part.bias.data = torch.tensor(rng.integers(-8, 8, part.bias.shape) / 4.0)
        if isinstance(part, nn.LayerNorm) and part.weight is not None:
            part.weight.data = torch.tensor(rng.uniform(0.5, 2, part.weight.shape))
            part.bias.data = torch.tensor(rng.normal(0, 0.3, part.bias.shape))
        if isinstance(part, HandOver):
            part.log2_clip.data = torch.tensor(np.log2(part.zero * rng.choice([0.125, 0.25, 0.5], part.clip.shape)))
        if isinstance(part, QCFS):
            part.clip.data = torch.tensor(part.levels * 0.25)
    return module


class Tokens(nn.Module):
    """Image → tokens (B, 4, 8) on the host → ``function`` → classes."""

    def __init__(self, function, **modules):
        super().__init__()
        self.image, self.embed, self.embedded = QCFS(8, 1.0, trained=False), nn.Conv2d(3, C, 2, 2), HandOver(15, torch.ones(C), dim=1)
        self.position = nn.Parameter(torch.randn(1, 4, C, generator=torch.Generator().manual_seed(0)).double() / 4)
        self.function, self.last, self.classes = function, QCFS(8), nn.Linear(C, 5)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        x = self.embedded(self.embed(self.image(x))).flatten(2).transpose(1, 2)
        return self.classes(self.last(self.function(self, x).mean(1)))


def images(count=12, seed=0):
    return np.random.default_rng(seed).integers(0, 17, (count, 3, 4, 4)).astype(np.uint8)


class _Record(torch.fx.Interpreter):
    """Keeps what every node gives."""

    def run_node(self, node):
        self.found = getattr(self, "found", {})
        self.found[node.name] = super().run_node(node)
        return self.found[node.name]


def imported(module, seed=0, prepare=None):
    """Imports a module with exact weights and compares every quantised value of it, and the class, with the module's."""
    exact(module, np.random.default_rng(seed))
    if prepare:
        prepare(module)
    network = import_torch(module, (3, 4, 4), name="tokens", pixel_scale=1 / 16, calibration=images(seed=1))
    assert isinstance(network, SplitNetwork)
    from neuroflex.compiler.torch_import import trace
    recorder = _Record(torch.fx.GraphModule(module, trace(module)))
    with torch.no_grad():
        want = recorder.run(torch.tensor(images() / 16.0)).numpy()
    got = evaluate(network, images())
    compared = 0
    for name, tensor in got.tensors.items():
        node = name.removesuffix("_values")
        if node not in recorder.found or tensor.dtype == np.uint8 and name in {segment.name for segment in network.segments}:
            continue
        value = recorder.found[node].numpy()
        if tensor.dtype == np.uint8:
            step = next(step for step in network.host_steps if step.name == name)
            value = np.rint(value * step.parameters["levels"] / step.parameters["clip"])
        flat = np.sort(tensor.reshape(len(tensor), -1), axis=1), np.sort(value.reshape(len(value), -1), axis=1)      # axes may be permuted
        if tensor.dtype == np.uint8 or name.endswith("_values"):
            assert np.array_equal(*flat), name
        else:
            assert np.allclose(*flat, rtol=1e-9, atol=1e-12), name
        assert len(np.unique(value)) > 2, f"{name}: the comparison shows nothing"
        compared += 1
    assert compared >= 3
    logits = got.output[..., 0, 0].astype(int)
    assert len(np.unique(logits)) > 3
    top = np.argsort(want, axis=1)
    clear = np.take_along_axis(logits, top[:, -1:], 1)[:, 0]
    assert (clear >= logits.max(axis=1)).all()
    return network, got


def fused(s, x):
    b, t, c = x.shape
    q, k, v = s.h(s.qkv(s.a(x))).reshape(b, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)


def chunked(s, x):
    parts = s.h(s.qkv(s.a(x))).chunk(3, dim=-1)
    q, k, v = (parts[i].unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for i in range(3))
    return functional.scaled_dot_product_attention(q, k, v, scale=0.25).transpose(1, 2).flatten(2)


def explicit(s, x):
    qkv = s.h(s.qkv(s.a(x)))
    q, k, v = (qkv[:, :, C * i:C * i + C].view(-1, 4, HEADS, WIDTH).transpose(1, 2) for i in range(3))
    weights = q @ k.transpose(-2, -1)
    weights /= 2.0
    weights = weights.softmax(dim=-1)
    return torch.matmul(functional.dropout(weights, training=False), v).transpose(1, 2).contiguous().view(x.size(0), -1, C)


def single(s, x):
    q, k, v = s.h(s.qkv(s.a(x))).split(C, dim=2)
    return functional.scaled_dot_product_attention(q, k, v)


ATTENTION = {"qkv": lambda: nn.Linear(C, 3 * C), "h": lambda: HandOver(127, torch.ones(3 * C)), "a": lambda: QCFS(8)}
CASES = {
    "positions": (lambda s, x: x + s.position, {}),
    "layer norm": (lambda s, x: s.n(x), {"n": lambda: nn.LayerNorm(C)}),
    "layer norm without weights": (lambda s, x: s.n(x), {"n": lambda: nn.LayerNorm(C, elementwise_affine=False)}),
    "perceptron": (lambda s, x: x + s.h(s.f2(s.b(s.f1(s.a(s.n(x)))))), {"n": lambda: nn.LayerNorm(C), "a": lambda: QCFS(8), "f1": lambda: nn.Linear(C, 16),
                                                                       "b": lambda: QCFS(4), "f2": lambda: nn.Linear(16, C), "h": lambda: HandOver(8, torch.ones(C))}),
    "fused attention": (fused, ATTENTION),
    "chunked attention": (chunked, ATTENTION),
    "explicit attention": (explicit, ATTENTION),
    "one head": (single, ATTENTION),
    "separate layers": (lambda s, x: (lambda y: functional.scaled_dot_product_attention(s.hq(s.q(y)), s.hk(s.k(y)), x + s.position))(s.a(x)),
                        {"a": lambda: QCFS(8), "q": lambda: nn.Linear(C, C), "k": lambda: nn.Linear(C, C), "hq": lambda: HandOver(15, torch.ones(C)),
                         "hk": lambda: HandOver(15, torch.ones(C))}),
    "levels on the host": (lambda s, x: (lambda y: y + s.h(s.f(y)))(s.a(x)), {"a": lambda: QCFS(8), "f": lambda: nn.Linear(C, C), "h": lambda: HandOver(15, torch.ones(C))}),
    "levels of the cores on the host": (lambda s, x: (lambda y: y + s.h(s.g(y)))(s.b(s.f(s.a(x)))), {
        "a": lambda: QCFS(8), "f": lambda: nn.Linear(C, C), "b": lambda: QCFS(4), "g": lambda: nn.Linear(C, C), "h": lambda: HandOver(15, torch.ones(C))}),
    "back to a grid": (lambda s, x: s.h(s.f(s.a(x).transpose(1, 2).reshape(-1, C, 2, 2))).flatten(2).transpose(1, 2),
                       {"a": lambda: QCFS(8), "f": lambda: nn.Conv2d(C, C, 3, padding=1), "h": lambda: HandOver(15, torch.ones(C), dim=1)}),
    "pooled positions": (lambda s, x: x.transpose(1, 2).unflatten(2, (2, 2)).flatten(2).transpose(1, 2) + functional.adaptive_avg_pool2d(
        s.position.transpose(1, 2).reshape(1, C, 2, 2), x.shape[1] // 2).flatten(2).transpose(1, 2), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_exact_modules_come_out_equal(case):
    function, modules = CASES[case]
    network, _ = imported(Tokens(function, **{name: make() for name, make in modules.items()}))
    kinds = [step.kind for step in network.host_steps]
    if "attention" in case:
        assert kinds.count("attention") == 1
        step = next(step for step in network.host_steps if step.kind == "attention")
        assert step.parameters["heads"] == HEADS and [source.first for source in step.sources] == [0, C, 2 * C]
    if case == "perceptron":
        assert [layer.name for layer in network.segments[1].network.layers] == ["b", "h"]
        assert network.layers[-2].levels.max() == 8 and kinds == ["values", "layer_norm", "levels", "values", "add", "mean", "levels"]
    if case == "separate layers":
        assert [segment.name for segment in network.segments] == ["embedded", "hq", "hk", "logits"]


def test_a_small_vision_transformer_calibrated():
    """All linear layers on the cores; equal classes, and what the cores are given is what the QCFS module has, but for rounded weights."""
    torch.manual_seed(0)
    module = VisionTransformer(size=16, width=16, heads=2, depth=1, classes=5).double()
    data = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16)).astype(np.uint8)
    made = calibrate(module, data, levels=8, input_levels=127, host_levels=127, pixel_scale=1 / 255)
    network = import_torch(made, (3, 16, 16), name="vit", pixel_scale=1 / 255, calibration=data)
    assert [segment.name for segment in network.segments] == ["bn2_out", "blocks_0_qkv_out", "blocks_0_proj_out", "blocks_0_fc2_out", "logits"]
    assert [step.kind for step in network.host_steps].count("layer_norm") == 3
    assert network.macs == 64 * 27 * 8 + 16 * 72 * 16 + 16 * 16 * (3 * 16 + 16 + 2 * 32) + 16 * 5
    with torch.no_grad():
        want = made(torch.tensor(data / 255.0)).numpy()
    got = evaluate(network, data).output[..., 0, 0]
    assert (want.argmax(1) == got.argmax(1)).mean() > 0.9 and len(np.unique(got.argmax(1))) > 1
    few = calibrate(module, data, levels=8, input_levels=127, host_levels=8, pixel_scale=1 / 255)
    assert {part.levels for part in few.modules() if isinstance(part, HandOver)} == {8}
    names = [name for name, _ in module.named_parameters() if name.endswith("weight")]
    assert [name for name, _ in few.named_parameters() if name.endswith("weight")] == names, "masks of pruning follow this order"
    assert module(torch.rand(2, 3, 8, 8).double()).shape == (2, 5), "smaller images have fewer tokens"


def test_hand_over_values_and_gradient():
    hand = HandOver(4, [2.0, 1.0])
    z = torch.tensor([[-9.0, 0.2], [0.5, 0.25], [1.4, -0.3], [9.0, 9.0]], requires_grad=True)
    y = hand(z)
    assert y.tolist() == [[-2.0, 0.0], [1.0, 0.5], [1.0, -0.5], [2.0, 1.0]] and hand.zero == 2
    y.sum().backward()
    assert z.grad.tolist() == [[0, 1], [1, 1], [1, 1], [0, 0]]
    # d/dclip of step·round(z/step), step = clip / 2: (level − z/step) / 2 inside, the level / 2 outside.
    of_clip = np.array([(-2 + (1 - 0.5) + (1 - 1.4) + 2) / 2, ((0 - 0.4) + (1 - 0.5) + (-1 + 0.6) + 2) / 2])
    assert np.allclose(hand.log2_clip.grad, of_clip * [2.0, 1.0] * np.log(2))
    grid = HandOver(4, [2.0, 1.0], dim=1)
    assert torch.equal(grid(z.T.reshape(1, 2, 2, 2)).reshape(2, 4).T, y) and repr(grid) == "HandOver(levels=4, 2 channels, dim=1)"
    for arguments, message in (((0, [1.0]), "levels must be"), ((128, [1.0]), "levels must be"), ((4, [0.0]), "clip must be positive")):
        with pytest.raises(ValueError, match=message):
            HandOver(*arguments)
    with pytest.raises(ValueError, match="dim must be 1 or -1"):
        HandOver(4, [1.0], dim=2)


@pytest.mark.parametrize("function, message", [
    (lambda s, x: s.f(s.n(x)), r"'f' \(Linear\): its operand is computed by the host, in real numbers; put a QCFS before it"),
    (lambda s, x: s.n(s.f(s.a(x))), r"'n' \(LayerNorm\): its operand is a sum on the cores, which give levels only; put a HandOver between"),
    (lambda s, x: s.n(x.transpose(1, 2)), "'n' .*its operand must have the channels as its last axis"),
    (lambda s, x: s.g(s.a(x)[:, :, :4]), r"'g' \(Linear\): its operand must have the channels as its last axis, all of them"),
    (lambda s, x: s.a(x[:, 0]), "'a' .*it acts on a part of a tensor"),
    (lambda s, x: x + x.flip(1), r"'flip' \(flip\): this operation is not supported"),
    (lambda s, x: torch.cat([x, s.n(x)], 1), r"'cat' \(cat\): its operand's axes are permuted"),
    (lambda s, x: x.mean(2), "'mean' .*only a mean over all tokens is supported, not over dim=2"),
    (lambda s, x: x + x.transpose(1, 2).reshape(-1, 4, C), "'add' .*its operands have different axes"),
    (lambda s, x: x * s.position, r"'mul' \(mul\): a bare parameter or constant in the graph is not supported"),
    (lambda s, x: x + s.position[:, :3], r"'position' of shape \(1, 3, 8\) cannot be added to all images alike"),
    (lambda s, x: x + s.position.reshape(5, -1), r"'reshape' \(reshape\): these arguments do not fit the parameter 'position'"),
    (lambda s, x: x * 2.0, r"'mul' \(mul\): this operation is not supported, but by a number on the scores"),
    (lambda s, x: x.softmax(-1), "'softmax' .*only the softmax over the last axis of attention's scores"),
    (lambda s, x: (x @ x.transpose(1, 2)).softmax(1) @ x, "'softmax' .*only the softmax over the last axis"),
    (lambda s, x: x @ s.position.transpose(1, 2), r"'matmul' \(matmul\): a bare parameter"),
    (lambda s, x: functional.scaled_dot_product_attention(x, x, x, is_causal=True), "'scaled_dot_product_attention' .*masks, is_causal and enable_gqa"),
    (lambda s, x: functional.scaled_dot_product_attention(x, x[:, :2], x), r"its key must be \(B, heads, tokens, width\)"),
    (lambda s, x: functional.scaled_dot_product_attention(x[:, :, :4], x[:, :, :4], x), "query, key and value must have the same heads"),
    (lambda s, x: s.m(x, x, x)[0], r"'m' \(MultiheadAttention\): this kind of module is not supported"),
    (lambda s, x: s.e(x), r"'e' \(GELU\): this kind of module is not supported"),
    (lambda s, x: x.reshape(3, -1), r"'reshape' \(reshape\): these arguments do not fit \(2, 4, 8\), two images"),
    (lambda s, x: functional.layer_norm(x, (4, C)), r"'layer_norm' .*over the 8 channels, not over \(4, 8\)"),
    (lambda s, x: s.w(x), r"'w' \(HandOver\): its operand is computed by the host"),
])
def test_what_is_refused(function, message):
    modules = {"f": nn.Linear(C, C), "g": nn.Linear(4, C), "n": nn.LayerNorm(C), "a": QCFS(8), "m": nn.MultiheadAttention(C, 2), "e": nn.GELU(),
               "w": HandOver(15, torch.ones(C))}
    module = exact(Tokens(function, **modules), np.random.default_rng(0))
    with pytest.raises(ImportRefused, match=message):
        import_torch(module, (3, 4, 4), name="refused", pixel_scale=1 / 16, calibration=images())


def test_what_is_refused_at_the_end():
    class Bare(Tokens):
        def forward(self, x):
            return self.embedded(self.embed(self.image(x))).flatten(2).transpose(1, 2) + self.position

    with pytest.raises(ImportRefused, match="module's result: its axes are permuted"):
        import_torch(exact(Bare(None), np.random.default_rng(0)), (3, 4, 4), name="refused")
    Bare.forward = lambda self, x: self.embedded(self.embed(self.image(x)))
    with pytest.raises(ImportRefused, match="module's result: it is computed by the host"):
        import_torch(exact(Bare(None), np.random.default_rng(0)), (3, 4, 4), name="refused")
    Bare.forward = lambda self, x: self.classes(self.last(self.embedded(self.embed(self.image(x))).mean((2, 3))))
    with pytest.raises(ImportRefused, match="'embedded' .*clip values must be positive and finite"):
        module = exact(Bare(None), np.random.default_rng(0))
        module.embedded.log2_clip.data[0] = np.nan
        import_torch(module, (3, 4, 4), name="refused", calibration=images())
