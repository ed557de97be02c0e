"""NeuroFlex: RTL in a closed loop against the cycle model, every observable signal in every cycle.

Plan
----
Stimuli: images of the digits network (with the empty and the full one); random networks under all policies; large tensors that overflow the
cache; memories that answer at once, late, at random, in long bursts, every other cycle. Software that polls, reads counters,
writes and starts while a job runs, uses addresses that do not exist, and runs jobs one after the other without reset, ended well or not.
In the long run random networks on configurations at the ends of what is allowed and on random ones of 32, 64 and 128 bits per chunk, and
ten digits on the `small` preset.
Checks: :func:`neuroflex.tb.compare.compare_job`: all ports, register answers and interrupt included, and all that crosses a block boundary, with
the contents of every line; counters, status, output levels. The same vectors run on cocotb.
Coverage: the points in ``POINTS``, ``ACCESSES`` and ``CORNER_POINTS``, each at least as often as it says there.
Faults: one in each of seven blocks, built into the Verilog of the top: a signal must differ from the model's, in jobs in which none differs without
the fault. That the faulty circuit breaks off, or never ends, is not enough.
"""
from importlib import resources

import numpy as np
import pytest

from neuroflex import registers as regmap
from neuroflex.compiler.network import Network
from neuroflex.config import PRESETS, SNN_PES
from neuroflex.flow import POLICIES, compile_network, verify
from neuroflex.formats import Core, Status, descriptor_lines
from neuroflex.sim.network import evaluate, quantise
from neuroflex.sim.run import job_workloads
from neuroflex.sim.top import FIELDS
from neuroflex.tb.accelerator import AT_ONCE, Call, RtlAccelerator
from neuroflex.tb.compare import compare_calls, compare_job, first_difference
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.faults import within
from neuroflex.tb.networks import CORNERS, MEMORIES, memory_of, random_config, random_job

SEED = 20_26
TINY = PRESETS["tiny"]
# Situations that the jobs of a test have to meet, and in how many of them.
POINTS = {
    "groups": 4, "group left over": 2, "pool": 4, "residual": 4, "repeat": 4, "tiles": 4, "consume": 4, "eviction": 3, "hit": 4, "miss": 4,
    "empty chunk": 4, "chunk of one beat": 4, "chunk of many beats": 4, "padding": 4, "both cores in a layer": 4, "ann only": 4, "snn only": 4,
    "one level in": 2, "one level out": 4, "many levels out": 4, "request held": 4, "write data held": 4, "bus silent": 4, "memory stall": 4,
    "slot stall": 4, "row stall": 4, "output stall": 4, "drain": 4, "empty image": 4,
    **{f"memory {name}": 4 for name in MEMORIES}}
COUNTED = {"eviction": "cache_evictions", "hit": "cache_hits", "miss": "cache_misses", "memory stall": "cycles_memory",
           "slot stall": "cycles_slot", "row stall": "cycles_row", "output stall": "cycles_output", "drain": "cycles_drain"}


def digits():
    return Network.load(resources.files("neuroflex.zoo") / "digits.npz")


def require(coverage, points):
    """Every point as often as it says."""
    print(coverage.hits)
    short = {point: (hits, points[point]) for point, hits in coverage.hits.items() if hits < points[point]}
    assert not short, f"{coverage.name}: hit less often than wanted (hits, wanted): {short}"


