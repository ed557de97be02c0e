"""From network to figures: model and RTL give the same numbers."""
import functools

import numpy as np
import pytest

from neuroflex import flow
from neuroflex.compiler.lower import RowTooLong, lower
from neuroflex.compiler.network import InputSpec, Layer, Network, Source
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


NARROW = PRESETS["tiny"].replace(mask_pairs=32)


def written_by_tiles(*, levels=4):
    """Two layers: rows of 16 chunks leave a PE room for four columns, so eight columns of the first make a tile and a chunk. The second's rows have then 16 chunks, not four."""
    rng = np.random.default_rng(3)

    def layer(name, source, inputs, columns):
        weights = rng.integers(-9, 10, (inputs, columns)) * (rng.random((inputs, columns)) < 0.2)
        return Layer(name=name, sources=[source], weights=weights, bias=np.zeros(columns, int), theta=np.full(columns, 40), levels=np.full(columns, levels))

    return Network(name="by tiles", input=InputSpec(channels=512, height=2, width=2, levels=4, full_scale=4.0),
                   layers=[layer("one", Source(tensor="input"), 512, 32), layer("two", Source(tensor="one", kernel_h=2, kernel_w=2), 4 * 32, 32)])


@pytest.mark.parametrize("policy, chunks", [("hybrid", 2), ("all_snn", 4), ("measured", 2)])
def test_rows_written_by_tiles_have_room(policy, chunks):
    """Tiles of both cores have 16 columns, those of one eight: two or four chunks, where packed columns would take one."""
    network = written_by_tiles()
    images = np.random.default_rng(4).integers(0, 5, (2, 512, 2, 2))
    job = compile_network(network, NARROW, policy=policy, calibration=images)
    assert job.placements["one"].chunks == chunks
    result = simulate_model(job, images[1])
    assert result.status == Status.DONE
    np.testing.assert_array_equal(result.output, evaluate(network, images[1:]).output[0])


def test_rows_that_turn_out_too_long_are_refused_by_lowering():
    network = written_by_tiles()

    def dealt(layer, plan):
        columns = np.arange(len(plan.columns))
        return np.zeros(len(columns)), columns % 2, columns // 2

    with pytest.raises(RowTooLong, match=r"^layer 'two': a PE with 16 columns needs 128 pairs of masks, as a row has 16 chunks; mask_pairs = 32$") as refused:
        lower(network, NARROW, dealt)
    assert (refused.value.layer, refused.value.chunks) == ("two", 16)


def test_measured_leaves_out_what_does_not_fit(monkeypatch):
    """Of the programs that it compares some may not fit; if none does, the first one's reason is given."""
    network, config = written_by_tiles(), NARROW.replace(ann_pes=4)
    images = np.random.default_rng(4).integers(0, 5, (2, 512, 2, 2))
    lowered = flow._lowered

    def refuse(*policies):
        def one(network, config, trace, policy, seed):
            if policy in policies:
                raise RowTooLong(f"{policy} does not fit", layer="two", chunks=16)
            return lowered(network, config, trace, policy, seed)
        monkeypatch.setattr(flow, "_lowered", one)

    refuse("hybrid", "all_snn", "balanced")
    assert compile_network(network, config, policy="measured", calibration=images).policy == "all_ann"
    refuse(*flow.MEASURED)
    with pytest.raises(RowTooLong, match="^hybrid does not fit$"):
        compile_network(network, config, policy="measured", calibration=images)
