"""Lowering: what does not fit is refused by name, and tensors survive the trip to memory and back."""
import numpy as np
import pytest

from neuroflex.compiler.lower import (LoweringError, Placement, chunk_lines, dense_rows, lower, plan_tiles, tensor_from_lines, tensor_lines)
from neuroflex.compiler.network import InputSpec, Layer, Network, Source
from neuroflex.compiler.synthetic import random_network
from neuroflex.config import PRESETS
from neuroflex.formats import CHUNK_LINES, Core, Opcode, descriptor_lines, pack_chunk, unpack_chunk, unpack_descriptor
from neuroflex.sim.network import evaluate

TINY = PRESETS["tiny"]


def network(weights, *, theta=10, levels=4, levels_in=4, height=1):
    """One fully connected layer."""
    weights = np.asarray(weights, int)
    k, n = weights.shape
    layer = Layer(name="fc", sources=[Source(tensor="input")], weights=weights, bias=np.zeros(n, int), theta=np.full(n, theta),
                  levels=np.full(n, levels))
    return Network(name="net", layers=[layer], input=InputSpec(channels=k, height=height, width=1, levels=levels_in, full_scale=1.0))


def on(core):
    """An assignment that deals all columns out to one core's PEs."""
    def assign(layer, plan):
        pes = ((TINY.ann_pes, TINY.snn_pes)[core]) >> plan.groups_log2
        columns = np.arange(len(plan.columns))
        return np.full(len(columns), core), columns % pes, columns // pes
    return assign


@pytest.mark.parametrize("what, config, core, message", [
    (network(np.ones((64, 4)) * 127, levels_in=127), TINY.replace(ann_acc_bits=19, theta_bits=18), Core.ANN,
     r"^layer 'fc': column 0 can reach \d+, beyond ann_acc_bits = 19 \(up to 262143\)"),
    (network(np.ones((4, 4)), theta=1 << 10), TINY.replace(theta_bits=10), Core.ANN,
     r"^layer 'fc': threshold 1024 of column 0 does not fit theta_bits = 10"),
    (network(np.ones((40, 4)) * -128), TINY.replace(snn_acc_bits=14, snn_pe="serial"), Core.SNN,
     r"^layer 'fc': an SNN column can reach \d+, beyond snn_acc_bits = 14; keep it on the ANN core"),
    (network(np.ones((40, 4)) * -128), TINY.replace(snn_acc_bits=13), Core.SNN,
     r"^layer 'fc': an SNN column's weights add up to 5120, beyond snn_acc_bits = 13; keep it on the ANN core"),
    (network(np.ones((4, 4)), levels_in=9), TINY, Core.SNN, r"^layer 'fc': an SNN column would need 9 levels, snn_levels = 8"),
    (network(np.ones((4, 4)), levels=15), TINY, Core.SNN, r"^layer 'fc': an SNN column would need 15 levels, snn_levels = 8"),
    (network(np.zeros((32 * 40, 2))), TINY.replace(mask_pairs=32), Core.ANN,
     r"^layer 'fc': a row has 40 chunks, a PE's slice holds masks for 32: raise mask_pairs to at least 40"),
    (network(np.ones((100, 2))), TINY.replace(value_lines=16), Core.ANN,
     r"^layer 'fc': column 0 has 100 nonzero weights, a PE's slice holds 64: raise value_lines"),
    (network(np.ones((4, 4)), height=500), TINY.replace(address_bits=12), Core.ANN,
     r"^network 'net' needs \d+ lines of memory, address_bits = 12 reach 4096"),
])
def test_refusals(what, config, core, message):
    with pytest.raises(LoweringError, match=message):
        lower(what, config, on(core))


def test_ann_takes_what_snn_does_not():
    lower(network(np.ones((4, 4)), levels_in=9, levels=127), TINY, on(Core.ANN))


@pytest.mark.parametrize("pe, index", [(0, 0), (9, 0)])
def test_wrong_schedules(pe, index):
    with pytest.raises(LoweringError, match="two columns in one place or on a PE that is not there"):
        lower(network(np.ones((4, 4))), TINY, lambda layer, plan: (np.zeros(4), np.full(4, pe), np.full(4, index)))


@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_tensors(preset):
    config, rng = PRESETS[preset], np.random.default_rng(3)
    for channels, chunks in ((1, 1), (config.chunk_bits, 1), (50, 4)):
        place = Placement(base=0, height=3, width=2, chunks=chunks, levels=127,
                          positions=rng.permutation(chunks * config.chunk_bits)[:channels])
        tensor = rng.integers(0, 128, (channels, 3, 2)) * (rng.random((channels, 3, 2)) < 0.4)
        lines = tensor_lines(tensor, place, config)
        assert lines.shape == (place.lines, config.line_bytes)
        np.testing.assert_array_equal(tensor_from_lines(lines, place, config), tensor)
        # The same by hand, one spine.
        spine = np.zeros(chunks * config.chunk_bits, int)
        spine[place.positions] = tensor[:, 2, 1]
        at = (2 * 2 + 1) * chunks * CHUNK_LINES
        np.testing.assert_array_equal(unpack_chunk(lines[at:at + CHUNK_LINES], config), spine[:config.chunk_bits])


def test_chunk_lines_is_pack_chunk():
    rng = np.random.default_rng(4)
    chunks = rng.integers(-128, 128, (20, 32)) * (rng.random((20, 32)) < rng.random((20, 1)))
    for lines, chunk in zip(chunk_lines(chunks, TINY), chunks):
        packed = pack_chunk(chunk, TINY)
        np.testing.assert_array_equal(lines[:len(packed)], packed)
        assert not lines[len(packed):].any()


