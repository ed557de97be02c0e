"""NeuroFlex: RTL in a closed loop against the cycle model, every observable signal in every cycle.

Plan
----
Stimuli: images of the digits network (with the empty and the full one) under constant and random memories; random networks under all
policies, memories from one cycle of latency to dozens with random readiness; large tensors that overflow the cache. In the long run
at least 50 pairs of random networks and random configurations of 32, 64 and 128 bits per chunk.
Checks: :func:`neuroflex.tb.compare.compare_job`: memory port, interrupt, phases, broadcast bus, matches and finished outputs of every
PE, lines written, cache events, counters, status, output levels. The same vectors run on cocotb.
Coverage: the points in ``POINTS``, each seen at least once.
Faults: one in each of six blocks, built into the Verilog of the top, must be seen.
"""
import re
from importlib import resources

import numpy as np
import pytest

from neuroflex.compiler.network import Network
from neuroflex.config import PRESETS
from neuroflex.flow import POLICIES, compile_network
from neuroflex.formats import Core
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate, quantise
from neuroflex.sim.run import job_workloads
from neuroflex.sim.top import FIELDS
from neuroflex.tb.accelerator import AcceleratorError, RtlAccelerator
from neuroflex.tb.compare import compare_job
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.networks import random_config, random_job

SEED = 20_26
TINY = PRESETS["tiny"]
POINTS = ("groups", "group left over", "pool", "residual", "repeat", "tiles", "consume", "eviction", "hit", "miss", "empty chunk",
          "chunk of one beat", "chunk of many beats", "padding", "both cores in a layer", "ann only", "snn only", "one level in", "one level out",
          "many levels out", "request held", "write data held", "bus silent", "memory stall", "slot stall", "row stall",
          "output stall", "drain", "empty image")
COUNTED = {"eviction": "cache_evictions", "hit": "cache_hits", "miss": "cache_misses", "memory stall": "cycles_memory",
           "slot stall": "cycles_slot", "row stall": "cycles_row", "output stall": "cycles_output", "drain": "cycles_drain"}


def digits():
    return Network.load(resources.files("neuroflex.zoo") / "digits.npz")


def memory_of(seed):
    """A memory for a case: ideal, slow and bursty, or random."""
    rng = np.random.default_rng(seed)
    return (MemoryTrace.constant(1), MemoryTrace.constant(60), MemoryTrace.random(rng, most=8), MemoryTrace.random(rng))[seed % 4]


def count_points(coverage, job, tensor, memory, done):
    """Coverage of one comparison."""
    for tile, arrays in zip(job.tiles, job_workloads(job, evaluate(job.network, tensor[None], quantised=True))):
        s, layer = tile.settings, job.network.layer(tile.layer)
        snn = tile.core == Core.SNN
        positions = s["out_height"] * s["out_width"]
        for name, seen in {
                "groups": tile.groups_log2 > 0, "group left over": positions % (1 << tile.groups_log2) > 0, "pool": s["pool_h"] * s["pool_w"] > 1,
                "residual": s["source1_height"] > 0, "repeat": s["source0_repeat"] > 1 or s["source1_repeat"] > 1,
                "tiles": s["out_first_chunk"] > 0, "consume": s["consume0"] or s["consume1"], "empty chunk": arrays.empty.any(),
                "chunk of one beat": (arrays.lines == 1).any(), "chunk of many beats": (arrays.lines > 1).any(), "padding": s["source0_pad"] > 0,
                "both cores in a layer": snn.any() and not snn.all(), "ann only": not snn.any(), "snn only": snn.all(),
                "one level in": s["levels_in"] == 1, "one level out": (layer.levels[tile.columns] == 1).any(),
                "many levels out": (layer.levels[tile.columns] > 15).any()}.items():
            coverage.hit(name, bool(seen))
    for point, counter in COUNTED.items():
        coverage.hit(point, done.run.counters[counter] > 0)
    rows = {name: done.model.record.rows[:, i] for i, name in enumerate(FIELDS)}
    t = np.arange(done.cycles)
    coverage.hit("request held", (rows["request_valid"] & (memory.request_ready[t % len(memory.request_ready)] == 0)).any())
    coverage.hit("write data held", (rows["write_valid"] & (memory.write_ready[t % len(memory.write_ready)] == 0)).any())
    coverage.hit("bus silent", (np.diff(np.flatnonzero(rows["beat"])) > 100).any())
    coverage.hit("empty image", not tensor.any())


def same(accelerator, job, tensor, memory, name):
    done = compare_job(accelerator, job, tensor, memory=memory)
    assert done.cycle_mismatches == done.value_mismatches == 0, f"{name}: {done.first}"
    return done


