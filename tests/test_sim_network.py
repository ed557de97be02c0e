"""Functional golden model of whole networks: against a naive evaluation, and ANN columns against SNN columns."""
import numpy as np
import pytest

from neuroflex import zoo
from neuroflex.compiler.network import InputSpec, Layer, Network, Source, Window
from neuroflex.sim.network import accumulate, classify, evaluate, gather, pool, quantise

SAME = {"kernel_h": 3, "kernel_w": 3, "padding": 1}


def random_network(rng, *, pack=False):
    """Two layers on a 7×6 image: a 3×3 window, then a strided one with a repeated skip branch and an odd-sized pool."""
    levels = int(rng.integers(1, 9))
    spec = InputSpec(channels=2, height=7, width=6, levels=int(rng.integers(1, 9)), full_scale=255.0,
                     pack=Window(**SAME) if pack else None)

    def layer(name, k, n, sources, **pools):
        weights = rng.integers(-128, 128, (k, n)) * (rng.random((k, n)) < 0.5)
        return Layer(name=name, sources=sources, weights=weights, bias=rng.integers(-500, 500, n),
                     theta=rng.integers(1, 300, n), levels=np.full(n, levels), **pools)

    skip = [Source(tensor="a", stride=2, **SAME), Source(tensor="a", stride=2, repeat=3)]
    return Network(name="random", input=spec, layers=[
        layer("a", 18, 5, [Source(tensor="input") if pack else Source(tensor="input", **SAME)]),
        layer("b", 45 + 15, 6, skip, pool_h=2, pool_w=2)])


