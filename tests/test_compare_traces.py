"""Recorded spikes as inputs: what is read is what was recorded, and whatever is wrong with a file is said."""
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from neuroflex.cli import main
from neuroflex.compare.measure import compare_network, subject_of
from neuroflex.compare.shapes import SHAPES, LayerShape, NetworkShape
from neuroflex.compare.traces import TRACE_STEPS, spike_counts
from neuroflex.config import PRESETS
from neuroflex.data_folder import VARIABLE, DataError, data_file
from neuroflex.formats import MAX_LEVEL

FILE = "spikes_small.npz"
SMALL = NetworkShape(name="small", title="small network", host={}, source="test", trace=FILE, layers=(
    LayerShape(name="a", channels=3, columns=20, height=8, width=6, kernel=3, padding=1, pool=2, packed=True, levels_in=MAX_LEVEL, trace="conv2d_00"),
    LayerShape(name="b", channels=40, columns=12, height=4, width=3, kernel=3, padding=1, trace="conv2d_01"),
    LayerShape(name="c", channels=50, columns=10, levels_out=MAX_LEVEL, trace="linear_00")))
PUBLISHED = {"loas_vgg16": (82.3, 74.1), "loas_alexnet": (81.2, 71.3)}      # LoAS at T = 4: % of spikes that are not there, % of neurons that never spike


