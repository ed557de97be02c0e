"""Faults on the bus around the shell's RTL (docs/reliability.md).

Plan
----
Stimuli: the kinds of event of :data:`~neuroflex.tb.fault_campaign.KINDS` by turns, directly and through the queue: refused bursts (SLVERR, DECERR, any beat), stalls of each channel up to 10,000 cycles, shorter and
longer than the watchdog, soft resets and flushes in mid-job, damaged descriptors and weights, wrong lengths, memory that ends, unmapped and refused registers, random register accesses.
Checks: never a hang, never a wrong result reported as good, always a good job after a soft reset.
Coverage: events of each kind, each outcome that must come about, each response in each direction, bursts refused and cycles stalled.
Faults: a system that does not tell of refusals must be caught reporting wrong results as good (so must, in the long run, a reader that ignores RRESP), one that never answers must be caught
hanging.
"""
import pytest

from neuroflex.axi import AxiConfig
from neuroflex.config import PRESETS
from neuroflex.formats import Status
from neuroflex.sim.network import evaluate
from neuroflex.tb import fault_campaign
from neuroflex.tb.axi_system import AxiSystem
from neuroflex.tb.fault_campaign import KINDS, Campaign, CampaignFailure
from neuroflex.tb.networks import random_job

TINY, SHELL = PRESETS["tiny"], AxiConfig(jobs=4)
SEED = 7007
CODES = (Status.DONE, Status.BUS_ERROR, Status.BAD_CHECKSUM)       # outcomes that even a short campaign must see
MORE_CODES = (Status.WATCHDOG, Status.BAD_PROGRAM, Status.BAD_SOURCE, Status.BAD_OUTPUT, Status.BAD_LOAD_RECORD, Status.BAD_LOAD_LENGTH)


def opened(*, config=TINY, quick=True, seed=SEED, verilog_edit=None):
    return AxiSystem(config, SHELL, quick=quick, latency=15, stall=0.15, seed=seed, verilog_edit=verilog_edit)


def campaign(system, seed):
    job, tensor = random_job(seed, system.config, policy="balanced", layers=2, size=5, channels=12)
    return Campaign(system, job, tensor, evaluate(job.network, tensor[None], quantised=True).output[0], seed)


def reported(runs, each, codes):
    """Print what happened, and fail when too little did."""
    events, accesses, responses, faults = (sum((getattr(run, name) for run in runs[1:]), getattr(runs[0], name)) for name in ("events", "accesses", "responses", "faults"))
    print(f"\nseeds {', '.join(str(run.seed) for run in runs)}: {events.total():,} events, {sum(run.cycles for run in runs):,} cycles, longest job {max(run.longest for run in runs):,} cycles")
    print(f"the job: {', '.join(f'{run.length:,} cycles, {run.reads} read and {run.writes} write bursts' for run in runs)}")
    print(f"{dict(faults)}\n{dict(responses)}\n{accesses.total():,} random register accesses: {dict(accesses)}")
    runs[0].events = events
    print("\n".join(runs[0].table()))
    few = [kind for kind in KINDS if sum(n for (k, _), n in events.items() if k == kind) < each]
    few += [code.name for code in codes if not any(outcome == code.name for _, outcome in events)]
    if set(MORE_CODES) <= set(codes):       # a few events may all have the same one
        few += [f"{way} {name}" for way in ("read", "write") for name in ("SLVERR", "DECERR") if not responses[f"{way} {name}"]]
    few += [name for name in ("reads refused", "writes refused", "cycles stalled") if not faults[name]]
    few += [name for name in ("read", "write", "unmapped", "write refused", "write, some strobes", "write, no strobes") if not accesses[name]]
    assert not few, f"seen too rarely: {', '.join(few)}"


def test_campaign():
    with opened() as system:
        run = campaign(system, SEED)
        run.run(3 * len(KINDS))
        run.count()
    reported([run], 3, CODES)


@pytest.mark.long
@pytest.mark.parametrize("banks", [1, 2])
def test_campaign_long(banks):
    """The figures of docs/reliability.md, with one weight bank; with two, a layer is loaded while another runs."""
    runs, config = [], TINY.replace(name=f"banks_{banks}", weight_banks=banks)
    for seed in range(SEED, SEED + 4):
        with opened(config=config, quick=False, seed=seed) as system:
            runs.append(campaign(system, seed))
            runs[-1].run(10 * len(KINDS))
            runs[-1].count()
    reported(runs, 40, CODES + MORE_CODES)


@pytest.mark.long
def test_a_million_register_accesses():
    """With a good job now and then, so that whatever they did is over."""
    with opened(quick=False) as system:
        run = campaign(system, SEED)
        for _ in range(50):
            run.random_registers(20_000)
            run.recover()
        run.count()
    print(f"\nseed {SEED}: {run.accesses.total():,} accesses, {run.cycles:,} cycles: {dict(run.accesses)}")
    assert run.accesses.total() == 1_000_000


def test_untold_errors_are_seen():
    """The campaign's own check: refused bursts whose response is OKAY give wrong results that are reported as good, or jobs that do not notice where memory ends."""
    with opened() as system:
        run = campaign(system, SEED)
        run.manners = {"lies": True}
        with pytest.raises(CampaignFailure, match="a wrong result was reported as good|not with BUS_ERROR"):
            run.run(len(KINDS))


def test_a_memory_that_never_answers_is_seen():
    with opened() as system:
        run = campaign(system, SEED)
        system.stall("r", 0, 10_000_000)
        with pytest.raises(CampaignFailure, match="still busy 20,000 cycles after a soft reset"):
            run.run(1)


def test_a_hang_is_seen_whatever_the_program(monkeypatch):
    """Without a watchdog, also in the kind of event that has no promise on levels."""
    with opened() as system:
        run = campaign(system, SEED)
        monkeypatch.setattr(fault_campaign, "WATCHDOG", 0)
        system.stall("r", 0, 10_000_000)
        run.number = KINDS.index("wrong field")
        with pytest.raises(CampaignFailure, match=r"\(wrong field\): the job did not end within"):
            run.run(1)


@pytest.mark.long
def test_an_ignored_response_is_seen():
    """In the circuit: a reader that takes every beat for good."""
    with opened(verilog_edit=lambda text: text.replace("bus__rresp[1]", "1'h0")) as system:
        run = campaign(system, SEED)
        with pytest.raises(CampaignFailure, match="a wrong result was reported as good|not with BUS_ERROR"):
            run.run(5 * len(KINDS))