def count_points(coverage, job, tensor, memory, done):
    """Coverage of one comparison: each point once at most."""
    seen = set()
    for tile, arrays in zip(job.tiles, job_workloads(job, evaluate(job.network, tensor[None], quantised=True))):
        s, layer = tile.settings, job.network.layer(tile.layer)
        snn = tile.core == Core.SNN
        positions = s["out_height"] * s["out_width"]
        for name, met in {
                "groups": tile.groups_log2 > 0, "group left over": positions % (1 << tile.groups_log2) > 0, "pool": s["pool_h"] * s["pool_w"] > 1,
                "residual": s["source1_height"] > 0, "repeat": s["source0_repeat"] > 1 or s["source1_repeat"] > 1,
                "tiles": s["out_first_chunk"] > 0, "consume": s["consume0"] or s["consume1"], "empty chunk": arrays.empty.any(),
                "chunk of one beat": (arrays.lines == 1).any(), "chunk of many beats": (arrays.lines > 1).any(), "padding": s["source0_pad"] > 0,
                "both cores in a layer": snn.any() and not snn.all(), "ann only": not snn.any(), "snn only": snn.all(),
                "one level in": s["levels_in"] == 1, "one level out": (layer.levels[tile.columns] == 1).any(),
                "many levels out": (layer.levels[tile.columns] > 15).any()}.items():
            if met:
                seen.add(name)
    seen |= {point for point, counter in COUNTED.items() if done.run.counters[counter] > 0}
    rows = {name: done.model.record.rows[:, i] for i, name in enumerate(FIELDS)}
    t = np.arange(done.cycles)
    seen |= {name for name, met in {
        "request held": (rows["request_valid"] & (memory.request_ready[t % len(memory.request_ready)] == 0)).any(),
        "write data held": (rows["write_valid"] & (memory.write_ready[t % len(memory.write_ready)] == 0)).any(),
        "bus silent": (np.diff(np.flatnonzero(rows["beat"])) > 100).any(), "empty image": not tensor.any()}.items() if met}
    for name in seen:
        coverage.hit(name)


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
              for seed, policy in ((110, "random"), (159, "all_ann"), (176, "hybrid"))]
    cases += [(f"one level {seed}", *random_job(seed, TINY, policy=policy, snn_levels=1), seed)
              for seed, policy in ((SEED + 200, "hybrid"), (SEED + 201, "all_snn"), (SEED + 202, "random"))]
    for name, job, tensor, seed in cases:
        memory = memory_of(seed)
        coverage.hit(f"memory {list(MEMORIES)[seed % len(MEMORIES)]}")
        done = same(accelerator, job, tensor, memory, f"{name} (seed {seed})")
        count_points(coverage, job, tensor, memory, done)
        cycles += done.cycles
    print(f"seed {SEED}: {len(cases)} jobs, {cycles} cycles compared")
    require(coverage, POINTS)


# Accesses that software makes in test_register_port, and how many.
ACCESSES = {"status poll": 50, "counter while running": 50, "counter after": 50, "configuration": 20, "no register": 20, "write to no register": 5,
            "write while running": 20, "start while busy": 5, "request before answer": 50, "answer held": 50, "interrupt masked": 3,
            "job without layers": 1, "job that fails": 1, "clear while running": 5}


def accesses(rng, coverage, count):
    """Random register accesses while a job runs."""
    offset = {r.name: r.offset for r in regmap.REGISTERS}
    counters = [f"{c.name}_{half}" for c in regmap.COUNTERS for half in ("low", "high")]
    missing = [address for address in range(256) if address & ~3 not in offset.values()]
    writes = (("write while running", "program", lambda: int(rng.integers(0, 1 << 32))), ("write while running", "watchdog", lambda: 1 << 20),
              ("write while running", "identity", lambda: 0), ("start while busy", "control", lambda: 0x101),
              ("clear while running", "status", lambda: 2))
    script = []
    for _ in range(count):
        kind = rng.random()
        wait = AT_ONCE if rng.random() < 0.5 else int(rng.integers(0, 4))
        if kind < 0.3:
            point, access = "status poll", (offset["status"], 0, 0)
        elif kind < 0.6:
            point, access = "counter while running", (offset[str(rng.choice(counters))] + int(rng.integers(4)), 0, 0)
        elif kind < 0.7:
            point, access = "configuration", (offset[str(rng.choice(["identity", "version", "config0", "config1", "config2", "program", "watchdog", "control"]))], 0, 0)
        elif kind < 0.8:
            write = int(rng.random() < 0.3)
            point, access = ("write to no register" if write else "no register"), (int(rng.choice(missing)), write, int(rng.integers(0, 1 << 32)))
        else:
            point, name, data = writes[rng.integers(len(writes))]
            access = (offset[name], 1, data())
        coverage.hit(point)
        coverage.hit("request before answer", wait == AT_ONCE)
        script.append((*access, wait))
    return tuple(script)


