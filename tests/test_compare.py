"""Comparisons: formulas by hand, the cycle model's own numbers, and what the output promises."""
import json

import numpy as np
import pytest

from neuroflex import flow, zoo
from neuroflex.cli import main
from neuroflex.compare import baselines
from neuroflex.compare.histograms import DENSITY_EDGES, density_shares, level_shares
from neuroflex.compare.measure import BASELINES, DRAWS, POLICIES, Part, Subject, _at_random, _drawn, _read_again, compare_network, subject_of
from neuroflex.compare.shaped import shaped_layer
from neuroflex.compare.shapes import SHAPES, LayerShape, NetworkShape, host_work
from neuroflex.compare.timelines import timelines_of, write_trace
from neuroflex.compiler.schedule import ScheduleError, ways_of
from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.config import PRESETS, load_config
from neuroflex.formats import Core
from neuroflex.measure import measure_layer
from neuroflex.sim.cost import column_costs, moved_energy, placed_energy
from neuroflex.sim.energy import EVENTS, SETS, TRAFFIC, energy_table
from neuroflex.sim.network import evaluate

TINY = PRESETS["tiny"]
SMALL = NetworkShape(name="small_shape", title="two layers", host={}, source="test", layers=(
    LayerShape(name="a", channels=40, columns=24, height=6, width=5, kernel=3, padding=1, pool=2, levels_in=4, levels_out=4),
    LayerShape(name="b", channels=64, columns=20, height=3, width=2, levels_in=1, levels_out=127, weight_density=0.5)))


def _compare(*arguments, **options):
    return compare_network(*arguments, **options).result


@pytest.fixture(scope="module")
def result():
    return _compare(subject_of(SMALL, seed=3), TINY, seed=3)


# --- formulas ------------------------------------------------------------------------------------------
def test_dense_cycles_are_those_of_scale_sim():
    assert baselines.systolic_array(64) == (8, 8) and baselines.systolic_array(32) == (4, 8) and baselines.systolic_array(2) == (1, 2)
    layers = [(73, 256, 128), (73, 128, 10)]
    assert sum(baselines.dense_cycles(*layer, (8, 8)) for layer in layers) == 46_040      # SCALE-Sim reports 46,038
    assert baselines.dense_cycles(1, 1, 1, (4, 8)) == 11


def test_dense_energy_by_hand():
    table = dict.fromkeys(EVENTS, 0.0) | {"dense_mac": 1.0, "value_read": 100.0, "qcfs_step": 1e6}
    # 3 × 5 × 9 on 2 × 4: two folds of rows, three of columns; A is read three times, B twice.
    assert baselines.dense_energy(3, 5, 9, (2, 4), np.array([1] * 8 + [4]), table) == 135 + 100 * (15 * 3 + 45 * 2) + 1e6 * 3 * (8 + 3)


def test_dense_traffic_by_hand():
    """5 rows of 64 bytes in, 5 × 8 bytes out after 1 pooling: 80 and 10 lines of four bytes."""
    found = dict(zip(TRAFFIC, baselines.dense_traffic(5, 64, 8, 1, TINY)))
    assert found == dict.fromkeys(TRAFFIC, 0) | {"cache_line": 90, "cache_read": 80, "cache_write": 10, "cache_fetch": 10, "cache_cycle": 90}
    assert dict(zip(TRAFFIC, baselines.dense_traffic(8, 64, 8, 4, TINY)))["cache_write"] == 4


def test_reading_twice_costs_reads_twice():
    once = np.arange(1.0, len(TRAFFIC) + 1)
    found = dict(zip(TRAFFIC, _read_again(once, 2) - once))
    before = dict(zip(TRAFFIC, once))
    assert found == dict.fromkeys(TRAFFIC, 0) | {name: before[name] for name in ("cache_read", "cache_fetch")} | {
        "cache_line": before["cache_read"], "cache_cycle": before["cache_cycle"] - before["cache_write"]}
    assert np.array_equal(_read_again(once, 1), once)


