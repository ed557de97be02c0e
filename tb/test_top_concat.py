"""Concatenations on the whole accelerator.

Test plan
---------
* values and cycles: branches of different sizes, one pooled, of several tiles, write side by side into one tensor that the
  next layer reads through a window and another as its skip branch; RTL and model equal in every cycle and value
* all policies of scheduling, so that the chunks of the branches hold columns of both cores in any order
* fault: a part that is written one chunk further must be seen
"""
import dataclasses

import numpy as np
import pytest

from neuroflex import flow
from neuroflex.compiler.network import Concat, InputSpec, Layer, Network, Source
from neuroflex.config import PRESETS
from neuroflex.sim.network import evaluate

TINY = PRESETS["tiny"]
SAME = {"kernel_h": 3, "kernel_w": 3, "padding": 1}


def inception(rng, *, wide):
    """Three branches, two layers that read their concatenation."""
    levels = 4

    def layer(name, sources, k, n, **options):
        weights = rng.integers(-9, 10, (k, n)) * (rng.random((k, n)) < 0.5)
        return Layer(name=name, sources=sources, weights=weights, bias=rng.integers(-9, 20, n), theta=rng.integers(8, 30, n),
                     levels=np.full(n, levels), **options)

    n = (3, wide, 6)
    total = sum(n)
    layers = [layer("one", [Source(tensor="input", stride=2)], 3, n[0]),
              layer("two", [Source(tensor="input", **SAME)], 27, n[1], pool_h=2, pool_w=2),
              layer("three", [Source(tensor="input", kernel_h=2, kernel_w=2, stride=2)], 12, n[2]),
              layer("mixed", [Source(tensor="all", **SAME)], 9 * total, 7),
              layer("end", [Source(tensor="mixed"), Source(tensor="all", repeat=2)], 7 + 2 * total, 5)]
    return Network(name="inception", input=InputSpec(channels=3, height=6, width=6, levels=4, full_scale=4.0), layers=layers,
                   concats=[Concat(name="all", parts=("two", "one", "three"))])


@pytest.mark.parametrize("seed, wide, policy", [(1, 5, "hybrid"), (2, 40, "balanced"), (3, 9, "random"), (4, 5, "all_ann")])
def test_every_cycle(seed, wide, policy):
    rng = np.random.default_rng(seed)
    network = inception(rng, wide=wide)
    images = rng.integers(0, 5, (4, 3, 6, 6))
    job = flow.compile_network(network, TINY, policy=policy, seed=seed, calibration=images)
    tensor = images[0].astype(np.uint8)
    verdict = flow.verify(job, tensor)
    assert (verdict.cycle_mismatches, verdict.value_mismatches) == (0, 0), verdict.first
    assert np.array_equal(verdict.rtl.output, evaluate(network, tensor[None], quantised=True).output[0])
    assert len(np.unique(verdict.rtl.output)) > 2, "the comparison shows nothing"
    # The parts lie side by side: as many chunks as all of them together, no position twice.
    joint = job.placements["all"]
    assert joint.chunks == sum(tile.chunks for tile in job.tiles if tile.layer in ("one", "two", "three"))
    assert len(np.unique(joint.positions)) == network.shape("all")[0]


def test_a_part_in_the_wrong_place_is_seen():
    rng = np.random.default_rng(5)
    network = inception(rng, wide=5)
    images = rng.integers(0, 5, (4, 3, 6, 6))
    job = flow.compile_network(network, TINY, calibration=images)
    swapped = dataclasses.replace(job, placements=job.placements | {
        "all": dataclasses.replace(job.placements["all"], positions=np.roll(job.placements["all"].positions, TINY.chunk_bits))})
    verdict = flow.verify(swapped, images[0].astype(np.uint8))
    assert verdict.cycle_mismatches or verdict.value_mismatches
