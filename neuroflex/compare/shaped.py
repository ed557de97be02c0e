"""Layers of stated shape whose weights and activations are drawn from stated distributions.

* A column's weight density is drawn from a beta distribution about the layer's mean, concentration 100; nonzero weights are uniform
  in −127 … 127 without 0.
* A channel's activation density is drawn from a beta distribution about the layer's mean, concentration 8, and its positions
  independently of each other.
* Nonzero levels follow P(q) ∝ 0.6**q for q = 1 … L; with more than 15 levels (images) they are uniform.
* Recorded spikes take the place of drawn activations where a network has them; weights are the same with them and without.

Layers that are chained to one program get their inputs from the layer before, whose biases give every column the stated density.

The concentrations and the ratio are about those of the trained networks that come with NeuroFlex (``docs/comparison.md``).
"""

__all__ = ["COLUMN_CONCENTRATION", "CHANNEL_CONCENTRATION", "LEVEL_RATIO", "chained_network", "shaped_layer"]

from dataclasses import replace

import numpy as np

from neuroflex.compiler.network import InputSpec, Layer, Network, Source, Window
from neuroflex.compiler.synthetic import thresholds
from neuroflex.sim.network import accumulate, evaluate, gather

COLUMN_CONCENTRATION = 100.0
CHANNEL_CONCENTRATION = 8.0
LEVEL_RATIO = 0.6
_UNIFORM_ABOVE = 15


def _beta(rng, mean, concentration, size):
    if not 0 < mean < 1:
        return np.full(size, float(mean))
    return rng.beta(mean * concentration, (1 - mean) * concentration, size)


def _levels(rng, levels, shape):
    """Nonzero levels, 1 … ``levels``."""
    if levels > _UNIFORM_ABOVE:
        return rng.integers(1, levels + 1, shape)
    chance = LEVEL_RATIO ** np.arange(levels)
    return 1 + np.searchsorted(np.cumsum(chance / chance.sum())[:-1], rng.random(shape, np.float32), side="right")


def shaped_layer(shape, *, seed=0, counts=None):
    """A network of one layer, and an input for it.

    Parameters
    ----------
    shape : neuroflex.compare.shapes.LayerShape
    seed : int or sequence of int
    counts : uint8 array (channels, at least height, width), optional
        Recorded input, see `neuroflex.compare.traces.spike_counts`: levels, or where an analog layer's pixels are not zero.

    Returns
    -------
    network : neuroflex.compiler.network.Network
    tensor : uint8 array (1, channels, height, width)
        Levels, as the accelerator reads them.
    """
    rng = np.random.default_rng(seed)
    entries = shape.channels * shape.kernel ** 2
    weights = rng.integers(1, 128, (entries, shape.columns), np.int8)
    weights *= rng.integers(0, 2, weights.shape, np.int8) * 2 - 1
    density = _beta(rng, shape.weight_density, COLUMN_CONCENTRATION, shape.columns)
    weights *= rng.random(weights.shape, np.float32) < density
    window = Window(kernel_h=shape.kernel, kernel_w=shape.kernel, stride=shape.stride, padding=shape.padding)
    spec = InputSpec(channels=shape.channels, height=shape.height, width=shape.width, levels=shape.levels_in, full_scale=float(shape.levels_in),
                     pack=window if shape.packed else None)
    sources = [Source(tensor="input", **({} if shape.packed else vars(window)))]
    if shape.skip:
        sources.append(Source(tensor="input"))
        weights = np.concatenate([weights, 64 * np.eye(shape.channels, shape.columns, dtype=np.int8)])
    layer = Layer(name=shape.name, sources=sources, weights=weights, bias=np.zeros(shape.columns, np.int64),
                  theta=thresholds(rng, weights, shape.activation_density, shape.levels_in, shape.levels_out),
                  levels=np.full(shape.columns, shape.levels_out), pool_h=shape.pool, pool_w=shape.pool)
    network = Network(name=shape.name, input=spec, layers=[layer], metadata={"densities": "synthetic" if counts is None else "synthetic weights, recorded spikes"})
    channels = _beta(rng, shape.activation_density, CHANNEL_CONCENTRATION, (shape.channels, 1, 1))
    image = (1, shape.channels, shape.height, shape.width)
    levels = _levels(rng, shape.levels_in, image)
    nonzero = rng.random(image, np.float32) < channels
    if counts is not None:
        counts = counts[None, :, :shape.height]     # layers are cut at the bottom
        levels, nonzero = levels if shape.analog else counts, counts > 0
    tensor = (levels * nonzero).astype(np.uint8)
    if shape.packed:
        tensor = gather(tensor, window).transpose(0, 3, 1, 2).copy()
    return network, tensor


def chained_network(shapes, *, name, seed=0):
    """Linear layers as one network, each reading the one before.

    Parameters
    ----------
    shapes : sequence of LayerShape
        Of equal grids and 1×1 windows.
    name : str
    seed : int

    Returns
    -------
    network, tensor
        As for `shaped_layer`.
    """
    layers, first, tensor = [], None, None
    for number, shape in enumerate(shapes):
        network, drawn = shaped_layer(shape, seed=(seed, number))
        layer = network.layers[0]
        if number == 0:
            first, tensor = network.input, drawn
        else:
            layer = replace(layer, sources=[Source(tensor=layers[-1].name)])
        if number + 1 < len(shapes):
            before = Network(name=name, input=first, layers=layers) if layers else None
            rows = gather(evaluate(before, tensor, quantised=True).output if before else tensor, Window())
            wanted = np.quantile(accumulate(rows, layer.weights).reshape(-1, layer.columns), 1 - shapes[number + 1].activation_density, axis=0,
                                 method="lower" if shapes[number + 1].activation_density == 1 else "higher")
            layer = replace(layer, bias=-(-layer.theta.astype(np.int64) // 2) - wanted.astype(np.int64))
        layers.append(layer)
    return Network(name=name, input=first, layers=layers, metadata={"densities": "synthetic"}), tensor