def test_iso_area_by_hand(tmp_path):
    path = tmp_path / "resources.json"
    ann, snn = {"lut": 400, "ff": 100, "dsp": 1, "bram": 9}, {"lut": 100, "ff": 1600, "dsp": 0, "bram": 9}
    path.write_text(json.dumps({"blocks": {"AnnPe": {"tiny": {"xilinx": ann}}, "RadixPe": {"tiny": {"xilinx": snn}}}}))
    iso = baselines.iso_area(TINY, path)
    assert (iso.ann_slices, iso.snn_slices) == (100, 200) and (iso.ann_pes, iso.snn_pes) == (6, 3)      # two of each: 600 slices
    assert iso.pes(Core.ANN) == 6 and iso.pes(Core.SNN) == 3
    assert "no area" in baselines.iso_area(PRESETS["small"], path) and "not there" in baselines.iso_area(TINY, tmp_path / "none")


def test_iso_area_of_the_presets_with_recorded_pes():
    iso = baselines.iso_area(PRESETS["paper"])
    assert iso.ann_pes > 32 > iso.snn_pes >= 16


def test_iso_span_by_hand():
    delay, size = np.array([6.0, 4, 3, 3, 2]), np.ones(5, np.int64)
    room = {"columns_per_pe": 16, "values_per_pe": 100}
    assert baselines.iso_span(delay, size, 2, rows=1, **room) == (9.0, 1)
    assert baselines.iso_span(delay, size, 3, rows=1, **room) == (6.0, 1)
    # Two groups of one PE each share the rows: 18 / 2 is no worse than 9, four PEs as four groups are better than longest first.
    assert baselines.iso_span(delay, size, 4, rows=8, **room) == (4.5, 1)
    # A PE that holds one column: three passes with two PEs.
    assert baselines.iso_span(delay, size, 2, columns_per_pe=1, values_per_pe=100, rows=1) == (6 + 3 + 2, 3)


def test_histograms_by_hand():
    assert level_shares(np.array([[0, 2], [2, 4]], np.uint8), 4).tolist() == [0.25, 0, 0.5, 0, 0.25]
    columns = np.zeros((100, 4), np.int8)
    columns[:10, 1], columns[:, 2], columns[:39, 3] = 1, 1, -1          # densities 0, 0.1, 1 and 0.39
    shares = dict(zip(DENSITY_EDGES, density_shares(columns, 1)))
    assert shares == {edge: 0.25 * (edge in (0, 0.1, 0.3, 0.9)) for edge in DENSITY_EDGES[:-1]}


# --- shapes --------------------------------------------------------------------------------------------
def test_shapes_have_their_published_sizes():
    # Weights: torchvision's figures, without biases and batch norms.
    assert SHAPES["bert_base"].macs == 12 * 128 * (4 * 768 * 768 + 2 * 768 * 3072)
    weights = {name: sum((layer.inputs - layer.channels * layer.skip) * layer.columns for layer in shape.layers) for name, shape in SHAPES.items()}
    assert weights["resnet34"] == 21_779_648 and weights["vgg16"] == 14_710_464 + 512 * 4096 + 4096 * 4096 + 4096 * 10
    assert 5.9e6 < weights["googlenet"] < 7.1e6 and weights["peer_2"] == 34_048
    assert 3.6e9 < SHAPES["resnet34"].macs < 3.7e9 and 1.4e9 < SHAPES["googlenet"].macs < 1.7e9 and 3.1e8 < SHAPES["vgg16"].macs < 3.4e8
    assert [layer.levels_out for layer in SHAPES["vgg16"].layers] == [8, 4, 4, 1, 4, 4, 1, 1, 1, 1, 1, 4, 8, 8, 8, 127]
    assert SHAPES["vit_small"].macs == 196 * (768 * 384 + 12 * (4 * 384 * 384 + 2 * 384 * 1536)) + 384 * 1000
    assert 0 < host_work(SHAPES["bert_base"]) < 0.05 < host_work(SHAPES["vit_small"]) < 0.1 and host_work(SHAPES["vgg16"]) == 0