def _arrays(seed=1):
    rng = np.random.default_rng(seed)
    spikes = {"conv2d_00": np.ones((1, 3, 8, 6), np.uint8), "conv2d_01": rng.random((4, 40, 4, 3)) < 0.3, "linear_00": rng.random((4, 50)) < 0.5}
    return spikes, {key: value for name, bits in spikes.items() for key, value in ((name, np.packbits(bits)), (f"{name}_shape", np.array(bits.shape)))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a good file, as ``NEUROFLEX_DATA`` names it."""
    np.savez(tmp_path / FILE, **_arrays()[1])
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def test_levels_are_spikes_summed_over_time(folder):
    spikes, counts = _arrays()[0], spike_counts(SMALL)
    assert np.array_equal(counts["b"], spikes["conv2d_01"].sum(axis=0)) and counts["b"].max() == TRACE_STEPS and counts["b"].dtype == np.uint8
    assert np.array_equal(counts["c"][:, 0, 0], spikes["linear_00"].sum(axis=0)) and (counts["a"] == 1).all()


def test_what_runs_is_what_was_recorded(folder):
    counts, subject = spike_counts(SMALL), subject_of(SMALL, seed=2)
    pixels, b, c = (part.tensors[0] for part in subject.parts)
    assert np.array_equal(b, counts["b"]) and np.array_equal(c, counts["c"])
    assert pixels[9:18].min() == 0 and pixels[4 * 3:5 * 3].min() >= 1       # a window of nine positions: outside the image 0, its middle nowhere
    result = compare_network(subject, PRESETS["tiny"]).result
    assert result["densities"] == "activations: real spike traces, weights: synthetic"
    assert np.isclose(subject.parts[2].trace.layers["c"].density, (counts["c"] > 0).mean())


def test_weights_are_those_without_a_trace(folder):
    drawn = subject_of(replace(SMALL, trace=""), seed=2)
    for one, other in zip(subject_of(SMALL, seed=2).parts, drawn.parts):
        mine, its = one.network.layers[0], other.network.layers[0]
        assert np.array_equal(mine.weights, its.weights) and np.array_equal(mine.theta, its.theta)
    assert drawn.densities == "synthetic densities" and not np.array_equal(one.tensors, other.tensors)


def test_cut_layers_read_the_top_of_the_trace(folder):
    part = subject_of(SMALL, rows=6).parts[1]
    assert part.fraction == 0.5 and np.array_equal(part.tensors[0], spike_counts(SMALL)["b"][:, :part.tensors.shape[2]])


def _refused(words):
    with pytest.raises(DataError) as error:
        spike_counts(SMALL)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_missing_folders_and_files_are_said(folder, monkeypatch):
    (folder / FILE).unlink()
    _refused((FILE, "is not there", "small network"))
    monkeypatch.setenv(VARIABLE, str(folder / "none"))
    _refused((VARIABLE, "no folder", FILE))
    for unset in (lambda: monkeypatch.setenv(VARIABLE, ""), lambda: monkeypatch.delenv(VARIABLE)):
        unset()
        _refused((VARIABLE, "is not set", FILE))
    with pytest.raises(DataError, match="some numbers are read from x.bin"):
        data_file("x.bin", "some numbers")


@pytest.mark.parametrize("change, words", [
    (lambda a: a.pop("conv2d_01"), ("no array 'conv2d_01'", "layer 'b'", "linear_00")),
    (lambda a: a.pop("linear_00_shape"), ("no array 'linear_00_shape'", "layer 'c'")),
    (lambda a: a.clear(), ("no array 'conv2d_00'", "there are none")),
    (lambda a: a.update(conv2d_01_shape=np.array([4, 40, 3, 4])), ("(4, 40, 3, 4)", "(4, 40, 4, 3)", "layer 'b'")),
    (lambda a: a.update(conv2d_01_shape=np.array([8, 20, 4, 3])), ("(8, 20, 4, 3)", "(4, 40, 4, 3)")),
    (lambda a: a.update(conv2d_00_shape=np.array([4, 3, 8, 6])), ("(4, 3, 8, 6)", "(1, 3, 8, 6)", "layer 'a'")),
    (lambda a: a.update(linear_00_shape=np.array([4, 51])), ("(4, 51)", "(4, 50, 1, 1) or (4, 50)")),
    (lambda a: a.update(linear_00_shape=np.array([[4, 50]])), ("linear_00_shape", "one dimension")),
    (lambda a: a.update(linear_00_shape=np.array([4.0, 50.0])), ("linear_00_shape", "float64")),
    (lambda a: a.update(conv2d_01=a["conv2d_01"][:-1]), ("239 bytes", "wants 240")),
    (lambda a: a.update(conv2d_01=a["conv2d_01"].astype(np.int64)), ("packed bits", "int64")),
    (lambda a: a.update(conv2d_01=np.array([None])), ("'conv2d_01' cannot be read", "corrupt"))])
def test_wrong_content_is_said(folder, change, words):
    arrays = _arrays()[1]
    change(arrays)
    np.savez(folder / FILE, **arrays)
    _refused((str(folder / FILE), *words))


def test_broken_files_are_said(folder):
    good = (folder / FILE).read_bytes()
    for content in (b"", b"spikes", good[:len(good) // 2], good[:-1]):
        (folder / FILE).write_bytes(content)
        _refused((str(folder / FILE), "truncated or corrupt"))
    at = good.index(_arrays()[1]["conv2d_01"].tobytes()) + 3
    (folder / FILE).write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1:])
    _refused((str(folder / FILE), "'conv2d_01' cannot be read", "corrupt"))
    with open(folder / FILE, "wb") as file:
        np.save(file, np.arange(3))
    _refused((str(folder / FILE), "one array"))


def test_commands_refuse_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    for command in (["compare", "peer_2", "loas_vgg16", "--json"], ["sweep", "peer_2", "loas_alexnet", "-o", str(tmp_path / "sweep"), "--json"]):
        assert main([*command, "--config", "tiny"]) == 2
        captured = capsys.readouterr()
        assert f"{VARIABLE} is not set" in json.loads(captured.out)["error"] and "[1/" not in captured.err
    assert not (tmp_path / "sweep").exists()


def test_command_takes_drawn_layers_of_the_same_densities(capsys):
    assert main(["compare", "loas_alexnet_drawn", "--config", "tiny", "--rows", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["networks"]["loas_alexnet_drawn"]
    assert found["densities"] == "synthetic densities" and [layer["levels_in"] for layer in found["layers"]] == [127, 4, 4, 4, 4, 4]


@pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no folder with the spike traces of the LoAS networks")
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_recorded_traces_are_what_the_shapes_say(name):
    shape, counts = SHAPES[name], spike_counts(SHAPES[name])
    for layer in shape.layers:
        assert abs((counts[layer.name] > 0).mean() - layer.activation_density) < 0.0006, layer.name
        assert counts[layer.name].max() == (1 if layer.analog else TRACE_STEPS)
    # The traces are of one image: near the published sparsities, not equal to them.
    levels = np.concatenate([counts[layer.name].ravel() for layer in shape.layers if not layer.analog])
    spikes, silent = PUBLISHED[name]
    assert abs(100 * (1 - levels.mean() / TRACE_STEPS) - spikes) < 4 and abs(100 * (levels == 0).mean() - silent) < 5
