"""The integer network: validation, shapes, accumulator proof and the file format with every refusal."""
import io
import itertools

import numpy as np
import pytest

from neuroflex.compiler import network as ir
from neuroflex.compiler.network import Concat, Examples, InputSpec, Layer, Network, NetworkError, Source, Window


def make_layer(k=18, n=4, **changes):
    values = {"name": "a", "sources": [Source(tensor="input", kernel_h=3, kernel_w=3, padding=1)],
              "weights": np.arange(k * n).reshape(k, n) % 256 - 128, "bias": np.arange(n) - 2,
              "theta": np.arange(n) + 1, "levels": np.full(n, 4)}
    return Layer(**values | changes)


def make_network(*layers, **changes):
    values = {"name": "small", "input": InputSpec(channels=2, height=6, width=5, levels=4, full_scale=16.0),
              "layers": layers or (make_layer(),)}
    return Network(**values | changes)


def test_shapes_and_levels():
    skip = [Source(tensor="a", kernel_h=3, kernel_w=3, padding=1, stride=2), Source(tensor="a", stride=2, repeat=3)]
    net = make_network(make_layer(), make_layer(name="b", k=36 + 12, n=5, sources=skip, pool_h=2, pool_w=3))
    assert net.shape("input") == (2, 6, 5)
    assert net.shape("a") == (4, 6, 5)
    assert net.grid(net.layer("b")) == (3, 3)
    assert net.shape("b") == (5, 1, 1)
    assert net.levels("a").tolist() == [4] * 4
    assert net.input_levels(net.layer("b")).tolist() == [4] * 48
    with pytest.raises(KeyError, match="no layer 'c'; it has a, b"):
        net.layer("c")


def test_packed_input_shape():
    spec = InputSpec(channels=2, height=6, width=5, levels=4, full_scale=16.0, pack=Window(kernel_h=3, kernel_w=3, padding=1))
    assert spec.image_shape == (2, 6, 5) and spec.shape == (18, 6, 5)


@pytest.mark.parametrize("changes, message", [
    ({"weights": np.zeros((18, 4))}, "must hold integers"),
    ({"weights": np.full((18, 4), 128)}, "weights must lie in -128 … 127"),
    ({"weights": np.zeros(18, int)}, "weights must have 2 dimension"),
    ({"bias": np.full(4, 2**31)}, "bias must lie in"),
    ({"theta": np.zeros(4, int)}, "theta must lie in 1 …"),
    ({"levels": np.full(4, 128)}, "levels must lie in 1 … 127"),
    ({"levels": np.full(3, 4)}, "levels has 3 entries for 4 columns"),
    ({"sources": []}, "one or two sources"),
    ({"sources": [Source(tensor="input", repeat=2)]}, "only the second source can be repeated"),
    ({"sources": [Source(tensor="input"), Source(tensor="input", kernel_h=3)]}, "skip branch 'input' must be read through a 1×1"),
    ({"pool_h": 8}, "pool_h must be in 1 … 7, not 8"),
    ({"name": ""}, "name must be a text"),
    ({"weights": np.zeros((18, 0), int), "bias": np.zeros(0, int), "theta": np.ones(0, int), "levels": np.ones(0, int)},
     "at least one column"),
])
def test_layer_refusals(changes, message):
    with pytest.raises((NetworkError, TypeError), match=message):
        make_layer(**changes)


@pytest.mark.parametrize("changes, message", [
    ({"kernel_h": 8}, "kernel_h must be in 1 … 7, not 8"),
    ({"stride": 0}, "stride must be in 1 … 7"),
    ({"padding": 1}, "padding must be in 0 … 0"),
    ({"repeat": 16}, "repeat must be in 1 … 15"),
    ({"repeat": 2, "kernel_w": 3}, "only a 1×1 window can be repeated"),
    ({"stride": 1.5}, "stride must be an integer"),
    ({"tensor": ""}, "tensor must be a name"),
])
def test_source_refusals(changes, message):
    with pytest.raises((NetworkError, TypeError), match=message):
        Source(**{"tensor": "input"} | changes)


