"""Many comparisons: networks × configurations × seeds, over processes here or workers of a Dask cluster. Resumable.

A job's result is one file, written whole or not at all; a job whose file is there is done. So an interrupted sweep goes on where it
stopped, and a worker that dies loses nothing but its own job, which is tried again. Sources and network files are part of a job: what
an earlier version found, or another network in a file of the same name, does not count.
"""

__all__ = ["MOST_ATTEMPTS", "Job", "SourcesChanged", "SweepFailed", "jobs_of", "read_result", "sources_of", "sweep"]

import hashlib
import json
import multiprocessing
import os
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from neuroflex.atomic import write_atomically
from neuroflex.data_folder import data_file
from neuroflex.sim.energy import DEFAULT

MOST_ATTEMPTS = 3
_POLL_SECONDS = 0.05


class SweepFailed(RuntimeError):
    """Jobs without a result; the message names the first and what happened to it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One comparison. ``config`` is the configuration's TOML text, so that a worker needs no file of ours; ``sources`` is `sources_of` the network."""

    network: str
    config: str
    seed: int = 0
    rows: int | None = None
    images: int = 1
    coefficients: str = DEFAULT
    latency: int = 20
    sources: str = ""

    @property
    def name(self):
        """Name of the result's file: readable, and different for different jobs."""
        from neuroflex.config import ArchConfig

        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        return f"{Path(self.network).stem}-{ArchConfig.from_toml(self.config).name}-{self.seed}-{digest}"

    def run(self):
        """The comparison's result.

        Raises
        ------
        SourcesChanged
            When code or network are, before or after the run, not those that the job was made from.
        """
        _unchanged(self)
        from neuroflex.compare.measure import compare_network, subject_of
        from neuroflex.compare.shapes import SHAPES
        from neuroflex.commands.common import load_network
        from neuroflex.config import ArchConfig

        which = self.network if self.network in SHAPES else load_network(self.network, split=True)
        subject = subject_of(which, seed=self.seed, rows=self.rows, images=self.images)
        result = compare_network(subject, ArchConfig.from_toml(self.config), seed=self.seed, coefficients=self.coefficients, latency=self.latency).result
        _code.cache_clear()
        _unchanged(self)
        return result


class SourcesChanged(RuntimeError):
    """A job's code, network or spike traces are not what they were when it was made: elsewhere installed, edited or replaced since."""


def _unchanged(job):
    if job.sources != sources_of(job.network):
        raise SourcesChanged(f"{job.network}: the network, its spike traces or the installed NeuroFlex are not those that this sweep was started with; start it again")


@cache
def _code():
    """SHA-256 of the code that a comparison's figures come from, and of the areas recorded for its baselines."""
    from neuroflex import compiler, sim
    from neuroflex.compare.baselines import RESOURCES

    digest, here = hashlib.sha256(), Path(__file__).parent
    for folder in (here, here.parent, here.parent / "power", Path(compiler.__file__).parent, Path(sim.__file__).parent):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    if RESOURCES.is_file():
        digest.update(RESOURCES.read_bytes())
    return digest.hexdigest()


def sources_of(network):
    """What a result depends on besides the other fields of its job: SHA-256 of code and network, and of the spike traces that it reads.

    Parameters
    ----------
    network : str
        Name of a shape (which is code) or of a network of the zoo, or a file.
    """
    from neuroflex.compare.shapes import SHAPES
    from neuroflex.commands.common import load_network

    if network not in SHAPES:
        own = load_network(network, split=True).digest
    elif SHAPES[network].trace:
        own = hashlib.sha256(data_file(SHAPES[network].trace, f"spike traces of {SHAPES[network].title}").read_bytes()).hexdigest()
    else:
        own = ""
    return hashlib.sha256(f"{_code()} {own}".encode()).hexdigest()


def jobs_of(networks, configs, seeds, **options):
    """Every network on every configuration with every seed."""
    return [Job(network=network, config=config.to_toml(), seed=seed, sources=sources, **options)
            for network, sources in ((network, sources_of(network)) for network in networks) for config in configs for seed in seeds]


def read_result(job, folder):
    """The result of a job from its file, or None where there is none, or a file that is not one."""
    try:
        content = json.loads((Path(folder) / f"{job.name}.json").read_text())
        return content["result"] if content["job"] == asdict(job) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(job, folder, result):
    write_atomically(Path(folder) / f"{job.name}.json", json.dumps({"job": asdict(job), "result": result}).encode())


def _work(job, folder):
    """A local worker: one process, one job."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _keep(job, folder, job.run())


def sweep(jobs, folder, *, processes=None, scheduler=None, done=lambda job: None, work=_work):
    """Run those jobs that have no result yet.

    Parameters
    ----------
    jobs : list of Job
    folder : path
        Gets a file per job.
    processes : int, optional
        Local processes; one for each processor by default.
    scheduler : str, optional
        Address of a Dask scheduler: its workers, which need NeuroFlex installed, are used instead. Needs the extra ``cluster``.
    done : callable(job)
        Called when a job's result is there, also for those that were before.
    work : callable(job, folder)
        What a local worker does.

    Returns
    -------
    dict
        Job → result.

    Raises
    ------
    SweepFailed
        After all others are done, when a job failed `MOST_ATTEMPTS` times.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    waiting = []
    for job in jobs:
        if read_result(job, folder) is None:
            waiting.append(job)
        else:
            done(job)
    failed = (_on_cluster(waiting, folder, scheduler, done) if scheduler else
              _locally(waiting, folder, processes or os.cpu_count() or 1, done, work))
    if failed:
        job, why = next(iter(failed.items()))
        raise SweepFailed(f"{len(failed)} of {len(jobs)} jobs have no result, as {job.name}: {why}; the others' are in {folder}")
    return {job: read_result(job, folder) for job in jobs}


def _locally(waiting, folder, processes, done, work):
    """One process per job, some at a time. Returns job → reason for those that failed."""
    context = multiprocessing.get_context("spawn")
    waiting, attempts, failed, running = list(waiting), {}, {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                attempts[job] = attempts.get(job, 0) + 1
                running[job] = context.Process(target=work, args=(job, folder), name=job.name)
                running[job].start()
            for job, process in list(running.items()):
                if process.is_alive():
                    continue
                process.join()
                del running[job]
                if read_result(job, folder) is not None:
                    done(job)
                elif attempts[job] < MOST_ATTEMPTS:
                    waiting.append(job)
                else:
                    code = process.exitcode
                    failed[job] = f"its process {'was killed by signal ' + str(-code) if code < 0 else 'ended with code ' + str(code)}, {attempts[job]} times"
            time.sleep(_POLL_SECONDS)
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    return failed


def _run(job):
    return job.run()


def _on_cluster(waiting, folder, address, done):
    """Jobs on the workers of a Dask scheduler, which gives those of a lost worker to another one."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ModuleNotFoundError("--scheduler needs Dask: pip install 'neuroflex[cluster]'") from None
    failed = {}
    if not waiting:
        return failed
    with Client(address) as client:
        owner = {client.submit(_run, job, pure=False, retries=MOST_ATTEMPTS - 1, key=job.name): job for job in waiting}
        for future in as_completed(owner):
            job = owner[future]
            if future.status == "finished":
                _keep(job, folder, future.result())
                done(job)
            else:
                failed[job] = str(future.exception())
    return failed
