"""Networks with host steps: their arithmetic against plain formulas, the format and its refusals, segments alone, comparison, commands. Needs no framework."""
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from neuroflex import fpga
from neuroflex.axi import AxiConfig
from neuroflex.cli import main
from neuroflex.compare.measure import compare_network, subject_of
from neuroflex.compiler.host import KINDS, HostStep, Operand
from neuroflex.compiler.network import Examples, InputSpec, Layer, Network, NetworkError, Source, Window
from neuroflex.compiler.split import Segment, SplitNetwork, load
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network
from neuroflex.program import program_image
from neuroflex.sim.host import exponential, host_step
from neuroflex.sim.network import evaluate as evaluate_whole
from neuroflex.sim.network import quantise
from neuroflex.sim.split import evaluate

C, HEADS = 8, 2


def layer(rng, name, inputs, columns, levels, tensor="input"):
    weights = rng.integers(-127, 128, (inputs, columns)) * (rng.random((inputs, columns)) < 0.6)
    return Layer(name=name, sources=[Source(tensor=tensor)], weights=weights, bias=rng.integers(0, 400, columns), theta=rng.integers(60, 120, columns),
                 levels=np.full(columns, levels))


def segment(name, source, layers, *, size=4, levels=4):
    return Segment(source=source, network=Network(name=name, layers=layers,
                                                  input=InputSpec(channels=C, height=size, width=size, levels=levels, full_scale=float(levels))))


def step(name, kind, *sources, channels=C, **parameters):
    return HostStep(name=name, kind=kind, parameters=parameters,
                    sources=[Operand(tensor=s, channels=channels) if isinstance(s, str) else Operand(tensor=s[0], first=s[1], channels=channels) for s in sources])


def make(seed=0, **changes):
    """One encoder of a transformer on 16 tokens, and a classifier."""
    rng = np.random.default_rng(seed)
    values = lambda name, channels=C, zero=4: step(f"{name}_values", "values", name, channels=channels,  # noqa: E731
                                                   step=rng.uniform(0.05, 0.2, channels), zero=np.full(channels, zero))
    stem = Network(name="stem", layers=[layer(rng, "embed", 12, C, 8)],
                   input=InputSpec(channels=3, height=8, width=8, levels=4, full_scale=255.0, pack=Window(kernel_h=2, kernel_w=2, stride=2)))
    steps = [
        Segment(source="input", network=stem), values("embed"), step("position", "offset", "embed_values", offset=rng.normal(0, 0.3, (C, 4, 4))),
        step("norm1", "layer_norm", "position", weight=rng.uniform(0.5, 1.5, C), bias=rng.normal(0, 0.1, C), eps=1e-5),
        step("act1", "levels", "norm1", clip=2.0, levels=4),
        segment("qkv", "act1", [layer(rng, "qkv", C, 3 * C, 8)]), values("qkv", 3 * C),
        step("attention", "attention", ("qkv_values", 0), ("qkv_values", C), ("qkv_values", 2 * C), heads=HEADS, scale=0.7),
        step("sum", "add", "position", "attention"), step("act2", "levels", "sum", clip=1.0, levels=4),
        segment("mlp", "act2", [layer(rng, "fc1", C, 16, 4), layer(rng, "fc2", 16, C, 8, "fc1")]), values("fc2", zero=1),
        step("pool", "mean", "fc2_values"), step("act3", "levels", "pool", clip=0.5, levels=4),
        segment("head", "act3", [layer(rng, "classes", C, 5, 127)], size=1)]
    images = rng.integers(0, 256, (9, 3, 8, 8)).astype(np.uint8)
    examples = Examples(test_images=images[:3], test_labels=np.arange(3), calibration_images=images[3:])
    return SplitNetwork(**{"name": "encoder", "steps": steps, "metadata": {"accuracy_integer": 0.5}, "examples": examples} | changes)


@pytest.fixture(scope="module")
def network():
    return make()


# --- arithmetic ----------------------------------------------------------------------------------------
def test_exponential_is_within_two_units_of_the_last_place():
    x = -np.concatenate([np.geomspace(1e-12, 699, 4000), np.arange(700) * math.log(2) / 2])
    got, want = np.array([exponential(one) for one in x]), np.exp(x)
    assert (np.abs(got - want) <= 2 * np.spacing(want)).all()
    assert exponential(0.0) == 1.0 and exponential(-701.0) == 0.0