def test_layers_follow_each_other():
    for name in ("vgg16", "resnet34"):
        layers = [layer for layer in SHAPES[name].layers if not layer.name.endswith("s")]
        for one, two in zip(layers, layers[1:]):
            assert one.columns == two.channels or two.name == "fc6", (name, two.name)
            assert one.levels_out == two.levels_in, (name, two.name)


def test_drawn_densities_are_those_stated():
    shape = LayerShape(name="x", channels=400, columns=200, height=12, width=10, kernel=3, padding=1, activation_density=0.26, weight_density=0.15)
    network, tensor = shaped_layer(shape, seed=5)
    weights = network.layers[0].weights != 0
    spread = weights.mean(axis=0).std()
    assert abs(weights.mean() - 0.15) < 0.01 and 0.02 < spread < 0.05       # beta with concentration 100: 0.0355
    assert abs((tensor != 0).mean() - 0.26) < 0.03 and 0.1 < (tensor != 0).mean(axis=(0, 2, 3)).std() < 0.2     # 8: 0.146
    share = np.bincount(tensor[tensor != 0], minlength=5)[1:] / np.count_nonzero(tensor)
    assert np.allclose(share[1:] / share[:-1], 0.6, atol=0.05)
    again = shaped_layer(shape, seed=5)
    assert np.array_equal(again[1], tensor) and np.array_equal(again[0].layers[0].weights, network.layers[0].weights)


def test_cut_layers_keep_whole_pooled_lines():
    shape = LayerShape(name="x", channels=3, columns=4, height=32, width=32, kernel=3, padding=1, pool=2)
    for rows in (1, 100, 500, 1023):
        part, fraction = shape.cut(rows)
        assert part.grid[0] % 2 == 0 and part.grid[1] == 32 and fraction == part.rows / shape.rows and (part.rows <= rows or part.grid[0] == 2)
    assert shape.cut(1024) == (shape, 1.0)


# --- whole networks ------------------------------------------------------------------------------------
def test_a_better_single_mode_is_what_runs():
    """So hybrid is never above one; how good the choice itself is, other images say, in `edp_as_chosen`."""
    for seed in range(3):
        other = _compare(subject_of(SMALL, seed=seed), TINY, seed=seed)
        for name in ("ann_only", "snn_only"):
            assert other["edp"]["hybrid"] <= other["edp"][name] * (1 + 1e-12)


def test_random_mappings_that_never_fit_are_dealt():
    network, tensors = synthetic_layer(rows=4, inputs=64, columns=24, activation_density=0.3, weight_density=0.3)
    layer = network.layers[0]
    costs = column_costs(network, layer, evaluate(network, tensors, quantised=True).layers["layer"], TINY, per_pe=np.inf)
    tile, tries = ways_of(network, layer, costs, TINY)[0].tiles(TINY, "min_edp")[0], []

    def never(*arguments):
        tries.append(arguments)
        raise ScheduleError("no room")

    dealt = _at_random(never, tile, costs, TINY, (0,), TINY.columns_per_pe)
    assert len(tries) == DRAWS and dealt.method == "dealt" and np.array_equal(dealt.core, tile.core) and not np.array_equal(dealt.pe, tile.pe)
    drawn = [_at_random(_drawn, tile, costs, TINY, (seed,), TINY.columns_per_pe) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0].pe, drawn[1].pe) and not np.array_equal(drawn[0].pe, drawn[2].pe) and drawn[0].method == "random"
    fullest = max(np.bincount(drawn[0].pe[drawn[0].core == core]).max() for core in set(drawn[0].core))
    tighter = _at_random(_drawn, tile, costs, TINY, (0,), fullest - 1)      # no room for the masks of so many
    assert tighter.method == "random" and max(np.bincount(tighter.pe[tighter.core == core]).max() for core in set(tighter.core)) == fullest - 1