def test_digits_and_random_networks():
    """Digits, random networks, all policies, on the tiny preset."""
    accelerator, coverage, cycles = RtlAccelerator(TINY), Coverage("top", POINTS), 0
    cases = []
    network = digits()
    images = network.examples.test_images
    for i, policy in enumerate(("hybrid", "hybrid", "all_snn", "random")):
        job = compile_network(network, TINY, policy=policy, seed=i)
        cases.append((f"digits {policy}", job, quantise(network.input, images[i:i + 1])[0], i))
    cases.append(("digits, empty image", job, np.zeros_like(cases[0][2]), 3))
    policies = list(POLICIES)
    cases += [(f"random network {seed}", *random_job(seed, TINY, policy=policies[seed % len(policies)]), seed) for seed in range(SEED, SEED + 24)]
    cases += [(f"large tensors {seed}", *random_job(seed, TINY, policy=policy, layers=2, size=20), seed)
              for seed, policy in ((110, "hybrid"), (117, "all_snn"), (119, "random"))]
    for name, job, tensor, seed in cases:
        memory = memory_of(seed)
        done = same(accelerator, job, tensor, memory, f"{name} (seed {seed})")
        count_points(coverage, job, tensor, memory, done)
        cycles += done.cycles
    print(f"seed {SEED}: {len(cases)} jobs, {cycles} cycles compared")
    coverage.require(1)


def test_top_cocotb():
    """A short job, compared with the model before, through cocotb: every bit of every output."""
    accelerator = RtlAccelerator(TINY)
    job, tensor = random_job(SEED + 1, TINY, policy="hybrid", layers=2, size=4, channels=12)
    done = same(accelerator, job, tensor, memory_of(2), "short job")
    bench = accelerator.bench
    ports = [layout.unpack(words) for layout, words in ((bench._stim, done.run.stim), (bench._trace, done.run.trace))]
    assert bench.run(*ports, engine="cocotb", seed=SEED) == done.cycles


def within(module, pattern, replacement):
    """An edit of one place of one module, or of all modules of that name."""
    def edit(text):
        parts = re.split(r"(?m)^(?=module )", text)
        changed = [re.sub(pattern, replacement, part, count=1) if re.match(rf"module \w*{module}\(", part) else part for part in parts]
        return "".join(changed)
    return edit


FAULTS = {
    "a correction is not added": within("snn_array_pe_1_corrections", r"select\[2\] \? weight", "1'h0 ? weight"),
    "a match position is odd": within("ann_array_pe_1_front_end_encoder", r"assign position = ", "assign position = 1'h1 | "),
    "a mask bit is lost": within("compressor_packer", r"= mask_line\[3\] & ", "= 1'h0 & mask_line[3] & "),
    "a dirty line is forgotten": within(r"cache_bank_\d", r"victim_dirty <= ", "victim_dirty <= 1'h0 & "),
    "padding is read": within("broadcaster_read_walk", r"outside_3 <= ", "outside_3 <= 1'h0 & "),
    "rows share an accumulator": within("ann_array_pe_0", r"sums\[\{ job_bank, job_column \}\]", "sums[{ 2'h0, job_column }]"),
}


@pytest.mark.parametrize("fault", [fault if i == 0 else pytest.param(fault, marks=pytest.mark.long) for i, fault in enumerate(FAULTS)])
def test_fault_is_seen(fault):
    accelerator = RtlAccelerator(TINY, verilog_edit=FAULTS[fault])
    network = digits()
    jobs = [(compile_network(network, TINY), quantise(network.input, network.examples.test_images[:1])[0]),
            random_job(119, TINY, policy="random", layers=2, size=20)]
    for job, tensor in jobs:
        try:
            done = compare_job(accelerator, job, tensor, memory=memory_of(3))
        except AcceleratorError:        # the fault made it ask for a line that is not there, or wait for ever
            return
        if done.cycle_mismatches or done.value_mismatches:
            return
    pytest.fail(f"nobody saw that {fault}")


@pytest.mark.long
@pytest.mark.parametrize("number", range(12))
def test_random_configurations(number):
    """Six random networks under random memories on a random configuration."""
    rng = np.random.default_rng([SEED, number])
    config = random_config(rng, (32, 64, 128)[number % 3])
    accelerator, cycles = RtlAccelerator(config), 0
    for case in range(6):
        seed = SEED + 100 * number + case
        job, tensor = random_job(seed, config, policy=list(POLICIES)[case], size=(8, 8, 8, 16, 8, 20)[case])
        cycles += same(accelerator, job, tensor, memory_of(case + number), f"{config}, network {seed}").cycles
    print(f"{config}: seed {SEED}, 6 networks, {cycles} cycles compared, 0 mismatches")