def test_steps_by_plain_formulas():
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(0, 2, (3, 2, C, 2, 3))
    tokens = [a.reshape(2, C, 6).transpose(0, 2, 1) for a in (x, y, z)]
    back = lambda a: a.transpose(0, 2, 1).reshape(2, -1, 2, 3)  # noqa: E731
    run = lambda made, **tensors: host_step(made, tensors)  # noqa: E731
    assert np.array_equal(run(step("a", "add", "x", "y"), x=x, y=y), x + y)
    assert np.array_equal(run(step("a", "offset", "x", offset=y[0]), x=x), x + y[0])
    q = rng.integers(0, 9, (2, C, 2, 3)).astype(np.uint8)
    size, zero = rng.uniform(0.1, 1, C), np.arange(C)
    assert np.array_equal(run(step("a", "values", "q", step=size, zero=zero), q=q), size[:, None, None] * (q.astype(int) - zero[:, None, None]))
    levels = run(step("a", "levels", "x", clip=3.0, levels=6), x=np.array([-1.0, 0.2499, 0.25, 1.24, 1.25, 2.9, 99, 0.0]).reshape(1, C, 1, 1))
    assert levels.ravel().tolist() == [0, 0, 1, 2, 3, 6, 6, 0] and levels.dtype == np.uint8
    assert np.allclose(run(step("a", "mean", "x"), x=x), x.mean(axis=(2, 3), keepdims=True), rtol=1e-14)
    weight, bias = rng.normal(0, 1, (2, C))
    t = tokens[0]
    want = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-3) * weight + bias
    assert np.allclose(run(step("a", "layer_norm", "x", weight=weight, bias=bias, eps=1e-3), x=x), back(want), rtol=1e-12, atol=1e-13)
    heads = []
    for first in range(0, C, C // HEADS):
        a, b, c = (t[..., first:first + C // HEADS] for t in tokens)
        scores = np.exp(0.3 * a @ b.transpose(0, 2, 1))
        heads.append(scores / scores.sum(-1, keepdims=True) @ c)
    got = run(step("a", "attention", "x", "y", "z", heads=HEADS, scale=0.3), x=x, y=y, z=z)
    assert np.allclose(got, back(np.concatenate(heads, axis=-1)), rtol=1e-12, atol=1e-13)


def test_large_scores_do_not_overflow():
    x = np.full((1, C, 1, 3), 200.0)
    x[..., 0] = 300
    got = host_step(step("a", "attention", "x", "x", "x", heads=1, scale=1.0), {"x": x})
    assert np.isfinite(got).all() and np.array_equal(got, np.full_like(x, 300.0))


def test_evaluation_step_by_step(network):
    images = network.examples.test_images
    trace = evaluate(network, images)
    level = quantise(network.input, images)
    for one in network.steps:
        if isinstance(one, Segment):
            source = level if one.source == "input" else trace.tensors[one.source]
            assert np.array_equal(trace.tensors[one.name], evaluate_whole(one.network, source, quantised=True).output)
        else:
            assert np.array_equal(trace.tensors[one.name], host_step(one, trace.tensors))
        assert trace.tensors[one.name].shape == (3, *network.shape(one.name))
    assert trace.output.shape == (3, 5, 1, 1) and len(np.unique(trace.output)) > 3
    assert network.shape("fc1") == (16, 4, 4) and [layer.name for layer in network.layers] == ["embed", "qkv", "fc1", "fc2", "classes"]
    assert len(np.unique(trace.tensors["act2"])) > 2, "the comparison shows nothing"


def test_operations_by_hand(network):
    tokens, size = 16, 16 * C
    assert network.macs == 16 * 12 * C + 16 * C * 3 * C + 2 * 16 * C * 16 + C * 5
    assert network.host == {"levels to real numbers and back": 2 * size + 4 * size + 2 * 3 * size + 4 * size + 2 * size + 4 * C, "layer norm, additions": size + 8 * size + size,
                            "attention products (both operands are activations)": 4 * tokens * size, "softmax": 5 * HEADS * tokens * tokens, "averages": size}
    assert network.host_share == sum(network.host.values()) / (sum(network.host.values()) + 2 * network.macs)


# --- format --------------------------------------------------------------------------------------------
def test_the_file_and_back(network, tmp_path):
    path = tmp_path / "encoder.npz"
    network.save(path)
    again = load(path)
    assert isinstance(again, SplitNetwork) and again.to_bytes() == network.to_bytes() and again.digest == network.digest
    assert np.array_equal(evaluate(again, network.examples.test_images).output, evaluate(network, network.examples.test_images).output)
    assert again.metadata == network.metadata and np.array_equal(again.examples.test_images, network.examples.test_images)
    with np.load(path) as arrays:
        assert "step2_offset" in arrays and json.loads(arrays["header"].tobytes())["steps"][1]["kind"] == "values"
    with pytest.raises(NetworkError, match="encoder.npz: holds a network with steps of the host, which is no single program"):
        Network.load(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(NetworkError, match="does not match its SHA-256"):
        load(path)
    plain = network.segments[1].network
    plain.save(path)
    assert load(path).to_bytes() == plain.to_bytes()
    with pytest.raises(NetworkError, match="holds a network without host steps"):
        SplitNetwork.load(path)


@pytest.mark.parametrize("arguments, message", [
    ({"kind": "gelu"}, r"host step 'a': no kind 'gelu'; there are values, levels, layer_norm, attention"),
    ({"kind": "add"}, r"host step 'a' \(add\): 2 source\(s\) and no parameters are wanted, not 1 and none"),
    ({"kind": "levels", "parameters": {"clip": 1.0}}, "clip, levels are wanted, not 1 and clip"),
    ({"kind": "levels", "parameters": {"clip": -1.0, "levels": 3}}, "clip must be a positive number, not -1.0"),
    ({"kind": "levels", "parameters": {"clip": 1.0, "levels": 2.5}}, "levels must be a positive integer, not 2.5"),
    ({"kind": "levels", "parameters": {"clip": 1.0, "levels": 128}}, "at most 127 levels, not 128"),
    ({"kind": "values", "parameters": {"step": [1.0, np.nan], "zero": [0, 0]}}, "step must be finite numbers in 1 dimension"),
    ({"kind": "offset", "parameters": {"offset": [1.0]}}, r"offset must be finite numbers in 3 dimension\(s\), not of shape \(1,\)"),
])
def test_steps_that_are_refused(arguments, message):
    with pytest.raises(NetworkError, match=message):
        HostStep(**{"name": "a", "sources": [Operand(tensor="x", channels=2)]} | arguments)


def changed(network, name, /, **changes):
    return [replace(one, **changes) if one.name == name else one for one in network.steps]


@pytest.mark.parametrize("steps, message", [
    (lambda n: n.steps[1:], "the first and the last step must be segments"),
    (lambda n: n.steps[:-1], "the first and the last step must be segments"),
    (lambda n: changed(n, "norm1", name="fc1"), "the name 'fc1' is taken"),
    (lambda n: [one for one in n.steps if one.name != "act1"], "'qkv' reads 'act1', which no earlier step makes"),
    (lambda n: changed(n, "fc2", source="input"), "'fc2' reads 'input', which no earlier step makes"),
    (lambda n: changed(n, "fc2", source="sum"), "'fc2' wants levels; 'sum' is real"),
    (lambda n: changed(n, "norm1", sources=[Operand(tensor="embed", channels=C)]), "'norm1' wants real numbers; 'embed' is levels"),
    (lambda n: changed(n, "act2", parameters={"clip": 1.0, "levels": 5}), r"segment 'fc2' takes \(8, 4, 4\) in 4 levels; 'act2' is \(8, 4, 4\) in 5"),
    (lambda n: changed(n, "attention", parameters={"heads": 3, "scale": 1.0}), r"'attention' \(attention\): 8 channels cannot be split into 3 heads"),
    (lambda n: changed(n, "attention", sources=[Operand(tensor="qkv_values", first=f, channels=C) for f in (0, C, 17)]), "has 24 channels, no channels 17 … 24"),
    (lambda n: changed(n, "sum", sources=[Operand(tensor="position", channels=C), Operand(tensor="qkv_values", channels=7)]), "its sources have different shapes"),
    (lambda n: changed(n, "norm1", parameters={"weight": np.ones(7), "bias": np.ones(7), "eps": 1.0}), r"weight has shape \(7,\), its source \(8, 4, 4\)"),
])
def test_networks_that_are_refused(network, steps, message):
    with pytest.raises(NetworkError, match=message):
        make(steps=steps(network))


def test_examples_must_fit(network):
    wrong = replace(network.examples, test_images=np.zeros((3, 1, 8, 8), int))
    with pytest.raises(NetworkError, match=r"test_images have shape \(1, 8, 8\), the input is \(3, 8, 8\)"):
        make(examples=wrong)


def test_every_kind_is_in_the_network(network):
    assert {one.kind for one in network.host_steps} == set(KINDS)


# --- on the accelerator --------------------------------------------------------------------------------
def test_a_segment_alone_reads_what_it_reads_in_the_network(network):
    trace = evaluate(network, network.examples.test_images)
    for one in network.segments:
        alone = network.alone(one.name)
        assert np.array_equal(evaluate_whole(alone, alone.examples.test_images).output, trace.tensors[one.name])
        assert len(alone.examples.calibration_images) == 6
    with pytest.raises(NetworkError, match="has no segment 'fc1'; it has embed, qkv, fc2, classes"):
        network.alone("fc1")


def test_driver_runs_it_segment_by_segment(network):
    """On the simulated board: each segment's program takes the batch that the host steps before it have made, more images than the queue holds."""
    images = network.examples.calibration_images
    want = evaluate(network, images)
    tensors = {"input": images}
    with fpga.open("sim", shell=AxiConfig(jobs=4), quick=True) as accelerator:
        for one in network.steps:
            if isinstance(one, Segment):
                job = compile_network(one.network, PRESETS["tiny"], policy="all_ann", calibration=images if one.source == "input" else want.tensors[one.source])
                accelerator.load(program_image(job, policy="all_ann", seed=0))
                tensors[one.name] = accelerator(tensors[one.source])
            else:
                tensors[one.name] = host_step(one, tensors)
            assert np.array_equal(tensors[one.name], want.tensors[one.name]), one.name
    assert len(images) > 4


@pytest.fixture(scope="module")
def result(network):
    return compare_network(subject_of(network, images=2), PRESETS["tiny"]).result


def test_comparison_runs_each_segment_and_states_the_host(network, result):
    assert [one["layer"] for one in result["layers"]] == ["embed", "qkv", "fc1", "fc2", "classes"]
    assert result["host"] == network.host and result["host_share"] == network.host_share > 0.3
    assert result["accuracy"]["integer"] == 0.5 and result["images"] == 2
    assert result["cycles"] == pytest.approx(sum(one["total"] for one in result["layers"])) and result["edp"]["hybrid"] <= result["edp"]["ann_only"]
    trace = evaluate(network, network.examples.test_images[:2])
    found = {one["layer"]: one["matches"] for one in result["layers"]}
    for one in network.segments:
        for name, seen in trace.segments[one.name].layers.items():
            assert found[name] == pytest.approx(seen.matches.sum() / 2)


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_commands(network, result, tmp_path, capsys):
    path = tmp_path / "encoder.npz"
    network.save(path)
    code, out = run(capsys, "compare", path, "--config", "tiny", "--images", 2, "--report", tmp_path / "page.html")
    assert code == 0 and f"left to the host: {100 * network.host_share:.2g} % of the operations" in " ".join(out.out.split())
    assert f"Left to the host: {100 * network.host_share:.2g} %" in (tmp_path / "page.html").read_text()
    code, out = run(capsys, "info", path, "--json")
    found = json.loads(out.out)
    assert code == 0 and found["segments"] == ["embed", "qkv", "fc2", "classes"] and found["host_share"] == network.host_share
    assert found["layers"][1]["sources"] == ["act1"]
    assert found["host_steps"][2] == {"name": "norm1", "kind": "layer_norm", "sources": ["position"], "output": [8, 4, 4], "operations": 8 * 128}
    for command in (["compile", path, "-o", tmp_path / "x.img"], ["simulate", path], ["verify", path]):
        code, out = run(capsys, *command)
        assert code == 2 and "host step 'embed_values' (values) is computed by the host" in out.err and "encoder.npz:embed" in out.err
    code, out = run(capsys, "simulate", f"{path}:fc2", "--images", 2, "--json")
    runs = json.loads(out.out)["runs"]
    want = evaluate(network, network.examples.test_images).tensors["fc2"]
    assert code == 0 and [one["output"] for one in runs] == [want[i].ravel().tolist() for i in range(2)]
    code, out = run(capsys, "simulate", f"{path}:nothing")
    assert code == 2 and "has no segment 'nothing'" in out.err
