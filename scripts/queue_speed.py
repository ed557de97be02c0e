"""What the queue of jobs is worth to a batch: cycles from the first start to the last result, one image after the other and through the queue.

``.venv/bin/python scripts/queue_speed.py`` runs the driver on the simulated RTL behind its AXI shell. Register accesses take what they take on the bus; what the host needs
to encode an image and to decode its result is **assumed**: ``--host`` cycles of the accelerator's clock, half of them for either.
"""
import argparse

import numpy as np

from neuroflex import fpga, registers, zoo
from neuroflex.axi import AxiConfig
from neuroflex.config import load_config
from neuroflex.flow import compile_network
from neuroflex.fpga.simulated import SimulatedShell
from neuroflex.program import program_image
from neuroflex.sim.network import evaluate

STARTS = {registers.register(name).offset for name in ("control", "queue_push")}


class Timed(SimulatedShell):
    """A back end whose host needs time.

    Attributes
    ----------
    host : int
        Cycles per image.
    first, last : int
        Cycle in which the first job was started, in which the last result was asked for.
    """

    host = 0
    first = last = None

    def write_register(self, offset, value):
        if self.first is None and offset in STARTS and (value & 1 or offset != registers.register("control").offset):
            self.first = self.system.cycle
        super().write_register(offset, value)

    def write_memory(self, address, content):
        self.system.wait(self.host // 2)
        super().write_memory(address, content)

    def read_memory(self, address, count):
        self.last = self.system.cycle
        found = super().read_memory(address, count)
        self.system.wait(self.host - self.host // 2)
        return found


def measure(accelerator, images, want, *, queue, host):
    """Cycles of a batch from its first start to its last result, and of its jobs alone."""
    device = accelerator.device
    device.host, device.first = host, None
    np.testing.assert_array_equal(accelerator(images, queue=queue), want)
    device.host = 0
    return device.last - device.first, sum(report.cycles for report in accelerator.reports)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="digits")
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=4, help="that the queue holds")
    parser.add_argument("--host", type=int, nargs="+", default=[0, 4_000, 16_000], help="cycles that the host needs per image")
    options = parser.parse_args()
    config, network = load_config(options.config), zoo.load(options.network)
    images = network.examples.test_images[:options.images]
    want = evaluate(network, images).output
    print("| host, cycles per image | one after the other | through the queue | ratio | jobs alone |\n| ---: | ---: | ---: | ---: | ---: |")
    with fpga.Accelerator(Timed(config, AxiConfig(jobs=options.jobs), quick=True)) as accelerator:
        accelerator.load(program_image(compile_network(network, config), policy="hybrid", seed=0))
        accelerator(images[:1])                     # the first job after a load begins with another state of the cache
        for host in options.host:
            (serial, _), (queued, jobs) = (measure(accelerator, images, want, queue=queue, host=host) for queue in (False, True))
            print(f"| {host:,} | {serial:,} | {queued:,} | {serial / queued:.3f} | {jobs:,} |", flush=True)


if __name__ == "__main__":
    main()
