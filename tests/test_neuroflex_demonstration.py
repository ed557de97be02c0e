"""The whole flow on RTL, through the commands and through Python; all share one simulator of the tiny preset."""
import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from neuroflex import flow
from neuroflex.cli import main

KEYS = {"network", "configuration", "seed", "images", "accuracy_relu", "accuracy_float", "accuracy_integer", "model_cycles", "rtl_cycles", "cycle_mismatches",
        "value_mismatches", "utilisation", "edp"}


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)
    return run


def test_demo(call, tmp_path):
    folder = tmp_path / "demo"
    code, summary = call("demo", "--output", folder, "--images", 2)
    assert code == 0
    assert summary == json.loads((folder / "report.json").read_text())
    assert set(summary) == KEYS
    assert set(summary["edp"]) == {"hybrid", "all_ann", "all_snn", "layerwise", "random"}
    assert summary["cycle_mismatches"] == summary["value_mismatches"] == 0
    assert summary["rtl_cycles"] == summary["model_cycles"] > 0
    assert abs(summary["accuracy_integer"] - summary["accuracy_float"]) <= 0.005
    assert summary["edp"]["hybrid"] == min(summary["edp"].values())
    assert (folder / "report.html").stat().st_size > 1_000_000
    assert (folder / "verilog" / "neuroflex_tiny.f").is_file()


def test_engines_give_identical_numbers(call):
    runs = [call("simulate", "digits", "--engine", engine, "--images", 2, "--memory-seed", 5)[1]["runs"] for engine in ("model", "rtl")]
    assert runs[0] == runs[1]


def test_verify(call):
    code, answer = call("verify", "digits", "--images", 1, "--memory-seed", 3, "--policy", "random", "--seed", 2)
    assert code == 0 and answer["cycles"] > answer["rtl_cycles"] > 0
    assert answer["cycle_mismatches"] == answer["value_mismatches"] == 0


def test_bench(call):
    code, answer = call("bench", "-M", 8, "-K", 108, "--kernel", 3, "-N", 12, "--activation-density", 0.4, "--policy", "hybrid", "--policy", "all_ann")
    assert code == 0
    for run in answer["runs"]:
        assert run["equal"] is True and run["rtl"]["cycles"] == run["model"]["cycles"] == sum(run["rtl"]["stalls"].values())
        for core, pes in (("ann", 2), ("snn", 2)):
            figures = run["rtl"]
            assert figures["utilisation_all"][core] == figures["matches"][core] / (pes * figures["cycles"]) <= figures["utilisation"][core]
    assert answer["runs"][1]["rtl"]["matches"]["snn"] == 0


def test_verify_fails_when_something_differs(monkeypatch):
    honest = flow.verify

    def wrong(job, tensor, **options):
        return dataclasses.replace(honest(job, tensor, **options), cycle_mismatches=1, first="cycle 7: irq is 1, the model says 0")

    monkeypatch.setattr(flow, "verify", wrong)
    code = main(["verify", "digits", "--json"])
    assert code == 1


def test_example(capsys):
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "digits.py"), run_name="__main__")
    assert "0 cycles differ" in capsys.readouterr().out
