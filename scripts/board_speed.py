"""What an accelerator of a board's size reaches on trained networks, to the cycle.

    .venv/bin/python scripts/board_speed.py [--config pynq_z2] [--clock 100] [--latency 30] [--images 3] [--picture FILE.svg] [--json] [NETWORK ...]

Cycles are those of the golden model, from start to interrupt: weights, activations and results pass through the memory port (a line of the
chunk's width per cycle at most, 64 bits on `pynq_z2`, every read ``--latency`` cycles late). The clock is an assumption, since no open tool places
and routes this part. Operations are two per multiply-accumulate: *dense* counts all of a network's, as published figures do, *actual* those
whose operands are both not zero, which are the only ones that the hardware carries out. ``--picture`` draws the actual ones under the roofs of PEs
and memory port, over operations per byte that has to pass the port: load streams, image and result.
"""
import argparse
import json

import numpy as np

from neuroflex import flow, zoo
from neuroflex.atomic import write_atomically
from neuroflex.commands.common import load_network
from neuroflex.config import load_config
from neuroflex.formats import StallCause
from neuroflex.fpga.boards import estimate
from neuroflex.progress import Display
from neuroflex.sim.energy import DEFAULT
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import quantise


def macs(network):
    """Multiply-accumulates of a network, zeros included."""
    return sum(int(np.prod(network.grid(layer))) * layer.weights.size for layer in network.layers)


def figures(network, config, *, clock_mhz, latency, images):
    """Rates of one network, means over its first test images."""
    job, memory = flow.compile_network(network, config, policy="measured"), MemoryTrace.constant(latency)
    tensors = quantise(network.input, network.examples.test_images[:images])
    runs = [flow.simulate_model(job, tensor, memory=memory) for tensor in tensors]
    layers = np.mean([run.layers.sum(axis=0) for run in runs], axis=0)
    cycles, matches = float(np.mean([run.cycles for run in runs])), float(layers[len(StallCause):].sum())
    pes, rate = config.ann_pes + config.snn_pes, clock_mhz * 1e6 / cycles
    multipliers = estimate(config, "xilinx")[0]["dsp"]
    dense = 2 * macs(network) * rate / 1e9
    image = np.mean([tensor[0].size * config.line_bytes + np.count_nonzero(tensor) for tensor in tensors])     # a mask for each pixel, and its values
    moved = sum(tile.settings["load_lines"] for tile in job.tiles) * config.line_bytes + image + runs[0].output.size
    return {
        "network": network.name, "configuration": config.name, "images": len(runs), "clock_mhz_assumed": clock_mhz, "latency": latency, "cycles": cycles,
        "frames_per_second": rate, "gops_dense": dense, "gops_actual": 2 * matches * rate / 1e9, "gops_dense_per_pe": dense / pes,
        "gops_dense_per_dsp": dense / multipliers, "utilisation": matches / (pes * cycles), "bound_cycles_pes": matches / pes,
        "bytes_moved": float(moved), "bound_cycles_load": float(layers[StallCause.LOAD]), "energy_uj": float(np.mean([flow.energy_pj(job, tensor, run) for tensor, run in zip(tensors, runs)])) / 1e6,
        "cycles_by_cause": {cause.name.lower(): float(layers[cause]) for cause in StallCause},
    }


def roofline(found, config, clock_mhz):
    """An SVG: operations per second of each network under the roofs of the PEs and of the memory port, both axes logarithmic."""
    peak, port = 2 * (config.ann_pes + config.snn_pes) * clock_mhz / 1e3, config.line_bytes * clock_mhz / 1e3      # GOPS, GB/s
    points = [(one["network"], one["gops_actual"] / one["frames_per_second"] * 1e9 / one["bytes_moved"], one["gops_actual"]) for one in found]
    low, high = 10 ** np.floor(np.log10(min(x for _, x, _ in points))), 10 ** np.ceil(np.log10(max(peak / port, *(x for _, x, _ in points))))
    bottom, top = 10 ** np.floor(np.log10(min(y for _, _, y in points))), 10 ** np.ceil(np.log10(peak * 1.01))
    left, upper, wide, tall = 64, 40, 520, 280

    def place(x, y):
        return left + wide * np.log(x / low) / np.log(high / low), upper + tall * np.log(top / y) / np.log(top / bottom)

    roof = [(low, max(min(peak, low * port), bottom)), (min(max(peak / port, low), high), min(peak, high * port)), (high, min(peak, high * port))]
    lines = ['<text x="8" y="20" font-size="15">' + f"{config.name} at an assumed {clock_mhz:g} MHz: operations on nonzero operands, GOPS</text>"]
    for decade in 10.0 ** np.arange(np.log10(low), np.log10(high) + 0.5):
        x, y = place(decade, bottom)
        lines += [f'<path d="M{x:.1f},{upper} V{y:.1f}" stroke="#dddddd"/>', f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{decade:g}</text>']
    for decade in 10.0 ** np.arange(np.log10(bottom), np.log10(top) + 0.5):
        x, y = place(low, decade)
        lines += [f'<path d="M{x:.1f},{y:.1f} h{wide}" stroke="#dddddd"/>', f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{decade:g}</text>']
    lines.append('<path d="M' + " L".join("{:.1f},{:.1f}".format(*place(*corner)) for corner in roof) + '" fill="none" stroke="#1c2430" stroke-width="2"/>')
    for name, x, y in points:      # names above, or below where another point is above; left of points at the right
        px, py = place(x, y)
        down = 18 if any(abs(place(a, b)[0] - px) < 120 and b > y for _, a, b in points) else -10
        anchor = "end" if px > left + 0.6 * wide else "start"
        lines += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="#0072B2"/>',
                  f'<text x="{px:.1f}" y="{py + down:.1f}" text-anchor="{anchor}">{name}, {y:.2f}</text>']
    lines.append(f'<text x="{left + wide / 2}" y="{upper + tall + 40}" text-anchor="middle">operations per byte through the memory port</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 120} {upper + tall + 52}" font-family="system-ui, sans-serif" font-size="13" fill="#1c2430">\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(lines) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(zoo.names()), help="of the zoo, or files; all of the zoo by default")
    parser.add_argument("--config", default="pynq_z2")
    parser.add_argument("--clock", type=float, default=100, help="MHz, assumed")
    parser.add_argument("--latency", type=int, default=30, help="cycles from a read request to its first line")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--picture", help="write the roofline here, as an SVG")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    config, show = load_config(options.config), Display()
    found = [figures(load_network(name), config, clock_mhz=options.clock, latency=options.latency, images=options.images)
             for name in show.track(options.networks, f"networks on {options.config}")]
    if options.picture:
        write_atomically(options.picture, roofline(found, config, options.clock).encode())
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{options.config} at an assumed {options.clock:g} MHz, golden model; energies {DEFAULT}")
    print(f"{'network':18} {'cycles':>12} {'frames/s':>9} {'GOPS dense':>10} {'actual':>7} {'use':>6} {'loading':>8} {'memory':>7} {'uJ':>7}")
    for one in found:
        load, memory = (one["cycles_by_cause"][cause] / one["cycles"] for cause in ("load", "memory"))
        print(f"{one['network']:18} {one['cycles']:12,.0f} {one['frames_per_second']:9,.0f} {one['gops_dense']:10.2f} {one['gops_actual']:7.2f} "
              f"{one['utilisation']:6.3f} {load:8.0%} {memory:7.0%} {one['energy_uj']:7.2f}")


if __name__ == "__main__":
    main()
