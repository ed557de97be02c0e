"""The command line: results as JSON, exit codes, messages for people."""
import dataclasses
import json
import sys

import numpy as np
import pytest

from neuroflex import zoo
from neuroflex.cli import main
from neuroflex.compare.shapes import SHAPES
from neuroflex.compiler.image import ProgramImage
from neuroflex.config import PRESETS
from neuroflex.formats import StallCause
from neuroflex.sim.energy import SETS


@pytest.fixture
def call(capsys):
    """Runs a command with --json; gives exit code, JSON, and what went to standard error."""
    def run(*arguments):
        code = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out), err
    return run


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "digits.nfx"
    assert main(["compile", "digits", "-o", str(path)]) == 0
    return path


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("demo", "import", "train", "compile", "generate", "simulate", "verify", "bench", "info"):
        assert f"  {name} " in text
        assert main([name, "--help"]) == 0
        assert "--json" in capsys.readouterr().out


def test_info(call, image):
    assert {"tiny", "small", "pynq_z2", "paper"} <= set(call("info")[1]["presets"])
    assert call("info", "paper")[1]["derived"]["cache_bytes"] == 256 * 1024
    assert [layer["name"] for layer in call("info", "digits")[1]["layers"]][-1] == "logits"
    about = call("info", image)[1]
    assert about["about"]["policy"] == "measured" and about["configuration"]["name"] == "tiny"