@pytest.mark.parametrize("layers, message", [
    ([], "at least one layer"),
    ([make_layer(), make_layer()], "the name is taken"),
    ([make_layer(sources=[Source(tensor="x")])], "source 'x' is not the input or an earlier layer"),
    ([make_layer(sources=[Source(tensor="input", kernel_h=7)])], "does not fit on a 6×5 grid"),
    ([make_layer(k=17)], "make K = 18, the weights have 17 rows"),
    ([make_layer(pool_h=7)], "7×1 pool does not fit on a 6×5 grid"),
    ([make_layer(k=6, sources=[Source(tensor="input"), Source(tensor="input", stride=2)])], "different grids"),
    ([make_layer(bias=np.array([0, 0, 2**31 - 1, 0]))], "column 2 can reach .* beyond 32 bits"),
    ([make_layer(theta=np.array([1, 2**29, 1, 1]))], "column 1 can reach .* beyond 32 bits"),
])
def test_network_refusals(layers, message):
    with pytest.raises(NetworkError, match=message):
        Network(name="small", input=InputSpec(channels=2, height=6, width=5, levels=4, full_scale=16.0), layers=layers)


@pytest.mark.parametrize("changes, message", [
    ({"levels": 0}, "levels must be in 1 … 127"),
    ({"full_scale": 0.0}, "full_scale must be a positive number"),
    ({"pack": Window(kernel_h=9)}, "kernel_h must be in 1 … 7"),
])
def test_input_refusals(changes, message):
    with pytest.raises(NetworkError, match=message):
        InputSpec(**{"channels": 2, "height": 6, "width": 5, "levels": 4, "full_scale": 1.0} | changes)


def test_examples_are_checked():
    good = {"test_images": np.zeros((3, 2, 6, 5), np.uint8), "test_labels": np.zeros(3, np.uint8),
            "calibration_images": np.zeros((1, 2, 6, 5), np.uint8)}
    assert make_network(examples=Examples(**good)).examples.test_images.shape == (3, 2, 6, 5)
    with pytest.raises(NetworkError, match="3 test images but 2 labels"):
        Examples(**good | {"test_labels": np.zeros(2, np.uint8)})
    with pytest.raises(NetworkError, match="calibration_images have shape"):
        make_network(examples=Examples(**good | {"calibration_images": np.zeros((1, 2, 5, 5), np.uint8)}))


def test_accumulator_range_is_tight_for_any_order():
    rng = np.random.default_rng(3)
    for _ in range(50):
        layer = make_layer(k=5, weights=rng.integers(-128, 128, (5, 4)), bias=rng.integers(-300, 300, 4))
        low, high = layer.accumulator_range([1, 2, 1, 2, 1])
        seen_low, seen_high = np.zeros(4, np.int64), np.zeros(4, np.int64)
        for levels in itertools.product(*(range(q + 1) for q in (1, 2, 1, 2, 1))):
            for bias in (0, layer.bias.astype(np.int64)):      # with and without the bias covers every partial sum
                total = np.array(levels) @ layer.weights.astype(np.int64) + bias
                seen_low, seen_high = np.minimum(seen_low, total), np.maximum(seen_high, total)
        assert (low <= seen_low).all() and (high >= seen_high).all()
        positive = layer.bias >= 0
        assert (high == seen_high)[positive].all() and (low == seen_low)[~positive].all()


def test_file_round_trip(tmp_path):
    skip = [Source(tensor="input", kernel_h=3, kernel_w=3, padding=1), Source(tensor="a", repeat=2)]
    net = make_network(make_layer(step=0.5), make_layer(name="b", k=18 + 8, sources=skip, pool_h=2), metadata={"accuracy": 0.5},
                       examples=Examples(test_images=np.ones((1, 2, 6, 5), np.uint8), test_labels=np.ones(1, np.uint8),
                                         calibration_images=np.ones((1, 2, 6, 5), np.uint8)))
    path = tmp_path / "net.npz"
    path.write_bytes(b"old")
    net.save(path)
    again = Network.load(path)
    assert again.to_bytes() == net.to_bytes() == path.read_bytes()
    assert again.digest == net.digest and again.metadata == {"accuracy": 0.5}
    assert again.input == net.input and again.layers[1].sources == net.layers[1].sources
    assert np.array_equal(again.layers[1].weights, net.layers[1].weights)
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]
    with np.load(path) as archive:                             # stays an ordinary .npz
        assert archive["layer0_weights"].dtype == np.int8


