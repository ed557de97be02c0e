"""Golden model of a whole integer network: values only, no time. Bit-exact and vectorised over images and positions."""

__all__ = ["LayerTrace", "Trace", "accumulate", "classify", "evaluate", "gather", "pool", "quantise"]

from dataclasses import dataclass, field

import numpy as np

from neuroflex.sim.numerics import pascif, qcfs

_GATHER_BELOW = 24      # a product by gathering is faster when less than one entry in so many is nonzero


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerTrace:
    """What one layer did on a batch of images.

    Attributes
    ----------
    output : uint8 array (B, C, H, W)
        The layer's tensor, after its pool.
    rows : int
        Rows of A per image: positions of the grid before the pool.
    matches : int64 array (N,)
        Pairs of a nonzero activation and a nonzero weight, per column, summed over the batch.
    level_sum : int64 array (N,)
        Sum over those pairs of the activation's level.
    level_bits, lacking_bits : int64 arrays (N,)
        Sum over them of the bits set in the activation's level, and in what it lacks to the highest input level.
    density : float
        Share of nonzero activations in A (padding counts as zero).
    weight_density : float
        Share of nonzero weights.
    """

    output: np.ndarray
    rows: int
    matches: np.ndarray
    level_sum: np.ndarray
    level_bits: np.ndarray
    lacking_bits: np.ndarray
    density: float
    weight_density: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Evaluation of a network: ``input`` (B, C, H, W) as the accelerator reads it, and a `LayerTrace` per layer name.

    ``concats`` names the parts of each concatenation.
    """

    input: np.ndarray
    layers: dict
    concats: dict = field(default_factory=dict)

    @property
    def output(self):
        """Levels of the last layer, uint8 (B, C, H, W)."""
        return list(self.layers.values())[-1].output

    def tensor(self, name):
        """A tensor by name: ``"input"``, a layer's or a concatenation."""
        if name in self.concats:
            return np.concatenate([self.layers[part].output for part in self.concats[name]], axis=1)
        return self.input if name == "input" else self.layers[name].output


def quantise(spec, images):
    """Raw images to the input tensor.

    Parameters
    ----------
    spec : neuroflex.compiler.network.InputSpec
    images : array (B, C, H, W), or (B, H, W) or (B, C) where the missing sizes are 1
        Raw pixel values.

    Returns
    -------
    uint8 array (B, C', H', W')
        Levels ``clip(floor(x·L/full_scale + 1/2), 0, L)``, windows gathered where the input is packed.
    """
    images = np.asarray(images)
    if not images.size:
        raise ValueError(f"there is no image: the array's shape is {images.shape}; at least one image of shape {spec.image_shape} is needed")
    if images.size != len(images) * np.prod(spec.image_shape):
        raise ValueError(f"images of shape {images.shape[1:]} do not fit an input of shape {spec.image_shape}")
    images = images.reshape(-1, *spec.image_shape).astype(np.float64)
    if not np.isfinite(images).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(images))} pixels are NaN or infinite; every pixel must be a finite number")
    levels = np.clip(np.floor(images * spec.levels / spec.full_scale + 0.5), 0, spec.levels).astype(np.uint8)
    if spec.pack is None:
        return levels
    return gather(levels, spec.pack).transpose(0, 3, 1, 2).copy()


