"""NIR importer: spike counts against a step-by-step simulation of the graph, and every refusal by its message.

The simulation below is the meaning of a `Reading`: it follows the graph's equations one step at a time in floating point.
"""
import numpy as np
import pytest

nir = pytest.importorskip("nir", reason="the importer's tests need the `nir` extra")
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402

from neuroflex.compiler.network import NetworkError, Window  # noqa: E402
from neuroflex.compiler.nir_import import Reading, import_nir  # noqa: E402
from neuroflex.sim.network import evaluate, gather  # noqa: E402

ONCE = {"steps": 1, "dt": 1.0, "reset": "subtract", "comparison": ">=", "initial": 0.5, "neuron": "if"}


def read(**changes):
    return Reading(**ONCE | changes)


def linear(node, x):
    """A node without state on (B, …)."""
    if isinstance(node, nir.Flatten):
        return x.reshape(len(x), -1)
    if isinstance(node, nir.Scale):
        return x * node.scale
    if isinstance(node, (nir.Affine, nir.Linear)):
        return x @ node.weight.T + getattr(node, "bias", 0)
    if isinstance(node, nir.Conv2d):
        window = Window(kernel_h=node.weight.shape[2], kernel_w=node.weight.shape[3], stride=node.stride[0], padding=node.padding[0])
        per = len(node.weight) // node.groups
        parts = [gather(x[:, g * node.weight.shape[1]:(g + 1) * node.weight.shape[1]], window)
                 @ node.weight[g * per:(g + 1) * per].transpose(2, 3, 1, 0).reshape(-1, per) for g in range(node.groups)]
        return np.concatenate(parts, axis=-1).transpose(0, 3, 1, 2) + node.bias[:, None, None]
    if isinstance(node, (nir.SumPool2d, nir.AvgPool2d)):
        k = int(node.kernel_size[0])
        cut = x.reshape(*x.shape[:2], x.shape[2] // k, k, x.shape[3] // k, k)
        return cut.sum(axis=(3, 5)) if isinstance(node, nir.SumPool2d) else cut.mean(axis=(3, 5))
    raise TypeError(node)


def simulate(nodes, current, reading):
    """Spikes that the last of a chain of nodes sends in all steps together, neurons running freely."""
    membranes = [None] * len(nodes)
    count = 0
    for _ in range(reading.steps):
        x = current
        for i, node in enumerate(nodes):
            if not isinstance(node, (nir.IF, nir.LIF, nir.Threshold)):
                x = linear(node, x)
                continue
            if isinstance(node, nir.Threshold):
                x = 1.0 * (x > node.threshold if reading.comparison == ">" else x >= node.threshold)
                continue
            theta = node.v_threshold
            v = np.broadcast_to(theta * reading.initial, x.shape) if membranes[i] is None else membranes[i]
            if isinstance(node, nir.IF):
                v = v + reading.dt * node.r * x
            else:
                keep = 1 - reading.dt / node.tau if reading.integration == "euler" else np.exp(-reading.dt / node.tau)
                v = keep * v + (1 - keep) * (node.v_leak + node.r * x)
            fired = v > theta if reading.comparison == ">" else v >= theta
            membranes[i] = np.where(fired, v - theta if reading.reset == "subtract" else node.v_reset, v)
            x = 1.0 * fired
        count = count + x
    return count


def pictures(rng, shape, levels, count=30):
    return rng.integers(0, levels + 1, (count, *shape)).astype(np.uint8)


def whole(rng, *shape, unit=1 / 16):
    return rng.integers(-127, 128, shape) * unit


def neuron(rng, shape, *, theta=None, unit=1 / 4):
    """An IF neuron whose threshold is a whole number of weight units, one per channel."""
    values = rng.integers(3, 40, shape[0]) * unit if theta is None else np.full(shape[0], theta)
    full = np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
    return nir.IF(r=np.full(shape, 2.0), v_threshold=full)


@pytest.mark.parametrize("comparison", [">=", ">"])
@pytest.mark.parametrize("initial", [0.0, 0.5, 0.25])
@pytest.mark.parametrize("steps, reset", [(1, "value"), (5, "subtract"), (8, "subtract")])
def test_neurons_that_a_constant_current_drives(steps, reset, initial, comparison):
    rng = np.random.default_rng(steps)
    nodes = [nir.Affine(weight=whole(rng, 12, 20), bias=whole(rng, 12)), neuron(rng, (12,), unit=steps / 16)]
    reading = read(steps=steps, reset=reset, initial=initial, comparison=comparison, dt=0.5)
    network = import_nir(nir.NIRGraph.from_list(*nodes), name="one", reading=reading, input_levels=4, full_scale=1.0, pixel_scale=0.25)
    images = pictures(rng, (20, 1, 1), 4)
    want = simulate(nodes, images.reshape(-1, 20) / 4, reading)
    assert set(np.unique(want)) == set(range(steps + 1))
    assert np.array_equal(evaluate(network, images).output[..., 0, 0], want)
    about = network.metadata["import"]
    assert about["layers"] == {"if": {"columns": 12, "equal_columns": 12, "most_levels_apart": 0}}
    shown = {key: about[key] for key in ("format", "steps", "dt", "reset", "comparison", "initial", "neuron", "delay")}
    assert shown == {"format": "nir", "steps": steps, "dt": 0.5, "reset": reset, "comparison": comparison, "initial": initial, "neuron": "if",
                     "delay": "none: a spike acts in the step in which it is sent"}


@pytest.mark.parametrize("comparison", [">=", ">"])
def test_deep_networks_of_one_step(comparison, tmp_path):
    rng = np.random.default_rng(5)
    conv = {"stride": 1, "padding": 1, "dilation": 1}
    nodes = [nir.Conv2d(input_shape=(8, 8), weight=whole(rng, 6, 2, 3, 3), bias=whole(rng, 6), groups=1, **conv), neuron(rng, (6, 8, 8), theta=4.0),
             nir.Conv2d(input_shape=(8, 8), weight=whole(rng, 12, 1, 3, 3), bias=whole(rng, 12), groups=6, **conv), neuron(rng, (12, 8, 8)),
             nir.SumPool2d(kernel_size=np.array([2, 2]), stride=np.array([2, 2]), padding=np.array([0, 0])),
             nir.Scale(scale=np.full((12, 4, 4), 0.5)), neuron(rng, (12, 4, 4), theta=2.0),
             nir.Flatten(input_type={"input": np.array([12, 4, 4])}, start_dim=0),
             nir.Affine(weight=whole(rng, 9, 192), bias=whole(rng, 9)), neuron(rng, (9,))]
    reading = read(comparison=comparison)
    graph = nir.NIRGraph.from_list(nir.Input(np.array([2, 8, 8])), *nodes, nir.Output(np.array([9])), type_check=False)
    nir.write(str(tmp_path / "deep.nir"), graph)
    network = import_nir(tmp_path / "deep.nir", name="deep", reading=reading, input_levels=4, full_scale=1.0, pixel_scale=0.25)
    images = pictures(rng, (2, 8, 8), 4)
    want = simulate(nodes, images / 4, reading)
    assert 0.2 < want.mean() < 0.8 and np.array_equal(evaluate(network, images).output[..., 0, 0], want)
    assert all(entry["most_levels_apart"] == 0 for entry in network.metadata["import"]["layers"].values())


@pytest.mark.parametrize("integration", ["euler", "exact"])
def test_leaky_neurons_and_thresholds_of_one_step(integration):
    rng = np.random.default_rng(6)
    ones = np.ones(10)
    nodes = [nir.Linear(weight=rng.normal(size=(10, 16))), nir.LIF(tau=ones * 3, r=ones * 2, v_leak=ones * 0.1, v_threshold=ones * 0.4),
             nir.Affine(weight=whole(rng, 7, 10), bias=whole(rng, 7)), nir.Threshold(threshold=np.full(7, 1.5))]
    reading = read(integration=integration, initial=0.25, reset="value")
    graph = nir.NIRGraph.from_list(*nodes)
    network = import_nir(graph, name="leaky", reading=reading, input_levels=8, full_scale=1.0, pixel_scale=1 / 8)
    images = pictures(rng, (16, 1, 1), 8, 200)
    hidden = simulate(nodes[:2], images.reshape(-1, 16) / 8, reading)
    trace = evaluate(network, images)
    assert network.metadata["import"]["layers"]["lif"]["most_levels_apart"] == 1       # any real weights: rounded to INT8
    assert (trace.layers["lif"].output[..., 0, 0] == hidden).mean() > 0.99 and 0.2 < hidden.mean() < 0.8
    same = (trace.layers["lif"].output[..., 0, 0] == hidden).all(axis=1)
    assert np.array_equal(trace.output[same, :, 0, 0], simulate(nodes, images.reshape(-1, 16) / 8, reading)[same])


def digits_graph(steps):
    """A perceptron for digits, fitted with ReLU; its hidden sums, cut at a clip value, become spike counts."""
    images, labels = load_digits(return_X_y=True)
    fitted = MLPClassifier((32,), max_iter=12, learning_rate_init=0.01, alpha=1e-3, random_state=0)
    with pytest.warns(Warning, match="Maximum iterations"):
        fitted.fit(images[:1400] / 16, labels[:1400])
    (first, second), (b1, b2) = fitted.coefs_, fitted.intercepts_
    clip = np.quantile(np.maximum(images[:1400] / 16 @ first + b1, 0), 0.99)
    nodes = {"image": nir.Input(np.array([64])), "hidden": nir.Affine(weight=first.T, bias=b1),
             "neurons": nir.IF(r=np.ones(32), v_threshold=np.full(32, clip)),
             "classes": nir.Affine(weight=second.T * clip / steps, bias=b2 / steps), "sum": nir.I(r=np.ones(10)), "out": nir.Output(np.array([10]))}
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(zip(names[:-1], names[1:])))
    return graph, fitted, images.reshape(-1, 1, 8, 8)[1400:].astype(np.uint8), labels[1400:]


