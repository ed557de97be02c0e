"""Cost model: fitted coefficients, the energy table and which columns the SNN core can take."""
from dataclasses import replace
from types import SimpleNamespace

import fit_cost
import numpy as np
import pytest

from neuroflex import zoo
from neuroflex.compare.shaped import shaped_layer
from neuroflex.compare.shapes import LayerShape
from neuroflex.compiler.network import InputSpec, Network
from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network, simulate_model
from neuroflex.formats import Core, StallCause
from neuroflex.power.sram import access_energy
from neuroflex.sim.cost import (CACHE_AT_WORK, FETCHED_LINE, MEMORY_AT_WORK, ColumnCosts, CostModel, column_costs, fit, memory_weights, moved_energy, placed_energy, stream_cycles,
                                traffic_weights)
from neuroflex.sim.energy import EVENTS, SETS, TRAFFIC, energy_table, markdown, of_kind
from neuroflex.sim.network import evaluate

DUAL = PRESETS["tiny"].replace(snn_pe="dual_prefix")      # counts every kind of event


@pytest.fixture(scope="module")
def digits():
    network = zoo.load("digits")
    return network, evaluate(network, network.examples.calibration_images[:8])


def test_fit_recovers_a_line():
    rng = np.random.default_rng(1)
    matches, rows = rng.integers(1, 200, 50), rng.integers(1, 65, 50)
    assert np.allclose(fit(matches, 3 * rows + 1.5 * matches, rows), (3, 1.5))
    assert np.allclose(fit(matches, 7 + 2 * matches), (7, 2))
    noisy = fit(matches, 3 * rows + 1.5 * matches + rng.normal(0, 1, 50), rows)
    assert np.allclose(noisy, (3, 1.5), atol=0.1)


def test_fit_stays_on_the_axes_where_the_line_would_be_negative():
    matches = np.arange(1, 20)
    row, match = fit(matches, 2 * matches - 3)
    assert row == 0 and 1.7 < match < 2
    row, match = fit(matches, 50 - matches)
    assert match == 0 and 35 < row < 45
    with pytest.raises(ValueError, match="at least two pairs"):
        fit([1], [1])


def test_model_refuses_negative_coefficients():
    with pytest.raises(ValueError, match="snn_row must not be negative"):
        CostModel(snn_row=-1)


def test_every_coefficient_is_named_sourced_and_marked():
    for name, coefficients in SETS.items():
        assert [c.name for c in coefficients] == list(EVENTS)
        for coefficient in coefficients:
            assert coefficient.picojoules >= 0 and coefficient.error >= 0 and coefficient.event and coefficient.source
            assert coefficient.assumed or name == "measured-sky130"
    assert energy_table() == energy_table("measured-sky130") != energy_table("literature-45nm")
    assert energy_table(mac=1)["mac"] == 1 != energy_table()["mac"]
    with pytest.raises(KeyError, match="no energy coefficient 'adder'"):
        energy_table(adder=1)


def test_the_documentation_shows_the_table(pytestconfig):
    assert markdown() in (pytestconfig.rootpath / "docs" / "scheduling.md").read_text()


def test_costs_follow_the_matches(digits):
    network, trace = digits
    layer = network.layer("act2")
    model = CostModel(ann_row=2, ann_match=1.25, snn_row=5, snn_match=1.5)
    unit = dict.fromkeys(EVENTS, 0.0)
    costs = column_costs(network, layer, trace.layers["act2"], DUAL, model=model, energy=unit | {"mac": 1.0, "correction": 1.0})
    m = trace.layers["act2"].matches / 8
    assert np.allclose(costs.delay[Core.ANN], 2 * 64 + 1.25 * m)
    assert np.allclose(costs.delay[Core.SNN], 5 * 64 + 1.5 * m)
    assert np.allclose(costs.energy[Core.ANN], m)
    assert np.allclose(costs.energy[Core.SNN], 4 * m - trace.layers["act2"].level_sum / 8)
    assert costs.size.tolist() == np.count_nonzero(layer.weights, axis=0).tolist()
    part = costs.take([3, 1])
    assert part.size.tolist() == costs.size[[3, 1]].tolist() and part.delay.shape == (2, 2)


