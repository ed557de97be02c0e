"""Measure how fast RTL and golden model simulate.

    .venv/bin/python scripts/simulation_speed.py [--images 10] [--json]

Prints, for the digits network on the `tiny` preset: cycles per second of the RTL in its closed loop and of the full comparison with the
model, milliseconds per image of the cycle model; and joins (pairs of chunk and column masks) and matches per second of the model on large synthetic
layers of two densities on the `paper` preset. Every figure is the median of several runs; compilation comes before.
Exits with 1 when a figure misses its bar in ``BARS``, unless ``--no-bars``.
"""
import argparse
import json
import os
import sys
from importlib import resources
from statistics import median
from time import process_time

os.environ["OPENBLAS_NUM_THREADS"] = "1"     # figures are per core

import numpy as np

from neuroflex.compiler.network import Network
from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate, quantise
from neuroflex.sim.run import job_workloads, run_arrays, simulate_job
from neuroflex.tb.accelerator import RtlAccelerator
from neuroflex.tb.compare import compare_job

# How slow is too slow, on one core: figure -> (worst value, whether larger is better).
BARS = {"model_ms_per_image": (50, False), "joins_per_second 0.3 x 0.3": (1e7, True), "joins_per_second 0.26 x 0.02": (1e7, True),
        "compared_cycles_per_second": (1e5, True)}


def seconds(function, repeats):
    """Median processor time of a call; the first one, which compiles, does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = process_time()
        function()
        times.append(process_time() - start)
    return median(times)


def digits(images):
    network, config = Network.load(resources.files("neuroflex.zoo") / "digits.npz"), PRESETS["tiny"]
    job, memory = compile_network(network, config), MemoryTrace.constant()
    tensors = quantise(network.input, network.examples.test_images[:images])
    accelerator = RtlAccelerator(config)
    lines = job.with_input(tensors[0])
    cycles = accelerator.run(lines, program=job.program, trace=memory).cycles
    model = [seconds(lambda tensor=tensor: simulate_job(job, tensor, memory), 3) for tensor in tensors]
    return {"rtl_cycles_per_second": cycles / seconds(lambda: accelerator.run(lines, program=job.program, trace=memory), images),
            "compared_cycles_per_second": cycles / seconds(lambda: compare_job(accelerator, job, tensors[0], memory=memory), images),
            "model_ms_per_image": 1000 * median(model), "cycles_per_image": cycles}


def large_layer(activation_density, weight_density):
    """Joins and matches per second: values, workload and timing together, and timing alone."""
    rows, inputs, columns = 512, 1152, 256
    network, tensor = synthetic_layer(rows=rows, inputs=inputs, columns=columns, activation_density=activation_density,
                                      weight_density=weight_density, seed=1)
    config, memory = PRESETS["paper"], MemoryTrace.constant()
    job = compile_network(network, config, calibration=tensor)
    arrays = job_workloads(job, evaluate(network, tensor, quantised=True))
    timing = seconds(lambda: run_arrays(job, arrays, memory, np.zeros(1)), 3)
    whole = seconds(lambda: run_arrays(job, job_workloads(job, evaluate(network, tensor, quantised=True)), memory, np.zeros(1)), 3)
    joins, matches = rows * -(-inputs // config.chunk_bits) * columns, int(sum(a.matches.sum() for a in arrays))
    return {f"{name} {activation_density} x {weight_density}": value for name, value in {
        "joins_per_second": joins / whole, "matches_per_second": matches / whole, "timing_joins_per_second": joins / timing}.items()}


def missed(figures):
    """A line of text for each figure that misses its bar."""
    return [f"{name}: {figures[name]:,.1f}, the bar is {bar:,.0f}" for name, (bar, larger) in BARS.items()
            if (figures[name] < bar if larger else figures[name] > bar)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10, help="images of the digits network, and repetitions of a run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-bars", action="store_true", help="only print, however slow")
    arguments = parser.parse_args()
    figures = digits(arguments.images) | large_layer(0.3, 0.3) | large_layer(0.26, 0.02)
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        for name, value in figures.items():
            print(f"{name:40} {value:14,.1f}")
    late = [] if arguments.no_bars else missed(figures)
    for line in late:
        print(line, file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