def test_digits(tmp_path):
    steps = 8
    graph, fitted, images, labels = digits_graph(steps)
    path = tmp_path / "digits.nir"
    nir.write(str(path), graph)
    reading = read(steps=steps)
    options = {"name": "digits", "reading": reading, "input_levels": 16, "full_scale": 1.0, "image_shape": (1, 8, 8), "pixel_scale": 1 / 16}
    with pytest.raises(NetworkError, match=r"node 'out' \(Output\): it does not end in a spiking neuron: give calibration images"):
        import_nir(path, **options)
    network = import_nir(path, calibration=images[:150], **options)
    assert network.input.pack is not None and [layer.name for layer in network.layers] == ["neurons", "result"]
    classes = evaluate(network, images).output.reshape(len(images), -1).argmax(axis=1)
    relu = fitted.predict(images.reshape(-1, 64) / 16)
    nodes = [graph.nodes[name] for name in ("hidden", "neurons", "classes")]
    count = simulate(nodes, images.reshape(-1, 64) / 16, reading)
    assert (classes == count.argmax(axis=1)).mean() > 0.97
    assert (classes == labels).mean() > (relu == labels).mean() - 0.02 and (relu == labels).mean() > 0.85


def test_waiting_neurons_are_qcfs_at_any_depth():
    rng = np.random.default_rng(8)
    nodes = [nir.Affine(weight=whole(rng, 10, 20), bias=whole(rng, 10)), neuron(rng, (10,)), nir.Affine(weight=whole(rng, 6, 10), bias=whole(rng, 6)),
             neuron(rng, (6,))]
    graph = nir.NIRGraph.from_list(*nodes)
    reading = read(steps=4, neuron="pasc-if")
    options = {"name": "two", "input_levels": 4, "full_scale": 1.0, "pixel_scale": 0.25}
    network = import_nir(graph, reading=reading, **options)
    images = pictures(rng, (20, 1, 1), 4)
    x = images.reshape(-1, 20) / 4 * 4
    for weights, spiking in (nodes[:2], nodes[2:]):
        charge = (x @ weights.weight.T + 4 * weights.bias) * spiking.r
        x = np.clip(np.floor(charge / spiking.v_threshold + 0.5), 0, 4)
    assert len(np.unique(x)) > 3 and np.array_equal(evaluate(network, images).output[..., 0, 0], x)
    everything = {layer.name: np.ones(layer.columns, bool) for layer in network.layers}
    assert np.array_equal(evaluate(network, images, snn_columns=everything).output[..., 0, 0], x)
    # The same neurons, running freely, count differently: that is why they are refused.
    assert not np.array_equal(simulate(nodes, images.reshape(-1, 20) / 4, reading), x)
    with pytest.raises(NetworkError, match=r"node 'if_1' \(IF\): it receives spikes that come at different steps, .*neuron='pasc-if'"):
        import_nir(graph, reading=read(steps=4), **options)