def test_what_a_pe_spends_on_chunks_is_the_columns_or_its_own(digits):
    """Nine chunks of 32 bits in each of 64 rows: with infinitely many columns to a PE none has a share, and each PE that takes them pays."""
    network, trace = digits
    layer, run = network.layer("act2"), trace.layers["act2"]
    unit = dict.fromkeys(EVENTS, 0.0) | {"chunk": 2.0, "laggy_chunk": 3.0}
    one, none = (column_costs(network, layer, run, DUAL, energy=unit, per_pe=shared) for shared in (1, np.inf))
    chunks = 64 * 9 * 32 / 128
    assert none.taking.tolist() == [2 * chunks, 5 * chunks] and not none.energy.any() and not one.taking.any()
    assert np.allclose(one.energy[Core.ANN], 2 * chunks) and np.allclose(one.energy[Core.SNN], 5 * chunks)
    assert column_costs(network, layer, run, DUAL.replace(snn_pe="serial"), energy=unit, per_pe=np.inf).taking.tolist() == [2 * chunks] * 2
    tripled = none.scaled(3)
    assert tripled.taking.tolist() == [6 * chunks, 15 * chunks] and np.allclose(tripled.delay, 3 * none.delay) and tripled.outputs == 3 * none.outputs == 3 * 64


def test_cycles_to_read_and_broadcast_by_hand():
    """A 4 × 4 image of full chunks, a window of 3 × 3 with padding: 100 of 144 places are inside; 16 of them come from memory, a mask and eight lines each."""
    config = PRESETS["tiny"]
    network, _ = synthetic_layer(rows=4, inputs=9 * 32, columns=2, activation_density=1.0, weight_density=0.5, kernel=3)
    layer = replace(network.layers[0], sources=(replace(network.layers[0].sources[0], padding=1),))
    network = Network(name="padded", input=InputSpec(channels=32, height=4, width=4, levels=4, full_scale=4.0), layers=[layer])
    trace = evaluate(network, np.ones((1, 32, 4, 4), np.uint8), quantised=True).layers["layer"]
    lines = 32 / 4 + 0.5
    assert np.isclose(stream_cycles(network, layer, trace, config), 16 * FETCHED_LINE * (1 + lines) + 84 * (1.15 + lines) + 44 * 1.2)


@pytest.mark.parametrize("inputs, kernel, density", [(256, 1, 0.35), (9 * 128, 3, 0.35), (25 * 16, 5, 0.35), (9 * 64, 3, 0.26), (9 * 256, 3, 0.2)])
def test_cycles_to_read_and_broadcast_are_those_of_the_cycle_model(inputs, kernel, density):
    """Two columns without weights: what remains is the bus."""
    config = PRESETS["paper"]
    network, tensor = synthetic_layer(rows=196, inputs=inputs, columns=2, activation_density=density, weight_density=0.0, kernel=kernel)
    trace = evaluate(network, tensor, quantised=True)
    job = compile_network(network, config, policy="all_ann", calibration=tensor)
    cycles = simulate_model(job, tensor[0]).layers[:, StallCause.BROADCAST:len(StallCause)].sum()
    assert abs(stream_cycles(network, network.layers[0], trace.layers["layer"], config) / cycles - 1) < 0.12


def events(network, layer, run, config, **options):
    """How often a column's cost counts each coefficient: name → float64 (2, N), each alone at 1 pJ."""
    none = dict.fromkeys(EVENTS, 0.0)
    assert np.array_equal(column_costs(network, layer, run, config, energy=none, **options).energy, np.zeros((2, layer.columns)))
    return {name: column_costs(network, layer, run, config, energy=none | {name: 1.0}, **options).energy for name in none}


# What reads of tiny's memories cost over those of paper's: 1,024 lines of 4 bytes against 16, 4 slots of 8 lines of 28 bits against 8 of 112, 512 words of 88 bits against 284.
BYTE, LINE, LEVEL, LEVELS, MASKS = 1 / 2, 1 / 8, 1 / 8 ** 0.5, 1 / 8 ** 0.5 / 4, (88 / 284) ** 1.5


