#!/usr/bin/env python3
"""Where SNN columns win: cycles and energy per column of both cores over levels, matches and densities. Prints Markdown.

    scripts/snn_columns.py [--config paper] [--density 0.25] [--picture docs/pictures/snn_columns.svg] [--json]

Each point is a layer with nine chunks of inputs per row and as many columns as the PEs of a core hold, run on the golden cycle model once with
all columns on the ANN core and once with all on the SNN core. A column's cycles are the core's running cycles times its PEs over columns and rows; its
energy is its events times coefficients, with every set.
"""
import argparse
import itertools
import json

import numpy as np

from neuroflex.atomic import write_atomically
from neuroflex.compare.shaped import shaped_layer
from neuroflex.compare.shapes import LayerShape
from neuroflex.compiler.lower import lower, plan_tiles
from neuroflex.compiler.schedule import schedule_network
from neuroflex.config import load_config
from neuroflex.formats import Core, StallCause
from neuroflex.sim.cost import placed_energy
from neuroflex.sim.energy import SETS, energy_table
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.sim.run import job_workloads, run_arrays

LEVELS = (1, 2, 4, 8)
MATCHES = (1, 4, 12, 50, 104, 216)
DENSITIES = (0.1, 0.25, 0.5)
DRAWN = {"low": "P(q) ∝ 0.6^q", "high": "half of them L, the others about L / 2, as in the recorded spikes"}
CHUNKS, GRID = 9, (8, 4)


