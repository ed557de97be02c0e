"""``neuroflex sweep``"""
from pathlib import Path

import click

from neuroflex.commands.common import CheckFailed, check_rows, comparison_options, display, emit, json_option, load_subject, table

__all__ = ["command"]


@click.command("sweep")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@click.option("--config", "configs", multiple=True, default=("paper",), show_default=True, metavar="NAME|FILE", help="A preset (tiny, small, pynq_z2, paper) or a TOML file; repeat for several.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many seeds: 0, 1, ...")
@comparison_options
@click.option("--output", "-o", "folder", default="build/sweep", show_default=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the results, a file per job; jobs whose file is there are not run again.")
@click.option("--processes", type=click.IntRange(1), help="Local processes; one for each processor by default.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, tcp://host:8786: its workers run the jobs.")
@json_option
def command(networks, configs, seeds, folder, processes, scheduler, as_json, **asked):
    """Compare many networks on many configurations with many seeds, in parallel, resumable.

    NETWORK is what `neuroflex compare` takes. Each job is what `neuroflex compare` does. A worker that dies loses its own job only, which another one takes over.
    """
    show = display(1)
    from neuroflex.compare.sweep import SweepFailed, jobs_of, read_result, sweep
    from neuroflex.config import load_config

    check_rows([load_subject(name) for name in networks], asked["rows"])      # refuses what is none before anything starts
    jobs = jobs_of(dict.fromkeys(networks), [load_config(name) for name in dict.fromkeys(configs)], range(seeds), **asked)
    there = sum(read_result(job, folder) is not None for job in jobs)
    with show.count(f"{len(jobs)} comparisons, a file each in {folder}: {there} found, {len(jobs) - there} to run", len(jobs)) as done:
        try:
            results = sweep(jobs, folder, processes=processes, scheduler=scheduler, done=lambda job: done())
        except SweepFailed as error:
            raise CheckFailed(str(error)) from None
    rows = [(one["network"], one["configuration"], one["seed"], one["cycles"], one["energy_pj"], one["edp"]["hybrid"] / one["edp"]["ann_only"],
             one["throughput_vs_random"], one["utilisation"]) for one in results.values()]
    emit(as_json, {"folder": folder, "jobs": list(results.values())},
         table("comparisons", ("network", "configuration", "seed", "cycles", "energy, pJ", "EDP ÷ that of ANN-only", "throughput ÷ that of random", "utilisation"), rows),
         f"results: {folder}")