def test_every_term_of_the_costs_by_hand(digits):
    """Nine chunks of 32 bits in each of 64 rows, four levels in and out, three columns to a PE."""
    network, trace = digits
    layer, run = network.layer("act2"), trace.layers["act2"]
    found = events(network, layer, run, DUAL, per_pe=3)
    m, rows, chunks = run.matches / 8, 64, 64 * 9 * 32 / 128
    delay = column_costs(network, layer, run, DUAL).delay
    weights = dict(zip(TRAFFIC, traffic_weights(DUAL)))
    lines = np.count_nonzero(run.output, axis=(2, 3)).mean(axis=0) / 4 + rows * 1.5 / 32
    packed = {name: lines * weights[name] for name in ("cache_line", "cache_write", "cache_cycle", "pack_line")} | {name: rows / 2 * weights[name] for name in ("pack_round", "pack_cycle")}
    want = {name: (packed.get(name, 0),) * 2 for name in TRAFFIC} | {
            "join": (m / 4, m / 4), "fast_prefix": (m / 2, m / 4), "weight_read": (m * BYTE, m * BYTE), "weight_line": (m * LINE, m * LINE),
            "level_read": (m * LEVEL, m * LEVEL), "level_line": (m * LEVELS, m * LEVELS), "mask_line": (64 * 9 / 2 * MASKS,) * 2, "mac": (m, 0), "pseudo": (0, m), "speculation": (0, m),
            "correction": (0, 4 * m - run.level_sum / 8), "laggy_chunk": (0, chunks / 3), "chunk": (chunks / 3,) * 2, "scan": (chunks / 2,) * 2, "ann_output": (rows, 0),
            "match_rest": (0, 0), "weigh_step": (0, 0), "qcfs_step": (3 * rows, 0), "snn_output": (0, rows), "pascif_step": (0, (4 + 3 + 4) * rows), "ann_cycle": (delay[0], 0), "snn_cycle": (0, delay[1]),
            "value_read": (0, 0), "dense_mac": (0, 0)}       # those are for the dense baseline
    assert set(found) == set(want)
    for name, (ann, snn) in want.items():
        assert np.allclose(found[name][Core.ANN], ann) and np.allclose(found[name][Core.SNN], snn), name


def test_reading_a_layer_by_hand():
    """The image of `test_cycles_to_read_and_broadcast_by_hand`: 100 chunks of a mask and 8.5 lines, 16 of them from memory."""
    config = PRESETS["tiny"]
    network, _ = synthetic_layer(rows=4, inputs=9 * 32, columns=2, activation_density=1.0, weight_density=0.5, kernel=3)
    layer = replace(network.layers[0], sources=(replace(network.layers[0].sources[0], padding=1),))
    network = Network(name="padded", input=InputSpec(channels=32, height=4, width=4, levels=4, full_scale=4.0), layers=[layer])
    trace = evaluate(network, np.ones((1, 32, 4, 4), np.uint8), quantised=True).layers["layer"]
    none, weights = dict.fromkeys(energy_table(), 0.0), dict(zip(TRAFFIC, traffic_weights(config)))
    delay = column_costs(network, layer, trace, config).delay[Core.ANN].sum() / 4

    def overlapped(alone):
        period = max(delay, stream_cycles(network, layer, trace, config)) / 100
        return alone * (1 - np.exp(-period / alone))

    want = dict.fromkeys(TRAFFIC, 0) | {"cache_read": 950, "cache_line": 950 + 16 * 9.5, "cache_fill": 16 * 9.5, "cache_fetch": 100, "cache_cycle": 84 * overlapped(CACHE_AT_WORK) + 16 * overlapped(MEMORY_AT_WORK)}
    for name, count in want.items():
        costs = column_costs(network, layer, trace, config, energy=none | {name: 1.0})
        assert np.isclose(costs.reading, count * weights[name]), name
        assert np.isclose(costs.scaled(3).reading, 3 * costs.reading) and costs.take([0]).reading == costs.reading      # every tile reads all rows


def test_what_cache_and_compressor_do_is_charged_by_the_counts():
    """Each event at 1 pJ, or all at what they are; other presets by the memory model, line bits, ways and lanes."""
    paper, tiny = PRESETS["paper"], PRESETS["tiny"]
    counts = np.arange(2 * len(TRAFFIC)).reshape(2, -1)
    for number, name in enumerate(TRAFFIC):
        spent = moved_energy(counts, paper, energy=dict.fromkeys(energy_table(), 0.0) | {name: 1.0})
        assert spent == ((counts[:, number].sum(), 0) if name.startswith("cache") else (0, counts[:, number].sum()))
    assert (traffic_weights(paper) == 1).all()
    smaller = dict(zip(TRAFFIC, traffic_weights(tiny)))
    assert np.isclose(smaller["cache_line"], access_energy(512, 32) / access_energy(1024, 128)) and smaller["cache_cycle"] == 0.06 + 0.94 * 16 / 256
    on_tiny = {"cache_read": 56.0, "cache_write": 74.1, "cache_fetch": 37.9, "cache_fill": 150.6, "cache_cycle": 76.0, "pack_round": 9.78, "pack_line": 9.21, "pack_cycle": 11.35}
    assert all(abs(smaller[name] * energy_table("measured-sky130")[name] / value - 1) < 0.5 for name, value in on_tiny.items())     # docs/energy.md
    measured = {c.name: c for c in SETS["measured-sky130"]}
    assert all(measured[name].picojoules > 0 for name in TRAFFIC)
    assert np.isclose(measured["cache_line"].picojoules, access_energy(1024, 128), atol=0.01)


