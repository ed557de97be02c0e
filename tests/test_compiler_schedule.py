"""Schedules: packing, the split against brute force, the controls, ways to cut layers, and whole networks."""
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

from neuroflex import zoo
from neuroflex.compiler.network import Network
from neuroflex.compiler.lower import plan_tiles
from neuroflex.compiler.schedule import (METHODS, Machine, ScheduleError, Way, _edp, _orders, _search, choose, improve, lowest_product, profile, promising,
                                         schedule, schedule_network, schedule_tiles, ways_of)
from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.sim.cost import PACKING_END, ColumnCosts, column_costs
from neuroflex.sim.network import evaluate

MACHINE = Machine(ann_pes=2, snn_pes=2, columns_per_pe=16, values_per_pe=1 << 20)


def random_costs(rng, n, *, spiking=0.9):
    """Columns between which neither core is always the better: matches spread as in real layers, levels high and low."""
    matches = rng.integers(12, 217, n) * rng.choice([1.0, 4.0, 16.0])
    rows = rng.choice([0.0, 1.0, 16.0])
    delay = np.stack([matches + rows, matches * rng.uniform(1, 1.3) + rows * rng.uniform(1, 4)])
    energy = np.stack([matches * rng.uniform(1, 3), matches * rng.uniform(0.5, 3.5, n)])
    return ColumnCosts(delay=delay, energy=energy, spiking=rng.random(n) < spiking, size=rng.integers(1, 50, n))


def check(result, costs, machine):
    """What every schedule keeps, whatever the method."""
    n = len(costs.size)
    assert not (result.core == Core.SNN)[~costs.spiking].any()
    spent = 0.0
    for core in Core:
        own = result.core == core
        counts = np.bincount(result.pe[own], minlength=machine.pes[core])
        assert len(counts) == machine.pes[core] and (np.diff(counts) <= 0).all()
        assert counts.max(initial=0) <= machine.columns_per_pe
        assert result.rounds[core] == counts.max(initial=0)
        for pe in range(machine.pes[core]):
            mine = np.flatnonzero(own & (result.pe == pe))
            assert result.index[mine].tolist() == list(range(len(mine)))
            assert costs.size[mine].sum() <= machine.values_per_pe
            assert np.isclose(result.load[core][pe], costs.delay[core][mine].sum())
        spent += costs.energy[core][own].sum()
    assert result.columns.tolist() == list(range(n))
    assert np.isclose(result.energy, spent)
    assert np.isclose(result.edp, spent * max(load.max() for load in result.load))


@pytest.mark.parametrize("method", METHODS)
def test_invariants(method):
    rng = np.random.default_rng(2)
    for _ in range(20):
        costs = random_costs(rng, int(rng.integers(1, 13)))
        check(schedule(costs, MACHINE, method=method, seed=5), costs, MACHINE)


def search_gap(seed, cases):
    """EDP of the search that larger layers get, over that of brute force, for many small ones."""
    rng = np.random.default_rng(seed)
    gaps = []
    for _ in range(cases):
        costs = random_costs(rng, int(rng.integers(2, 13)), spiking=rng.choice([0.5, 1.0]))
        pes = rng.choice([1, 2, 4], 2)
        common = (_orders(costs), costs.delay, costs.energy, costs.size, pes, 16, 1 << 20, np.empty(len(costs.size), np.int64),
                  np.zeros(5))
        best = schedule(costs, Machine(ann_pes=int(pes[0]), snn_pes=int(pes[1]), columns_per_pe=16, values_per_pe=1 << 20))
        assert best.method == "min_edp"
        gaps.append(_edp(_search(costs, common), *common) / best.edp)
        assert np.isclose(_edp(best.core, *common), best.edp)
    return np.array(gaps)


