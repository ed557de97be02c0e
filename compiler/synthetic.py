"""Networks that nobody trained: one layer of given size and densities to measure with, and random ones to test with."""

__all__ = ["random_images", "random_network", "synthetic_layer"]

import numpy as np

from neuroflex.compiler.network import MAX_REPEAT, InputSpec, Layer, Network, NetworkError, Source, Window


def thresholds(rng, weights, density, levels_in, levels_out):
    """Thresholds about which a column's sums spread over all output levels, at least 1."""
    spread = np.sqrt((weights.astype(np.int64) ** 2).sum(axis=0) * max(density, 1e-3)) * (1 + levels_in) / 2
    return np.maximum((spread * 2 / levels_out * rng.uniform(0.5, 2, weights.shape[1])).astype(np.int64), 1)


def synthetic_layer(*, rows, inputs, columns, activation_density, weight_density, levels=4, kernel=1, seed=0):
    """One layer of random sparse integers, and an input for it.

    Parameters
    ----------
    rows, inputs, columns : int
        M, K and N of the matrix product.
    activation_density, weight_density : float
        Expected share of nonzero values, 0 … 1.
    levels : int
        Levels of the input and of every output; nonzero levels are uniform in 1 … ``levels``.
    kernel : int
        Size of the square window without padding: K = kernel² · channels, and the M positions form as square a grid as M allows.
        With a window of 1 every activation is used once, with 3 nine times, so the cache has something to do.
    seed : int

    Returns
    -------
    network : Network
    tensor : uint8 array (1, channels, height, width)
        Levels, as the accelerator reads them.
    """
    if inputs % kernel ** 2:
        raise NetworkError(f"inputs = {inputs} is no multiple of kernel² = {kernel ** 2}")
    height = max(side for side in range(1, int(rows ** 0.5) + 1) if rows % side == 0)
    shape = inputs // kernel ** 2, rows // height + kernel - 1, height + kernel - 1
    for name, value in (("activation_density", activation_density), ("weight_density", weight_density)):
        if not 0 <= value <= 1:
            raise NetworkError(f"{name} must be in 0 … 1, not {value!r}")
    rng = np.random.default_rng(seed)
    weights = rng.choice(np.r_[-127:0, 1:128], (inputs, columns)) * (rng.random((inputs, columns)) < weight_density)
    tensor = rng.integers(1, levels + 1, (1, *shape)) * (rng.random((1, *shape)) < activation_density)
    layer = Layer(name="layer", sources=[Source(tensor="input", kernel_h=kernel, kernel_w=kernel)], weights=weights, bias=np.zeros(columns, np.int64),
                  theta=thresholds(rng, weights, activation_density, levels, levels), levels=np.full(columns, levels))
    network = Network(name="synthetic", layers=[layer], metadata={"seed": seed},
                      input=InputSpec(channels=shape[0], height=shape[1], width=shape[2], levels=levels, full_scale=float(levels)))
    return network, tensor.astype(np.uint8)


def random_network(seed, *, layers=3, size=8, channels=40, snn_levels=8):
    """A small random network that visits the corners of the format.

    Kernels of 1 to 3 (and once in a while up to 7), strides, paddings, fused pools, skip branches with repeats, packed inputs,
    empty and full columns, extreme weights, thresholds of 1, biases of both signs, 1 to ``snn_levels`` levels between layers, up
    to 127 in single columns of the last one.

    Parameters
    ----------
    seed : int
    layers : int
        Largest number of layers.
    size : int
        Largest height and width of the image.
    channels : int
        Largest number of channels of a tensor.
    snn_levels : int
        Most levels of a tensor between layers, so that the SNN core can take its columns.

    Returns
    -------
    Network
    """
    rng = np.random.default_rng(seed)
    draw = lambda low, high: int(rng.integers(low, high + 1))  # noqa: E731
    spec = InputSpec(channels=draw(1, channels), height=draw(1, size), width=draw(1, size), levels=draw(1, snn_levels), full_scale=255.0)
    if rng.random() < 0.3:
        kernel = draw(1, min(3, spec.height, spec.width))
        spec = InputSpec(**vars(spec) | {"channels": draw(1, 3), "pack": Window(
            kernel_h=kernel, kernel_w=kernel, stride=draw(1, 2), padding=draw(0, kernel - 1))})
    done = []
    shapes = {"input": (spec.shape, spec.levels)}
    count = draw(1, layers)
    for number in range(count):
        last = number == count - 1
        name = f"layer{number}"
        tensor = list(shapes)[-1]
        (c, h, w), levels_in = shapes[tensor]
        largest = 7 if rng.random() < 0.1 else 3
        kernel_h, kernel_w = draw(1, min(largest, h)), draw(1, min(largest, w))
        sources = [Source(tensor=tensor, kernel_h=kernel_h, kernel_w=kernel_w, stride=draw(1, 2),
                          padding=draw(0, min(kernel_h, kernel_w) - 1))]
        grid = sources[0].grid(h, w)
        entries = sources[0].entries(c)
        fitting = [(other, stride) for other, ((_, oh, ow), _) in shapes.items() for stride in (1, 2, 3)
                   if Source(tensor=other, stride=stride).grid(oh, ow) == grid]
        if fitting and rng.random() < 0.4:
            other, stride = fitting[draw(0, len(fitting) - 1)]
            sources.append(Source(tensor=other, stride=stride, repeat=draw(1, min(3, MAX_REPEAT))))
            entries += sources[1].entries(shapes[other][0][0])
        n = draw(1, channels)
        density = rng.choice([0.02, 0.3, 1.0], n, p=[0.2, 0.6, 0.2]) * (rng.random(n) > 0.05)
        weights = rng.integers(-128, 128, (entries, n)) * (rng.random((entries, n)) < density)
        extreme = rng.random(n) < 0.05
        weights[:, extreme] = rng.choice([-128, 127], (1, extreme.sum()))
        levels_out = draw(1, snn_levels)
        levels = np.full(n, levels_out)
        if last:
            levels[rng.random(n) < 0.2] = draw(1, 127)
        theta = thresholds(rng, weights, 0.5, levels_in, levels)
        theta[rng.random(n) < 0.05] = 1
        bias = (rng.normal(0, 1, n) * theta * levels / 2).astype(np.int64)
        pool_h, pool_w = (draw(1, min(2, size)) if rng.random() < 0.3 else 1 for size in grid)
        done.append(Layer(name=name, sources=sources, weights=weights, bias=bias, theta=theta, levels=levels, pool_h=pool_h,
                          pool_w=pool_w))
        shapes[name] = ((n, grid[0] // pool_h, grid[1] // pool_w), levels_out)
    return Network(name=f"random{seed}", input=spec, layers=done, metadata={"seed": seed})


def random_images(network, count, *, seed=0):
    """Random images for a network, uint8 (count, C, H, W): noise of different densities, the first one empty, the second full."""
    rng = np.random.default_rng(seed)
    shape = count, *network.input.image_shape
    images = rng.integers(0, 256, shape) * (rng.random(shape) < rng.choice([0.1, 0.5, 1.0], (count, 1, 1, 1)))
    images[:1] = 0
    images[1:2] = int(min(np.ceil(network.input.full_scale), 255))
    return images.astype(np.uint8)