def test_cycles_are_those_of_bench():
    sizes = {"rows": 24, "inputs": 96, "columns": 20, "activation_density": 0.3, "weight_density": 0.3, "seed": 2}
    bench = {policy: measure_layer(TINY, policy=name, rtl=False, **sizes) for policy, name in
             (("hybrid", "hybrid"), ("ann_only", "all_ann"), ("snn_only", "all_snn"))}
    network, tensors = synthetic_layer(**sizes)
    trace = evaluate(network, tensors, quantised=True)
    subject = Subject(name="one", title="one", images=1, densities="-", source="-",
                      parts=[Part(network=network, tensors=tensors, trace=trace, calibration=trace)])
    mine = _compare(subject, TINY)
    assert mine["hybrid_schedule"] == "hybrid"
    for policy, one in bench.items():       # measured ways to run it are never above the predicted one, and a single mode has one way here
        assert mine["edp"][policy] <= one["model"]["cycles"] * one["energy_pj"] * (1 + 1e-9)
        if policy != "hybrid":
            assert mine["baselines"][policy]["cycles"] == one["model"]["cycles"]
            assert np.isclose(mine["baselines"][policy]["energy_pj"], one["energy_pj"])
    layer = mine["layers"][0]
    assert layer["matches"] == sum(bench["hybrid"]["model"]["matches"].values()) and layer["joins"] == bench["hybrid"]["joins"]


def test_cache_and_compressor_are_charged_once():
    """The lines of every tile's chunks, the outputs once, and nothing else is added to the energy of the PEs, with either set."""
    network, tensors = synthetic_layer(rows=24, inputs=96, columns=80, activation_density=0.3, weight_density=0.3, seed=2)
    trace = evaluate(network, tensors, quantised=True)
    comparison = compare_network(Subject(name="one", title="one", images=1, densities="-", source="-",
                                         parts=[Part(network=network, tensors=tensors, trace=trace, calibration=trace)]), TINY)
    layer, tiles = comparison.result["layers"][0], comparison.schedules[0]["layer"]
    assert len(tiles) > 1
    inputs, outputs = np.count_nonzero(tensors[0].reshape(3, 32, -1), axis=1), trace.output[0]
    assert layer["moved"]["cache_read"] == len(tiles) * (np.ceil(inputs / 4) + 1).sum()
    assert layer["moved"]["cache_fetch"] <= len(tiles) * inputs.size and layer["moved"]["cache_write"] == layer["moved"]["pack_line"]
    written = layer["moved"]["cache_write"]
    assert np.count_nonzero(outputs) / 4 + outputs[0].size * len(tiles) <= written <= np.count_nonzero(outputs) / 4 + 2 * outputs[0].size * (len(tiles) + 3)
    assert layer["moved"]["cache_line"] >= layer["moved"]["cache_read"] and layer["moved"]["cache_fill"] >= (np.ceil(inputs / 4) + 1).sum()
    for which in SETS:
        table = energy_table(which)
        moved = moved_energy([layer["moved"][name] for name in TRAFFIC], TINY, energy=table)
        pes = placed_energy(network, network.layers[0], trace.layers["layer"], TINY, tiles, energy=table)
        assert layer["energies_by_block"][which] == pytest.approx({"pes": pes, "cache": moved[0], "compressor": moved[1]})
        assert layer["energies_pj"][which] == pytest.approx(pes + sum(moved)) and moved[0] > 0
        assert comparison.result["by_coefficients"][which]["energy_pj"]["hybrid"] == pytest.approx(pes + sum(moved))


def test_trained_network_runs_as_one_program():
    network = zoo.load("digits")
    mine = _compare(subject_of(network, images=2), TINY)
    job = flow.compile_network(network, TINY, policy="all_ann")
    cycles = [flow.simulate_model(job, tensor).cycles for tensor in subject_of(network, images=2).parts[0].tensors]
    assert 0.9 * np.mean(cycles) < mine["baselines"]["ann_only"]["cycles"] <= 1.01 * np.mean(cycles)      # the groups of each layer are those that measured best
    check(mine)
    assert mine["baselines"]["hybrid"]["edp_as_chosen"] <= 1.01 * min(mine["edp"]["ann_only"], mine["edp"]["snn_only"])       # of two images, neither of which it was chosen with
    assert mine["accuracy"]["integer"] == network.metadata["accuracy_integer"] and mine["densities"].startswith("trained")
    assert [layer["layer"] for layer in mine["layers"]] == [layer.name for layer in network.layers]


