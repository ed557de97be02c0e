"""Cost model: fitted coefficients, the energy table and which columns the SNN core can take."""
from types import SimpleNamespace

import fit_cost
import numpy as np
import pytest

from neuroflex import zoo
from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.sim.cost import ColumnCosts, CostModel, column_costs, fit, placed_energy
from neuroflex.sim.energy import EVENTS, SETS, energy_table, markdown
from neuroflex.sim.network import evaluate


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
    assert energy_table() == energy_table("assumed-45nm") != energy_table("measured-sky130")
    assert energy_table(mac=1)["mac"] == 1 != energy_table()["mac"]
    with pytest.raises(KeyError, match="no energy coefficient 'adder'"):
        energy_table(adder=1)


def test_the_documentation_shows_the_table(pytestconfig):
    assert markdown() in (pytestconfig.rootpath / "docs" / "scheduling.md").read_text()


def test_costs_follow_the_matches(digits):
    network, trace = digits
    layer = network.layer("act2")
    model = CostModel(ann_row=2, ann_match=1.25, snn_row=5, snn_match=1.5)
    unit = dict.fromkeys(energy_table(), 0.0)
    costs = column_costs(network, layer, trace.layers["act2"], PRESETS["tiny"], model=model, energy=unit | {"mac": 1.0, "correction": 1.0})
    m = trace.layers["act2"].matches / 8
    assert np.allclose(costs.delay[Core.ANN], 2 * 64 + 1.25 * m)
    assert np.allclose(costs.delay[Core.SNN], 5 * 64 + 1.5 * m)
    assert np.allclose(costs.energy[Core.ANN], m)
    assert np.allclose(costs.energy[Core.SNN], 4 * m - trace.layers["act2"].level_sum / 8)
    assert costs.size.tolist() == np.count_nonzero(layer.weights, axis=0).tolist()
    part = costs.take([3, 1])
    assert part.size.tolist() == costs.size[[3, 1]].tolist() and part.delay.shape == (2, 2)


def test_every_term_of_the_costs_counts(digits):
    """Each coefficient of a column's cost, alone, on the core that it is for."""
    network, trace = digits
    layer, run, config = network.layer("act2"), trace.layers["act2"], PRESETS["tiny"]
    none = dict.fromkeys(energy_table(), 0.0)
    assert np.array_equal(column_costs(network, layer, run, config, energy=none).energy, np.zeros((2, layer.columns)))
    for name in set(none) - {"value_read"}:        # that one is for the dense baseline
        ann, snn = column_costs(network, layer, run, config, energy=none | {name: 1.0}).energy.sum(axis=1)
        assert (ann > 0) == (name not in ("pseudo", "speculation", "correction", "laggy_chunk", "snn_output", "pascif_step", "snn_cycle")), name
        assert (snn > 0) == (name not in ("mac", "ann_output", "qcfs_step", "ann_cycle")), name


def test_columns_that_the_snn_core_cannot_take(digits):
    network, trace = digits

    def spiking(name, **changes):
        config = PRESETS["tiny"].replace(**changes)
        return column_costs(network, network.layer(name), trace.layers[name], config).spiking

    assert spiking("act2", snn_levels=4).all() and not spiking("act2", snn_levels=3).any()
    assert not spiking("logits").any()
    reach = np.abs(network.layer("act2").weights.astype(int)).sum(axis=0)
    assert spiking("act2", snn_acc_bits=12).tolist() == (reach < 2048).tolist()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"delay has shape \(2, 3\), not \(2, 2\)"):
        ColumnCosts(delay=np.ones((2, 3)), energy=np.ones((2, 2)), spiking=np.ones(2, bool), size=np.ones(2, int))


def test_chunks_are_paid_by_every_pe_that_has_columns(digits):
    """One image, laggy prefix sums alone: as many as chunks that SNN PEs with columns take."""
    network, _ = digits
    trace = evaluate(network, network.examples.calibration_images[:1])
    layer, config = network.layer("act2"), PRESETS["tiny"]
    energy = dict.fromkeys(energy_table(), 0.0) | {"laggy_chunk": 128 / config.chunk_bits}
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


@pytest.mark.parametrize("core", Core)
def test_predicted_cycles_are_those_of_the_golden_model(core):
    """Busiest PE of synthetic layers on `tiny`, by matches and by the scanner."""
    table = np.array([one for densities in ((0.3, 0.3), (0.26, 0.05), (0.26, 0.02))
                      for one in fit_cost.samples(PRESETS["tiny"], core, 288, densities, seed=5)])
    matches, rows, scans, cycles = table.T
    predicted = CostModel().delay(core, rows=rows, matches=matches, chunks=2 * scans / rows)
    assert (scans > rows + matches).any() and (scans < matches).any()
    assert np.abs(predicted / cycles - 1).max() < 0.25
