"""Fit the cost model's cycles per row and per match to the golden cycle model, which equals the RTL cycle for cycle.

    python scripts/fit_cost.py [preset ...]

Synthetic layers with eight columns per PE run on one core at a time; the cycles of their run phase are explained by the rows and
the matches of the busiest PE. Prints one line per preset and core; the values for `paper` are the defaults of `CostModel`.
"""
import sys

import numpy as np

from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.config import PRESETS, load_config
from neuroflex.flow import compile_network, simulate_model
from neuroflex.formats import Core, StallCause
from neuroflex.sim.cost import fit
from neuroflex.sim.network import evaluate

DENSITIES = ((0.3, 0.3), (0.3, 0.1), (0.15, 0.1), (0.26, 0.05), (0.26, 0.02), (0.1, 0.3))
ROWS, COLUMNS_PER_PE = 64, 8


def sample(config, core, inputs, densities, seed):
    """(matches, rows x columns) of the busiest PE, and the cycles of the run phase."""
    pes = (config.ann_pes, config.snn_pes)[core]
    network, tensor = synthetic_layer(rows=ROWS, kernel=3, inputs=inputs, columns=COLUMNS_PER_PE * pes, activation_density=densities[0],
                                      weight_density=densities[1], seed=seed)
    job = compile_network(network, config, policy=f"all_{core.name.lower()}", calibration=tensor)
    result = simulate_model(job, tensor[0])
    tile, matches = job.tiles[0], evaluate(network, tensor, quantised=True).layers["layer"].matches
    load = np.bincount(tile.pe, weights=matches[tile.columns])
    busiest = int(load.argmax())
    return load[busiest], ROWS * np.bincount(tile.pe)[busiest], result.layers[:, StallCause.BROADCAST:len(StallCause)].sum()


def main(names):
    for config in map(load_config, names or PRESETS):
        for core in Core:
            samples = [sample(config, core, inputs, pair, seed) for seed, pair in enumerate(DENSITIES) for inputs in (288, 1152)]
            matches, rows, cycles = np.array(samples).T
            row, match = fit(matches, cycles, rows)
            error = np.abs(row * rows + match * matches - cycles) / cycles
            print(f"{config.name:8} {core.name}: {row:.2f} cycles per row and column, {match:.3f} per match; "
                  f"error {100 * error.mean():.1f} % on average, {100 * error.max():.1f} % at most")


if __name__ == "__main__":
    main(sys.argv[1:])
