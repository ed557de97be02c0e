"""``neuroflex simulate``"""
import time

import click
import numpy as np

from neuroflex.commands.common import (CheckFailed, config_option, display, emit, images_options, input_tensors, is_image, json_option, load_job,
                                       memory_options, memory_trace, policy_option, seed_option, table)

__all__ = ["command"]


@click.command("simulate")
@click.argument("program")
@click.option("--engine", type=click.Choice(("model", "rtl")), default="model", show_default=True,
              help="Golden model, or Verilated RTL; the numbers are the same.")
@config_option
@policy_option
@seed_option
@images_options
@memory_options
@json_option
def command(program, engine, config_name, policy, seed, count, first, input_file, latency, memory_seed, as_json):
    """Run PROGRAM, image by image.

    PROGRAM is a program image (.nfx), which has its own configuration and policy, or a network (zoo name, .npz, FILE:SEGMENT), which is compiled first with --config, --policy and --seed.
    """
    show = display(3)
    from neuroflex import flow
    from neuroflex.formats import Status
    from neuroflex.progress import preparation

    simulate = {"model": flow.simulate_model, "rtl": flow.simulate_rtl}[engine]
    memory = memory_trace(latency, memory_seed)
    with show.step(f"open {program}" if is_image(program) else f"compile {program} for {config_name}, {policy}"):
        job = load_job(program, config_name, policy, seed)
    tensors, labels = input_tensors(job.network, count, first, input_file)
    need = {"model": engine == "model", "rtl": engine == "rtl"}
    with show.step(preparation(**need)):
        flow.prepare(job, tensors[0], **need)
    runs, started = [], time.monotonic()
    what = {"model": "golden model", "rtl": "RTL"}[engine]
    for number, tensor in enumerate(show.track(tensors, f"run {job.network.name} on {job.config.name}'s {what}, image by image")):
        result = _result(job, simulate(job, tensor, memory=memory))
        result |= {"image": first + number, "label": None if labels is None else int(labels[number])}
        runs.append(result)
    answer = {"engine": engine, "network": job.network.name, "configuration": job.config.name, "runs": runs}
    emit(as_json, answer,
         table(f"{job.network.name} on {job.config.name}, {engine}",
               ("image", "label", "answer", "status", "cycles", "matches ANN", "matches SNN", "use ANN", "use SNN"),
               ((r["image"], "-" if r["label"] is None else r["label"], r["answer"], r["status"], r["cycles"],
                 r["counters"]["matches_ann"], r["counters"]["matches_snn"], r["utilisation"]["ann"], r["utilisation"]["snn"])
                for r in runs)),
         f"{sum(r['cycles'] for r in runs):,} cycles in {time.monotonic() - started:.1f} s")
    for result in runs:
        if result["status"] != Status.DONE.name:
            raise CheckFailed(f"image {result['image']}: the job ended with status {result['status']}, not DONE")


def _result(job, result):
    """A `neuroflex.flow.Result` as JSON values."""
    return {"status": result.status.name, "cycles": int(result.cycles), "counters": {k: int(v) for k, v in result.counters.items()},
            "layers": _layers(job, result), "utilisation": result.utilisation, "answer": int(np.argmax(result.output.reshape(-1))),
            "output": result.output.reshape(-1).tolist()}


def _layers(job, result):
    """What each descriptor took, by the name of its layer; the last one, which ends the program, has none."""
    from neuroflex.formats import Core, StallCause

    names = [*(tile.layer for tile in job.tiles), None]
    return [{"layer": name, "cycles": {cause.name.lower(): int(row[cause]) for cause in StallCause},
             **{f"matches_{core.name.lower()}": int(row[len(StallCause) + core]) for core in (Core.ANN, Core.SNN)}}
            for name, row in zip(names, result.layers, strict=True)]
