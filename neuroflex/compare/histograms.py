"""How levels and densities of a layer are spread."""

__all__ = ["DENSITY_EDGES", "density_shares", "level_shares"]

import numpy as np

DENSITY_EDGES = (0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


def level_shares(tensor, levels):
    """Share of each level 0 … ``levels`` among the values of a tensor, float64 (levels + 1,)."""
    return np.bincount(np.asarray(tensor).ravel(), minlength=levels + 1) / max(tensor.size, 1)


def density_shares(values, axis):
    """Share of slices along ``axis`` whose density lies between neighbours of `DENSITY_EDGES`, float64 (edges − 1,).

    The density of a slice (a channel, a column) is its share of nonzero values; the last bin holds 1 too.
    """
    density = (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) != 0).mean(axis=1)
    return np.histogram(density, DENSITY_EDGES)[0] / len(density)