@pytest.mark.parametrize("inputs, kernel, density", [(9 * 128, 3, 0.35), (9 * 64, 3, 0.26), (256, 1, 0.35)])
def test_predicted_work_of_the_cache_is_that_of_the_cycle_model(inputs, kernel, density):
    """Columns on one core: they take twice as long as on both, which the prediction is for."""
    config, table = PRESETS["paper"], energy_table("measured-sky130")
    network, tensor = synthetic_layer(rows=49, inputs=inputs, columns=64, activation_density=density, weight_density=0.1, kernel=kernel)
    trace = evaluate(network, tensor, quantised=True)
    job = compile_network(network, config, policy="all_ann", calibration=tensor)
    result = simulate_model(job, tensor[0])
    none = dict.fromkeys(table, 0.0) | {name: table[name] for name in TRAFFIC}
    costs = column_costs(network, network.layers[0], trace.layers["layer"], config, energy=none, per_pe=np.inf)
    predicted = len(job.tiles) * costs.reading + costs.energy[Core.ANN].sum()
    assert abs(predicted / sum(moved_energy(result.traffic, config, energy=table)) - 1) < 0.35


def test_with_one_level_a_spike_is_a_level():
    """Nothing is speculated, corrected, or read of levels on the SNN core; more steps out than in."""
    network, tensor = shaped_layer(LayerShape(name="one", channels=64, columns=6, height=3, width=2, levels_in=1, levels_out=4), seed=1)
    layer, run = network.layers[0], evaluate(network, tensor, quantised=True).layers["one"]
    found = events(network, layer, run, PRESETS["tiny"])
    for name in ("speculation", "correction", "level_read", "level_line"):
        assert not found[name][Core.SNN].any(), name
    assert np.allclose(found["level_line"][Core.ANN], LEVELS * run.matches) and run.matches.all()
    assert np.array_equal(found["pascif_step"][Core.SNN], [(1 + 3 + 4) * 6] * 6)


def test_serial_pes_pay_for_additions(digits):
    """Every addition, and a second prefix count and the read of a level per match: no correction and no laggy prefix sum."""
    network, trace = digits
    layer, run, config = network.layer("act2"), trace.layers["act2"], PRESETS["tiny"].replace(snn_pe="serial")
    none, images = dict.fromkeys(EVENTS, 0.0), len(trace.output)
    costs = {name: column_costs(network, layer, run, config, energy=none | {name: 1.0}) for name in none}
    snn = {name: cost.energy[Core.SNN] for name, cost in costs.items()}
    assert np.allclose(snn["pseudo"], run.level_sum / images) and np.allclose(snn["level_read"], LEVEL * run.matches / images)
    assert np.allclose(snn["fast_prefix"], 2 * run.matches / images * config.chunk_bits / 128)
    assert not snn["correction"].any() and not snn["laggy_chunk"].any()
    assert np.allclose(snn["pascif_step"], run.rows * (2 * layer.levels.astype(int)))
    model = CostModel(serial_row=5, serial_match=1.5)
    assert np.allclose(column_costs(network, layer, run, config, model=model).delay[Core.SNN], 5 * 64 + 1.5 * run.level_sum / images)
    tile = SimpleNamespace(columns=np.arange(4), core=np.ones(4, int), pe=np.arange(4) % 2)
    assert placed_energy(network, layer, run, config, [tile], energy=none | {"laggy_chunk": 1.0}) == 0


@pytest.mark.parametrize("kind", ["binary", "radix"])
def test_pes_that_add_bit_by_bit_pay_for_bits(digits, kind):
    """Corrections for the bits that levels lack, or additions for their own; three bits of each sum; the cycles of the other kind."""
    network, trace = digits
    layer, run, config = network.layer("act2"), trace.layers["act2"], PRESETS["tiny"].replace(snn_pe=kind)
    snn = {name: one[Core.SNN] for name, one in events(network, layer, run, config, per_pe=3).items()}
    m, rows, fast = run.matches / 8, run.rows, config.chunk_bits / 128
    want = {"pseudo": m, "correction": run.lacking_bits / 8, "fast_prefix": fast * m, "laggy_chunk": rows * 9 / 3 * fast, "match_rest": 0}
    if kind == "radix":
        want = {"pseudo": run.level_bits / 8, "correction": 0, "fast_prefix": 2 * fast * m, "laggy_chunk": 0, "match_rest": m}
    want |= {"speculation": m, "level_read": LEVEL * m, "weigh_step": 3 * rows, "pascif_step": rows * 2 * layer.levels.astype(int), "snn_output": rows}
    for name, expected in want.items():
        assert np.allclose(snn[name], expected), name
    assert np.array_equal(column_costs(network, layer, run, config).delay, column_costs(network, layer, run, PRESETS["tiny"]).delay)


