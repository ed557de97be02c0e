"""From a network to figures: compile, simulate on the golden model or on RTL, compare in every cycle."""
import dataclasses
import functools
import threading
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from neuroflex.compiler.lower import LoweringError, RowTooLong, lower
from neuroflex.compiler.schedule import ScheduleError, profile, schedule_network
from neuroflex.formats import Core, StallCause, Status
from neuroflex.sim.cost import moved_energy, placed_energy
from neuroflex.sim.energy import energy_table
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate, quantise
from neuroflex.sim.run import simulate_job
from neuroflex.sim.top import FIELDS

__all__ = ["MEASURED", "POLICIES", "Result", "Verdict", "compile_network", "energy_pj", "prepare", "rtl_accelerator", "simulate_model", "simulate_rtl",
           "timeline", "utilisation", "verify"]

POLICIES = {"hybrid": "min_edp", "all_ann": "all_ann", "all_snn": "all_snn", "layerwise": "layerwise", "random": "random",
            "balanced": "min_edp"}
MEASURED = ("hybrid", "balanced", "all_ann", "all_snn")     # what the policy "measured" tries
_RUN_CAUSES = [int(c) for c in StallCause if c not in (StallCause.CONTROL, StallCause.LOAD)]


def utilisation(layers, config):
    """Matches per PE and cycle of each core over the run phase, from ``layers`` as in `Result`, or sums of such."""
    run = layers[:, _RUN_CAUSES].sum()
    return {core.name.lower(): float(layers[:, len(StallCause) + core].sum() / (pes * max(run, 1)))
            for core, pes in ((Core.ANN, config.ann_pes), (Core.SNN, config.snn_pes))}


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A job's outcome, the same from model and RTL.

    Attributes
    ----------
    status : Status
    cycles : int
        Of the job: cycles in which it was busy.
    layers : int64[descriptors, len(StallCause) + 2]
        Cycles by StallCause, then matches of the ANN and of the SNN core.
    traffic : int64[descriptors, len(neuroflex.sim.energy.TRAFFIC)]
        What FiberCache and compressor did; None of a run on RTL, which does not count it.
    counters : dict of str to int
        The performance counters.
    output : int64[C, H, W]
        Levels of the last layer.
    config : ArchConfig
    """

    status: Status
    cycles: int
    layers: np.ndarray
    counters: dict
    output: np.ndarray
    config: object
    traffic: np.ndarray = None

    @cached_property
    def utilisation(self):
        """Matches per PE and cycle of each core, over the cycles in which layers ran (weights loaded, not yet finished)."""
        return utilisation(self.layers, self.config)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """RTL against model: cycles compared, and how many of them and of the outputs differ."""

    cycles: int
    cycle_mismatches: int
    value_mismatches: int
    first: str | None = None
    model: Result = field(repr=False, default=None)
    rtl: Result = field(repr=False, default=None)


def compile_network(network, config, *, policy="hybrid", seed=0, calibration=None):
    """Schedule and lower a network.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network
    config : ArchConfig
    policy : str
        One of ``POLICIES``; ``balanced`` takes both cores' energies as equal, so that only the delay counts. Or ``measured``: ``hybrid``, ``balanced`` or a single core, whichever
        fits and has the lowest product of energy and cycles for the first calibration image on the golden model, since the costs that ``hybrid`` goes by are predicted.
    seed : int
        For ``random``.
    calibration : array (B, C, H, W), optional
        Raw images to profile with; those kept with the network by default.

    Returns
    -------
    neuroflex.compiler.lower.Job
        Its ``policy`` is the one of ``POLICIES`` that ``measured`` chose.
    """
    if policy not in (*POLICIES, "measured"):
        raise ValueError(f"no policy {policy!r}; there are {', '.join(POLICIES)}, measured")
    trace = profile(network, calibration)
    if policy != "measured":
        return _lowered(network, config, trace, policy, seed)
    images = network.examples.calibration_images if calibration is None else calibration
    tensor = quantise(network.input, images[:1])[0]
    jobs, errors = [], []
    for one in MEASURED:
        try:
            jobs.append(_lowered(network, config, trace, one, seed))
        except (LoweringError, ScheduleError) as error:     # a single core may have too few PEs for what both can hold
            errors.append(error)
    if not jobs:
        raise errors[0]

    def product(job):
        model = simulate_model(job, tensor)
        return energy_pj(job, tensor, model) * model.cycles

    return min(jobs, key=product)


def _lowered(network, config, trace, policy, seed):
    """A network whose profile is known, scheduled by one of ``POLICIES``."""
    energy = {name: float(name == "join") for name in energy_table()} if policy == "balanced" else None
    row_chunks = {}
    while True:     # ends: counts of chunks only grow, and at a PE's masks for one pair of columns planning gives up
        schedules = schedule_network(network, config, trace, method=POLICIES[policy], seed=seed, energy=energy, row_chunks=row_chunks)
        try:
            return dataclasses.replace(lower(network, config, schedules, trace=trace, plans=schedules.tiles), policy=policy)
        except RowTooLong as short:
            row_chunks[short.layer] = short.chunks


def prepare(job, tensor, *, model=True, rtl=True):
    """Build what running a job takes, which is slow the first time: the golden model's compiled loops and the Verilated accelerator.

    Both are kept, the loops beside their sources and the accelerator in ``build``. They are built at the same time: the one is mostly
    Numba's work, the other that of g++.

    Parameters
    ----------
    job, tensor
        As in `simulate_model`; the model runs once.
    model, rtl : bool
        Which of them.
    """
    failed = []

    def build():
        try:
            rtl_accelerator(job.config).build()
        except BaseException as error:      # raised again where the caller sees it
            failed.append(error)

    thread = threading.Thread(target=build)
    if rtl:
        thread.start()
    if model:
        simulate_model(job, tensor)
    if rtl:
        thread.join()
    if failed:
        raise failed[0]


def simulate_model(job, tensor, *, memory=None):
    """Run a job on the golden model.

    Parameters
    ----------
    job : Job
    tensor : uint8[C, H, W]
        Input levels, see :func:`neuroflex.sim.network.quantise`.
    memory : MemoryTrace, optional
    """
    run = simulate_job(job, tensor, memory or MemoryTrace.constant())
    return Result(status=run.status, cycles=run.counters["cycles"], layers=run.layers, counters=run.counters, output=run.output,
                  config=job.config, traffic=run.traffic)


@functools.cache
def rtl_accelerator(config):
    """The accelerator of a configuration, made once; its simulator is built by `RtlAccelerator.build`, or by the first run."""
    from neuroflex.tb.accelerator import RtlAccelerator

    return RtlAccelerator(config)


def simulate_rtl(job, tensor, *, memory=None):
    """Run a job on the Verilated RTL in a closed loop; nothing in it depends on the golden model."""
    run = rtl_accelerator(job.config).run(job.with_input(tensor), program=job.program, trace=memory, layers=len(job.tiles) + 1)
    return Result(status=run.status, cycles=run.counters["cycles"], layers=run.layers, counters=run.counters,
                  output=job.output(run.memory), config=job.config)


def verify(job, tensor, *, memory=None):
    """Run a job on RTL and model and compare every signal of every cycle, see :func:`neuroflex.tb.compare.compare_job`."""
    from neuroflex.tb.compare import compare_job

    done = compare_job(rtl_accelerator(job.config), job, tensor, memory=memory)
    results = {}
    for name, run, output in (("model", done.model, done.model.output), ("rtl", done.run, done.output)):
        results[name] = Result(status=run.status, cycles=run.counters["cycles"], layers=run.layers, counters=run.counters,
                               output=output, config=job.config, traffic=getattr(run, "traffic", None))
    return Verdict(cycles=done.cycles, cycle_mismatches=done.cycle_mismatches, value_mismatches=done.value_mismatches, first=done.first,
                   **results)


def energy_pj(job, tensor, model=None):
    """Energy of a job in pJ: events counted for this very input times the default coefficients of `neuroflex.sim.energy`, of the PEs, of FiberCache and of the compressor.

    ``model`` is the `Result` of `simulate_model` for this input, which counts what cache and compressor do; without it the model runs.
    """
    trace = evaluate(job.network, np.asarray(tensor)[None], quantised=True)
    tiles = {}
    for tile in job.tiles:
        tiles.setdefault(tile.layer, []).append(tile)
    moved = moved_energy((model or simulate_model(job, tensor)).traffic, job.config)
    return sum(moved) + sum(placed_energy(job.network, job.network.layer(name), trace.layers[name], job.config, placed) for name, placed in tiles.items())


def timeline(job, tensor, *, memory=None):
    """When each PE issued matches: arrays ``core``, ``pe``, ``start``, ``end`` (cycles, end exclusive), ``layer`` (descriptor).

    Stretches closer than 16 cycles are joined, so that a picture of a whole network stays small.
    """
    memory = memory or MemoryTrace.constant()
    cycles = simulate_job(job, tensor, memory).finished_at + 1
    record = simulate_job(job, tensor, memory, cycles=cycles).record
    layers = record.rows[:, FIELDS.index("layer")]
    found = []
    for core, matches in ((Core.ANN, record.ann_matches), (Core.SNN, record.snn_matches)):
        for pe in range(matches.shape[1]):
            at = np.flatnonzero(matches[:, pe])
            if len(at):
                gaps = np.flatnonzero((np.diff(at) > 16) | (np.diff(layers[at]) != 0))
                starts, ends = at[np.concatenate([[0], gaps + 1])], at[np.concatenate([gaps, [len(at) - 1]])] + 1
                found += [(int(core), pe, s, e, layers[s]) for s, e in zip(starts, ends)]
    table = np.array(found, np.int64).reshape(-1, 5)
    return dict(zip(("core", "pe", "start", "end", "layer"), table.T))
