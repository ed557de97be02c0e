"""``neuroflex import``: from files of each framework to a network that compiles; wrong calls and inputs."""
import json

import numpy as np
import pytest

from neuroflex.cli import main
from neuroflex.compiler.network import Network
from neuroflex.sim.network import classify


@pytest.fixture
def call(capsys):
    """Runs the command with --json; gives exit code, JSON, and what went to standard error."""
    def run(*arguments):
        code = main(["import", *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err
    return run


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 17, (80, 1, 4, 4)).astype(np.uint8))
    np.savez(tmp_path / "test.npz", images=rng.integers(0, 17, (5, 1, 4, 4)).astype(np.uint8), labels=np.arange(5))
    return tmp_path


@pytest.fixture
def graph(images):
    nir = pytest.importorskip("nir", reason="needs the `nir` extra")
    rng = np.random.default_rng(1)
    made = nir.NIRGraph.from_list(nir.Linear(weight=rng.integers(-9, 10, (6, 16)) / 8), nir.IF(r=np.ones(6), v_threshold=np.ones(6) * 2),
                                  nir.Affine(weight=rng.normal(size=(3, 6)), bias=np.zeros(3)))
    nir.write(str(images / "net.nir"), made)
    return images / "net.nir"


READING = ["--steps", 8, "--dt", 1, "--reset", "subtract", "--comparison", ">=", "--initial", 0.5, "--neuron", "if"]


def test_nir_graph_to_program(call, graph, images, capsys):
    code, answer, _ = call(graph, "-o", images / "out.npz", *READING, "--input-levels", 16, "--full-scale", 1, "--pixel-scale", 1 / 16,
                           "--image-shape", "1,4,4", "--calibration", images / "images.npy", "--test", images / "test.npz")
    assert code == 0 and answer["name"] == "net" and [layer["layer"] for layer in answer["layers"]] == ["if", "result"]
    assert answer["layers"][0]["most_levels_apart"] == 0 and answer["import"]["comparison"] == ">="
    network = Network.load(images / "out.npz")
    assert answer["right"] == (classify(network, network.examples.test_images) == np.arange(5)).sum() and answer["test_images"] == 5
    assert network.digest == answer["digest"] and len(network.examples.calibration_images) == 64 and len(network.examples.test_images) == 5
    assert main(["info", str(images / "out.npz")]) == 0
    shown = capsys.readouterr().out
    assert "How it was read" in shown and "subtract" in shown and "a spike acts in the step" in " ".join(shown.split())
    assert main(["compile", str(images / "out.npz"), "-o", str(images / "net.nfx")]) == 0


def test_nothing_about_time_is_guessed(call, graph, images):
    code, answer, _ = call(graph, "-o", images / "out.npz", "--steps", 8)
    assert code == 2 and "nothing is guessed: say --dt, --reset, --comparison, --initial, --neuron, --input-levels, --full-scale" in answer["error"]
    assert not (images / "out.npz").exists()


def test_onnx_model(call, images):
    onnx = pytest.importorskip("onnx", reason="needs the `onnx` extra")
    from onnx import TensorProto, helper, numpy_helper

    constants = {"s": np.float32(1 / 16), "z": np.int8(0), "w": np.ones((2, 1, 3, 3), np.int8), "ws": np.float32(0.01), "t": np.float32(0.1)}
    nodes = [("QuantizeLinear", ["x", "s", "z"], "q"), ("DequantizeLinear", ["q", "s", "z"], "d"), ("DequantizeLinear", ["w", "ws"], "v"),
             ("Conv", ["d", "v"], "c"), ("Relu", ["c"], "r"), ("QuantizeLinear", ["r", "t", "z"], "y"), ("DequantizeLinear", ["y", "t", "z"], "out")]
    made = helper.make_graph([helper.make_node(kind, reads, [name], name=name) for kind, reads, name in nodes], "g",
                             [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
                             [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 2, 2, 2])],
                             [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    onnx.save(helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), images / "net.onnx")
    code, answer, _ = call(images / "net.onnx", "-o", images / "out.npz", "--pixel-scale", 1 / 16, "--name", "mine")
    assert code == 0 and answer["name"] == "mine" and answer["import"]["format"] == "onnx" and answer["layers"][0]["layer"] == "c"
    assert Network.load(images / "out.npz").examples is None
    code, answer, _ = call(images / "net.onnx", "-o", images / "out.npz", "--steps", 3)
    assert code == 2 and "--steps is not for ONNX sources" in answer["error"]
    (images / "net.onnx").write_bytes((images / "net.onnx").read_bytes()[:100])
    code, answer, _ = call(images / "net.onnx", "-o", images / "cut.npz")
    assert code == 2 and "cut short" in answer["error"] and not (images / "cut.npz").exists()