def gather(tensor, window, repeat=1):
    """The rows of A that a window reads from a tensor (im2col).

    Parameters
    ----------
    tensor : array (B, C, H, W)
    window : neuroflex.compiler.network.Window
    repeat : int
        Times each 1×1 window is repeated.

    Returns
    -------
    array (B, OH, OW, K)
        K runs over (kernel row, kernel column, channel), or (repeat, channel); zero outside the grid.
    """
    p = window.padding
    padded = np.pad(tensor, ((0, 0), (0, 0), (p, p), (p, p)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (window.kernel_h, window.kernel_w), axis=(2, 3))
    views = views[:, :, ::window.stride, ::window.stride].transpose(0, 2, 3, 4, 5, 1)
    rows = views.reshape(*views.shape[:3], -1)
    return np.tile(rows, (1, 1, 1, repeat)) if repeat > 1 else rows


def accumulate(rows, weights):
    """``rows @ weights`` exactly, int64.

    Computed in floating point by the BLAS: every partial sum is an integer of which the largest possible one is known, and
    single precision is taken when it holds it, double precision otherwise, so no rounding can happen in any order of summation.
    Columns with few nonzeros, such as identities, averages and depthwise kernels, are gathered instead.
    """
    if rows.shape[-1] * 127 * 128 >= 1 << 53:
        raise ValueError(f"K = {rows.shape[-1]} is too long for an exact float64 product")
    flat = rows.reshape(-1, rows.shape[-1])
    counts = np.count_nonzero(weights, axis=0)
    if counts.max(initial=0) * _GATHER_BELOW < rows.shape[-1]:
        out = _gather_columns(flat, weights, counts)
    else:
        largest = int(flat.max(initial=0)) * int(np.abs(weights.astype(np.int64)).sum(axis=0).max(initial=0))
        kind = np.float32 if largest < 1 << 24 else np.float64
        out = (flat.astype(kind) @ weights.astype(kind)).astype(np.int64)
    return out.reshape(*rows.shape[:-1], weights.shape[1])


def _gather_columns(flat, weights, counts):
    """Σ over the j-th nonzeros of all columns, one j after the other."""
    columns, entries = np.nonzero(weights.T)
    place = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
    index, value = np.zeros((2, counts.max(initial=0), weights.shape[1]), np.int64)
    index[place, columns], value[place, columns] = entries, weights[entries, columns]
    out = np.zeros((len(flat), weights.shape[1]), np.int64)
    for k, w in zip(index, value):
        out += flat[:, k] * w
    return out


def pool(values, height, width):
    """Maximum over non-overlapping windows of (B, H, W, N); incomplete windows at the far edges are dropped."""
    if (height, width) == (1, 1):
        return values
    rows, columns = values.shape[1] // height, values.shape[2] // width
    values = values[:, :rows * height, :columns * width]
    return values.reshape(len(values), rows, height, columns, width, -1).max(axis=(2, 4))


def _activate(layer, z, rows, input_levels, snn):
    """Levels (…, N) of the accumulators ``z``; columns where ``snn`` is true go through spikes and PASC-IF neurons."""
    y = qcfs(z, layer.bias, layer.theta, layer.levels)
    if not snn.any():
        return y
    weights = layer.weights[:, snn].astype(np.int64)
    # Thermometer code: step t carries a spike where the level exceeds t.
    drive = np.stack([accumulate(rows > t, weights) for t in range(input_levels)])
    y[..., snn] = pascif(drive, layer.bias[snn], layer.theta[snn], layer.levels[snn])
    return y


def _sums(layer, trace, table):
    """Σ of ``table[level]`` over all images and rows, for each K entry, int64 (K,); ``table[0]`` is 0, as outside the grid.

    Images are summed before windows are gathered, which is what takes time.
    """
    return np.concatenate([gather(table.astype(np.uint8).take(trace.tensor(s.tensor)).sum(axis=0, dtype=np.int64)[None], s, s.repeat).sum(axis=(0, 1, 2)) for s in layer.sources])


def evaluate(network, images, *, snn_columns=None, quantised=False):
    """Run a network on a batch of images.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network
    images : array (B, C, H, W)
        Raw pixel values, or, with ``quantised``, levels as the accelerator reads them.
    snn_columns : dict of layer name → bool array (N,), optional
        Columns computed in SNN mode. The result does not depend on it: that is the theorem the hardware stands on.
    quantised : bool
        ``images`` is already the input tensor.

    Returns
    -------
    Trace
    """
    tensor = np.asarray(images, dtype=np.uint8) if quantised else quantise(network.input, images)
    if tensor.shape[1:] != network.shape("input"):
        raise ValueError(f"the input tensor has shape {tensor.shape[1:]}, the network wants {network.shape('input')}")
    snn_columns = snn_columns or {}
    unknown = set(snn_columns) - {layer.name for layer in network.layers}
    if unknown:
        raise ValueError(f"snn_columns names no layer of network {network.name!r}: {sorted(unknown)}")
    trace = Trace(input=tensor, layers={}, concats={concat.name: concat.parts for concat in network.concats})
    for layer in network.layers:
        rows = np.concatenate([gather(trace.tensor(s.tensor), s, s.repeat) for s in layer.sources], axis=-1)
        z = accumulate(rows, layer.weights)
        snn = np.asarray(snn_columns.get(layer.name, np.zeros(layer.columns, bool)), dtype=bool)
        y = _activate(layer, z, rows, int(network.input_levels(layer).max()), snn)
        held = (layer.weights != 0).astype(np.float64)        # for the BLAS; sums of counts and levels are far below 2**53
        level, top = np.arange(256), int(network.input_levels(layer).max())
        bits, lacking = np.bitwise_count(level), np.bitwise_count(np.where(level, np.maximum(top - level, 0), 0))
        present, *sums = (_sums(layer, trace, table) for table in (level != 0, level, bits, lacking))
        matches, level_sum, level_bits, lacking_bits = ((one.astype(np.float64) @ held).astype(np.int64) for one in (present, *sums))
        trace.layers[layer.name] = LayerTrace(
            output=pool(y, layer.pool_h, layer.pool_w).transpose(0, 3, 1, 2).astype(np.uint8),
            rows=rows.shape[1] * rows.shape[2], matches=matches, level_sum=level_sum, level_bits=level_bits, lacking_bits=lacking_bits,
            density=float(present.sum() / rows.size),
            weight_density=float(held.mean()))
    return trace


def classify(network, images, **options):
    """Class of each image, int64 (B,): the column with the highest level, the lowest-numbered of equals."""
    output = evaluate(network, images, **options).output
    return output.reshape(len(output), -1).argmax(axis=1)
