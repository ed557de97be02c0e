"""Evaluation of networks with host steps: segments in integers, the steps between them in float64."""

__all__ = ["SplitTrace", "evaluate", "run_steps"]

from dataclasses import dataclass, field

import numpy as np

from neuroflex.sim import network as whole
from neuroflex.sim.host import host_step


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitTrace:
    """Evaluation of a `neuroflex.compiler.split.SplitNetwork`.

    ``tensors`` holds (B, C, H, W) by name for what passes between steps, levels (uint8) or real numbers (float64), and ``segments`` the
    `neuroflex.sim.network.Trace` of each segment by its name.
    """

    tensors: dict
    segments: dict = field(default_factory=dict)

    @property
    def output(self):
        """Levels of the last layer, uint8 (B, C, H, W)."""
        return list(self.segments.values())[-1].output


def run_steps(steps, tensor):
    """Segments and host steps in order, from the input tensor of levels (B, C, H, W); returns a `SplitTrace`."""
    trace = SplitTrace(tensors={"input": np.asarray(tensor, np.uint8)})
    for step in steps:
        if hasattr(step, "network"):
            trace.segments[step.name] = whole.evaluate(step.network, trace.tensors[step.source], quantised=True)
            trace.tensors[step.name] = trace.segments[step.name].output
        else:
            trace.tensors[step.name] = host_step(step, trace.tensors)
    return trace


def evaluate(network, images, *, quantised=False):
    """Run a network on a batch of images.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network or neuroflex.compiler.split.SplitNetwork
    images : array (B, C, H, W)
        Raw pixel values, or, with ``quantised``, levels as the accelerator reads them.

    Returns
    -------
    neuroflex.sim.network.Trace or SplitTrace
    """
    if not hasattr(network, "steps"):
        return whole.evaluate(network, images, quantised=quantised)
    return run_steps(network.steps, images if quantised else whole.quantise(network.input, images))