def test_info_of_shapes(call, capsys):
    """What `compare` knows as a shape is shown as one, and listed; texts are for people."""
    assert set(call("info")[1]["shapes"]) == set(SHAPES)
    code, found, _ = call("info", "vgg16")
    shape = SHAPES["vgg16"]
    assert code == 0 and found["macs"] == shape.macs == sum(layer["macs"] for layer in found["layers"]) and found["source"] == shape.source
    assert found["layers"][1] == {"name": "conv1_2", "rows": 1024, "inputs": 576, "columns": 64, "kernel": 3, "stride": 1, "pool": 2, "levels_in": 8, "levels_out": 4,
                                  "activation_density": 0.26, "weight_density": 0.15, "macs": 1024 * 576 * 64}
    assert main(["info", "bert_base"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0.query" in text and "linear layers only" in text and "softmax" in text and "`neuroflex compare bert_base` draws some" in text


def test_layers_of_a_run_have_names(call, image):
    """And their cycles and matches are all of the job's."""
    run = call("simulate", image)[1]["runs"][0]
    names = [layer["layer"] for layer in run["layers"]]
    assert names[-1] is None and list(dict.fromkeys(names[:-1])) == [layer.name for layer in zoo.load("digits").layers]
    assert sum(sum(layer["cycles"].values()) for layer in run["layers"]) == run["cycles"]
    assert set(run["layers"][0]["cycles"]) == {cause.name.lower() for cause in StallCause}
    for core in ("ann", "snn"):
        assert sum(layer[f"matches_{core}"] for layer in run["layers"]) == run["counters"][f"matches_{core}"]


def test_help_names_what_there_is(capsys):
    for command, names in (("compare", (*SHAPES, *SETS, *PRESETS)), ("sweep", (*SETS, *PRESETS)), ("simulate", PRESETS), ("build", PRESETS)):
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out.replace("\n", " ")
        assert not [name for name in names if name not in text]


def test_image_and_network_give_the_same_numbers(call, image):
    _, of_image, _ = call("simulate", image, "--images", 2)
    code, of_network, _ = call("simulate", "digits", "--images", 2)
    assert code == 0 and of_image == of_network
    assert [run["answer"] for run in of_image["runs"]] == [run["label"] for run in of_image["runs"]]
    assert all(run["status"] == "DONE" and run["counters"]["cycles"] == run["cycles"] for run in of_image["runs"])


def test_commands_say_what_they_are_doing(call, tmp_path):
    """Numbered steps on standard error, each with its end; standard output stays JSON."""
    for arguments, steps in ((["simulate", "digits"], 3), (["compile", "digits", "-o", tmp_path / "a.nfx"], 2), (["bench", "-K", 32, "--engine", "model"], 3)):
        code, _, err = call(*arguments)
        first, *lines = err.splitlines()
        assert code == 0 and first == "loading NeuroFlex ..."
        assert [line.split()[0] for line in lines if line.startswith("[")] == [f"[{number}/{steps}]" for number in range(1, steps + 1)]
        assert sum("done, " in line or " of " in line for line in lines if line.startswith("  ")) >= steps


def test_slower_memory_takes_longer(call, image):
    fast, slow = (call("simulate", image, "--latency", latency)[1]["runs"][0] for latency in (5, 200))
    assert fast["cycles"] < slow["cycles"] and fast["output"] == slow["output"]


def test_all_images_of_a_file_are_run(call, image, tmp_path):
    np.save(tmp_path / "three.npy", np.zeros((3, 1, 8, 8)))
    assert len(call("simulate", image, "--input", tmp_path / "three.npy")[1]["runs"]) == 3
    assert len(call("simulate", image, "--input", tmp_path / "three.npy", "--first", 1)[1]["runs"]) == 2
    assert len(call("simulate", image, "--input", tmp_path / "three.npy", "--images", 1)[1]["runs"]) == 1


def test_what_a_program_image_has_of_its_own_is_not_taken_from_options(call, image, tmp_path):
    for option, value in (("--config", "small"), ("--policy", "all_ann")):
        code, found, _ = call("simulate", image, option, value)
        assert code == 2 and f"leave {option} out" in found["error"]
    assert "takes networks" in call("compare", image)[1]["error"]
    (tmp_path / "empty.nfx").write_bytes(b"")
    assert "not a program image" in call("simulate", tmp_path / "empty.nfx")[1]["error"]


def test_images_of_your_own(call, tmp_path):
    np.save(tmp_path / "one.npy", zoo.load("digits").examples.test_images[3:4])
    mine, kept = call("simulate", "digits", "--input", tmp_path / "one.npy"), call("simulate", "digits", "--first", 3)
    assert mine[1]["runs"][0]["output"] == kept[1]["runs"][0]["output"]


@pytest.mark.parametrize("command", ["simulate", "verify"])
def test_no_images_is_no_success(call, tmp_path, command):
    np.save(tmp_path / "one.npy", np.zeros((1, 1, 8, 8)))
    for choice in (["--first", 1], ["--images", 2]):
        code, answer, _ = call(command, "digits", "--input", tmp_path / "one.npy", *choice)
        assert code == 2 and "holds 1 images" in answer["error"]


def test_a_run_that_does_not_end_is_no_traceback(call, monkeypatch):
    from neuroflex import flow
    from neuroflex.tb.accelerator import AcceleratorError

    def never(job, tensor, **options):
        raise AcceleratorError("the job did not end within 7 cycles")

    monkeypatch.setattr(flow, "verify", never)
    code, answer, err = call("verify", "digits")
    assert code == 1 and "did not end" in answer["error"] and "Traceback" not in err


@pytest.mark.parametrize("arguments, says", [
    (["info", "nothing"], "no preset (tiny"),
    (["simulate", "nothing"], "neither a network of the zoo (cifar10_resnet20"),
    (["verify", "nothing"], "neither a network of the zoo (cifar10_resnet20"),
    (["compile", "nothing", "-o", "x.nfx"], "neither a network of the zoo (cifar10_resnet20"),
    (["demo", "--network", "nothing"], "neither a network of the zoo (cifar10_resnet20"),
    (["compare", "nothing"], "neither a shape (vgg16, vgg16_sparse, resnet34, googlenet, bert_base, vit_small, peer_2, peer_10, peer_50, peer_100, loas_vgg16, loas_alexnet, loas_vgg16_drawn, loas_alexnet_drawn), a network of the zoo (cifar10_resnet20"),
    (["compare", "digits", "--coefficients", "guess"], "there are measured-sky130"),
    (["sweep", "vgg16", "nothing"], "neither a shape (vgg16,"),
    (["bench", "--config", "huge"], "neither a preset (tiny, small, pynq_z2, paper) nor a file"),
    (["generate", "--config", "huge", "-o", "x"], "neither a preset (tiny, small, pynq_z2, paper) nor a file"),
    (["build", "--board", "breadboard"], "'breadboard' is not one of 'ulx3s', 'pynq_z2', 'arty_z7_20'"),
    (["import", "nothing.onnx", "-o", "x.npz"], "nothing.onnx"),
    (["simulate", "digits", "--config", "huge"], "neither a preset (tiny, small, pynq_z2, paper) nor a file"),
    (["simulate", "digits", "--first", "359", "--images", "2"], "holds 360 test images"),
    (["simulate", "digits", "--engine", "guess"], "'model', 'rtl'"),
    (["simulate", "digits", "--input", "missing.npy"], "missing.npy"),
    (["simulate", "digits", "--latency", "1000000"], "1<=x<=500000"),
    (["compare", "digits", "--latency", "500001"], "1<=x<=500000"),
    (["simulate", "digits", "--memory-seed", "-1"], "--memory-seed"),
    (["compile", "digits"], "'--output'"),
    (["bogus"], "No such command"),
])
def test_wrong_calls_say_what_would_be_right(call, arguments, says):
    code, answer, err = call(*arguments)
    assert code == 2 and says in answer["error"] and "Traceback" not in err


def test_bad_files_are_refused(call, tmp_path, image):
    broken = tmp_path / "broken.nfx"
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(content)
    code, answer, _ = call("simulate", broken)
    assert code == 2 and "checksum does not match" in answer["error"]
    (tmp_path / "bad.toml").write_text("slots = 5\n")
    code, answer, _ = call("info", tmp_path / "bad.toml")
    assert code == 2 and "slots = 5: must be a power of two" in answer["error"]
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00x")
    code, answer, _ = call("generate", "--config", tmp_path / "bytes.toml", "-o", tmp_path / "out")
    assert code == 2 and "bytes.toml: not a TOML file" in answer["error"]
    code, answer, _ = call("simulate", "digits", "--config", tmp_path)
    assert code == 2 and "neither a preset" in answer["error"]
    code, answer, _ = call("compile", "digits", "-o", tmp_path / "bad.toml" / "x.nfx")
    assert code == 2 and "bad.toml" in answer["error"] and "Errno" not in answer["error"]
    assert not (tmp_path / "out").exists()
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    code, answer, _ = call("info", tmp_path / "bad.npz")
    assert code == 2 and "not a network file" in answer["error"]
    np.savez(tmp_path / "many.npz", np.zeros((1, 1, 8, 8)))
    code, answer, _ = call("simulate", "digits", "--input", tmp_path / "many.npz")
    assert code == 2 and "not a .npy file of numbers" in answer["error"]
    (tmp_path / "cut.npy").write_bytes((tmp_path / "many.npz").read_bytes()[:100])
    code, answer, _ = call("simulate", "digits", "--input", tmp_path / "cut.npy")
    assert code == 2 and "cut.npy: not a .npy file of numbers" in answer["error"]
    np.save(tmp_path / "none.npy", np.zeros((0, 1, 8, 8)))
    code, answer, _ = call("simulate", "digits", "--input", tmp_path / "none.npy")
    assert code == 2 and "none.npy holds 0 images" in answer["error"]
    np.save(tmp_path / "normalised.npy", np.linspace(-1, 1, 64).reshape(1, 1, 8, 8))
    code, answer, _ = call("simulate", "digits", "--input", tmp_path / "normalised.npy")
    assert code == 2 and "normalised.npy: pixels from -1 to 1; 'digits' takes raw pixels from 0 to 16" in answer["error"]
    np.save(tmp_path / "shape.npy", np.zeros((1, 1, 9, 9)))
    code, answer, _ = call("simulate", "digits", "--input", tmp_path / "shape.npy")
    assert code == 2 and "takes images of shape (n, 1, 8, 8)" in answer["error"]
    np.save(tmp_path / "nan.npy", np.full((1, 1, 8, 8), np.nan))
    for command in ("simulate", "verify"):
        code, answer, _ = call(command, "digits", "--input", tmp_path / "nan.npy")
        assert code == 2 and "nan.npy: 64 pixels are NaN or infinite" in answer["error"]
    good = ProgramImage.load(image)
    for network in ("a", "é", None, 7):
        dataclasses.replace(good, about={**good.about, "network": network}).save(tmp_path / "crafted.nfx")
        code, answer, _ = call("simulate", tmp_path / "crafted.nfx")
        assert code == 2 and "crafted.nfx: the network in it cannot be read" in answer["error"]
    dataclasses.replace(good, about=[]).save(tmp_path / "crafted.nfx")
    code, answer, _ = call("simulate", tmp_path / "crafted.nfx")
    assert code == 2 and "crafted.nfx: the network in it cannot be read" in answer["error"]


def test_training_without_torch_names_it(tmp_path, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, answer, _ = call("train", "mnist_mlp", "-o", tmp_path / "a.npz")
    assert code == 2 and answer["error"] == "training needs the package 'torch': pip install 'neuroflex[torch]'"
