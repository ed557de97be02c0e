"""Layers of large networks on RTL and golden model: every signal of every cycle.

Whole networks are measured on the golden model alone; that it is exact at their sizes is shown on samples.

* Three layers of each network in `neuroflex.compare.shapes` (first, middle, long rows), drawn as a comparison draws them, cut to a few lines of output
  and to some columns; their rows keep the full length.
* The schedule is the hybrid one, so that both cores run; the memory answers at random times in half of the cases.
* Coverage: tiles, both cores, skips, pools, packed inputs and levels of 1 all occur.
"""
from dataclasses import replace

import numpy as np
import pytest

from neuroflex import flow
from neuroflex.compare.shaped import shaped_layer
from neuroflex.compare.shapes import SHAPES
from neuroflex.compiler.lower import lower
from neuroflex.compiler.schedule import schedule_network
from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate

LAYERS = {"vgg16": ("conv1_1", "conv3_3", "conv5_2"), "resnet34": ("conv1", "conv2_2b", "conv4_3b"), "googlenet": ("conv1", "4c_5x5", "5b_3x3"),
          "bert_base": ("0.query", "3.up", "11.down"), "vit_small": ("patches", "5.up", "11.down")}
ROWS, COLUMNS = 16, 40
COVERED = {"tiles", "ANN", "SNN", "skip", "pool", "packed", "one level", "long row"}


def run(network, name, seed):
    """Verdict and what the case covers."""
    config = PRESETS["tiny"]
    shape = next(layer for layer in SHAPES[network].layers if layer.name == name)
    if not shape.skip:      # an identity skip needs all columns of its tensor
        shape = replace(shape, columns=min(shape.columns, COLUMNS))
    if shape.width > ROWS:
        shape = replace(shape, width=ROWS)
    shape, _ = shape.cut(ROWS)
    layers, tensors = shaped_layer(shape, seed=seed)
    trace = evaluate(layers, tensors, quantised=True)
    schedules = schedule_network(layers, config, trace)
    job = lower(layers, config, schedules, trace=trace, plans=schedules.tiles)
    memory = MemoryTrace.random(np.random.default_rng(seed)) if seed % 2 else MemoryTrace.constant()
    cores = {core.name for core in Core for tile in job.tiles if (tile.core == core).any()}
    covered = cores | {what for what, seen in (("tiles", len(job.tiles) > 1), ("skip", shape.skip), ("pool", shape.pool > 1), ("packed", shape.packed),
                                               ("one level", shape.levels_in == 1), ("long row", shape.inputs > 4000)) if seen}
    return flow.verify(job, tensors[0], memory=memory), covered


@pytest.mark.long
def test_sampled_layers_have_no_difference():
    covered, cycles = set(), 0
    for number, (network, name) in enumerate((network, name) for network, names in LAYERS.items() for name in names):
        verdict, seen = run(network, name, seed=number)
        assert (verdict.cycle_mismatches, verdict.value_mismatches) == (0, 0), f"{network} {name}, seed {number}: {verdict.first}"
        print(f"{network} {name}: {verdict.cycles:,} cycles, no difference")
        covered |= seen
        cycles += verdict.cycles
    print(f"{cycles:,} cycles in all")
    assert covered == COVERED and cycles > 100_000


def test_one_sampled_layer_has_no_difference():
    verdict, _ = run("vgg16", "conv3_1", seed=1)
    assert (verdict.cycle_mismatches, verdict.value_mismatches) == (0, 0), verdict.first