def test_sampled_rows_are_scaled_and_said():
    shape = NetworkShape(name="s", title="s", host={}, source="", layers=(
        LayerShape(name="a", channels=64, columns=32, height=16, width=16, kernel=3, padding=1),))
    whole, part = (_compare(subject_of(shape, rows=rows), TINY) for rows in (None, 64))
    assert (whole["sampled"], part["sampled"]) == (1.0, 0.25)
    assert whole["layers"][0]["rows"] == part["layers"][0]["rows"] == 256
    assert 0.8 < part["cycles_running"] / whole["cycles_running"] < 1.2 and 0.8 < part["energy_pj"] / whole["energy_pj"] < 1.2
    assert part["baselines"]["dense"]["cycles"] == whole["baselines"]["dense"]["cycles"]


def check(result):
    """What every comparison keeps."""
    edp, runs = result["edp"], result["baselines"]
    assert set(edp) == set(result["edp_running"]) == {"hybrid", *BASELINES} and set(POLICIES) <= set(runs)
    for name, one in runs.items():
        assert one["edp"] is None and one["how"] or np.isclose(one["edp"], one["cycles"] * one["energy_pj"])
        assert one["cycles"] is None or one["cycles_running"] <= one["cycles"]
    as_chosen = runs["hybrid"]["edp_as_chosen"]         # whether the bar below also held before it was made to
    assert edp["hybrid"] <= min(edp["ann_only"], edp["snn_only"]) and (np.isclose(as_chosen, edp["hybrid"]) if result["hybrid_schedule"] == "hybrid" else as_chosen > edp["hybrid"])
    assert np.isclose(result["cycles"], sum(result["stalls"].values())) and result["cycles"] == runs["hybrid"]["cycles"]
    assert np.isclose(result["energy_pj"], sum(layer["energy_pj"] for layer in result["layers"]))
    for which, blocks in result["energy_by_block"].items():
        assert set(blocks) == {"pes", "cache", "compressor"} and np.isclose(sum(blocks.values()), result["by_coefficients"][which]["energy_pj"]["hybrid"])
    assert 0 < result["utilisation"] <= 1 and result["throughput_vs_random"] == runs["random"]["cycles"] / result["cycles"]
    assert result["throughput_vs_dealt"] == runs["dealt"]["cycles"] / result["cycles"] and edp["dealt"] == runs["dealt"]["edp"]
    for which, one in result["by_coefficients"].items():
        assert set(one["edp"]) == set(one["edp_running"]) == set(one["energy_pj"]) == set(runs)
        for name, run in runs.items():
            for key, cycles in (("edp", "cycles"), ("edp_running", "cycles_running")):
                assert run["cycles"] is None and one[key][name] is None or np.isclose(one[key][name], one["energy_pj"][name] * run[cycles])
        assert np.isclose(one["energy_pj"]["hybrid"], sum(layer["energies_pj"][which] for layer in result["layers"]))
    chosen = result["by_coefficients"][result["coefficients"]]
    assert set(result["by_coefficients"]) == set(SETS) and all(chosen[key][name] == result[key][name] for key in ("edp", "edp_running") for name in edp)
    assert set(result["accuracy"]) == {"float", "qcfs", "integer"} and result["coefficients"] in SETS
    for layer in result["layers"]:
        assert np.isclose(sum(layer["cycles"].values()), layer["total"]) and 0 <= layer["on_snn"] <= layer["columns"]
        assert len(layer["level_shares"]) == layer["levels_in"] + 1 and np.isclose(sum(layer["level_shares"]), 1)
        for key in ("channel_density_shares", "column_density_shares"):
            assert len(layer[key]) == len(result["density_edges"]) - 1 and np.isclose(sum(layer[key]), 1)