def test_reads_of_the_measured_preset_cost_what_the_table_says():
    assert all(factor == 1 for of in memory_weights(PRESETS["paper"]) for factor in of.values())


def test_kinds_of_snn_pe_have_coefficients_of_their_own():
    table = {"pseudo": 1.0, "mac": 2.0, "serial.pseudo": 3.0}
    assert of_kind(table, "serial") == {"pseudo": 3.0, "mac": 2.0} and of_kind(table, "dual_prefix") == {"pseudo": 1.0, "mac": 2.0}
    measured = energy_table("measured-sky130")
    for kind in ("serial", "binary", "radix"):
        assert of_kind(measured, kind)["snn_cycle"] != measured["snn_cycle"] and set(of_kind(measured, kind)) == set(EVENTS)
        assert of_kind(energy_table("literature-45nm"), kind) == energy_table("literature-45nm")


def test_columns_that_the_snn_core_cannot_take(digits):
    network, trace = digits

    def spiking(name, **changes):
        config = PRESETS["tiny"].replace(**changes)
        return column_costs(network, network.layer(name), trace.layers[name], config).spiking

    assert spiking("act2", snn_levels=4).all() and not spiking("act2", snn_levels=3).any()
    assert not spiking("logits").any()
    reach = np.abs(network.layer("act2").weights.astype(int)).sum(axis=0)
    assert spiking("act2", snn_acc_bits=12).tolist() == (reach < 2048).tolist()
    assert spiking("act2", snn_acc_bits=14, snn_pe="serial").tolist() == (4 * reach < 8192).tolist()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"delay has shape \(2, 3\), not \(2, 2\)"):
        ColumnCosts(delay=np.ones((2, 3)), energy=np.ones((2, 2)), spiking=np.ones(2, bool), size=np.ones(2, int))


def test_chunks_are_paid_by_every_pe_that_has_columns(digits):
    """One image, laggy prefix sums alone: as many as chunks that SNN PEs with columns take."""
    network, _ = digits
    trace = evaluate(network, network.examples.calibration_images[:1])
    layer, config = network.layer("act2"), DUAL
    energy = dict.fromkeys(EVENTS, 0.0) | {"laggy_chunk": 128 / config.chunk_bits}
    run = trace.layers["act2"]
    chunks = run.rows * network.row_chunks(layer, config.chunk_bits)

    def tile(columns, core, pe):
        return SimpleNamespace(columns=np.arange(*columns), core=np.asarray(core), pe=np.asarray(pe))

    def spent(*tiles):
        return placed_energy(network, layer, run, config, tiles, energy=energy)

    assert spent(tile((0, 4), [1, 1, 1, 1], [0, 1, 0, 1])) == 2 * chunks
    assert spent(tile((0, 4), [1, 1, 1, 1], [0, 0, 0, 0])) == chunks
    assert spent(tile((0, 4), [0, 1, 0, 0], [0, 1, 0, 1])) == chunks == spent(tile((0, 4), [0, 1, 1, 0], [0, 1, 1, 1]))
    assert spent(tile((0, 2), [0, 0], [0, 1])) == 0
    assert spent(tile((0, 2), [1, 1], [0, 1]), tile((2, 4), [1, 1], [0, 0])) == 3 * chunks


@pytest.mark.parametrize("core, kind", [(Core.ANN, "dual_prefix"), (Core.SNN, "dual_prefix"), (Core.SNN, "serial"), (Core.SNN, "binary"), (Core.SNN, "radix")])
def test_predicted_cycles_are_those_of_the_golden_model(core, kind):
    """Busiest PE of synthetic layers on `tiny`, by matches and by the scanner."""
    table = np.array([one for densities in ((0.3, 0.3), (0.26, 0.05), (0.26, 0.02))
                      for one in fit_cost.samples(PRESETS["tiny"].replace(snn_pe=kind), core, 288, densities, seed=5)])
    matches, rows, scans, cycles = table.T
    predicted = CostModel().delay(core, rows=rows, matches=matches, chunks=2 * scans / rows, serial=kind == "serial")
    assert ((scans > rows + matches).any() or kind == "serial") and (scans < matches).any()    # an adder waits for its scanner more seldom
    assert np.abs(predicted / cycles - 1).max() < 0.25
