"""Measure how fast the golden cycle model runs whole networks, on one core.

    .venv/bin/python scripts/network_speed.py [--json] [--networks vgg16 bert_base ...]

For each network: seconds of processor time per image for values, workloads and cycles, with one thread and the loops already compiled (all
columns on the ANN core, `paper` preset); the time that drawing, scheduling and lowering take does not count, since they are done once per
network. Then the curve: one BERT layer of 64 to 4,096 tokens, seconds against joins, with a straight line through them.
"""
import argparse
import json
import os
import resource
from time import process_time

os.environ["OPENBLAS_NUM_THREADS"] = "1"     # figures are per core

import numpy as np

from neuroflex.compare.shaped import shaped_layer
from neuroflex.compare.shapes import SHAPES, LayerShape
from neuroflex.compiler.lower import lower, plan_tiles
from neuroflex.compiler.schedule import schedule_network
from neuroflex.config import PRESETS
from neuroflex.formats import Status
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.sim.run import job_workloads, run_arrays

CONFIG = PRESETS["paper"]


def layer_seconds(shape, seed):
    """Joins of a layer, its cycles, and the seconds of values, workload and cycles."""
    network, tensors = shaped_layer(shape, seed=seed)
    layer = network.layers[0]
    marks = [process_time()]
    trace = evaluate(network, tensors, quantised=True)
    marks.append(process_time())
    plans = {layer.name: plan_tiles(network, layer, CONFIG)}
    job = lower(network, CONFIG, schedule_network(network, CONFIG, trace, plans, method="all_ann"), trace=trace)
    start = process_time()
    arrays = job_workloads(job, trace)
    middle = process_time()
    run = run_arrays(job, arrays, MemoryTrace.constant(), trace.output[0].astype(np.int64))
    end = process_time()
    assert run.status == Status.DONE
    joins = shape.rows * network.row_chunks(layer, CONFIG.chunk_bits) * shape.columns
    return joins, run.counters["cycles"], np.array([marks[1] - marks[0], middle - start, end - middle])


def whole(name):
    """Figures of one network."""
    joins = cycles = 0
    seconds = np.zeros(3)
    for number, shape in enumerate(SHAPES[name].layers):
        one = layer_seconds(shape, (0, number))
        joins, cycles, seconds = joins + one[0], cycles + one[1], seconds + one[2]
    return {"joins": joins, "cycles": cycles, "seconds": float(seconds.sum()),
            **dict(zip(("values_seconds", "workload_seconds", "cycle_seconds"), seconds.tolist())), "joins_per_second": joins / float(seconds.sum())}


def curve():
    """Joins and seconds of a layer of growing length (the least of three runs each), and how far they are from a straight line."""
    points = []
    for height in (8, 32, 128, 512):
        shape = LayerShape(name="query", channels=768, columns=768, height=height, width=8, activation_density=0.35, weight_density=0.15)
        joins, _, _ = layer_seconds(shape, 1)
        points.append((joins, min(float(layer_seconds(shape, 1)[2].sum()) for _ in range(3))))
    joins, seconds = np.array(points, np.float64).T
    table = np.stack([np.ones(len(joins)), joins], axis=1)
    start, slope = np.linalg.lstsq(table / seconds[:, None], np.ones(len(joins)), rcond=None)[0]      # least relative squares
    return {"points": [{"joins": one, "seconds": took} for one, took in points], "start_seconds": start, "nanoseconds_per_join": slope * 1e9,
            "largest_deviation": float(np.abs((start + slope * joins) / seconds - 1).max())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["vgg16", "vgg16_sparse", "resnet34", "googlenet", "bert_base"], choices=list(SHAPES))
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    layer_seconds(LayerShape(name="warm", channels=130, columns=40, height=4), 0)      # compiles
    figures = {name: whole(name) for name in arguments.networks}
    figures["curve"] = curve()
    figures["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return
    for name in arguments.networks:
        one = figures[name]
        print(f"{name:14} {one['seconds']:7.2f} s  {one['joins']:12,} joins  {one['joins_per_second'] / 1e6:6.2f} M joins/s  {one['cycles']:12,} cycles")
    for point in figures["curve"]["points"]:
        print(f"{point['joins']:12,} joins {point['seconds']:8.3f} s")
    line = figures["curve"]
    print(f"{line['nanoseconds_per_join']:.1f} ns per join + {line['start_seconds']:.3f} s, no point further than {100 * line['largest_deviation']:.0f} % from that line; "
          f"peak memory {figures['peak_memory_mib']:,.0f} MiB")


if __name__ == "__main__":
    main()
