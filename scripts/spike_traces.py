#!/usr/bin/env python3
"""Recorded spikes beside drawn activations of the same densities: levels, and what the joins of 128 bits find. Prints Markdown.

    NEUROFLEX_DATA=FOLDER scripts/spike_traces.py
"""
import argparse
import sys

import numpy as np

from neuroflex.compare.shaped import shaped_layer
from neuroflex.compare.shapes import SHAPES
from neuroflex.compare.traces import TRACE_STEPS, spike_counts
from neuroflex.data_folder import DataError
from neuroflex.sim.network import gather

CHUNK = 128


def joins(network, tensor):
    """Chunk joins of a layer, those without a match, and matches: rows of A flat in K, in chunks of 128 positions, as LoAS packs them."""
    layer = network.layers[0]
    rows = gather(tensor, layer.sources[0]).reshape(-1, layer.weights.shape[0]) != 0
    weights, empty, matches = layer.weights != 0, 0, 0
    starts = range(0, weights.shape[0], CHUNK)
    for start in starts:
        found = rows[:, start:start + CHUNK].astype(np.float32) @ weights[start:start + CHUNK].astype(np.float32)
        empty, matches = empty + int((found == 0).sum()), matches + int(found.sum())
    return np.array([len(starts) * len(rows) * layer.columns, empty, matches])


def shares(tensor):
    """Share of each level 0 … T."""
    return np.bincount(tensor.ravel(), minlength=TRACE_STEPS + 1) / tensor.size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["loas_vgg16", "loas_alexnet"], choices=[name for name, shape in SHAPES.items() if shape.trace])
    parser.add_argument("--seed", type=int, default=0, help="as of neuroflex compare")
    options = parser.parse_args()
    for name in options.networks:
        try:
            counts = spike_counts(SHAPES[name])
        except DataError as error:
            sys.exit(f"spike_traces.py: {error}")
        sums = {"recorded": np.zeros(3), "drawn": np.zeros(3)}
        levels = {"recorded": [], "drawn": []}
        print(f"\n| `{name}` | silent, % | level 1 | 2 | 3 | 4 | joins without a match, % | matches per join | the same, drawn: without, % | matches |\n"
              "| --- " + "| ---: " * 9 + "|")
        for number, layer in enumerate(SHAPES[name].layers):
            if layer.analog:
                continue
            found = {}
            for kind, given in (("recorded", counts[layer.name]), ("drawn", None)):
                network, tensor = shaped_layer(layer, seed=(options.seed, number), counts=given)
                found[kind] = joins(network, tensor)
                sums[kind] += found[kind]
                levels[kind].append(tensor.ravel())
            cells = [f"{100 * found[kind][1] / found[kind][0]:.0f} | {found[kind][2] / found[kind][0]:.2f}" for kind in sums]
            print(f"| {layer.name} | " + " | ".join(f"{100 * share:.1f}" for share in shares(counts[layer.name])) + f" | {' | '.join(cells)} |")
        cells = [f"{100 * one[1] / one[0]:.0f} | {one[2] / one[0]:.2f}" for one in sums.values()]
        whole = {kind: np.concatenate(parts) for kind, parts in levels.items()}
        print("| all | " + " | ".join(f"{100 * share:.1f}" for share in shares(whole["recorded"])) + f" | {' | '.join(cells)} |")
        for kind, values in whole.items():
            share = shares(values)
            print(f"\n{name}, {kind}: {100 * (1 - values.mean() / TRACE_STEPS):.1f} % of the spikes are not there, {100 * share[0]:.1f} % of the neurons never spike, "
                  f"{100 * share[TRACE_STEPS] / (1 - share[0]):.0f} % of those that do spike in every step")


if __name__ == "__main__":
    main()
