"""From network to figures: model and RTL give the same numbers."""
import functools

import numpy as np
import pytest

from neuroflex import flow
from neuroflex.config import PRESETS
from neuroflex.flow import POLICIES, compile_network, energy_pj, prepare, simulate_model, simulate_rtl, timeline, verify
from neuroflex.formats import Core, StallCause, Status
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate, quantise

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def tensor(digits):
    return quantise(digits.input, digits.examples.test_images[:1])[0]


@pytest.mark.parametrize("memory", [None, MemoryTrace.random(np.random.default_rng(4))], ids=["constant", "random"])
def test_model_and_rtl_give_identical_numbers(digits_job, tensor, memory):
    model, rtl = simulate_model(digits_job, tensor, memory=memory), simulate_rtl(digits_job, tensor, memory=memory)
    assert model.status == rtl.status == Status.DONE
    assert model.cycles == rtl.cycles and model.counters == rtl.counters
    np.testing.assert_array_equal(model.layers, rtl.layers)
    np.testing.assert_array_equal(model.output, rtl.output)
    np.testing.assert_array_equal(model.output, evaluate(digits_job.network, tensor[None], quantised=True).output[0])
    assert model.utilisation == rtl.utilisation and all(0 < share <= 1 for share in model.utilisation.values())


def test_verify(digits_job, tensor):
    verdict = verify(digits_job, tensor)
    assert (verdict.cycle_mismatches, verdict.value_mismatches, verdict.first) == (0, 0, None)
    assert verdict.cycles > verdict.rtl.cycles == verdict.model.cycles == simulate_model(digits_job, tensor).cycles


def test_prepare_leaves_nothing_to_build(digits_job, tensor, monkeypatch):
    """The step that says it builds the simulator builds the one that runs, so that no later step seems to stand still."""
    builds = []

    def build(*arguments, **named):
        builds.append(arguments)
        return "a library"

    def run(library, *words):
        raise InterruptedError(library)     # far enough: what would run is known

    monkeypatch.setattr("neuroflex.tb.bench.build_library", build)
    monkeypatch.setattr("neuroflex.tb.bench.Simulation", run)
    monkeypatch.setattr(flow, "rtl_accelerator", functools.cache(flow.rtl_accelerator.__wrapped__))
    prepare(digits_job, tensor, model=False)
    assert len(builds) == 1
    with pytest.raises(InterruptedError, match="a library"):
        simulate_rtl(digits_job, tensor)
    assert len(builds) == 1


def test_counters_add_up(digits_job, tensor):
    result = simulate_model(digits_job, tensor)
    causes = [result.counters[f"cycles_{cause.name.lower()}"] for cause in StallCause]
    assert sum(causes) == result.cycles == result.layers[:, :len(StallCause)].sum()
    assert result.layers[:, len(StallCause):].sum(axis=0).tolist() == [result.counters["matches_ann"], result.counters["matches_snn"]]


def test_energy(digits, digits_job, tensor):
    """A split takes about what its columns take on one core alone, and less for the cache, whose clock runs for fewer cycles; the input matters."""
    hybrid = energy_pj(digits_job, tensor)
    costs = {policy: energy_pj(compile_network(digits, TINY, policy=policy), tensor) for policy in ("all_ann", "all_snn")}
    assert 0.9 * min(costs.values()) < hybrid <= max(costs.values())
    assert energy_pj(digits_job, np.zeros_like(tensor)) < hybrid


def test_timeline(digits_job, tensor):
    result, spans = simulate_model(digits_job, tensor), timeline(digits_job, tensor)
    assert (spans["start"] < spans["end"]).all() and spans["start"].min() >= 0
    assert set(spans["core"]) == {Core.ANN, Core.SNN}
    for core, pes in ((Core.ANN, TINY.ann_pes), (Core.SNN, TINY.snn_pes)):
        for pe in range(pes):
            mine = (spans["core"] == core) & (spans["pe"] == pe)
            assert (spans["start"][mine][1:] > spans["end"][mine][:-1]).all()        # one after the other
        assert (spans["end"] - spans["start"])[spans["core"] == core].sum() >= result.layers[:, len(StallCause) + core].sum()
    assert spans["end"].max() <= result.cycles + 20
    assert spans["layer"].max() == len(digits_job.tiles) - 1


def test_unknown_policy(digits):
    with pytest.raises(ValueError, match=f"no policy 'best'; there are {', '.join(POLICIES)}, measured"):
        compile_network(digits, TINY, policy="best")
