"""What an accelerator of a board's size reaches on trained networks, to the cycle.

    .venv/bin/python scripts/board_speed.py [--config pynq_z2] [--clock 100] [--latency 30] [--images 3] [--json] [NETWORK ...]

Cycles are those of the golden model, from start to interrupt: weights, activations and results pass through the memory port (a line of the
chunk's width per cycle at most, 64 bits on `pynq_z2`, every read ``--latency`` cycles late). The clock is an assumption, since no open tool places
and routes this part. Operations are two per multiply-accumulate: *dense* counts all of a network's, as published figures do, *actual* those
whose operands are both not zero, which are the only ones that the hardware carries out.
"""
import argparse
import json

import numpy as np

from neuroflex import flow, zoo
from neuroflex.commands.common import load_network
from neuroflex.config import load_config
from neuroflex.formats import StallCause
from neuroflex.fpga.boards import estimate
from neuroflex.progress import Display
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import quantise


def macs(network):
    """Multiply-accumulates of a network, zeros included."""
    return sum(int(np.prod(network.grid(layer))) * layer.weights.size for layer in network.layers)


def figures(network, config, *, clock_mhz, latency, images):
    """Rates of one network, means over its first test images."""
    job, memory = flow.compile_network(network, config), MemoryTrace.constant(latency)
    tensors = quantise(network.input, network.examples.test_images[:images])
    runs = [flow.simulate_model(job, tensor, memory=memory) for tensor in tensors]
    layers = np.mean([run.layers.sum(axis=0) for run in runs], axis=0)
    cycles, matches = float(np.mean([run.cycles for run in runs])), float(layers[len(StallCause):].sum())
    pes, rate = config.ann_pes + config.snn_pes, clock_mhz * 1e6 / cycles
    multipliers = estimate(config, "xilinx")[0]["dsp"]
    dense = 2 * macs(network) * rate / 1e9
    return {
        "network": network.name, "configuration": config.name, "images": len(runs), "clock_mhz_assumed": clock_mhz, "latency": latency, "cycles": cycles,
        "frames_per_second": rate, "gops_dense": dense, "gops_actual": 2 * matches * rate / 1e9, "gops_dense_per_pe": dense / pes,
        "gops_dense_per_dsp": dense / multipliers, "utilisation": matches / (pes * cycles), "bound_cycles_pes": matches / pes,
        "bound_cycles_load": float(layers[StallCause.LOAD]), "energy_uj": float(np.mean([flow.energy_pj(job, tensor) for tensor in tensors])) / 1e6,
        "cycles_by_cause": {cause.name.lower(): float(layers[cause]) for cause in StallCause},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(zoo.names()), help="of the zoo, or files; all of the zoo by default")
    parser.add_argument("--config", default="pynq_z2")
    parser.add_argument("--clock", type=float, default=100, help="MHz, assumed")
    parser.add_argument("--latency", type=int, default=30, help="cycles from a read request to its first line")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    config, show = load_config(options.config), Display()
    found = [figures(load_network(name), config, clock_mhz=options.clock, latency=options.latency, images=options.images)
             for name in show.track(options.networks, f"networks on {options.config}")]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{options.config} at an assumed {options.clock:g} MHz, golden model; energies with assumed coefficients")
    print(f"{'network':18} {'cycles':>12} {'frames/s':>9} {'GOPS dense':>10} {'actual':>7} {'use':>6} {'loading':>8} {'memory':>7} {'uJ':>7}")
    for one in found:
        load, memory = (one["cycles_by_cause"][cause] / one["cycles"] for cause in ("load", "memory"))
        print(f"{one['network']:18} {one['cycles']:12,.0f} {one['frames_per_second']:9,.0f} {one['gops_dense']:10.2f} {one['gops_actual']:7.2f} "
              f"{one['utilisation']:6.3f} {load:8.0%} {memory:7.0%} {one['energy_uj']:7.2f}")


if __name__ == "__main__":
    main()
