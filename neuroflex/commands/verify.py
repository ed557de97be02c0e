"""``neuroflex verify``"""
import time

import click

from neuroflex.commands.common import (CheckFailed, config_option, emit, errors, images_options, input_tensors, json_option, load_job,
                                       memory_options, memory_trace, policy_option, progress, seed_option, table)

__all__ = ["command"]


@click.command("verify")
@click.argument("program")
@config_option
@policy_option
@seed_option
@images_options
@memory_options
@json_option
def command(program, config_name, policy, seed, count, first, input_file, latency, memory_seed, as_json):
    """Run PROGRAM on RTL and golden model and compare every output of every cycle. Exit code 1 when anything differs."""
    from neuroflex import flow

    memory = memory_trace(latency, memory_seed)
    with errors.status("compiling"):
        job = load_job(program, config_name, policy, seed)
    tensors, _ = input_tensors(job.network, count, first, input_file)
    runs, started = [], time.monotonic()
    with progress() as bar:
        for number, tensor in enumerate(bar.track(tensors, description=f"{job.network.name} on {job.config.name}, RTL against model")):
            verdict = flow.verify(job, tensor, memory=memory)
            runs.append({"image": first + number, "cycles": int(verdict.cycles), "cycle_mismatches": int(verdict.cycle_mismatches),
                         "value_mismatches": int(verdict.value_mismatches), "first": verdict.first,
                         "model_cycles": int(verdict.model.cycles), "rtl_cycles": int(verdict.rtl.cycles),
                         "status": verdict.rtl.status.name})
    total = {key: sum(run[key] for run in runs) for key in ("cycles", "cycle_mismatches", "value_mismatches", "model_cycles", "rtl_cycles")}
    emit(as_json, {"network": job.network.name, "configuration": job.config.name, **total, "runs": runs},
         table(f"{job.network.name} on {job.config.name}: RTL against golden model",
               ("image", "cycles compared", "cycles that differ", "values that differ", "job, model", "job, RTL"),
               ((r["image"], r["cycles"], r["cycle_mismatches"], r["value_mismatches"], r["model_cycles"], r["rtl_cycles"]) for r in runs)),
         f"{total['cycles']:,} cycles compared in {time.monotonic() - started:.1f} s")
    for run in runs:
        if run["cycle_mismatches"] or run["value_mismatches"] or run["status"] != "DONE":
            raise CheckFailed(f"image {run['image']}: " + (run["first"] or f"{run['value_mismatches']} values differ"
                                                           if run["status"] == "DONE" else f"the job ended with {run['status']}"))
