"""One synthetic sparse layer, measured on RTL and golden model."""
import time

import numpy as np

from neuroflex import flow
from neuroflex.compiler.synthetic import synthetic_layer
from neuroflex.formats import Core, StallCause
from neuroflex.progress import Silent, preparation

__all__ = ["measure_layer"]


def measure_layer(config, *, rows, inputs, columns, activation_density, weight_density, levels=4, kernel=1, seed=0, policy="hybrid", rtl=True, memory=None,
                  show=None):
    """Cycles, matches, utilisation and stalls of a layer.

    Parameters
    ----------
    config : ArchConfig
    rows, inputs, columns, activation_density, weight_density, levels, kernel, seed
        See :func:`neuroflex.compiler.synthetic.synthetic_layer`.
    policy : str
        See ``neuroflex.flow.POLICIES``.
    rtl : bool
        Measure on the RTL too, and compare.
    memory : MemoryTrace, optional
    show : neuroflex.progress.Display, optional
        Gets three steps, or four with ``rtl``.

    Returns
    -------
    dict
        ``model`` and ``rtl`` (None when not asked for): status, cycles, matches, stalls by cause; utilisation (matches per PE and
        cycle) of each core over the run phase, and ``utilisation_all`` over all cycles; seconds. ``equal``: whether counters, sums
        per layer and outputs agree. ``joins``: (row, chunk, column) triples, and how many per second the model predicts.
    """
    show = show or Silent()
    with show.step(f"draw and compile a layer of {rows} x {inputs} x {columns} for {config.name}, {policy}"):
        network, images = synthetic_layer(rows=rows, inputs=inputs, columns=columns, activation_density=activation_density,
                                          weight_density=weight_density, levels=levels, kernel=kernel, seed=seed)
        job = flow.compile_network(network, config, policy=policy, seed=seed, calibration=images)
    tensor = images[0]
    with show.step(preparation(model=True, rtl=rtl)):
        flow.prepare(job, tensor, rtl=rtl)
    with show.step("run it on the golden model"):
        model, model_seconds = _timed(flow.simulate_model, job, tensor, memory)
    # Each position of the window is padded to whole chunks.
    joins = rows * kernel ** 2 * -(-inputs // kernel ** 2 // config.chunk_bits) * columns
    result = {"layer": {"rows": rows, "inputs": inputs, "columns": columns, "activation_density": activation_density,
                        "weight_density": weight_density, "levels": levels, "kernel": kernel, "seed": seed},
              "configuration": config.name, "policy": policy,
              "tiles": [{"columns": len(tile.columns), "ann": int((tile.core == Core.ANN).sum()), "snn": int((tile.core == Core.SNN).sum()),
                         "groups": 1 << tile.groups_log2} for tile in job.tiles],
              "model": _figures(model, config, model_seconds), "rtl": None, "equal": None,
              "joins": joins, "model_joins_per_second": joins / model_seconds,
              "energy_pj": flow.energy_pj(job, tensor, model)}
    result["edp"] = result["energy_pj"] * model.cycles
    if rtl:
        with show.step("run it on the RTL"):
            measured, seconds = _timed(flow.simulate_rtl, job, tensor, memory)
        result["rtl"] = _figures(measured, config, seconds)
        result["equal"] = bool(measured.status == model.status and measured.counters == model.counters
                               and np.array_equal(measured.layers, model.layers) and np.array_equal(measured.output, model.output))
    return result


def _timed(run, job, tensor, memory):
    started = time.perf_counter()
    result = run(job, tensor, memory=memory)
    return result, time.perf_counter() - started


def _figures(result, config, seconds):
    stalls = {cause.name.lower(): int(result.layers[:, cause].sum()) for cause in StallCause}
    matches = {core.name.lower(): int(result.counters[f"matches_{core.name.lower()}"]) for core in Core}
    pes = {"ann": config.ann_pes, "snn": config.snn_pes}
    return {"status": result.status.name, "cycles": int(result.cycles), "matches": matches, "utilisation": result.utilisation,
            "utilisation_all": {core: matches[core] / (pes[core] * max(result.cycles, 1)) for core in pes}, "stalls": stalls,
            "counters": {name: int(value) for name, value in result.counters.items()}, "seconds": seconds}