def test_branches_add_up():
    rng = np.random.default_rng(9)
    nodes = {"in": nir.Input(np.array([16])), "a": nir.Linear(weight=whole(rng, 8, 16)), "s": neuron(rng, (8,)),
             "b": nir.Linear(weight=whole(rng, 5, 8)), "c": nir.Linear(weight=whole(rng, 5, 8)), "d": nir.Delay(delay=np.zeros(5)),
             "t": neuron(rng, (5,)), "out": nir.Output(np.array([5]))}
    graph = nir.NIRGraph(nodes, [("in", "a"), ("a", "s"), ("s", "b"), ("s", "c"), ("b", "t"), ("c", "d"), ("d", "t"), ("t", "out")])
    network = import_nir(graph, name="branches", reading=read(), input_levels=4, full_scale=1.0, pixel_scale=0.25)
    images = pictures(rng, (16, 1, 1), 4)
    hidden = simulate([nodes["a"], nodes["s"]], images.reshape(-1, 16) / 4, read())
    joint = nir.Linear(weight=nodes["b"].weight + nodes["c"].weight)
    want = simulate([joint, nodes["t"]], hidden, read())
    assert 0 < want.mean() < 1 and np.array_equal(evaluate(network, images).output[..., 0, 0], want)


# -- refusals ------------------------------------------------------------------------------------------------------------