def naive(network, tensors):
    """One image, one multiplication at a time."""
    for layer in network.layers:
        rows, columns = network.grid(layer)
        out = np.zeros((layer.columns, rows // layer.pool_h, columns // layer.pool_w), int)
        for i in range(out.shape[1] * layer.pool_h):
            for j in range(out.shape[2] * layer.pool_w):
                spines = []
                for s in layer.sources:
                    grid = tensors[s.tensor]
                    for _ in range(s.repeat):
                        for y in range(i * s.stride - s.padding, i * s.stride - s.padding + s.kernel_h):
                            for x in range(j * s.stride - s.padding, j * s.stride - s.padding + s.kernel_w):
                                inside = 0 <= y < grid.shape[1] and 0 <= x < grid.shape[2]
                                spines += grid[:, y, x].tolist() if inside else [0] * len(grid)
                for n in range(layer.columns):
                    z = sum(int(a) * int(w) for a, w in zip(spines, layer.weights[:, n], strict=True))
                    theta = int(layer.theta[n])
                    y = (2 * z + 2 * int(layer.bias[n]) + theta) // (2 * theta)
                    cell = n, i // layer.pool_h, j // layer.pool_w
                    out[cell] = max(out[cell], min(max(y, 0), int(layer.levels[n])))
        tensors[layer.name] = out
    return tensors


@pytest.mark.parametrize("seed", range(4))
def test_against_naive_evaluation(seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, pack=seed % 2 == 1)
    images = rng.integers(0, 256, (2, 2, 7, 6)).astype(np.uint8)
    trace = evaluate(network, images)
    for index in range(len(images)):
        tensors = naive(network, {"input": quantise(network.input, images[index:index + 1])[0]})
        for name, values in trace.layers.items():
            assert np.array_equal(values.output[index], tensors[name]), name


@pytest.mark.parametrize("seed", range(20))
def test_any_mix_of_ann_and_snn_columns_is_exact(seed):
    rng = np.random.default_rng(100 + seed)
    network = random_network(rng)
    images = rng.integers(0, 256, (2, 2, 7, 6))
    ann = evaluate(network, images)
    masks = {layer.name: rng.random(layer.columns) < (seed % 3) / 2 for layer in network.layers}
    mixed = evaluate(network, images, snn_columns=masks)
    for name in ann.layers:
        assert np.array_equal(ann.layers[name].output, mixed.layers[name].output)


def test_packing_does_not_change_the_network():
    rng = np.random.default_rng(5)
    packed = random_network(rng, pack=True)
    spec = packed.input
    plain = Network(name="plain", input=InputSpec(channels=2, height=7, width=6, levels=spec.levels, full_scale=255.0),
                    layers=[Layer(**vars(packed.layers[0]) | {"sources": [Source(tensor="input", **SAME)]}), packed.layers[1]])
    images = rng.integers(0, 256, (3, 2, 7, 6))
    assert np.array_equal(evaluate(packed, images).output, evaluate(plain, images).output)


def test_match_counts_and_densities():
    rng = np.random.default_rng(6)
    network = random_network(rng)
    trace = evaluate(network, rng.integers(0, 256, (2, 2, 7, 6)))
    layer = network.layer("b")
    a = trace.layers["a"].output
    rows = np.concatenate([gather(a, s, s.repeat) for s in layer.sources], axis=-1).reshape(-1, 60).astype(int)
    held = layer.weights != 0
    got = trace.layers["b"]
    assert got.rows == 12
    assert got.matches.tolist() == [int(((rows != 0) & held[:, n]).sum()) for n in range(6)]
    assert got.level_sum.tolist() == [int((rows * held[:, n]).sum()) for n in range(6)]
    met, top = rows != 0, int(network.input_levels(layer).max())
    assert got.level_bits.tolist() == [int((np.bitwise_count(rows) * held[:, n]).sum()) for n in range(6)]
    assert got.lacking_bits.tolist() == [int((np.bitwise_count(met * (top - rows)) * held[:, n]).sum()) for n in range(6)]
    assert got.density == (rows != 0).mean() and got.weight_density == held.mean()


def test_quantise_rounds_half_up_and_clips():
    spec = InputSpec(channels=1, height=1, width=6, levels=4, full_scale=16.0)
    assert quantise(spec, np.array([[0, 1, 2, 15, 16, 99]])).tolist() == [[[[0, 0, 1, 4, 4, 4]]]]


def test_pool_drops_incomplete_windows():
    values = np.arange(15).reshape(1, 3, 5, 1)
    assert pool(values, 2, 2)[..., 0].tolist() == [[[6, 8]]]
    assert pool(values, 1, 1) is values


@pytest.mark.parametrize("nonzeros", [0, 1, 2, 30, 240])
@pytest.mark.parametrize("levels", [1, 127])
def test_accumulate_is_exact_for_any_sparsity(nonzeros, levels):
    rng = np.random.default_rng(nonzeros)
    rows = rng.integers(0, levels + 1, (3, 2, 240)).astype(np.uint8)
    weights = np.zeros((240, 17), np.int8)
    for column in range(17):
        weights[rng.permutation(240)[:max(nonzeros - column % 2, 0)], column] = rng.choice([-128, 127, 1, -3])
    assert np.array_equal(accumulate(rows, weights), rows.astype(object) @ weights.astype(object))


def test_accumulate_at_the_end_of_single_precision():
    for k in (1032, 1033, 1034):      # 127 · 128 · 1032 < 2**24 < 127 · 128 · 1033
        rows, weights = np.full((1, k), 127, np.uint8), np.full((k, 2), -128, np.int8)
        weights[0, 0] = -127
        assert accumulate(rows, weights).tolist() == [[-127 * 128 * k + 127, -127 * 128 * k]]


def test_accumulate_refuses_what_float64_could_round():
    with pytest.raises(ValueError, match="too long for an exact float64 product"):
        accumulate(np.broadcast_to(np.uint8(1), (1, 1 << 40)), np.zeros((1, 1)))


@pytest.mark.parametrize("images, options, message", [
    (np.zeros((0, 2, 7, 6)), {}, "there is no image: .*at least one image of shape"),
    (np.full((1, 2, 7, 6), np.inf), {}, "84 pixels are NaN or infinite"),
    (np.zeros((1, 2, 6, 7, 2)), {}, "do not fit an input of shape"),
    (np.zeros((1, 2, 6, 7)), {"quantised": True}, "input tensor has shape"),
    (np.zeros((1, 2, 7, 6)), {"snn_columns": {"c": [True]}}, r"names no layer .*\['c'\]"),
])
def test_refusals(images, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(random_network(np.random.default_rng(0)), images, **options)


def test_zoo_digits_keeps_its_recorded_accuracy():
    network = zoo.load("digits")
    examples = network.examples
    right = (classify(network, examples.test_images) == examples.test_labels).mean()
    assert right == network.metadata["accuracy_integer"] >= network.metadata["accuracy_float"] - 0.005


# Test images kept, and the least accuracy: recorded of all test images, seen on those kept.
ZOO = {"digits": (200, 0.98, 0.97), "mnist_lenet5": (200, 0.98, 0.97), "mnist_mlp": (200, 0.98, 0.97), "cifar10_resnet20": (32, 0.77, 0.7),
       "cifar10_vgg11_quarter": (32, 0.78, 0.7)}


@pytest.mark.parametrize("name", zoo.names())
def test_zoo_networks_lose_nothing_as_integers(name):
    network = zoo.load(name)
    kept, recorded, seen = ZOO[name]
    facts = network.metadata
    assert facts["accuracy_integer"] >= facts["accuracy_float"] - 0.005
    assert facts["accuracy_float"] >= recorded
    right = (classify(network, network.examples.test_images) == network.examples.test_labels).mean()
    assert right >= seen and len(network.examples.test_images) >= kept
    spikes = {layer.name: layer.levels <= 15 for layer in network.layers}
    images = network.examples.test_images[:4]
    assert np.array_equal(evaluate(network, images).output, evaluate(network, images, snn_columns=spikes).output)


def test_zoo_names():
    assert zoo.names() == sorted(ZOO)
    with pytest.raises(KeyError, match="no network 'x' in the zoo; there are cifar10_resnet20, cifar10_vgg11_quarter, digits"):
        zoo.load("x")