@pytest.mark.parametrize("seed", range(8))
def test_jobs(seed):
    """Tiles cover every column once, nothing overlaps in memory, descriptors say what the tiles say."""
    net = random_network(seed)
    job = lower(net, TINY, on(Core.ANN))
    per = descriptor_lines(TINY)
    words = job.memory[:(len(job.tiles) + 1) * per].reshape(-1).view(np.uint32).reshape(len(job.tiles) + 1, -1)
    assert unpack_descriptor(words[-1])["opcode"] == Opcode.END
    used = np.zeros(len(job.memory), int)
    used[:len(words) * per] += 1
    for place in job.placements.values():
        used[place.base:place.base + place.lines] += 1
        assert len(np.unique(place.positions)) == len(place.positions) and place.positions.max() < place.chunks * TINY.chunk_bits
    for tile, line in zip(job.tiles, words):
        assert unpack_descriptor(line) == tile.settings
        start = tile.settings["load_address"]
        used[start:start + tile.settings["load_lines"]] += 1
    assert (used == 1).all()
    for layer in net.layers:
        columns = np.concatenate([tile.columns for tile in job.tiles if tile.layer == layer.name])
        np.testing.assert_array_equal(np.sort(columns), np.arange(layer.columns))
        assert dense_rows(layer, job.placements, TINY).sum() == layer.weights.astype(int).sum()


def test_tiles_fit_the_slices():
    wide = network(np.random.default_rng(1).integers(1, 100, (64, 200)))
    plans = plan_tiles(wide, wide.layers[0], TINY)
    assert len(plans) > 1 and all(len(plan.columns) % TINY.chunk_bits == 0 for plan in plans[:-1])
    np.testing.assert_array_equal(np.concatenate([plan.columns for plan in plans]), np.arange(200))


def test_what_only_the_ann_core_can_take_fills_it():
    """Four PEs of one core and two of the other, 16 columns each: tiles of either hold 32 columns, those of levels that the SNN core has not 64."""
    config = TINY.replace(ann_pes=4, snn_pes=2, snn_levels=4)
    for levels, size in ((4, 32), (8, 64)):
        net = network(np.ones((32, 256)), levels=levels)
        assert {len(plan.columns) for plan in plan_tiles(net, net.layers[0], config)} == {size}


def test_few_columns_share_the_rows():
    """One column keeps one PE busy, so its rows go to all groups; equal columns that fill the PEs gain nothing, unequal ones are dealt more evenly."""
    def groups(weights, rows, config=TINY):
        net = network(weights, height=rows)
        return [plan.groups_log2 for plan in plan_tiles(net, net.layers[0], config)]

    assert groups(np.ones((4, 1)), 8) == [1] and groups(np.ones((4, 1)), 1) == [0]
    assert groups(np.ones((4, 1)), 64, PRESETS["paper"]) == [3] and groups(np.ones((4, 1)), 7, PRESETS["paper"]) == [2]
    assert groups(np.ones((4, 4)), 8) == [0] and groups(np.triu(np.ones((4, 4))), 8) == [1]


def test_slices_keep_a_quarter_for_uneven_columns():
    """Columns of 20 values, slices of 64: three would fit, two are planned."""
    net = network(np.ones((20, 8)))
    assert [plan.max_columns_per_pe for plan in plan_tiles(net, net.layers[0], TINY.replace(value_lines=16))] == [2, 2]


@pytest.mark.parametrize("full, lines", [(1, 2), (5, 9)])
def test_lines_fetched_ahead_are_enough_for_all_but_one_chunk_in_fifty(full, lines):
    """A hundred rows of one chunk: three levels, a line of them behind the mask, or all of them, eight lines."""
    net = network(np.ones((32, 2)), height=100)
    tensor = np.zeros((1, 32, 100, 1), np.uint8)
    tensor[:, :3] = 1
    tensor[:, :, :full] = 1
    trace = evaluate(net, tensor, quantised=True)
    assert [lower(net, TINY, on(Core.ANN), trace=given).tiles[0].settings["fetch_lines"] for given in (trace, None)] == [lines, CHUNK_LINES]


def test_input_in_memory():
    net = random_network(1)
    job = lower(net, TINY, on(Core.ANN))
    tensor = np.random.default_rng(0).integers(0, net.input.levels + 1, net.shape("input"))
    memory, place = job.with_input(tensor), job.placements["input"]
    np.testing.assert_array_equal(tensor_from_lines(memory[place.base:place.base + place.lines], place, TINY), tensor)
    assert not job.memory[place.base:place.base + place.lines].any()


def test_loading_is_predicted_within_a_few_per_cent():
    from neuroflex import flow, zoo
    from neuroflex.compiler.lower import load_cycles
    from neuroflex.config import PRESETS
    from neuroflex.formats import StallCause
    from neuroflex.sim.network import quantise

    network, config = zoo.load("mnist_mlp"), PRESETS["paper"]
    result = flow.simulate_model(flow.compile_network(network, config), quantise(network.input, network.examples.test_images[:1])[0])
    taken = result.layers[:-1, [StallCause.LOAD, StallCause.CONTROL]].sum()
    predicted = sum(load_cycles(network, layer, plan, config) for layer in network.layers for plan in plan_tiles(network, layer, config))
    assert abs(predicted / taken - 1) < 0.05


def test_what_does_not_fit_the_formats_names_the_layer(monkeypatch):
    from neuroflex.compiler import load_stream, lower as lowering

    def refuse(*values, **named):
        raise ValueError("too many")

    for module, name in ((load_stream, "pack_load_stream"), (lowering, "pack_descriptor")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(LoweringError, match="layer 'fc': too many"):
                lower(network([[1, 2]]), TINY, on(Core.ANN))
