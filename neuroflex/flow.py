"""From a network to figures: compile, simulate on the golden model or on RTL, compare in every cycle."""
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from neuroflex.compiler.lower import Job, lower, plan_tiles
from neuroflex.compiler.schedule import profile, schedule_network
from neuroflex.formats import Core, StallCause, Status
from neuroflex.sim.cost import column_costs
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.sim.run import simulate_job

__all__ = ["POLICIES", "Result", "Verdict", "compile_network", "simulate_model", "simulate_rtl", "verify"]

POLICIES = {"hybrid": "min_edp", "all_ann": "all_ann", "all_snn": "all_snn", "layerwise": "layerwise", "random": "random"}
_RUN_CAUSES = [int(c) for c in StallCause if c not in (StallCause.CONTROL, StallCause.LOAD)]


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

    @cached_property
    def utilisation(self):
        """Matches per PE and cycle of each core, over the cycles in which layers ran (weights loaded, not yet finished)."""
        run = self.layers[:, _RUN_CAUSES].sum()
        return {core.name.lower(): float(self.layers[:, len(StallCause) + core].sum() / (pes * max(run, 1)))
                for core, pes in ((Core.ANN, self.config.ann_pes), (Core.SNN, self.config.snn_pes))}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """RTL against model: cycles compared, and how many of them and of the outputs differ."""

    cycles: int
    cycle_mismatches: int
    value_mismatches: int
    first: str | None = None
    model: Result = field(repr=False, default=None)
    rtl: Result = field(repr=False, default=None)


def compile_network(network, config, *, policy="hybrid", seed=0):
    """Schedule and lower a network.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network
    config : ArchConfig
    policy : str
        One of ``POLICIES``.
    seed : int
        For ``random``.

    Returns
    -------
    neuroflex.compiler.lower.Job
    """
    if policy not in POLICIES:
        raise ValueError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    plans = {layer.name: plan_tiles(network, layer, config) for layer in network.layers}
    schedules = schedule_network(network, config, profile(network), plans, method=POLICIES[policy], seed=seed)
    return lower(network, config, schedules)


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
                  config=job.config)


def _rtl(config):
    from neuroflex.tb.accelerator import RtlAccelerator

    if config not in _RTL:
        _RTL[config] = RtlAccelerator(config)
    return _RTL[config]


_RTL = {}


def simulate_rtl(job, tensor, *, memory=None, record=None):
    """Run a job on the Verilated RTL in a closed loop; independent of the golden model. ``record``: see `RtlAccelerator.run`."""
    run = _rtl(job.config).run(job.with_input(tensor), program=job.program, trace=memory, layers=len(job.tiles) + 1, record=record)
    result = Result(status=run.status, cycles=run.counters["cycles"], layers=run.layers, counters=run.counters,
                    output=job.output(run.memory), config=job.config)
    return (result, run) if record else result
