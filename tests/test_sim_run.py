"""A whole job on the cycle model: it ends, or says why it does not."""
import numpy as np
import pytest

from neuroflex import registers
from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network
from neuroflex.formats import Status
from neuroflex.registers import MAX_LATENCY
from neuroflex.sim import top
from neuroflex.sim.energy import TRAFFIC
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.sim.run import PATIENCE, Deadlock, job_workloads, run_arrays


@pytest.fixture(scope="module")
def work():
    network, tensor = synthetic_layer(rows=6, inputs=70, columns=9, activation_density=0.4, weight_density=0.4, seed=3)
    job = compile_network(network, PRESETS["tiny"], calibration=tensor)
    return job, job_workloads(job, evaluate(network, tensor, quantised=True))


def test_a_job_ends(work):
    job, arrays = work
    assert run_arrays(job, arrays, MemoryTrace.constant(), np.zeros(1)).status is Status.DONE


def test_what_cache_and_compressor_do_is_counted(work):
    """Against what the ports show in every cycle of a recorded run, in which no cycle is skipped, and against the job's chunks and lines."""
    job, arrays = work
    run = run_arrays(job, arrays, MemoryTrace.constant(), np.zeros(1))
    found = dict(zip(TRAFFIC, run.traffic.sum(axis=0).tolist()))
    rows = run_arrays(job, arrays, MemoryTrace.constant(), np.zeros(1), cycles=run.finished_at + 1).record.rows
    seen = {name: rows[:, top.FIELDS.index(name)] for name in top.FIELDS}
    passed = {name: int((seen[f"{name}_valid"] & seen[f"{name}_ready"]).sum()) for name in ("cache_fetch", "cache_read", "cache_write", "fill")}
    assert [found[f"cache_{name}"] for name in ("fetch", "read", "write", "fill")] == list(passed.values())
    assert found["pack_line"] == passed["cache_write"] and found["pack_round"] == seen["y_read"].sum() == sum(tile.nonzeros.size for tile in arrays)
    assert found["cache_read"] == sum(int((tile.lines + 1).sum()) for tile in arrays) == run.counters["cache_hits"] + run.counters["cache_misses"]
    assert found["cache_line"] == run.counters["cache_hits"] + run.counters["cache_evictions"] + found["cache_write"] + found["cache_fill"]
    assert found["cache_cycle"] == (1 - seen["cache_idle"])[seen["busy"] == 1].sum()
    assert found["pack_round"] < found["pack_cycle"] < run.counters["cycles"] - run.counters["cycles_load"]


def test_a_job_that_waits_for_what_never_comes_is_reported(work):
    job, (tile,) = work
    settings = tile.settings.copy()
    settings[top._POSITIONS] += 1       # one more position than the PEs have outputs
    broken = tile._replace(settings=settings)
    layer = job.tiles[0].layer
    with pytest.raises(Deadlock, match=rf"deadlock in layer '{layer}' \(descriptor 0\).*{PATIENCE:,} cycles.*outputs of the PEs.*WATCHDOG"):
        run_arrays(job, [broken], MemoryTrace.constant(), np.zeros(1))


def test_slow_memory_is_no_deadlock(work):
    job, arrays = work
    slow = run_arrays(job, arrays, MemoryTrace.constant(latency=20_000), np.zeros(1))
    assert slow.status is Status.DONE and slow.finished_at > 100_000


def test_memory_beyond_the_watchdog_is_refused():
    """The circuit would end the job, the model would not."""
    on = np.ones(1, bool)
    assert MAX_LATENCY < PATIENCE == registers.register("watchdog").fields[0].reset
    MemoryTrace.constant(MAX_LATENCY)
    for latency, answer in ((MAX_LATENCY + 1, 1), (1, MAX_LATENCY + 1)):
        with pytest.raises(ValueError, match="at most 500,000 cycles, half of the watchdog"):
            MemoryTrace(on, on, on, np.array([1, latency]), answer)