@pytest.mark.parametrize("cases", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_search_is_within_one_percent_of_brute_force(cases):
    gaps = search_gap(3, cases)
    assert gaps.min() >= 1 - 1e-9
    assert (gaps <= 1.01).mean() >= 0.99 and gaps.max() <= 1.1


def test_min_edp_equals_brute_force_where_that_is_feasible():
    rng = np.random.default_rng(4)
    for _ in range(100):
        costs = random_costs(rng, int(rng.integers(1, 13)))
        assert schedule(costs, MACHINE).edp == schedule(costs, MACHINE, method="brute_force").edp


def test_min_edp_is_never_worse_than_a_control():
    rng = np.random.default_rng(6)
    machine = Machine(ann_pes=8, snn_pes=8, columns_per_pe=32, values_per_pe=1 << 20)
    for n in (16, 64, 256):
        costs = random_costs(rng, n)
        edp = {method: schedule(costs, machine, method=method).edp for method in METHODS if method != "brute_force"}
        assert all(edp["min_edp"] <= value * (1 + 1e-9) for value in edp.values())
        assert edp["layerwise"] == min(edp["all_ann"], edp["all_snn"])


def test_random_keeps_the_split_and_depends_on_the_seed():
    costs = random_costs(np.random.default_rng(7), 40)
    best = schedule(costs, MACHINE)
    one, again, other = (schedule(costs, MACHINE, method="random", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.core, best.core)
    assert np.array_equal(one.pe, again.pe) and not np.array_equal(one.pe, other.pe)
    assert one.makespan > best.makespan


def test_longest_first_by_hand():
    delay = np.array([[7.0, 5, 4, 4, 3, 2]] * 2)
    costs = ColumnCosts(delay=delay, energy=delay, spiking=np.zeros(6, bool), size=np.ones(6, int))
    result = schedule(costs, MACHINE)
    # 7 → A, 5 → B, 4 → B, 4 → A, 3 → B, 2 → A: loads 13 and 12, three columns each.
    assert result.pe.tolist() == [0, 1, 1, 0, 1, 0] and result.load[0].tolist() == [13.0, 12.0]
    assert result.index.tolist() == [0, 0, 1, 1, 2, 2]


def test_pes_are_numbered_by_falling_column_count():
    delay = np.array([[1.0, 1, 1, 9]] * 2)
    costs = ColumnCosts(delay=delay, energy=delay, spiking=np.zeros(4, bool), size=np.ones(4, int))
    result = schedule(costs, MACHINE)
    assert result.pe.tolist() == [0, 0, 0, 1] and result.load[0].tolist() == [3.0, 9.0]


def test_capacity_moves_columns_and_is_refused_when_exhausted():
    delay = np.ones((2, 6))
    costs = ColumnCosts(delay=delay, energy=delay, spiking=np.zeros(6, bool), size=np.full(6, 10))
    machine = Machine(ann_pes=2, snn_pes=2, columns_per_pe=3, values_per_pe=30)
    check(schedule(costs, machine), costs, machine)
    for changes in ({"columns_per_pe": 2}, {"values_per_pe": 20}):
        small = Machine(**vars(machine) | changes)
        for method in ("min_edp", "random"):
            with pytest.raises(ScheduleError, match="6 columns with 60 nonzero weights do not fit on the 2 PEs of the ANN core"):
                schedule(costs, small, method=method)
    # With spikes allowed the split must use both cores.
    both = ColumnCosts(delay=delay, energy=delay, spiking=np.ones(6, bool), size=np.full(6, 10))
    check(schedule(both, Machine(**vars(machine) | {"columns_per_pe": 2})), both, machine)


def equal_columns(n, delay, energy, **more):
    """Columns with the same cycles on both cores."""
    return ColumnCosts(delay=np.full((2, n), delay), energy=np.array([[energy[0]] * n, [energy[1]] * n]), spiking=np.ones(n, bool), size=np.ones(n, int), **more)


def test_a_tile_that_waits_for_its_activations_stays_on_the_cheaper_core():
    """Four columns of 10 cycles, 1 pJ each as levels and 1.2 as spikes: split they take 10 cycles instead of 20, unless reading and broadcasting take 20 anyway."""
    for stream, snn, cycles in ((0, 2, 10), (10, 2, 10), (15, 2, 15), (20, 0, 20), (30, 0, 30)):
        tile = schedule(equal_columns(4, 10.0, (1.0, 1.2), stream=float(stream)), MACHINE)
        assert (tile.core.sum(), tile.cycles) == (snn, cycles), stream
    # Two groups share the columns' cycles, not those of the bus.
    tile = schedule(equal_columns(4, 10.0, (1.0, 1.2), stream=10.0), MACHINE, groups_log2=1)
    assert (tile.core.sum(), tile.makespan, tile.cycles, tile.edp) == (0, 10, 10, 40)


def test_what_the_compressor_takes_is_a_floor_too():
    """Two PEs and ten columns: five rounds each of 100 positions, and what ends a position's chunk."""
    costs = equal_columns(10, 1.0, (1.0, 1.0), outputs=100.0)
    assert costs.floor((2, 2)) == 100 * (5 + PACKING_END) and costs.floor((2, 8)) == 100 * (2 + PACKING_END)
    assert replace(costs, stream=1e4).floor((2, 2)) == 1e4 and costs.scaled(3).floor((2, 2)) == 300 * (5 + PACKING_END)
    tile = schedule(costs, MACHINE, method="all_ann")
    assert tile.rounds == (5, 0) and tile.cycles == tile.floor == 100 * (5 + PACKING_END)


def test_no_more_snn_pes_than_are_needed():
    """Each SNN PE with a column costs 3 pJ for the chunks that it takes. One column takes 20 cycles on the ANN core, which is what four small ones take on one SNN PE."""
    delay = np.array([[20.0, 5, 5, 5, 5]] * 2)
    energy = np.array([[10.0, 3, 3, 3, 3], [99.0, 1, 1, 1, 1]])
    costs = ColumnCosts(delay=delay, energy=energy, spiking=np.ones(5, bool), size=np.ones(5, int), taking=np.array([0.0, 3.0]))
    machine = Machine(ann_pes=1, snn_pes=4, columns_per_pe=16, values_per_pe=100)
    tile = schedule(costs, machine)
    assert tile.core.tolist() == [0, 1, 1, 1, 1] and tile.pe[1:].tolist() == [0] * 4 and tile.load[1].tolist() == [20, 0, 0, 0]
    assert (tile.energy, tile.cycles) == (10 + 4 + 3, 20)
    # Without that cost they are spread, and the energies are those of the columns.
    spread = schedule(replace(costs, taking=np.zeros(2)), machine)
    assert sorted(spread.pe[1:].tolist()) == [0, 1, 2, 3] and spread.energy == 14


def test_lowest_product_is_that_of_brute_force():
    rng = np.random.default_rng(12)
    for _ in range(300):
        options = [rng.integers(1, 30, (rng.integers(1, 5), 2)).astype(float) * rng.choice([1, 10]) for _ in range(rng.integers(1, 5))]
        sums = [np.prod(sum(points[one] for points, one in zip(options, ones))) for ones in product(*(range(len(points)) for points in options))]
        mine = lowest_product(options)
        assert np.isclose(np.prod(sum(points[one] for points, one in zip(options, mine))), min(sums))


def a_layer(columns, rows=16, levels=4, config=PRESETS["tiny"]):
    network, tensor = synthetic_layer(rows=rows, inputs=64, columns=columns, activation_density=0.3, weight_density=0.3, levels=levels)
    layer = network.layers[0]
    costs = column_costs(network, layer, evaluate(network, tensor, quantised=True).layers["layer"], config, per_pe=np.inf)
    return network, layer, costs, ways_of(network, layer, costs, config)


def test_ways_to_cut_a_layer():
    """64 columns for 2 + 2 PEs of 16 columns each: two tiles that either core could take alone, or one for both."""
    config = PRESETS["tiny"]
    network, layer, _, ways = a_layer(64)
    shapes = [[(len(plan.columns), plan.groups_log2) for _, plan, _ in way.work] for way in ways]
    assert shapes == [[(32, 0), (32, 0)], [(64, 0)], [(32, 1), (32, 1)]] or shapes == [[(32, 0), (32, 0)], [(64, 0)]]
    assert [plan.columns.tolist() for _, plan, _ in ways[0].work] == [plan.columns.tolist() for plan in plan_tiles(network, layer, config)]
    one, two = ways[1].tiles(config, "min_edp")[0], ways[0].tiles(config, "min_edp")
    assert sorted(one.rounds) == [16, 16] and sum(t.cycles for t in two) > 0.9 * one.cycles
    with pytest.raises(ScheduleError, match="layer 'layer': 64 columns .* do not fit"):
        ways[1].tiles(config, "all_ann")
    # Levels that only the ANN core can take: tiles for both cores are no way.
    assert all(len(plan.columns) <= 32 for way in a_layer(64, levels=100)[3] for _, plan, _ in way.work)


def test_few_columns_get_groups_by_what_is_slowest():
    """Eight columns in 64 rows: more groups give more PEs work, unless the compressor has to pack too many rounds."""
    ways = a_layer(4, rows=64)[3]
    config = PRESETS["tiny"]
    assert {way.work[0][1].groups_log2 for way in ways} == {0, 1}
    assert promising(ways, config)[0] is ways[0] and len(promising(ways, config, most=1)) <= 2
    slow = [Way(work=[(name, plan, replace(costs, outputs=1e6))], fixed=0.0) for name, plan, costs in (way.work[0] for way in ways)]
    fast = choose([slow], config)[0][0]
    assert fast.work[0][1].groups_log2 == 0


def test_choice_and_improvement_are_not_above_any_single_way():
    config = PRESETS["tiny"]
    layers = [a_layer(columns)[3] for columns in (6, 20, 64)]
    chosen = choose(layers, config)
    edp = np.prod(sum(np.array([sum(t.energy for t in tiles), way.fixed + sum(t.cycles for t in tiles)]) for way, tiles in chosen))
    for method in ("min_edp", "all_ann", "all_snn"):
        sums = np.zeros(2)
        for ways in layers:
            tiles = ways[0].tiles(config, method)
            sums += sum(t.energy for t in tiles), ways[0].fixed + sum(t.cycles for t in tiles)
        assert edp <= np.prod(sums) * (1 + 1e-9)
    way, tiles = chosen[0]
    rest = np.array([1e6, 1e6])
    better = improve(way.work, tiles, config, rest=tuple(rest))
    assert np.prod(rest + [sum(t.energy for t in better), sum(t.cycles for t in better)]) <= np.prod(rest + [sum(t.energy for t in tiles), sum(t.cycles for t in tiles)]) * (1 + 1e-9)


def test_refusals():
    costs = random_costs(np.random.default_rng(8), 13)
    with pytest.raises(ScheduleError, match="no method 'best'; there are min_edp"):
        schedule(costs, MACHINE, method="best")
    with pytest.raises(ScheduleError, match="at most 12 columns, not 13"):
        schedule(costs, MACHINE, method="brute_force")
    network = zoo.load("digits")
    with pytest.raises(ScheduleError, match="holds no calibration images"):
        profile(Network(name="bare", input=network.input, layers=network.layers))


@dataclass
class Plan:
    columns: np.ndarray
    groups_log2: int
    max_columns_per_pe: int


def halves(network, **groups_log2):
    """Every layer in two tiles."""
    return {layer.name: [Plan(part, groups_log2.get(layer.name, 0), 16) for part in np.array_split(np.arange(layer.columns), 2)]
            for layer in network.layers}


@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_whole_network(preset):
    network = zoo.load("digits")
    config = PRESETS[preset]
    trace = profile(network, network.examples.calibration_images[:16])
    plans = halves(network, act1=1)
    results = {method: schedule_network(network, config, trace, plans, method=method) for method in METHODS[:-1]}
    for result in results.values():
        assert list(result.tiles) == [layer.name for layer in network.layers]
        for layer in network.layers:
            for plan in plans[layer.name]:
                core, pe, index = result(layer, plan)
                assert len(core) == len(pe) == len(index) == len(plan.columns)
                lanes = np.array([config.ann_pes, config.snn_pes]) >> plan.groups_log2
                assert (pe < lanes[core]).all()
                assert layer.name != "logits" or not core.any()
        every = [tile for tiles in result.tiles.values() for tile in tiles]
        assert np.isclose(result.edp, sum(t.energy for t in every) * sum(t.cycles for t in every))
    edp = {method: result.edp for method, result in results.items()}
    assert edp["min_edp"] == min(edp.values()) and edp["layerwise"] <= min(edp["all_ann"], edp["all_snn"])
    assert all(np.array_equal(a.core, b.core) for name in results["random"].tiles
               for a, b in zip(results["random"].tiles[name], results["min_edp"].tiles[name]))


def test_a_single_core_is_not_held_to_the_tiles_of_the_other():
    """Eight ANN PEs, two SNN PEs: of columns that both can take the ANN core holds four times as many at a time."""
    network, config = zoo.load("cifar10_vgg11_quarter"), PRESETS["pynq_z2"]
    trace = profile(network, network.examples.calibration_images[:2])
    found = {method: schedule_network(network, config, trace, method=method) for method in ("all_ann", "all_snn", "layerwise", "min_edp")}
    tiles = {method: {name: len(of) for name, of in one.tiles.items()} for method, one in found.items()}
    assert all(tiles["all_ann"][name] <= tiles["all_snn"][name] for name in tiles["all_ann"])
    assert sum(tiles["all_ann"].values()) * 2 <= sum(tiles["all_snn"].values())
    assert all(tiles["layerwise"][name] in (tiles["all_ann"][name], tiles["all_snn"][name]) for name in tiles["layerwise"])
    assert found["min_edp"].edp <= min(one.edp for one in found.values()) * 1.001


def test_whole_network_refusals():
    network = zoo.load("digits")
    trace = profile(network, network.examples.calibration_images[:2])
    plans = {layer.name: [Plan(np.arange(layer.columns), 0, 16)] for layer in network.layers}
    result = schedule_network(network, PRESETS["tiny"], trace, plans, method="all_ann")
    with pytest.raises(ScheduleError, match="layer 'act2': no tile with columns 0 … 3 was scheduled"):
        result(network.layer("act2"), Plan(np.arange(4), 0, 16))
    plans["act1"] = [Plan(np.arange(16), 0, 3)]
    with pytest.raises(ScheduleError, match="layer 'act1': 16 columns .* do not fit"):
        schedule_network(network, PRESETS["tiny"], trace, plans)


def test_cycles_that_no_schedule_changes_make_energy_count_more():
    rng = np.random.default_rng(8)
    plan = Plan(columns=np.arange(40), groups_log2=0, max_columns_per_pe=32)
    costs = random_costs(rng, 40, spiking=1.0)
    config = PRESETS["small"]
    free, fixed = (schedule_tiles([("a", plan, costs)], config, fixed_cycles=cycles)[0] for cycles in (0.0, 1e9))
    assert fixed.energy < free.energy and fixed.makespan > free.makespan
    assert np.isclose(fixed.energy, costs.energy.min(axis=0).sum(), rtol=0.02)


def test_groups_share_the_delay_of_a_tile_but_not_that_of_the_others():
    """In four groups each column takes a quarter of its cycles; what is around takes what it takes."""
    rng, spiking = np.random.default_rng(11), set()
    for _ in range(20):
        costs = random_costs(rng, 8, spiking=1.0)
        quarter = replace(costs, delay=costs.delay / 4)
        around = costs.energy.sum(), costs.delay.sum() / 8
        one, four = schedule(quarter, MACHINE, around=around), schedule(costs, MACHINE, groups_log2=2, around=around)
        assert np.array_equal(one.core, four.core) and one.makespan == four.makespan
        spiking.add(int(one.core.sum()))
    assert len(spiking) > 2


def test_tiles_together_are_never_worse_than_a_single_mode():
    rng = np.random.default_rng(9)
    config = PRESETS["small"]
    for fixed in (0.0, 1e4, 1e7):
        work = [(str(n), Plan(columns=np.arange(n), groups_log2=0, max_columns_per_pe=32), random_costs(rng, n)) for n in (9, 30, 60)]
        edp = {}
        for method in ("min_edp", "all_ann", "all_snn", "layerwise"):
            tiles = schedule_tiles(work, config, method=method, fixed_cycles=fixed)
            edp[method] = sum(t.energy for t in tiles) * (fixed + sum(t.makespan for t in tiles))
        assert all(edp["min_edp"] <= value * (1 + 1e-9) for value in edp.values())
