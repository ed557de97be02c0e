"""The demonstration: a trained network becomes Verilog that equals its golden model, cycle by cycle."""
import json
from pathlib import Path

import numpy as np

from neuroflex import flow
from neuroflex.compiler.schedule import columns_per_pe, profile
from neuroflex.formats import Status
from neuroflex.generate import MANIFEST, files_match, generate, sources_digest
from neuroflex.progress import Silent, preparation
from neuroflex.report import Report, write_report
from neuroflex.sim.cost import column_costs
from neuroflex.sim.network import classify, quantise

__all__ = ["demonstrate"]

POLICIES = ("hybrid", "all_ann", "all_snn", "layerwise", "random")      # compared in the report


def demonstrate(network, config, folder, *, images=10, seed=0, show=None):
    """Run the whole flow and write its report.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network
        With test and calibration images.
    config : ArchConfig
    folder : path
        Gets ``verilog/``, ``report.json`` and ``report.html``.
    images : int
        Test images to run on RTL and model.
    seed : int
        Of the random policy.
    show : neuroflex.progress.Display, optional
        Gets seven steps.

    Returns
    -------
    dict
        The content of ``report.json``.
    """
    show, folder = show or Silent(), Path(folder)
    examples = network.examples
    if not 1 <= images <= len(examples.test_images):
        raise ValueError(f"images = {images}: network {network.name!r} holds {len(examples.test_images)} test images")
    tensors, labels = quantise(network.input, examples.test_images[:images]), examples.test_labels[:images]

    with show.step(f"classify {len(examples.test_images)} test images with integers"):
        accuracy = float((classify(network, examples.test_images) == examples.test_labels).mean())
    with show.step("split the columns over the two cores, five policies"):
        jobs = {policy: flow.compile_network(network, config, policy=policy, seed=seed) for policy in POLICIES}
        job = jobs["hybrid"]
    with show.step(f"write the Verilog of {config.name}"):
        _generate(config, folder / "verilog")
    with show.step(preparation(model=True, rtl=True)):
        flow.prepare(job, tensors[0])
    verdicts = [flow.verify(job, tensor) for tensor in show.track(tensors, "compare RTL and golden model in every cycle")]
    ended = [v.rtl.status.name for v in verdicts if v.rtl.status is not Status.DONE]
    if ended:
        raise RuntimeError(f"{len(ended)} of {images} jobs did not end well on the RTL; the first: {ended[0]}")
    edp = {policy: float(np.mean([_product(other, tensor, verdict.model if other is job else flow.simulate_model(other, tensor)) for tensor, verdict in zip(tensors, verdicts)]))
           for policy, other in show.track(list(jobs.items()), "energy-delay product of the policies")}
    with show.step("draw the report"):
        sums = np.sum([verdict.rtl.layers for verdict in verdicts], axis=0) / images
        summary = {
            "network": network.name, "configuration": config.name, "seed": seed, "images": images,
            "accuracy_relu": network.metadata.get("accuracy_relu"), "accuracy_float": network.metadata.get("accuracy_float"), "accuracy_integer": accuracy,
            "model_cycles": sum(int(v.model.cycles) for v in verdicts), "rtl_cycles": sum(int(v.rtl.cycles) for v in verdicts),
            "cycle_mismatches": sum(int(v.cycle_mismatches) for v in verdicts),
            "value_mismatches": sum(int(v.value_mismatches) for v in verdicts),
            "utilisation": flow.utilisation(sums, config), "edp": edp}
        write_report(Report(
            summary=summary, config=config, columns=_columns(job), layers=[tile.layer for tile in job.tiles], sums=sums[:len(job.tiles)],
            timeline=flow.timeline(job, tensors[0]),
            samples=[(image, int(label), int(np.argmax(v.rtl.output))) for image, label, v in zip(examples.test_images, labels, verdicts)],
        ), folder)
    return summary


def _generate(config, folder):
    """Generate, unless the folder holds what the same sources made."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        manifest = {}
    same = manifest.get("sources") == sources_digest() and manifest.get("configuration") == config.to_dict()
    if not same or not files_match(folder, manifest):
        generate(config, folder)


def _product(job, tensor, model):
    """Energy-delay product of a run of the golden model."""
    return flow.energy_pj(job, tensor, model) * model.cycles


def _columns(job):
    """Costs and split of each layer's columns."""
    trace, found = profile(job.network), {}
    for layer in job.network.layers:
        tiles = [tile for tile in job.tiles if tile.layer == layer.name]
        costs = column_costs(job.network, layer, trace.layers[layer.name], job.config, per_pe=columns_per_pe(tiles, job.config))
        core = np.zeros(layer.columns, np.int64)
        for tile in tiles:
            core[tile.columns] = tile.core
        found[layer.name] = {"delay": costs.delay, "energy": costs.energy, "core": core, "spiking": costs.spiking}
    return found