def test_register_port():
    """Jobs one after the other without reset, ended well, empty and wrong, while software is busy at the register port."""
    accelerator, coverage, rng = RtlAccelerator(TINY), Coverage("register port", ACCESSES), np.random.default_rng(SEED)
    network = digits()
    job = compile_network(network, TINY)
    tensor = quantise(network.input, network.examples.test_images[1:2])[0]
    per = descriptor_lines(TINY)
    lines = job.with_input(tensor)
    wrong = lines[job.program:job.program + per].copy()
    wrong[2, 1] ^= 16
    programs = [job.program, job.program + per * len(job.tiles), job.program, len(lines), job.program]
    lines = np.concatenate([lines, wrong])
    offset = {r.name: r.offset for r in regmap.REGISTERS}
    calls = []
    for number, program in enumerate(programs):
        long_job = program == job.program
        coverage.hit("interrupt masked")
        after = [(offset["control"], 1, 0, 0), (offset["status"], 0, 0, 3), (offset["control"], 1, 0x100, 0), (offset["status"], 1, 1, 0)]
        for name in rng.choice([c.name for c in regmap.COUNTERS], 12):
            after.append((offset[f"{name}_low"], 0, 0, AT_ONCE))
            coverage.hit("counter after")
        calls.append(Call(program=program, pause=(0, 0, 7, 100, 1)[number], during=accesses(rng, coverage, 400) if long_job else (), after=tuple(after)))
    coverage.hit("job without layers")
    coverage.hit("job that fails")
    take = rng.random(499) < 0.6
    for memory in (memory_of(0), memory_of(3)):
        done = compare_calls(accelerator, job, tensor, calls, memory=memory, lines=lines, take=take)
        assert done.cycle_mismatches == done.value_mismatches == 0, done.first
        assert done.run.status == done.model.status == Status.DONE
        record = {name: done.model.record.rows[:, i] for i, name in enumerate(FIELDS)}
        assert record["finish"].sum() == len(calls)
        shown = accelerator.bench._trace.unpack(done.run.trace, ["registers_response__valid"])["registers_response__valid"]
        coverage.hit("answer held", int((shown & ~take[np.arange(done.cycles) % len(take)]).sum()))
    require(coverage, ACCESSES)


def test_top_cocotb():
    """A short job, compared with the model before, through cocotb: every bit of every output."""
    accelerator = RtlAccelerator(TINY)
    job, tensor = random_job(SEED + 1, TINY, policy="hybrid", layers=2, size=4, channels=12)
    done = same(accelerator, job, tensor, memory_of(2), "short job")
    bench = accelerator.bench
    ports = [layout.unpack(words) for layout, words in ((bench._stim, done.run.stim), (bench._trace, done.run.trace))]
    assert bench.run(*ports, engine="cocotb", seed=SEED) == done.cycles


FAULTS = {
    "a level loses a bit": within("snn_array_pe_1", r"highest_bit = 2'h2;", "highest_bit = 2'h1;"),
    "a match position is odd": within("ann_array_pe_1_front_end_encoder", r"(assign (_\d+_) = )(?=.*^  assign position = \{[^}]* \2 \};)", r"\1 1'h1 | "),
    "a mask bit is lost": within("compressor_packer", r"= mask_line\[3\] & ", "= 1'h0 & mask_line[3] & "),
    "a dirty line is forgotten": within(r"cache_bank_\d", r"victim_dirty <= ", "victim_dirty <= 1'h0 & "),
    "padding is read": within("broadcaster_read_walk", r"outside_3 <= ", "outside_3 <= 1'h0 & "),
    "a counter counts too much": within("registers", r"count_cache_hits <= ", "count_cache_hits <= 48'h1 + "),
    "rows share an accumulator": within("ann_array_pe_0", r"sums\[\{ job_bank, job_column \}\]", "sums[{ 2'h0, job_column }]"),
}


def fault_jobs():
    """Jobs that show every fault: a digit, and a job that overflows the cache."""
    network = digits()
    return [(compile_network(network, TINY), quantise(network.input, network.examples.test_images[:1])[0]),
            random_job(159, TINY, policy="random", layers=2, size=20)]


