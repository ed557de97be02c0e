"""``neuroflex verify``"""
import time

import click

from neuroflex.commands.common import (CheckFailed, config_option, display, emit, images_options, input_tensors, is_image, json_option, load_job,
                                       memory_options, memory_trace, policy_option, seed_option, table)

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
    """Run PROGRAM on RTL and golden model and compare every output of every cycle. Exit code 1 when anything differs.

    PROGRAM is a program image (.nfx), which has its own configuration and policy, or a network (zoo name, .npz, FILE:SEGMENT), which is compiled first with --config, --policy and --seed.
    """
    show = display(3)
    from neuroflex import flow
    from neuroflex.progress import preparation

    memory = memory_trace(latency, memory_seed)
    with show.step(f"open {program}" if is_image(program) else f"compile {program} for {config_name}, {policy}"):
        job = load_job(program, config_name, policy, seed)
    tensors, _ = input_tensors(job.network, count, first, input_file)
    with show.step(preparation(model=True, rtl=True)):
        flow.prepare(job, tensors[0])
    runs, started = [], time.monotonic()
    for number, tensor in enumerate(show.track(tensors, f"compare {job.network.name} on {job.config.name}, RTL and golden model, in every cycle")):
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