def test_save_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "net.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_network().save(path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_every_flipped_bit_is_refused():
    data = make_network().to_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NetworkError, match="damaged|version|not a"):
            Network.from_bytes(bytes(damaged))


def test_every_truncation_is_refused():
    data = make_network().to_bytes()
    for length in range(len(data)):
        with pytest.raises(NetworkError, match="damaged|cut short|not a"):
            Network.from_bytes(data[:length])
    with pytest.raises(NetworkError, match="damaged|not a"):
        Network.from_bytes(data + b"\0")


def test_wrong_version_and_foreign_files_are_refused():
    data = make_network().to_bytes().replace(b"neuroflex-network/0001", b"neuroflex-network/0003")
    with pytest.raises(NetworkError, match="my.npz: network format version '0003'; this program reads versions 0001, 0002, 0004"):
        Network.from_bytes(data, origin="my.npz")
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    with pytest.raises(NetworkError, match="not a NeuroFlex network file"):
        Network.from_bytes(stream.getvalue())


def joined(**changes):
    """Two branches that come together, and a layer that reads both."""
    def layer(name, source, k, n, **options):
        return Layer(name=name, sources=[Source(tensor=source)], weights=np.ones((k, n), int), bias=np.zeros(n, int),
                     theta=np.full(n, 3), levels=np.full(n, 2), **options)

    options = {"name": "joined", "input": InputSpec(channels=2, height=4, width=4, levels=4, full_scale=1.0),
               "layers": [layer("a", "input", 2, 3), layer("b", "input", 2, 5), layer("c", "ab", 8, 2)],
               "concats": [Concat(name="ab", parts=("a", "b"))]}
    return Network(**options | {key: value(options[key], layer) for key, value in changes.items()})


def test_concatenations_join_channels_and_survive_the_file():
    net = joined()
    assert net.shape("ab") == (8, 4, 4) and net.levels("ab").tolist() == [2] * 8
    assert net.parts("ab") == ("a", "b") and net.parts("c") == ("c",)
    data = net.to_bytes()
    assert b"neuroflex-network/0002" in data and b"neuroflex-network/0001" in make_network().to_bytes()
    assert Network.from_bytes(data).concats == net.concats


@pytest.mark.parametrize("changes, message", [
    ({"layers": lambda ls, make: [*ls, make("d", "a", 3, 1)]}, "layer 'd': source 'a' is part of the concatenation 'ab', .*copy it"),
    ({"layers": lambda ls, make: [ls[0], make("d", "ab", 8, 1), *ls[1:]]}, "layer 'd': source 'ab' is not the input or an earlier"),
    ({"layers": lambda ls, make: [ls[0], make("b", "input", 2, 5, pool_h=2), ls[2]]}, "'ab': its parts have different grids, a 4×4, b 2×4"),
    ({"concats": lambda cs, _: [Concat(name="ab", parts=("a", "x"))]}, "layer 'c': source 'ab' is not|'ab': its parts 'a', 'x' must be layers"),
    ({"concats": lambda cs, _: [*cs, Concat(name="n", parts=("c", "input"))]}, "'n': its part 'input' is not a layer; copy it"),
    ({"concats": lambda cs, _: [*cs, Concat(name="n", parts=("c", "a"))]}, "'n': 'a' is already part of 'ab'; copy it"),
    ({"concats": lambda cs, _: [Concat(name="c", parts=("a", "b"))]}, "concatenation 'c': the name is taken"),
    ({"concats": lambda cs, _: [*cs, *cs]}, "concatenation 'ab': the name is taken"),
    ({"concats": lambda cs, _: [Concat(name="ab", parts=("a",))]}, "concatenation 'ab': at least two parts are needed"),
])
def test_concatenations_that_are_refused(changes, message):
    with pytest.raises(NetworkError, match=message):
        joined(**changes)