def test_jobs_of_the_faults_are_equal_without():
    evictions = [same(RtlAccelerator(TINY), job, tensor, memory_of(3), "no fault").model.counters["cache_evictions"] for job, tensor in fault_jobs()]
    assert evictions[1] > 100


@pytest.mark.parametrize("fault", [fault if i == 0 else pytest.param(fault, marks=pytest.mark.long) for i, fault in enumerate(FAULTS)])
def test_fault_is_seen(fault):
    accelerator = RtlAccelerator(TINY, verilog_edit=FAULTS[fault], quick=True)
    assert first_difference(accelerator, ((*job, memory_of(3)) for job in fault_jobs())), f"nobody saw that {fault}"


# Situations for the corner configurations, and in how many jobs of each configuration.
CORNER_POINTS = {"least": {"tiles": 2, "eviction": 3, "one level in": 4, "ann only": 1, "snn only": 1, "slot stall": 2},
                 "most": {"many levels out": 1, "ann only": 1, "snn only": 1, "both cores in a layer": 2},
                 "groups": {"eight groups": 4, "group left over": 4, "ann only": 1, "snn only": 1},
                 "wide": {"empty chunk": 2, "residual": 2, "ann only": 1, "snn only": 1, "chunk of many beats": 1}}


@pytest.mark.long
@pytest.mark.parametrize("corner", CORNERS)
def test_corner_configurations(corner):
    """Random networks under every kind of memory on a configuration at the ends of what is allowed."""
    config, wanted = CORNERS[corner], CORNER_POINTS[corner]
    accelerator, cycles = RtlAccelerator(config, quick=True), 0
    coverage = Coverage(f"corner {corner}", [*POINTS, "eight groups"])
    policies = ("all_ann", "all_snn", "hybrid", "random", "balanced", "hybrid")
    for case in range(12):
        seed = SEED + 1000 + case
        # Layers of one or two columns are what eight groups are for.
        limits = {"least": {"size": 6, "channels": 12}, "most": {"size": 6, "channels": 30}, "groups": {"size": 16, "channels": 3 - case % 2},
                  "wide": {"size": 4, "channels": 60}}[corner]
        job, tensor = random_job(seed, config, policy=policies[case % len(policies)], **limits)
        memory = memory_of(case // 2 + case)
        done = same(accelerator, job, tensor, memory, f"{corner}, network {seed}")
        count_points(coverage, job, tensor, memory, done)
        coverage.hit("eight groups", any(tile.groups_log2 == 3 for tile in job.tiles))
        cycles += done.cycles
    print(f"{corner}: seed {SEED}, 12 networks, {cycles} cycles compared, 0 mismatches; {coverage.hits}")
    short = {point: coverage.hits[point] for point, least in wanted.items() if coverage.hits[point] < least}
    assert not short, f"{corner}: hit less often than {wanted}: {short}"


@pytest.mark.long
def test_digits_on_small():
    """Ten digits on the `small` preset: every signal of every cycle, and the classes of the functional network."""
    network, config = digits(), PRESETS["small"]
    job = compile_network(network, config)
    for number, tensor in enumerate(quantise(network.input, network.examples.test_images[:10])):
        verdict = verify(job, tensor, memory=memory_of(number))
        assert verdict.cycle_mismatches == verdict.value_mismatches == 0, f"digit {number}: {verdict.first}"


@pytest.mark.long
@pytest.mark.parametrize("number", range(12))
def test_random_configurations(number):
    """Six random networks under random memories on a random configuration, three of each kind of SNN PE."""
    rng = np.random.default_rng([SEED, number])
    config = random_config(rng, (32, 64, 128)[number % 3], list(SNN_PES)[number // 3])
    accelerator, cycles = RtlAccelerator(config, quick=True), 0
    for case in range(6):
        seed = SEED + 100 * number + case
        job, tensor = random_job(seed, config, policy=list(POLICIES)[case], size=(8, 8, 8, 16, 8, 20)[case])
        cycles += same(accelerator, job, tensor, memory_of(case + number), f"{config}, network {seed}").cycles
    print(f"{config}: seed {SEED}, 6 networks, {cycles} cycles compared, 0 mismatches")