def test_torch_module(call, images):
    pytest.importorskip("torch", reason="needs the `torch` extra")
    (images / "net.py").write_text("from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), "
                                   "nn.Linear(12, 4))\n\nnumber = int\n")
    source = f"{images / 'net.py'}:make"
    code, answer, _ = call(source, "-o", images / "out.npz", "--levels", 4, "--calibration", images / "images.npy", "--pixel-scale", 1 / 16)
    assert code == 0 and answer["name"] == "net" and [layer["levels"] for layer in answer["layers"]] == [4, 127] and not answer["notes"]
    np.save(images / "reals.npy", np.load(images / "images.npy") / 16)
    for file, words in (("images.npy", "a pixel of 16 is 16 to the network, too; one that was trained on pixels from 0 to 1 wants --pixel-scale 0.0625"),
                        ("reals.npy", "calibration images of float64 are not kept, only bytes are")):
        code, answer, _ = call(source, "-o", images / "out.npz", "--levels", 4, "--calibration", images / file)
        assert code == 0 and len(answer["notes"]) == 1 and words in answer["notes"][0]
    for arguments, message in (
        ([source, "--levels", 4], "give --image-shape C,H,W, or --calibration"),
        ([source, "--levels", 4, "--image-shape", "1,4,4"], "which needs --calibration"),
        ([source, "--image-shape", "1,4,4"], r"the image must be quantised by a QCFS before anything else"),
        ([source, "--image-shape", "1,4,4", "--input-levels", 4], "--input-levels and --tolerance go with --levels"),
        ([source, "--image-shape", "4,4"], "three sizes C,H,W are needed"),
        ([f"{images / 'net.py'}:other"], "has no 'other'"), ([f"{images / 'net.py'}:number"], "makes a int, not a torch.nn.Module"),
        ([f"{images / 'none.py'}:make"], "no such file"), (["no.such.package:make"], "No module named"),
    ):
        code, answer, _ = call(*arguments, "-o", images / "no.npz")
        assert code == 2 and message in answer["error"], answer
    assert not (images / "no.npz").exists()


@pytest.mark.parametrize("content, message", [
    (b"", "not a .npy file of numbers, or cut short"), (b"\x93NUMPY\x01\x00v\x00{'descr'", "not a .npy file of numbers, or cut short"),
    (np.zeros((3, 4, 4)), "images (n, C, H, W) are needed"), (np.full((1, 1, 4, 4), np.nan), "16 pixels are NaN or infinite"),
    (np.array([[[["a"]]]]), "images (n, C, H, W) are needed, numbers"), (np.zeros((0, 1, 4, 4)), "the calibration set is empty, its shape is (0, 1, 4, 4)"),
    (b"PK\x03\x04 an archive that is cut short", "not a .npy file of numbers, or cut short"),
])
def test_wrong_calibration_files(call, images, content, message):
    if isinstance(content, bytes):
        (images / "bad.npy").write_bytes(content)
    else:
        np.save(images / "bad.npy", content)
    code, answer, _ = call(images / "net.onnx", "-o", images / "out.npz", "--calibration", images / "bad.npy")
    assert code == 2 and message in answer["error"]


def test_other_wrong_calls(call, images):
    for arguments, message in ((["net.txt"], "is no ONNX model (.onnx), no NIR graph (.nir) and no PyTorch module"),
                               ([images / "none.onnx"], "No such file"), ([images / "none.onnx", "--calibration", images / "no.npy"], "No such file"),
                               ([images / "none.onnx", "--test", images / "test.npz"], "--test needs --calibration"),
                               ([images / "none.onnx", "--calibration", images / "images.npy", "--test", images / "images.npy"], "not a .npz file")):
        code, answer, _ = call(*arguments, "-o", images / "out.npz")
        assert code == 2 and message in answer["error"], answer
    np.savez(images / "half.npz", images=np.zeros((1, 1, 4, 4), np.uint8))
    code, answer, _ = call(images / "none.onnx", "-o", images / "o.npz", "--calibration", images / "images.npy", "--test", images / "half.npz")
    assert code == 2 and "holds no labels, but images" in answer["error"]
    good = (images / "test.npz").read_bytes()
    for content, message in ((good[:len(good) // 2], "not a .npz file of numbers, or cut short"), (good.replace(b"NUMPY", b"NUMPI"), "an array in it is damaged")):
        (images / "half.npz").write_bytes(content)
        code, answer, _ = call(images / "none.onnx", "-o", images / "o.npz", "--calibration", images / "images.npy", "--test", images / "half.npz")
        assert code == 2 and message in answer["error"], answer


def test_wrong_test_images(call, images):
    good = np.zeros((2, 1, 4, 4), np.uint8)
    for content, message in (({"images": good / 2, "labels": [0, 1]}, "images (n, C, H, W), bytes, are needed, not float64 of shape (2, 1, 4, 4)"),
                             ({"images": good[0], "labels": [0, 1]}, "are needed, not uint8 of shape (1, 4, 4)"),
                             ({"images": good, "labels": [0.0, 1.0]}, "labels (n), integers, are needed, not float64 of shape (2,)"),
                             ({"images": good, "labels": [["a"], ["b"]]}, "labels (n), integers, are needed, not <U1")):
        np.savez(images / "bad.npz", **content)
        code, answer, _ = call("none.onnx", "-o", images / "o.npz", "--calibration", images / "images.npy", "--test", images / "bad.npz")
        assert code == 2 and message in answer["error"] and "bad.npz" in answer["error"], answer


def test_images_that_do_not_fit(call, graph, images):
    np.save(images / "other.npy", np.zeros((3, 1, 4, 5), np.uint8))
    given = [graph, "-o", images / "out.npz", *READING, "--input-levels", 16, "--full-scale", 1, "--image-shape", "1,4,4"]
    code, answer, _ = call(*given, "--calibration", images / "other.npy")
    assert code == 2 and "calibration images are uint8 of shape (3, 1, 4, 5); (n, 1, 4, 4) numbers are needed" in answer["error"]
    for scale in (0, -1, "nan", "inf"):
        code, answer, _ = call(*given, "--calibration", images / "images.npy", "--pixel-scale", scale)
        assert code == 2 and f"Invalid value for '--pixel-scale': a positive number is needed, not {scale}" in answer["error"]


def test_a_missing_package_is_named(call, images, monkeypatch):
    import sys

    for name in ("onnx", "neuroflex.compiler.onnx_import"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, answer, _ = call(images / "net.onnx", "-o", images / "out.npz")
    assert code == 2 and "reading ONNX needs the package 'onnx': pip install 'neuroflex[onnx]'" in answer["error"]