def test_each_set_gives_what_it_gives_alone():
    """Schedules of one mode do not depend on energies: theirs with either set are the same, whichever the hybrid one was made with."""
    one, other = (_compare(subject_of(SMALL, seed=3), TINY, seed=3, coefficients=which) for which in SETS)
    assert (one["coefficients"], other["coefficients"]) == tuple(SETS)
    for name in ("ann_only", "snn_only", "dense"):
        for which in SETS:
            assert np.isclose(one["by_coefficients"][which]["edp"][name], other["by_coefficients"][which]["edp"][name])
    check(other)
    energies = [other["by_coefficients"][which]["energy_pj"]["snn_only"] for which in SETS]
    assert energies[0] > 3 * energies[1]        # 130 nm against 45 nm


def test_result_is_consistent(result):
    check(result)
    assert result["layers"][1]["on_snn"] == 0       # 127 levels: the ANN core alone
    assert json.loads(json.dumps(result)) == result


def test_command(capsys, tmp_path):
    assert main(["compare", "digits", "peer_10", "--config", "tiny", "--rows", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["networks"]) == {"digits", "peer_10"} and found["configuration"] == "tiny"
    for one in found["networks"].values():
        check(one)
    assert found["networks"]["peer_10"]["sampled"] < 1 and found["networks"]["peer_10"]["accuracy"]["integer"] is None
    assert main(["compare", "peer_10", "--config", "tiny", "--rows", "4"]) == 0
    text = capsys.readouterr().out
    assert "synthetic densities" in text and "cut to" in text and "hybrid" in text and "energies: measured-sky130" in text
    assert "The same schedules with literature-45nm:" in " ".join(text.split())


def test_wrong_calls_say_what_would_be_right(capsys):
    for arguments, message in ((["nothing"], "a network of the zoo (cifar10_resnet20"), (["digits", "--coefficients", "x"], "no set of coefficients"),
                               (["digits", "--images", "400"], "holds 360 test images")):
        assert main(["compare", *arguments, "--config", "tiny"]) == 2
        assert message in capsys.readouterr().err


def test_trace_events_open_in_perfetto(tmp_path):
    subject = subject_of(SMALL, seed=3)
    parts = timelines_of(subject, TINY, compare_network(subject, TINY, seed=3))
    write_trace({"small": parts}, tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert set(names.values()) == {"layers", "ANN 0", "ANN 1", "SNN 0", "SNN 1"}
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    layers = [e for e in slices if names[e["pid"], e["tid"]] == "layers"]
    assert [e["name"] for e in layers] == ["a", "b"] and all(e["dur"] > 0 for e in slices)
    assert np.isclose(layers[0]["ts"] + layers[0]["dur"], layers[1]["ts"])
    for event in slices:
        own = layers[event["name"] == "b"]
        assert own["ts"] <= event["ts"] and event["ts"] + event["dur"] <= own["ts"] + own["dur"] + 1e-9


def test_command_writes_a_trace(tmp_path, capsys):
    assert main(["compare", "peer_2", "--config", "tiny", "--rows", "8", "--json", "--trace", str(tmp_path / "trace.json")]) == 0
    names = {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if event["ph"] == "X"}
    assert names == {"peer_2", "fc1", "fc2"} and json.loads(capsys.readouterr().out)["networks"]["peer_2"]["sampled"] < 1


def test_chained_layers_keep_the_stated_density():
    for percent in (2, 10, 50, 100):
        subject = subject_of(f"peer_{percent}")
        trace = subject.parts[0].trace
        assert len(subject.parts) == 1 and [layer.name for layer in subject.parts[0].network.layers] == ["fc1", "fc2"]
        assert abs(trace.layers["fc2"].density - percent / 100) < 0.02 and abs(trace.layers["fc1"].density - percent / 100) < 0.04


@pytest.mark.long
def test_peer_network_is_near_the_bound_of_dual_sparsity():
    config = load_config("examples/peer64.toml")
    for percent, bar in ((10, 1.15), (50, 1.15), (100, 1.15), (2, 1.7)):
        mine = _compare(subject_of(f"peer_{percent}"), config)
        bound = sum(layer["matches"] for layer in mine["layers"]) / (config.ann_pes + config.snn_pes)
        assert 1 <= mine["cycles_running"] / bound < bar
