"""Fit the cost model's cycles per row and per match to the golden cycle model, which equals the RTL cycle for cycle.

    python scripts/fit_cost.py [preset ...]

Synthetic layers with eight columns per PE run on one core at a time; the cycles of their run phase are explained by the rows and
the matches of the busiest PE (the additions of an SNN PE that adds serially), or by its scanner, which reads half a chunk of a column per cycle, where that takes
longer. Prints one line per preset, core and kind of SNN PE; the values for `paper` are the defaults of `CostModel`.
"""
import sys

import numpy as np

from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.config import PRESETS, SNN_PES, load_config
from neuroflex.flow import compile_network, simulate_model
from neuroflex.formats import Core, StallCause
from neuroflex.sim.cost import CostModel, fit
from neuroflex.sim.network import evaluate

DENSITIES = ((0.3, 0.3), (0.3, 0.1), (0.15, 0.1), (0.26, 0.05), (0.26, 0.02), (0.1, 0.3))
ROWS, COLUMNS_PER_PE = 64, 8


def samples(config, core, inputs, densities, seed):
    """(matches, rows x columns, rows x columns x chunks / 2) of the busiest PE of each tile, and the cycles of its run phase."""
    pes = (config.ann_pes, config.snn_pes)[core]
    network, tensor = synthetic_layer(rows=ROWS, kernel=3, inputs=inputs, columns=COLUMNS_PER_PE * pes, activation_density=densities[0],
                                      weight_density=densities[1], seed=seed)
    job = compile_network(network, config, policy=f"all_{core.name.lower()}", calibration=tensor)
    result = simulate_model(job, tensor[0])
    trace = evaluate(network, tensor, quantised=True).layers["layer"]
    matches = trace.level_sum if core == Core.SNN and config.snn_pe == "serial" else trace.matches
    chunks = network.row_chunks(network.layers[0], config.chunk_bits)
    for tile, cycles in zip(job.tiles, result.layers[:, StallCause.BROADCAST:len(StallCause)].sum(axis=1)):
        rows = ROWS / (1 << tile.groups_log2)       # of each group
        load = np.bincount(tile.pe, weights=matches[tile.columns]) * rows / ROWS
        busiest = int(load.argmax())
        columns = np.bincount(tile.pe)[busiest]
        yield load[busiest], rows * columns, rows * columns * chunks / 2, cycles


def main(names):
    for preset in map(load_config, names or PRESETS):
        for core, kind in ((Core.ANN, preset.snn_pe), *((Core.SNN, kind) for kind in SNN_PES)):
            config = preset.replace(snn_pe=kind)
            table = [one for seed, pair in enumerate(DENSITIES) for inputs in (288, 1152) for one in samples(config, core, inputs, pair, seed)]
            matches, rows, scans, cycles = np.array(table).T
            bound = matches + rows > scans          # by matches, not by the scanner
            row, match = fit(matches[bound], cycles[bound], rows[bound])
            predicted = CostModel().delay(core, rows=rows, matches=matches, chunks=2 * scans / rows, serial=kind == "serial")
            error = np.abs(predicted - cycles) / cycles
            print(f"{config.name:8} {core.name}{f' ({kind})' if core == Core.SNN else ''}: {row:.2f} cycles per row and column, {match:.3f} per match in {bound.sum()} of {len(bound)} tiles, the others wait "
                  f"for the scanner; the model's defaults are off by {100 * error.mean():.1f} % on average, {100 * error.max():.1f} % at most")


if __name__ == "__main__":
    main(sys.argv[1:])