ONES = np.ones(4)


def graph_of(*nodes, size=4):
    return nir.NIRGraph.from_list(nir.Input(np.array([size])), *nodes, nir.Output(np.array([4])), type_check=False)


def fire(**changes):
    return nir.IF(**{"r": ONES, "v_threshold": ONES} | changes)


def weight(value=1.0):
    return nir.Linear(weight=np.full((4, 4), value))


LIF = {"tau": ONES, "r": ONES, "v_leak": ONES * 0, "v_threshold": ONES}
REFUSED = {
    "leak": ([weight(), nir.LIF(**LIF)], {"steps": 4}, r"node 'lif' \(LIF\): its membrane forgets \(tau = 1\)"),
    "leak not said": ([weight(), nir.LIF(**LIF)], {}, "node 'lif' .*the reading does not say how its leak is integrated"),
    "time constant": ([weight(), nir.LIF(**LIF | {"tau": ONES * 0})], {"integration": "euler"}, "node 'lif' .*its time constant 0 is not positive"),
    "reset to a value": ([weight(), fire()], {"steps": 4, "reset": "value"}, "node 'if' .*a reset to a value loses what is above"),
    "reset unlike the file": ([weight(), fire(v_reset=ONES * 0.5)], {}, "node 'if' .*resets to v_reset = 0.5, while the reading says"),
    "threshold zero": ([weight(), fire(v_threshold=ONES * 0)], {}, "node 'if' .*threshold 0 of channel 0: thresholds must be positive"),
    "threshold rounds to 0": ([weight(1e6), fire()], {}, "node 'if' .*the threshold of column 0 rounds to 0"),
    "NaN threshold": ([weight(), fire(v_threshold=ONES * np.nan)], {}, "node 'if' .*4 of its 4 thresholds are NaN or infinite"),
    "NaN weights": ([weight(np.nan), fire()], {}, r"node 'linear' \(Linear\): 16 of its 16 weights are NaN or infinite"),
    "overflow": ([nir.Affine(weight=np.ones((4, 4)), bias=np.full(4, 1e9)), fire()], {}, "node 'if' .*bias must lie in|can reach"),
    "delay": ([weight(), nir.Delay(delay=ONES * 2), fire()], {}, r"node 'delay' \(Delay\): a delay of 2 is not supported"),
    "synaptic current": ([weight(), nir.CubaLIF(tau_syn=ONES, tau_mem=ONES, r=ONES, v_leak=ONES, v_threshold=ONES)], {},
                         r"node 'cubalif' \(CubaLIF\): its synaptic current carries over"),
    "leaky integrator": ([weight(), nir.LI(tau=ONES, r=ONES, v_leak=ONES)], {}, r"node 'li' \(LI\): it forgets from step to step"),
    "memoryless": ([weight(), nir.Threshold(threshold=ONES)], {"steps": 2}, r"node 'threshold' .*keeps nothing from step to step"),
    "integrator inside": ([weight(), nir.I(r=ONES), fire()], {}, "node 'i' .*right before the output only"),
    "two sums": ([weight(), weight(), fire()], {}, r"node 'linear_1' \(Linear\): its operand is not quantised; put a spiking neuron before it"),
    "size": ([nir.Linear(weight=np.ones((4, 5))), fire()], {}, r"node 'linear' .*its weights \(4, 5\) do not fit an input of 4×1×1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    nodes, changes, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message):
        import_nir(graph_of(*nodes), name="refused", reading=read(**changes), input_levels=4, full_scale=1.0)


def on_grid(*nodes):
    return nir.NIRGraph.from_list(nir.Input(np.array([2, 4, 4])), *nodes, nir.Output(np.array([4])), type_check=False)


CONV = {"input_shape": (4, 4), "weight": np.ones((2, 2, 3, 3)), "bias": np.zeros(2), "stride": 1, "padding": 1, "dilation": 1, "groups": 1}


@pytest.mark.parametrize("nodes, message", [
    ([nir.Conv2d(**CONV | {"dilation": 2})], r"node 'conv2d' .*dilation \(2, 2\) is not supported"),
    ([nir.Conv2d(**CONV | {"padding": "same"})], "node 'conv2d' .*padding 'same' is not supported; give it as a number"),
    ([nir.Flatten(input_type={"input": np.array([2, 4, 4])})], r"node 'flatten' .*flattens dimensions 1 to -1; shapes in NIR have no batch"),
    ([nir.Conv2d(**CONV), nir.IF(r=np.ones((2, 4, 4)), v_threshold=1.0 + np.arange(32.0).reshape(2, 4, 4))],
     "node 'if' .*its thresholds differ within a channel"),
    ([nir.Conv2d(**CONV), nir.IF(r=np.ones((3, 4, 4)), v_threshold=np.ones((3, 4, 4)))], "node 'if' .*thresholds have shape .*, its input"),
    ([nir.SumPool2d(kernel_size=np.array([4, 4]), stride=np.array([4, 4]), padding=np.array([0, 0])),
      nir.Conv2d(**CONV | {"weight": np.ones((2, 2, 1, 1)), "padding": 0})],
     "node 'conv2d' .*its operand is a sum over 16 positions of up to 320, which a tensor's 127 levels do not hold"),
])
def test_refused_on_grids(nodes, message):
    with pytest.raises(NetworkError, match=message):
        import_nir(on_grid(*nodes), name="refused", reading=read(), input_levels=20, full_scale=1.0)


def test_recurrent_graphs_are_refused():
    nodes = {"in": nir.Input(np.array([4])), "w": weight(), "n": fire(), "back": weight(), "out": nir.Output(np.array([4]))}
    graph = nir.NIRGraph(nodes, [("in", "w"), ("w", "n"), ("n", "back"), ("back", "n"), ("n", "out")])
    with pytest.raises(NetworkError, match="nodes 'n', 'back', 'out': they feed back into one another; recurrent graphs are not"):
        import_nir(graph, name="loop", reading=read(), input_levels=4, full_scale=1.0)


@pytest.mark.parametrize("edge, message", [
    (("w", "n"), "edge from 'w' to 'n': it is there more than once, so that its value would count as often"),
    (("w", "no"), "edge from 'w' to 'no': the graph has no node 'no'"), (("no", "n"), "edge from 'no' to 'n': the graph has no node 'no'"),
])
def test_wrong_edges(edge, message, tmp_path):
    nodes = {"in": nir.Input(np.array([4])), "w": weight(), "n": fire(), "out": nir.Output(np.array([4]))}
    graph = nir.NIRGraph(nodes, [("in", "w"), ("w", "n"), ("n", "out"), edge], type_check=False)
    nir.write(str(tmp_path / "edges.nir"), graph)
    for given in (graph, tmp_path / "edges.nir"):
        with pytest.raises(NetworkError, match=message):
            import_nir(given, name="edges", reading=read(), input_levels=4, full_scale=1.0)


@pytest.mark.parametrize("changes, message", [
    ({"steps": 0}, "steps must be an integer in 1 … 127, not 0"), ({"steps": 2.0}, "steps must be"), ({"dt": 0.0}, "dt must be a positive"),
    ({"initial": 1.0}, "initial must be a share"), ({"reset": "soft"}, "reset must be one of 'subtract', 'value', not 'soft'"),
    ({"comparison": "gt"}, "comparison must be one of '>=', '>'"), ({"neuron": "lif"}, "neuron must be one of"),
    ({"integration": "rk4"}, "integration must be one of None, 'euler', 'exact'"),
])
def test_readings_that_are_refused(changes, message):
    with pytest.raises(NetworkError, match=message):
        read(**changes)


def test_nothing_is_guessed():
    with pytest.raises(TypeError, match="missing 6 required keyword-only arguments"):
        Reading()


@pytest.mark.parametrize("options, message", [
    ({"input_levels": 128}, "the image: input_levels must be an integer in 1 … 127, not 128"),
    ({"full_scale": np.nan}, "the image: full_scale must be a positive number, not nan"),
    ({"pixel_scale": 0}, "the image: pixel_scale must be a positive number, not 0"),
    ({"calibration": np.zeros((2, 5))}, r"calibration images are float64 of shape \(2, 5\); \(n, 4, 1, 1\) numbers are needed"),
    ({"image_shape": (1, 3, 3)}, r"node 'input' \(Input\): the graph takes \(4,\), which images of shape \(1, 3, 3\) do not fit"),
])
def test_wrong_images(options, message):
    with pytest.raises(NetworkError, match=message):
        import_nir(graph_of(weight(), fire()), **{"name": "image", "reading": read(), "input_levels": 4, "full_scale": 1.0} | options)


def test_files_that_are_cut_short_or_no_graphs(tmp_path):
    path = tmp_path / "graph.nir"
    nir.write(str(path), graph_of(weight(), fire()))
    data = path.read_bytes()
    options = {"name": "cut", "reading": read(), "input_levels": 4, "full_scale": 1.0}
    import_nir(path, **options)
    for length in range(0, len(data) - 1, len(data) // 40):
        path.write_bytes(data[:length])
        with pytest.raises(NetworkError, match="graph.nir: not a NIR file, or cut short"):
            import_nir(path, **options)
    with pytest.raises(FileNotFoundError, match="none.nir: no such file"):
        import_nir(tmp_path / "none.nir", **options)
