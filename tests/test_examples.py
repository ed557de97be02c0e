"""The digits example, as a script and as a notebook, on the simulated accelerator."""
import contextlib
import io
import json
import re
import sys
import types
from pathlib import Path

import classify_digits as example
import numpy as np
import pytest

from neuroflex import cli, zoo

FOLDER = Path(__file__).parent.parent / "examples"


def test_script(capsys):
    example.main(["--images", "2", "--clock", "50"])
    printed = capsys.readouterr().out
    labels = zoo.load("digits").examples.test_labels[:2]
    assert re.findall(r"a (\d); the accelerator says (\d), after \d+ cycles", printed) == [(str(label), str(label)) for label in labels]
    cycles, rate = map(int, re.search(r"2 of 2 right; (\d+) cycles per image, which at 50 MHz is (\d+) images per second \(computed", printed).groups())
    assert rate == pytest.approx(50e6 / cycles, rel=1e-3)
    pictures = printed.split("a ")[0].splitlines()
    assert len(pictures) == 8 and {len(line) for line in pictures} == {16} and set("".join(pictures)) <= set(example.SHADES)


def test_notebook(monkeypatch):
    """Its cells, one after the other."""
    shown = []
    display = types.ModuleType("IPython.display")
    display.SVG, display.display = str, shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    notebook = json.loads((FOLDER / "classify_digits.ipynb").read_text())
    assert notebook["nbformat"] == 4 and all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]).replace("COUNT = 3", "COUNT = 1"), names)
    assert len(shown) == 1 and shown[0].startswith("<svg") and shown[0].count("<rect") == 64
    assert "not measured on a board" in printed.getvalue() and (names["answers"] == names["labels"]).all()


def test_pictures():
    picture = np.array([[0, 8], [16, 4]])
    assert example.as_text(picture) == "  ==\n@@::" or example.as_text(picture) == "  ++\n@@::"
    assert 'fill="rgb(0,0,0)"' in example.as_svg(picture)
    assert example.frames_per_second(10_000, 100) == 10_000


def test_board_needs_a_program():
    with pytest.raises(SystemExit, match="give a program compiled for the board"):
        example.main(["--back-end", "pynq"])


def test_own_network_from_file_to_cycles(tmp_path, capsys):
    """The commands of ``docs/first_network.md``, up to the golden model."""
    for module in ("onnxruntime", "sklearn"):
        pytest.importorskip(module)
    import own_network

    def call(*arguments):
        assert cli.main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    own_network.main(tmp_path)
    trained = float(re.search(r"trained: ([\d.]+)%", capsys.readouterr().out)[1])
    report = call("import", tmp_path / "own.onnx", "-o", tmp_path / "own.npz", "--pixel-scale", "0.0625", "--levels", "8",
                  "--calibration", tmp_path / "calibration.npy", "--test", tmp_path / "test.npz")
    assert trained > 85 and abs(100 * report["right"] / report["test_images"] - trained) < 3
    call("compile", tmp_path / "own.npz", "--config", "tiny", "-o", tmp_path / "own.nfx")
    runs = call("simulate", tmp_path / "own.nfx", "--images", 2)["runs"]
    assert [run["status"] for run in runs] == ["DONE", "DONE"]
