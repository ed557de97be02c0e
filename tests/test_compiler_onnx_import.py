"""ONNX importer: layers against ONNX Runtime and the ONNX reference on real digits, and every refusal by its message.

The models are convolutions with fixed random kernels and a classifier fitted to their features, quantised by ONNX Runtime.
"""
import functools

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer's tests need the `onnx` extra")
ort = pytest.importorskip("onnxruntime", reason="the importer is compared with onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from neuroflex.compiler.network import NetworkError  # noqa: E402
from neuroflex.compiler.onnx_import import import_onnx  # noqa: E402
from neuroflex.sim.network import accumulate, evaluate, gather, pool, quantise  # noqa: E402
from neuroflex.sim.numerics import qcfs  # noqa: E402

FULL = 16        # digits' pixels are 0 … 16


@functools.cache
def digits():
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 1, 8, 8).astype(np.uint8), labels


def scaled(images):
    return (images / FULL).astype(np.float32)


class Graph:
    """Builds a float model, one node at a time; tensors are named after the node that makes them."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind, name, *inputs, domain="", **attributes):
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, domain=domain, **attributes))
        return f"{name}_out"

    def conv(self, name, x, c, n, k=3, group=1, **attributes):
        weights = self.rng.normal(size=(n, c // group, k, k)).astype(np.float32) * (2 / (c // group * k * k)) ** 0.5
        bias = self.rng.normal(size=n).astype(np.float32) * 0.1
        return self.node("Conv", name, x, self.constant(f"{name}_w", weights), self.constant(f"{name}_b", bias), kernel_shape=[k, k],
                         **({"pads": [k // 2] * 4, "group": group} | attributes))

    def model(self, output, shape, opset=17, domains=()):
        graph = helper.make_graph(self.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
                                  [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)], self.constants)
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid(d, v) for d, v in (("", opset), *domains)])

    def classifier(self, x):
        """Flatten, and a fully connected layer fitted to what the model computes so far."""
        flat = self.node("Flatten", "flat", x)
        images, labels = digits()
        features = session(self.model(flat, ["N", None])).run(None, {"x": scaled(images[:1000])})[0]
        fitted = LogisticRegression(C=0.03, max_iter=80, tol=1e-2).fit(features, labels[:1000])
        return self.node("Gemm", "classes", flat, self.constant("classes_w", fitted.coef_.astype(np.float32)),
                         self.constant("classes_b", fitted.intercept_.astype(np.float32)), transB=1)


def session(model, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def chain():
    g = Graph(1)
    x = g.node("Relu", "relu1", g.conv("conv1", "x", 1, 6))
    x = g.node("MaxPool", "pool1", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.node("Relu", "relu2", g.conv("conv2", x, 6, 12))
    return g, g.classifier(x)


def residual():
    g = Graph(2)
    x = g.node("Relu", "relu1", g.conv("conv1", "x", 1, 8))
    x = g.node("Relu", "relu2", g.node("Add", "sum", g.conv("conv2", x, 8, 8), x))
    x = g.node("AveragePool", "pool2", x, kernel_shape=[2, 2], strides=[2, 2])
    return g, g.classifier(x)


def branches():
    g = Graph(3)
    stem = g.node("Relu", "relu0", g.conv("conv0", "x", 1, 6))
    one = g.node("Relu", "relu1", g.conv("conv1", stem, 6, 4, 1, strides=[2, 2]))
    two = g.node("MaxPool", "pool2", g.node("Relu", "relu2", g.conv("conv2", stem, 6, 6)), kernel_shape=[2, 2], strides=[2, 2])
    three = g.node("MaxPool", "pool3", stem, kernel_shape=[2, 2], strides=[2, 2])
    x = g.node("Concat", "join", one, two, three, axis=1)
    x = g.node("Relu", "relu4", g.conv("depthwise", x, 16, 32, group=16))
    return g, g.classifier(x)


@functools.cache
def built(make):
    """The float model; fitting its classifier takes a moment."""
    g, output = make()
    return g.model(output, ["N", 10])


def quantised(make, folder, **options):
    """The model, quantised by ONNX Runtime on 100 digits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"x": scaled(digits()[0][:100])}])

        def get_next(self):
            return next(self.batches, None)

    onnx.save(built(make), folder / "float.onnx")
    quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
    quantize_static(str(folder / "prepared.onnx"), str(folder / "quantised.onnx"), Reader(), quant_format=QuantFormat.QDQ, **options)
    return onnx.load(folder / "quantised.onnx")


def symmetric(per_channel):
    from onnxruntime.quantization import QuantType
    return {"activation_type": QuantType.QInt8, "per_channel": per_channel, "extra_options": {"ActivationSymmetric": True}}


def run_with(model, names, images):
    """The model's result and some of its tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = [o.name for o in model.graph.output]
    copy.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n not in outputs)
    return dict(zip(outputs + [n for n in names if n not in outputs], session(copy).run(None, {"x": scaled(images)})))


def optimised(model, images):
    """Classes by ONNX Runtime's integer kernels, which saturate on some processors."""
    return session(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL).run(None, {"x": scaled(images)})[0].argmax(axis=1)