def layer_at(config, levels, matches, density, drawn, seed):
    """Network and input of a point, or None where so many matches need more weights than there are."""
    inputs, columns = CHUNKS * config.chunk_bits, config.columns_per_pe * config.ann_pes
    weights = matches / (inputs * density)
    if weights > 0.9 or weights * inputs * config.columns_per_pe > 0.9 * config.value_lines * config.line_bytes:
        return None
    shape = LayerShape(name="layer", channels=inputs, columns=columns, height=GRID[0], width=GRID[1], levels_in=levels, levels_out=levels,
                       activation_density=density, weight_density=weights)
    network, tensor = shaped_layer(shape, seed=seed)
    if drawn == "high":
        rng = np.random.default_rng(seed)
        tensor = np.where(tensor > 0, np.where(rng.random(tensor.shape) < 0.5, levels, -(-levels // 2)), 0).astype(np.uint8)
    return network, tensor


def point(config, levels, matches, density, drawn, seed=0):
    """Cycles and pJ per column and row on both cores, or None."""
    made = layer_at(config, levels, matches, density, drawn, seed)
    if made is None:
        return None
    network, tensor = made
    layer, trace = network.layers[0], evaluate(network, tensor, quantised=True)
    plans = {layer.name: plan_tiles(network, layer, config)}
    rows = trace.layers[layer.name].rows
    found = {"levels": levels, "matches": float(trace.layers[layer.name].matches.mean() / rows), "activation_density": trace.layers[layer.name].density,
             "weight_density": trace.layers[layer.name].weight_density, "drawn": drawn, "cycles": {}, "energy_pj": {which: {} for which in SETS}}
    for core, method, pes in ((Core.ANN, "all_ann", config.ann_pes), (Core.SNN, "all_snn", config.snn_pes)):
        schedules = schedule_network(network, config, trace, plans, method=method)
        job = lower(network, config, schedules, trace=trace)
        if any((tile.core != core).any() for tile in job.tiles):
            return None
        run = run_arrays(job, job_workloads(job, trace, 0), MemoryTrace.constant(20), trace.output[0].astype(np.int64))
        running = sum(int(run.layers[:, cause].sum()) for cause in StallCause if cause not in (StallCause.CONTROL, StallCause.LOAD))
        found["cycles"][core.name] = running * pes / (rows * layer.columns)
        for which in SETS:
            energy = placed_energy(network, layer, trace.layers[layer.name], config, schedules.tiles[layer.name], energy=energy_table(which))
            found["energy_pj"][which][core.name] = energy / (rows * layer.columns)
    return found


def ratio(values):
    """SNN over ANN."""
    return values["SNN"] / values["ANN"]


def table(points, density, drawn):
    """A Markdown table of the points of one density: cycles of both cores, and energy of the SNN column over that of the ANN column with every set."""
    heads = [f"{'' if number else which + ', '}L = {level}" for which in SETS for number, level in enumerate(LEVELS)]
    lines = [f"| matches | weights, % | cycles, ANN | cycles, SNN over ANN | {' | '.join(heads)} |", "| ---: " * (4 + len(heads)) + "|"]
    for matches in MATCHES:
        row = [points.get((level, matches, density, drawn)) for level in LEVELS]
        known = [one for one in row if one]
        if known:
            cycles = sorted(f"{ratio(one['cycles']):.2f}" for one in known)
            values = [None if one is None else ratio(one["energy_pj"][which]) for which in SETS for one in row]
            cells = ["–" if value is None else f"**{value:.2f}**" if value < 0.995 else f"{value:.2f}" for value in values]
            lines.append(f"| {matches} | {100 * known[0]['weight_density']:.1f} | {known[0]['cycles']['ANN']:.1f} | {cycles[0]} … {cycles[-1]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(points, which):
    """Largest difference that the density of the activations makes to a ratio of energies, from 4 matches per row on."""
    found = [[ratio(points[level, matches, density, drawn]["energy_pj"][which]) for density in DENSITIES if points[level, matches, density, drawn]]
             for level, matches, drawn in itertools.product(LEVELS, MATCHES[1:], DRAWN)]
    return max(max(one) - min(one) for one in found)


def picture(points, density):
    """An SVG: for each set and each draw of levels a field of squares, blue where the SNN column has less energy times cycles."""
    cell, gap, left, top = (62, 26), 50, 108, 84
    wide, high = cell[0] * len(LEVELS), cell[1] * len(MATCHES)
    parts = []
    for (y, which), (x, drawn) in itertools.product(enumerate(SETS), enumerate(DRAWN)):
        ox, oy = left + x * (wide + gap), top + y * (high + 64)
        parts.append(f'<text x="{ox}" y="{oy - 24}" font-weight="bold">{which}; {"small levels likely" if drawn == "low" else "large levels likely"}</text>')
        for i, level in enumerate(LEVELS):
            parts.append(f'<text x="{ox + i * cell[0] + cell[0] / 2}" y="{oy - 5}" text-anchor="middle">L = {level}</text>')
        for j, matches in enumerate(MATCHES):
            if x == 0:
                parts.append(f'<text x="{left - 8}" y="{oy + j * cell[1] + 17}" text-anchor="end">{matches} match{"es" * (matches > 1)}</text>')
            for i, level in enumerate(LEVELS):
                one = points.get((level, matches, density, drawn))
                value = None if one is None else ratio(one["cycles"]) * ratio(one["energy_pj"][which])
                strength = 0 if value is None else min(abs(np.log2(value)), 1.0)
                low, full = (255, 255, 255), (0, 114, 178) if value is not None and value < 1 else (213, 94, 0)
                colour = "#dddddd" if value is None else "#" + "".join(f"{round(a + (b - a) * (0.12 + 0.75 * strength)):02x}" for a, b in zip(low, full))
                parts.append(f'<rect x="{ox + i * cell[0]}" y="{oy + j * cell[1]}" width="{cell[0] - 2}" height="{cell[1] - 2}" fill="{colour}"/>')
                parts.append(f'<text x="{ox + i * cell[0] + cell[0] / 2 - 1}" y="{oy + j * cell[1] + 17}" text-anchor="middle">{"–" if value is None else f"{value:.2f}"}</text>')
    width, height = left + len(DRAWN) * (wide + gap), top + len(SETS) * (high + 64) - 48
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13" fill="#1c2430">\n'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n<text x="8" y="20" font-size="15">Energy × cycles of an SNN column over those of the same ANN column</text>\n'
            f'<text x="8" y="38">Below 1 (blue) the SNN column wins. Matches per row; {100 * density:g} % of the activations nonzero.</text>\n' + "\n".join(parts) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="paper", help="a preset or a TOML file")
    parser.add_argument("--density", type=float, help="only this density of the activations, instead of " + ", ".join(map(str, DENSITIES)))
    parser.add_argument("--picture", help="write an SVG here")
    parser.add_argument("--json", action="store_true", help="print the points")
    options = parser.parse_args()
    config = load_config(options.config)
    densities, shown = (DENSITIES, DENSITIES[1]) if options.density is None else ((options.density,), options.density)
    points = {}
    for key in itertools.product(LEVELS, MATCHES, densities, DRAWN):
        if key[0] > 1 or key[3] == "low":      # with one level there is nothing to draw
            points[key] = point(config, *key)
    points |= {(1, matches, density, "high"): points[1, matches, density, "low"] for matches in MATCHES for density in densities}
    if options.picture:
        write_atomically(options.picture, picture(points, shown).encode())
    if options.json:
        print(json.dumps([one for key, one in points.items() if one and not (key[0] == 1 and key[3] == "high")], indent=2))
        return
    for drawn in DRAWN:
        print(f"\nLevels: {DRAWN[drawn]}; {100 * shown:g} % of the activations nonzero.\n\n{table(points, shown, drawn)}")
    if len(densities) > 1:
        print("\nLargest difference between activations of " + ", ".join(f"{100 * density:g} %" for density in DENSITIES) + ", from 4 matches per row on: "
              + ", ".join(f"{spread(points, which):.3f} with {which}" for which in SETS))


if __name__ == "__main__":
    main()
