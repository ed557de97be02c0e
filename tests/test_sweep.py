"""Sweeps: real worker processes, one of them killed; resuming; the same over Dask."""
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from neuroflex import zoo
from neuroflex.cli import main
from neuroflex.compare import sweep as module
from neuroflex.compare.sweep import MOST_ATTEMPTS, Job, SweepFailed, _keep, jobs_of, read_result, sweep
from neuroflex.config import PRESETS


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Worker processes import this file, also when `pytest` was called without `python -m`."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


def jobs(count):
    return jobs_of(["peer_2", "digits"][:count], [PRESETS["tiny"]], [0], rows=4)


def slow_first_time(job, folder):
    """A worker that waits to be killed on its first try."""
    mark = folder / f"{job.name}.started"
    if job.network == "peer_2" and not mark.exists():
        mark.write_text(str(os.getpid()))
        time.sleep(60)
    _keep(job, folder, {"network": job.network, "by": os.getpid()})


def always_dies(job, folder):
    if job.network == "peer_2":
        os.kill(os.getpid(), signal.SIGKILL)
    _keep(job, folder, {"network": job.network})


def test_a_killed_worker_loses_nothing(tmp_path):
    killed = []

    def kill():
        for _ in range(600):
            for process in multiprocessing.active_children():
                mark = tmp_path / f"{process.name}.started"
                if mark.exists() and mark.read_text() == str(process.pid):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    results = sweep(jobs(2), tmp_path, processes=2, work=slow_first_time)
    killer.join()
    assert killed and sorted(result["network"] for result in results.values()) == ["digits", "peer_2"]
    assert all(result["by"] not in killed for result in results.values())


def test_a_job_that_always_fails_is_named_and_the_others_are_kept(tmp_path):
    with pytest.raises(SweepFailed, match=rf"1 of 2 jobs .* as peer_2-tiny-0-.* killed by signal 9, {MOST_ATTEMPTS} times"):
        sweep(jobs(2), tmp_path, processes=2, work=always_dies)
    assert read_result(jobs(2)[1], tmp_path) == {"network": "digits"}


def never(job, folder):
    raise AssertionError("not to be run again")


def test_an_interrupted_sweep_goes_on(tmp_path):
    first, second = jobs(2)
    _keep(first, tmp_path, {"network": "kept"})
    (tmp_path / f"{second.name}.json").write_text("{ cut sho")          # not a result
    seen = []
    assert sweep([first], tmp_path, work=never, done=seen.append) == {first: {"network": "kept"}} and seen == [first]
    assert read_result(second, tmp_path) is None
    # Another job of the same name would be another file; the same file with another job's description does not count.
    other = Job(network="peer_2", config=first.config, seed=1)
    (tmp_path / f"{other.name}.json").write_text((tmp_path / f"{first.name}.json").read_text())
    assert read_result(other, tmp_path) is None and other.name != first.name


def test_results_of_other_code_or_another_network_do_not_count(tmp_path, monkeypatch):
    """A network trained again under its old name, and another version of NeuroFlex."""
    file, network = tmp_path / "mine.npz", zoo.load("digits")

    def job():
        one, = jobs_of([str(file)], [PRESETS["tiny"]], [0])
        return one

    network.save(file)
    first = job()
    _keep(first, tmp_path, {"network": "kept"})
    assert read_result(job(), tmp_path) == {"network": "kept"}
    layers = [replace(network.layers[0], bias=network.layers[0].bias + 1), *network.layers[1:]]
    replace(network, layers=layers).save(file)
    assert read_result(job(), tmp_path) is None
    network.save(file)
    assert job() == first
    monkeypatch.setattr(module, "_code", lambda: "changed")
    assert read_result(job(), tmp_path) is None


def test_a_network_replaced_while_it_runs_gives_no_result(tmp_path, monkeypatch):
    """Before the run, and during it; the spike traces of a shape and the table of memories count like the network."""
    file, network = tmp_path / "mine.npz", zoo.load("digits")
    network.save(file)
    job, = jobs_of([str(file)], [PRESETS["tiny"]], [0])
    other = replace(network, layers=[replace(network.layers[0], bias=network.layers[0].bias + 1), *network.layers[1:]])
    other.save(file)
    with pytest.raises(module.SourcesChanged, match="are not those that this sweep was started with"):
        job.run()
    network.save(file)

    def replaced(*_, **__):
        other.save(file)
        return SimpleNamespace(result={})

    monkeypatch.setattr("neuroflex.compare.measure.compare_network", replaced)
    with pytest.raises(module.SourcesChanged):
        job.run()
    monkeypatch.setenv("NEUROFLEX_DATA", str(tmp_path))
    found = []
    for content in (b"one", b"two"):
        (tmp_path / "spikes_alexnet_cifar10.npz").write_bytes(content)
        found.append(module.sources_of("loas_alexnet"))
    assert found[0] != found[1]


def test_command_takes_what_is_there(capsys, tmp_path):
    for job in jobs_of(["peer_2"], [PRESETS["tiny"]], range(2), rows=4):
        _keep(job, tmp_path, {"network": "peer_2", "configuration": "tiny", "seed": job.seed, "cycles": 7, "energy_pj": 1.0,
                              "edp": {"hybrid": 1.0, "ann_only": 2.0}, "throughput_vs_random": 1.5, "utilisation": 0.5})
    call = ["sweep", "peer_2", "--config", "tiny", "--rows", "4", "--seeds", "2", "-o", str(tmp_path)]
    assert main([*call, "--json"]) == 0
    assert [one["seed"] for one in json.loads(capsys.readouterr().out)["jobs"]] == [0, 1]
    assert main(call) == 0 and "peer_2" in capsys.readouterr().out
    assert main(["sweep", "nothing", "-o", str(tmp_path)]) == 2 and "a network of the zoo (cifar10_resnet20" in capsys.readouterr().err
    assert main(["sweep", "digits", "--rows", "4", "-o", str(tmp_path)]) == 2 and "--rows cuts the layers of shapes; digits: trained, images run whole" in " ".join(capsys.readouterr().err.split())
    assert main(["compare", "digits", "--rows", "4"]) == 2 and "--rows cuts the layers of shapes" in " ".join(capsys.readouterr().err.split())
    assert main(["sweep", "digits", "--coefficients", "x", "-o", str(tmp_path)]) == 2 and "no set of coefficients 'x'" in capsys.readouterr().err


@pytest.mark.long
def test_command_runs_and_resumes(capsys, tmp_path):
    call = ["sweep", "peer_2", "--config", "tiny", "--rows", "4", "--seeds", "2", "--processes", "2", "-o", str(tmp_path), "--json"]
    assert main(call) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["network"], one["seed"]) for one in found["jobs"]] == [("peer_2", 0), ("peer_2", 1)]
    files = sorted(tmp_path.glob("*.json"))
    times = [path.stat().st_mtime_ns for path in files]
    assert main(call) == 0 and json.loads(capsys.readouterr().out) == found
    assert len(files) == 2 and [path.stat().st_mtime_ns for path in files] == times


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")          # Dask's own
def test_cluster_survives_the_death_of_a_worker(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        pids = [worker.pid for worker in cluster.workers.values()]

        def kill(job):
            if pids:
                os.kill(pids.pop(), signal.SIGKILL)
                pids.clear()

        wanted = jobs_of(["peer_2"], [PRESETS["tiny"]], range(6), rows=4)
        results = sweep(wanted, tmp_path, scheduler=cluster.scheduler_address, done=kill)
    assert not pids and [result["seed"] for result in results.values()] == list(range(6))