def layer_alone(network, layer, tensors):
    """One layer on given levels."""
    rows = np.concatenate([gather(tensors[s.tensor], s, s.repeat) for s in layer.sources], axis=-1)
    y = qcfs(accumulate(rows, layer.weights), layer.bias, layer.theta, layer.levels)
    return pool(y, layer.pool_h, layer.pool_w).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("make", [chain, residual, branches])
@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_equals_onnxruntime_within_what_the_import_promises(make, per_channel, tmp_path):
    model = quantised(make, tmp_path, **symmetric(per_channel))
    network = import_onnx(model, name=make.__name__, pixel_scale=1 / FULL)
    report = network.metadata["import"]["layers"]
    images, labels = digits()
    images, labels = images[1000:1400], labels[1000:1400]
    values = run_with(model, [entry["tensor"] for entry in report.values()], images)
    tensors = {"input": quantise(network.input, images)}
    shares = {}
    for layer in network.layers:
        entry = report.get(layer.name)
        if entry is None:       # an identity layer: moves levels, computes nothing
            tensors[layer.name] = layer_alone(network, layer, tensors)
            continue
        want = np.rint(values[entry["tensor"]] / layer.step) - entry.get("first_code", 0)
        got = layer_alone(network, layer, tensors)
        want = np.clip(want, 0, layer.levels.max()).astype(int).reshape(got.shape)
        assert np.abs(got - want).max() <= entry["most_levels_apart"] <= 3
        assert len(np.unique(want)) > 10, "the comparison shows nothing"
        shares[layer.name] = (got == want).mean()
        tensors[layer.name] = want        # the next layer starts from the runtime's own levels
        for concat in network.concats:
            if all(part in tensors for part in concat.parts):
                tensors[concat.name] = np.concatenate([tensors[part] for part in concat.parts], axis=1)
    print(f"{make.__name__}, {'per channel' if per_channel else 'per tensor'}: equal levels "
          + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
    assert min(shares.values()) > 0.85, shares
    # The whole network: classes, and accuracy.
    classes = evaluate(network, images).output.reshape(len(images), -1).argmax(axis=1)
    theirs = values[model.graph.output[0].name].argmax(axis=1)
    print(f"classes equal {(classes == theirs).mean():.3f}, right {(classes == labels).mean():.3f}, ONNX Runtime {(theirs == labels).mean():.3f}, "
          f"with its optimisations {(optimised(model, images) == labels).mean():.3f}")
    assert (classes == theirs).mean() >= 0.97 and (classes == labels).mean() >= (theirs == labels).mean() - 0.02
    assert (theirs == labels).mean() > 0.8


def test_onnxruntimes_default_is_refused_and_can_be_made_coarser(tmp_path):
    model = quantised(residual, tmp_path)
    with pytest.raises(NetworkError, match=r"node 'x_QuantizeLinear' \(QuantizeLinear\): it has 255 levels above zero, the hardware 127: "
                                           "quantise with QInt8 activations and ActivationSymmetric"):
        import_onnx(model, name="default")
    images, labels = (part[1000:1200] for part in digits())
    theirs = session(model).run(None, {"x": scaled(images)})[0].argmax(axis=1)
    for levels, least in ((127, 0.97), (15, 0.85)):
        network = import_onnx(model, name="coarse", pixel_scale=1 / FULL, levels=levels)
        assert network.input.levels == levels and max(layer.levels.max() for layer in network.layers[:-1]) == levels
        assert any("255 levels made" in note for note in network.metadata["import"]["notes"])
        classes = evaluate(network, images).output.reshape(len(images), -1).argmax(axis=1)
        assert (classes == theirs).mean() >= least


def qdq_chain(g, scales, *, low=-128):
    """conv → relu → conv → relu, with these scales of image, first and second result and small exact weights."""
    x, c = "x", 1
    for index, (scale, n) in enumerate(zip(scales, (3, 4, 5))):
        kind = np.int8
        s, z = g.constant(f"s{index}", np.float32(scale)), g.constant(f"z{index}", kind(0))
        x = g.node("DequantizeLinear", f"d{index}", g.node("QuantizeLinear", f"q{index}", x, s, z), s, z)
        if index < len(scales) - 1:
            w = g.constant(f"w{index}", g.rng.integers(-40, 41, (n, c, 3, 3)).astype(np.int8))
            ws = g.constant(f"ws{index}", np.float32(2.0 ** -6))
            b = g.constant(f"b{index}", g.rng.integers(-200, 200, n).astype(np.int32))
            bs = g.constant(f"bs{index}", np.float32(scale) * np.float32(2.0 ** -6))
            w, b = g.node("DequantizeLinear", f"wd{index}", w, ws), g.node("DequantizeLinear", f"bd{index}", b, bs)
            x = g.node("Relu", f"relu{index}", g.node("Conv", f"conv{index}", x, w, b, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
            c = n
    return x


def test_whole_odd_thresholds_are_equal_to_the_last_bit():
    g = Graph(5)
    # θ = s_out / (s_in · s_w) = 75 and 21 units: whole and odd, so that no sum is half way between two levels.
    model = g.model(qdq_chain(g, (1 / 16, 75 / 1024, 75 / 1024 * 21 / 64)), ["N", 4, 8, 8])
    network = import_onnx(model, name="odd", pixel_scale=1 / FULL)
    assert [entry["most_levels_apart"] for entry in network.metadata["import"]["layers"].values()] == [0, 0]
    assert [layer.name for layer in network.layers] == ["conv0", "conv1"]
    assert [entry["equal_columns"] for entry in network.metadata["import"]["layers"].values()] == [3, 4]
    images = digits()[0][:300]
    want = np.rint(session(model).run(None, {"x": scaled(images)})[0] / network.layers[-1].step)
    assert len(np.unique(want)) > 20
    assert np.array_equal(evaluate(network, images).output, want)


class Quant(OpRun):
    """QONNX's quantiser, as its specification says it."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero, bits, signed=1, narrow=0, rounding_mode="ROUND"):
        low = -2.0 ** (bits - signed) + narrow if signed else 0.0
        high = 2.0 ** (bits - signed) - 1 - (narrow if not signed else 0)
        codes = {"ROUND": np.round, "FLOOR": np.floor}[rounding_mode](x / scale + zero)
        return (((np.clip(codes, low, high) - zero) * scale).astype(np.float32),)


def qonnx(mode="ROUND", bits=4.0, **changes):
    """Two quantised convolutions with batch norm, 4-bit weights and activations, and a float classifier."""
    g = Graph(7)

    def quant(name, x, scale, bits, **attributes):
        constants = [g.constant(f"{name}_{i}", np.asarray(v, np.float32)) for i, v in enumerate((scale, changes.get("zero", 0.0), bits))]
        return g.node("Quant", name, x, *constants, domain="qonnx.custom_op.general", **attributes)

    x = quant("image", "x", 1 / 15, 4.0, signed=0, narrow=0, rounding_mode="ROUND")
    c = 1
    for index, n in enumerate((6, 10)):
        w = quant(f"wq{index}", g.constant(f"w{index}", g.rng.normal(size=(n, c, 3, 3)).astype(np.float32) / (3 * c ** 0.5)),
                  np.full((n, 1, 1, 1), 0.11), 4.0, signed=1, narrow=1, rounding_mode="ROUND")
        x = g.node("Conv", f"conv{index}", x, w, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        parameters = [g.constant(f"n{index}_{i}", v.astype(np.float32)) for i, v in enumerate(
            (g.rng.uniform(0.5, 1.5, n) * g.rng.choice([-1, 1], n), g.rng.normal(size=n) * 0.2, g.rng.normal(size=n) * 0.1, g.rng.uniform(0.5, 1, n)))]
        x = g.node("Relu", f"relu{index}", g.node("BatchNormalization", f"norm{index}", x, *parameters))
        x = quant(f"act{index}", x, changes.get("scale", 0.13), bits, signed=0, narrow=0, rounding_mode=mode)
        c = n
    return g, x


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR"])
def test_qonnx(mode):
    g, x = qonnx(mode)
    model = g.model(x, ["N", 10, 8, 8], domains=[("qonnx.custom_op.general", 1)])
    network = import_onnx(model, name="qonnx", pixel_scale=1 / FULL)
    report = network.metadata["import"]["layers"]
    assert [layer.levels.max() for layer in network.layers] == [15, 15] and list(report) == ["conv0", "conv1"]
    assert max(entry["most_levels_apart"] for entry in report.values()) <= 1
    images = digits()[0][:40]
    want = np.rint(ReferenceEvaluator(model, new_ops=[Quant]).run(None, {"x": scaled(images)})[0] / network.layers[-1].step)
    got = evaluate(network, images).output
    assert len(np.unique(want)) > 8 and np.abs(got - want).max() <= 2 and (got == want).mean() > 0.97


def test_logits_that_nothing_quantises_need_calibration():
    g, x = qonnx()
    images, labels = digits()
    flat = g.node("Flatten", "flat", g.node("MaxPool", "pool", x, kernel_shape=[2, 2], strides=[2, 2]))
    custom = [("qonnx.custom_op.general", 1)]
    features = ReferenceEvaluator(g.model(flat, ["N", None], domains=custom), new_ops=[Quant]).run(None, {"x": scaled(images[:500])})[0]
    fitted = LogisticRegression(C=0.03, max_iter=80, tol=1e-2).fit(features[:400], labels[:400])
    y = g.node("MatMul", "classes", flat, g.constant("cw", fitted.coef_.T.astype(np.float32)))
    y = g.node("Softmax", "soft", g.node("Add", "shift", y, g.constant("cb", fitted.intercept_.astype(np.float32))))
    model = g.model(y, ["N", 10], domains=custom)
    with pytest.raises(NetworkError, match="output 'soft_out': it does not end in a QuantizeLinear: give calibration images"):
        import_onnx(model, name="logits", pixel_scale=1 / FULL)
    with pytest.raises(NetworkError, match="output 'soft_out': the calibration set is empty: give at least one image"):
        import_onnx(model, name="logits", pixel_scale=1 / FULL, calibration=images[:0])
    network = import_onnx(model, name="logits", pixel_scale=1 / FULL, calibration=images[:400])
    assert "node 'soft' (Softmax): left out, it does not change the order of the classes" in network.metadata["import"]["notes"]
    classes = evaluate(network, images[400:500]).output.reshape(100, -1).argmax(axis=1)
    assert (classes == fitted.predict(features[400:])).mean() >= 0.95


def test_logits_below_the_kept_codes_are_quantised_over_their_own_range(tmp_path):
    def low():
        g, output = chain()
        return g, g.node("Add", "lowered", output, g.constant("minus", np.float32(-60.0)))
    model = quantised(low, tmp_path, **symmetric(False))
    images = digits()[0]
    network = import_onnx(model, name="low", pixel_scale=1 / FULL, calibration=images[:200])
    assert any("lie below its upper 128 codes" in note for note in network.metadata["import"]["notes"])
    assert (evaluate(network, images[200:300]).output.max(axis=1) > 0).all()


# -- refusals ------------------------------------------------------------------------------------------------------------

def small(change=None, *, scales=(1 / 16, 0.1), opset=17, domains=(), shape=("N", 3, 8, 8)):
    """A QDQ model with one convolution; ``change(g, x)`` appends to it."""
    g = Graph(9)
    x = qdq_chain(g, scales)
    if change:
        x = change(g, x)
    return g.model(x, shape, opset, domains)


def constant_changed(name, value):
    model = small()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return model


def node_changed(name, **attributes):
    model = small()
    node = next(node for node in model.graph.node if node.name == name)
    kept = [a for a in node.attribute if a.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept + [helper.make_attribute(k, v) for k, v in attributes.items()])
    return model


def signed(g, x):
    s, z = g.constant("s", np.float32(0.1)), g.constant("z", np.int8(0))
    y = g.conv("plain", x, 3, 3)
    return g.conv("next", g.node("DequantizeLinear", "ds", g.node("QuantizeLinear", "qs", y, s, z), s, z), 3, 3)


REFUSED = {
    "unknown opset": (lambda: small(opset=99), "operator set 99 of ai.onnx is not known; known are 10 to 24"),
    "unknown domain": (lambda: small(lambda g, x: g.node("Magic", "m", x, domain="my.ops"), domains=[("my.ops", 1)]),
                       r"node 'm' \(Magic\): its operator set 'my.ops' is not known"),
    "unknown node": (lambda: small(lambda g, x: g.node("Sigmoid", "s", x)), r"node 's' \(Sigmoid\): this operation is not supported; supported: "),
    "QOperator": (lambda: small(lambda g, x: g.node("QLinearConv", "q", x)), r"node 'q' \(QLinearConv\): .*QOperator format: write the model as QDQ"),
    "NaN weights": (lambda: constant_changed("ws0", np.float32(np.nan)), r"node 'wd0' \(DequantizeLinear\): 1 of its 1 entries of its scale are NaN"),
    "infinite weights": (lambda: small(lambda g, x: g.node("Conv", "c", x, g.constant("w", np.full((2, 3, 1, 1), np.inf, np.float32)))),
                         r"node 'c' \(Conv\): 6 of its 6 weights are NaN or infinite; every number must be finite"),
    "NaN bias": (lambda: constant_changed("bs0", np.float32(np.nan)), "node 'bd0' .*NaN or infinite"),
    "scale zero": (lambda: constant_changed("s1", np.float32(0)), "node 'q1' .*its scale is 0; it must be a positive, finite number"),
    "weight scale zero": (lambda: constant_changed("ws0", np.float32(0)), "node 'wd0' .*its smallest scale is 0; scales must be positive"),
    "scale infinite": (lambda: constant_changed("s1", np.float32(np.inf)), "node 'q1' .*entries of its scale are NaN or infinite"),
    "threshold zero": (lambda: constant_changed("s1", np.float32(1e-5)), "node 'q1' .*the threshold of column 0 rounds to 0"),
    "overflow": (lambda: constant_changed("bs0", np.float32(1e5)), "node 'q1' .*(bias must lie in|can reach)"),
    "far overflow": (lambda: constant_changed("bs0", np.float32(1e20)), "node 'q1' .*the bias of column . is .* output levels, far beyond"),
    "per-channel activation": (lambda: constant_changed("s1", np.float32([0.1, 0.2, 0.1])), "node 'q1' .*it has 3 scales; activations need one"),
    "other scale": (lambda: small(lambda g, x: g.node("DequantizeLinear", "d", g.node("QuantizeLinear", "q", x, "s1", "z1"), "s0", "z1")),
                    "node 'd' .*its scale or zero point is not that of the QuantizeLinear before it"),
    "negative codes": (lambda: small(signed), r"node 'next' \(Conv\): its operand has negative codes; levels count from 0, so that a ReLU must"),
    "not quantised": (lambda: small(lambda g, x: g.conv("next", g.node("Relu", "r", g.conv("plain", x, 3, 3)), 3, 3)),
                      "node 'next' .*its operand is not quantised; put a QuantizeLinear before it"),
    "image not quantised": (lambda: Graph(1).model("x", ["N"]), "holds no graph with nodes"),
    "image not quantised first": (lambda: (lambda g: g.model(g.conv("c", "x", 1, 2), ["N"]))(Graph(1)),
                                  "node 'c' .*the image must be quantised by a QuantizeLinear before anything else"),
    "shifted image": (lambda: (lambda g: g.model(g.node("Add", "a", "x", g.constant("m", np.float32(-0.5))), ["N"]))(Graph(1)),
                      "node 'a' .*the image is shifted before it is quantised; .*fold the mean into the first layer's bias"),
    "dilation": (lambda: node_changed("conv0", dilations=[2, 2]), r"node 'conv0' .*dilation \[2, 2\] is not supported"),
    "uneven padding": (lambda: node_changed("conv0", pads=[0, 0, 1, 1]), r"node 'conv0' .*padding \[0, 0, 1, 1\] is not the same on all sides"),
    "automatic padding": (lambda: node_changed("conv0", auto_pad="SAME_UPPER"), "node 'conv0' .*auto_pad SAME_UPPER is not supported"),
    "overlapping pool": (lambda: small(lambda g, x: g.node("MaxPool", "p", x, kernel_shape=[3, 3], strides=[2, 2])),
                         "node 'p' .*windows must not overlap or leave gaps"),
    "padded average": (lambda: small(lambda g, x: g.node("AveragePool", "p", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
                       "node 'p' .*padding without count_include_pad"),
    "two activations": (lambda: small(lambda g, x: g.node("MatMul", "m", x, x)), "node 'm' .*its weights are computed by the model"),
    "reshape": (lambda: small(lambda g, x: g.node("Reshape", "r", x, g.constant("to", np.array([0, 3, 64])))),
                r"node 'r' .*only a reshape to \(batch, 192\), a flatten, is supported, not to \[0, 3, 64\]"),
    "softmax inside": (lambda: small(lambda g, x: g.node("Identity", "i", g.node("Softmax", "s", x))), "node 's' .*at the very end only"),
    "concatenation axis": (lambda: small(lambda g, x: g.node("Concat", "j", x, x, axis=2)), "node 'j' .*axis 2 is not supported, only 1"),
    "rounding mode": (lambda: (lambda g, x: g.model(x, ["N"], domains=[("qonnx.custom_op.general", 1)]))(*qonnx("CEIL")),
                      "node 'act0' .*rounding mode 'CEIL' is not supported; supported are ROUND and FLOOR"),
    "bit width": (lambda: (lambda g, x: g.model(x, ["N"], domains=[("qonnx.custom_op.general", 1)]))(*qonnx(bits=3.5)),
                  r"node 'act0' .*its bit width must be one whole number in 1 … 32, not \[3.5\]"),
    "zero point": (lambda: (lambda g, x: g.model(x, ["N"], domains=[("qonnx.custom_op.general", 1)]))(*qonnx(zero=0.5)),
                   "node 'image' .*its zero point 0.5 is none of its codes 0 … 15"),
    "wrong size": (lambda: small(lambda g, x: g.conv("next", x, 4, 2)), r"node 'next' .*its kernel \(2, 4, 3, 3\) in 1 group\(s\) does not fit 3"),
    "training": (lambda: small(lambda g, x: g.node("BatchNormalization", "n", g.conv("c", x, 3, 3), *(g.constant(f"n{i}", np.ones(3, np.float32))
                                                                                                     for i in range(4)), training_mode=1)),
                 r"node 'n' \(BatchNormalization\): it is in training mode, .*; write the model for inference"),
    "norm of another size": (lambda: small(lambda g, x: g.node("BatchNormalization", "n", g.conv("c", x, 3, 3), *(
        g.constant(f"n{i}", np.ones(3 - i // 3, np.float32)) for i in range(4)))), r"node 'n' .*its parameters differ in shape: \(3,\), .* and \(2,\)"),
    "dropout in training": (lambda: small(lambda g, x: g.node("Dropout", "o", x, g.constant("half", np.float32(0.5)), g.constant("yes", np.array(True)))),
                            r"node 'o' \(Dropout\): its training_mode is true, in which it leaves out values at random"),
    "softmax over rows": (lambda: small(lambda g, x: g.node("Softmax", "s", g.conv("c", x, 3, 3), axis=2)),
                          r"node 's' \(Softmax\): axis 2 of 4 is not supported, only 1, the classes"),
    "softmax over one number": (lambda: small(lambda g, x: g.node("Softmax", "s", g.conv("c", g.node("GlobalAveragePool", "p", x), 3, 3, 1))),
                                "node 's' .*axis -1 of 4 is not supported"),
    "bias along rows": (lambda: small(lambda g, x: g.node("Add", "a", g.conv("c", x, 3, 8), g.constant("b", np.ones(8, np.float32)))),
                        r"node 'a' \(Add\): its constant of shape \(8,\) does not hold one number per channel of \(8, 8, 8\): that would be shape \(8, 1, 1\)"),
    "bias along a side of 1": (lambda: small(lambda g, x: g.node("Add", "a", g.conv("c", g.node("GlobalAveragePool", "p", x), 3, 8, 1),
                                                                 g.constant("b", np.ones(8, np.float32)))),
                               r"node 'a' .*does not hold one number per channel of \(8, 1, 1\)"),
    "bias of another size": (lambda: small(lambda g, x: g.node("Gemm", "f", g.node("Flatten", "v", x), g.constant("w", np.ones((192, 5), np.float32)),
                                                               g.constant("b", np.ones(3, np.float32)))),
                             r"node 'f' \(Gemm\): it has 5 columns and biases of shape \(3,\)"),
    "clip to nothing": (lambda: small(lambda g, x: clip(g, x, 0.0)), "node 'clip' .*it clips to 0 … 0, where nothing is left"),
    "computed clip": (lambda: small(lambda g, x: g.node("Clip", "k", x, g.constant("low", np.float32(0)), x)), "node 'k' .*its limits must be constants"),
    "window of one side": (lambda: small(lambda g, x: g.node("MaxPool", "p", x, kernel_shape=[2], strides=[2])), "node 'p' .*only windows in two dimensions"),
    "attribute of another type": (lambda: node_changed("conv0", group=1.5), "node 'conv0' .*its attribute 'group' is FLOAT, not INT"),
    "too few inputs": (lambda: small(lambda g, x: g.node("Add", "a", x)), r"node 'a' \(Add\): it has 1 inputs: missing a required argument: 'b'"),
    "empty scale": (lambda: constant_changed("ws0", np.zeros(0, np.float32)), "node 'wd0' .*its scale is empty"),
    "window of no size": (lambda: small(lambda g, x: g.node("MaxPool", "p", x)), "node 'p' .*it says no kernel_shape"),
    "missing tensor": (lambda: small(lambda g, x: g.node("Relu", "r", "nowhere")), "node 'r' .*its input 'nowhere' is made by no node"),
    "output not made": (lambda: small(lambda g, x: "nowhere"), "output 'nowhere': no node makes it; the file may be cut short"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message):
        import_onnx(make(), name="refused", pixel_scale=1 / FULL)


def test_names_that_are_no_text(tmp_path):
    (tmp_path / "model.onnx").write_bytes(small().SerializeToString().replace(b"conv0", b"con\xf60"))
    with pytest.raises(NetworkError, match=r"model.onnx: the name b'con.*' in it is not UTF-8 text; the file may be damaged|not an ONNX file"):
        import_onnx(tmp_path / "model.onnx", name="text")


def test_files_that_are_cut_short_or_no_models(tmp_path):
    path = tmp_path / "model.onnx"
    data = small().SerializeToString()
    for length in range(0, len(data), 29):
        path.write_bytes(data[:length])
        with pytest.raises(NetworkError):
            import_onnx(path, name="cut")
    path.write_bytes(b"PK not a model at all")
    with pytest.raises(NetworkError, match="model.onnx: not an ONNX file, or cut short|holds no graph"):
        import_onnx(path, name="other")
    with pytest.raises(FileNotFoundError):
        import_onnx(tmp_path / "none.onnx", name="none")


@pytest.mark.parametrize("shape, message", [((3, 8, 8), r"input 'x': the model takes \(B, 1, 8, 8\), which images of shape \(3, 8, 8\) do not fit"),
                                            ((1, 8), r"do not fit|must be \(C, H, W\)"), ((1, 0, 8), "do not fit")])
def test_wrong_image_shapes(shape, message):
    with pytest.raises(NetworkError, match=message):
        import_onnx(small(), name="shape", image_shape=shape)


def test_levels_out_of_range():
    with pytest.raises(NetworkError, match="levels must be an integer in 1 … 127, not 128"):
        import_onnx(small(), name="levels", levels=128)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "1", None])
def test_wrong_pixel_scales(value):
    with pytest.raises(NetworkError, match=f"the image: pixel_scale must be a positive number, not {value!r}"):
        import_onnx(small(), name="scale", pixel_scale=value)


@pytest.mark.parametrize("open_end", [False, True])
def test_calibration_images_that_are_none_of_this_model(open_end):
    model = small((lambda g, x: g.conv("classes", x, 3, 3)) if open_end else None)
    images = digits()[0][:20]
    for wrong, message in ((images[:, :, :5], r"calibration images are uint8 of shape \(20, 1, 5, 8\); \(n, 1, 8, 8\) numbers are needed"),
                           (images.astype(str), "calibration images are <U3 of shape"), (images * np.nan, "1280 pixels of the calibration images are NaN")):
        with pytest.raises(NetworkError, match="input 'x': " + message):
            import_onnx(model, name="calibration", pixel_scale=1 / FULL, calibration=wrong)
    import_onnx(model, name="calibration", pixel_scale=1 / FULL, calibration=images[:, 0])


# -- more forms of the same ------------------------------------------------------------------------------------------------

def test_perceptrons_on_flat_vectors():
    g = Graph(11)
    s, z = g.constant("s", np.float32(1 / 16)), g.constant("z", np.int8(0))
    x = g.node("DequantizeLinear", "d", g.node("QuantizeLinear", "q", "x", s, z), s, z)
    w = g.node("DequantizeLinear", "wd", g.constant("w", g.rng.integers(-40, 41, (64, 12)).astype(np.int8)), g.constant("ws", np.float32(0.05)))
    x = g.node("Clip", "relu6", g.node("Add", "shift", g.constant("b", g.rng.normal(size=12).astype(np.float32)), g.node("MatMul", "fc", x, w)),
               g.constant("low", np.float32(0)), g.constant("high", np.float32(6)))
    t = g.constant("t", np.float32(0.1))
    x = g.node("DequantizeLinear", "yd", g.node("QuantizeLinear", "y", x, t, z), t, z)
    model = g.model(x, ["N", 12])
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64]))
    network = import_onnx(model, name="flat", pixel_scale=1 / FULL, image_shape=(1, 8, 8))
    assert network.input.pack is not None and network.layers[0].levels.max() == 60       # 6 / 0.1, below the quantiser's 127
    images = digits()[0][:300]
    want = np.rint(session(model).run(None, {"x": scaled(images).reshape(-1, 64)})[0] / 0.1)
    got = evaluate(network, images).output[..., 0, 0]
    assert np.abs(got - want).max() <= network.metadata["import"]["layers"]["fc"]["most_levels_apart"] <= 1 and want.max() == 60
    with pytest.raises(NetworkError, match=r"input 'x': the model takes \(B, 64\), which images of shape \(1, 4, 4\) do not fit"):
        import_onnx(model, name="flat", image_shape=(1, 4, 4))
    vector = import_onnx(model, name="flat", pixel_scale=1 / FULL)
    assert vector.input.image_shape == (64, 1, 1)
    assert np.array_equal(evaluate(vector, images.reshape(-1, 64, 1, 1)).output, evaluate(network, images).output)


def test_overlapping_pools_and_pixels_scaled_in_the_model():
    g = Graph(12)
    s, z = g.constant("s", np.float32(1 / 15)), g.constant("z", np.uint8(0))
    x = g.node("Div", "scale", "x", g.constant("full", np.float32(16)))
    x = g.node("DequantizeLinear", "d", g.node("QuantizeLinear", "q", x, s, z), s, z)
    x = g.node("MaxPool", "pool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = g.node("MaxPool", "again", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    with pytest.raises(NetworkError, match="node 'q' .*255 levels"):
        import_onnx(g.model(x, ["N", 1, 4, 4]), name="pools")
    g.constants[1].CopyFrom(numpy_helper.from_array(np.int8(0), "z"))
    model = g.model(x, ["N", 1, 4, 4])
    network = import_onnx(model, name="pools")
    images = digits()[0][:100]
    want = session(model).run(None, {"x": images.astype(np.float32)})[0] * 15
    assert np.array_equal(evaluate(network, images).output, np.rint(want))
    assert any("node 'pool' (MaxPool): windows overlap, so that it becomes 8 layers" in note for note in network.metadata["import"]["notes"])


def test_bytes_that_the_model_takes_as_codes():
    g = Graph(13)
    s, z = g.constant("s", np.float32(1 / 16)), g.constant("z", np.int8(0))
    x = g.node("DequantizeLinear", "d", "x", s, z)
    w = g.node("DequantizeLinear", "wd", g.constant("w", g.rng.integers(-40, 41, (3, 1, 3, 3)).astype(np.int8)), g.constant("ws", np.float32(1 / 64)))
    t = g.constant("t", np.float32(75 / 1024))
    x = g.node("Relu", "relu", g.node("Conv", "conv", x, w, kernel_shape=[3, 3]))
    x = g.node("DequantizeLinear", "yd", g.node("QuantizeLinear", "y", x, t, z), t, z)
    model = g.model(x, ["N", 3, 6, 6])
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.INT8, ["N", 1, 8, 8]))
    network = import_onnx(model, name="codes")
    images = digits()[0][:100]
    want = np.rint(session(model).run(None, {"x": images.astype(np.int8)})[0] / np.float32(75 / 1024))
    assert network.input.levels == 127 and np.array_equal(evaluate(network, images).output, want)
    # A zero point that is left out is 0, and the image's type says which codes there are.
    del model.graph.node[0].input[2]
    assert np.array_equal(evaluate(import_onnx(model, name="codes"), images).output, want)
    with pytest.raises(NetworkError, match=r"node 'd' .*the model takes codes, one pixel is one code: pixel_scale must be 1, not 0.0625"):
        import_onnx(model, name="codes", pixel_scale=1 / 16)
    model.graph.node[0].input.append("eight")
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(8), "eight"))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(NetworkError, match="node 'd' .*the image is shifted by its zero point 8; levels count from 0"):
        import_onnx(model, name="codes")
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.uint8(0), "eight"))
    network = import_onnx(model, name="codes", levels=127)
    assert network.input.full_scale == 255 and np.abs(evaluate(network, 2 * images // 2 * 2).output - np.rint(
        session(model).run(None, {"x": 2 * images // 2 * 2})[0] / np.float32(75 / 1024))).max() <= 3


# -- clips and ReLUs that no quantiser closes --------------------------------------------------------------------------

ONE = 75 / 1024      # one level of the tensor that the chain below makes, exactly as the runtime does


def qdq(g, name, x, scale, zero=0):
    s, z = g.constant(f"{name}_s", np.float32(scale)), g.constant(f"{name}_z", np.int8(zero))
    return g.node("DequantizeLinear", f"{name}_d", g.node("QuantizeLinear", name, x, s, z), s, z)


def exact(g, name, x, c, n, k=3):
    """A convolution whose weights are whole multiples of 1/64, 127 among them: nothing is rounded."""
    weights = g.rng.integers(-40, 41, (n, c, k, k)).astype(np.int8)
    weights[0, 0, 0, 0] = 127
    w = g.node("DequantizeLinear", f"{name}_wd", g.constant(f"{name}_w", weights), g.constant(f"{name}_ws", np.float32(1 / 64)))
    return g.node("Conv", name, x, w, kernel_shape=[k, k], pads=[k // 2] * 4)


def clip(g, x, high):
    return g.node("Clip", "clip", x, g.constant("low", np.float32(0)), g.constant("high", np.float32(high)))


def average(g, x):
    return g.node("AveragePool", "average", x, kernel_shape=[2, 2], strides=[2, 2])


def both(g, x, **options):
    """The network, its result in levels, and ONNX Runtime's in units of a level."""
    model = g.model(x, None)
    images = digits()[0][:150]
    network = import_onnx(model, name="clipped", pixel_scale=1 / FULL, **options)
    want = session(model).run(None, {"x": scaled(images)})[0] / network.layers[-1].step
    return network, evaluate(network, images).output.astype(int), want


@pytest.mark.parametrize("make, unit, highest", [
    (lambda g, x: clip(g, x, 9 * ONE), 1, 9),
    (lambda g, x: qdq(g, "again", clip(g, x, 0.7), ONE), 1, 10),
    (lambda g, x: clip(g, average(g, x), 21 * ONE / 4), 4, 21),
    (lambda g, x: qdq(g, "again", clip(g, average(g, x), 0.55), ONE / 4), 4, 30),
], ids=["tensor", "tensor and quantiser", "average", "average and quantiser"])
def test_clips_of_what_is_quantised_already(make, unit, highest):
    g = Graph(21)
    x = make(g, qdq_chain(g, (1 / 16, ONE)))
    x = qdq(g, "y", g.node("Relu", "relu", exact(g, "conv", x, 3, 4)), ONE * 85 / 64 / unit)
    network, got, want = both(g, x)
    assert network.layers[1].levels.tolist() == [highest] * 3 and network.layers[2].name == "conv"
    assert network.metadata["import"]["layers"]["conv"]["most_levels_apart"] == 0
    assert len(np.unique(got)) > 20 and np.array_equal(got, np.rint(want))


def test_a_clip_above_the_highest_level_costs_nothing_and_one_between_levels_is_refused():
    g = Graph(22)
    x = clip(g, qdq_chain(g, (1 / 16, ONE)), 127 * ONE)
    network, got, want = both(g, qdq(g, "y", g.node("Relu", "relu", exact(g, "conv", x, 3, 4)), ONE * 85 / 64))
    assert len(network.layers) == 2 and np.array_equal(got, np.rint(want))
    g = Graph(22)
    x = clip(g, qdq_chain(g, (1 / 16, ONE)), 1.0)
    with pytest.raises(NetworkError, match=r"node 'conv' \(Conv\): its operand is clipped at 1, between two of its levels \(at level 13.6533\); "
                                           "put a QuantizeLinear after the clip"):
        both(g, exact(g, "conv", x, 3, 4))


def test_a_clipped_tensor_with_other_readers_keeps_its_grid():
    g = Graph(23)
    x = qdq_chain(g, (1 / 16, ONE))
    pooled = g.node("MaxPool", "pool", clip(g, x, 100.0), kernel_shape=[2, 2], strides=[2, 2])
    y = g.node("Add", "both", exact(g, "one", pooled, 3, 4, 1), g.node("Conv", "strided", x, "one_wd_out", kernel_shape=[1, 1], strides=[2, 2]))
    _, got, want = both(g, qdq(g, "y", g.node("Relu", "relu", y), ONE * 21 / 64))
    assert len(np.unique(got)) > 20 and np.array_equal(got, np.rint(want))


@pytest.mark.parametrize("make", [lambda g, x: g.node("Relu", "relu", x), lambda g, x: clip(g, x, 1.1)], ids=["relu", "clip"])
@pytest.mark.parametrize("quantised", [False, True])
def test_models_that_end_in_a_relu_or_a_clip(make, quantised):
    g = Graph(24)
    x = exact(g, "conv", qdq(g, "image", "x", 1 / 16), 1, 4)
    x = make(g, qdq(g, "logits", x, 33 / 1024) if quantised else x)
    network, got, want = both(g, x, calibration=digits()[0][:150])
    assert want.min() == 0 and got.min() == 0 and len(np.unique(got)) > 20
    assert np.abs(got - want).max() <= (0.6 if quantised else 0.501)        # as the model, level 0 is 0 and the highest where it clips
    if quantised:
        assert network.metadata["import"]["layers"]["conv"]["tensor"] == x and np.array_equal(got, np.rint(want))


def test_clips_before_a_quantiser_that_rounds_down():
    g = Graph(25)
    x = clip(g, exact(g, "conv", qdq(g, "image", "x", 1 / 16), 1, 4), 1.0)
    constants = [g.constant(f"c{i}", np.float32(v)) for i, v in enumerate((0.13, 0, 4))]
    x = g.node("Quant", "act", x, *constants, domain="qonnx.custom_op.general", signed=0, narrow=0, rounding_mode="FLOOR")
    model = g.model(x, None, 19, domains=[("qonnx.custom_op.general", 1)])
    network = import_onnx(model, name="down", pixel_scale=1 / FULL)
    images = digits()[0][:50]
    want = np.rint(ReferenceEvaluator(model, new_ops=[Quant]).run(None, {"x": scaled(images)})[0] / network.layers[-1].step)
    assert want.max() == 7 == network.layers[-1].levels.max() and np.abs(evaluate(network, images).output - want).max() <= 1


def test_a_factor_behind_a_quantiser_that_is_left_out_moves_no_limit():
    g = Graph(26)
    x = qdq(g, "second", qdq(g, "first", exact(g, "conv", qdq(g, "image", "x", 1 / 16), 1, 4), 0.05), 0.06)
    x = g.node("Relu", "relu", g.node("Mul", "times", x, g.constant("four", np.float32(4))))
    network, got, want = both(g, qdq(g, "y", x, 0.2))
    assert network.layers[-1].levels.max() == 127 and want.max() > 40
    assert np.abs(got - want).max() <= network.metadata["import"]["layers"]["conv"]["most_levels_apart"] < 5
