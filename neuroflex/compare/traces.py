"""Recorded spikes as the inputs of layers, from files in the folder that ``NEUROFLEX_DATA`` names.

A file is an ``.npz`` with two arrays per layer: ``NAME``, uint8, the spikes as packed bits, and ``NAME_shape``, (T, C, H, W) or
(T, K). What the accelerator reads is their sum over time, a level of 0 … T: by the theorem that the hardware stands on, nothing
else of a spike train enters the result.
"""

__all__ = ["TRACE_STEPS", "spike_counts"]

import zipfile
import zlib

import numpy as np

from neuroflex.data_folder import DataError, data_file

TRACE_STEPS = 4
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, ValueError)


def _member(archive, key, path):
    try:
        return archive[key]
    except _BROKEN as error:
        raise DataError(f"{path}: array {key!r} cannot be read, the file is truncated or corrupt: {error}") from None


def _counts(archive, layer, path):
    """Spikes of each input of a layer, uint8 (C, H, W)."""
    missing = [key for key in (layer.trace, f"{layer.trace}_shape") if key not in archive.files]
    if missing:
        raise DataError(f"{path}: no array {missing[0]!r}, which layer {layer.name!r} wants; there are {', '.join(archive.files) or 'none'}")
    packed, shape = (_member(archive, key, path) for key in (layer.trace, f"{layer.trace}_shape"))
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise DataError(f"{path}: {layer.trace!r} should be packed bits, uint8 in one dimension; it is {packed.dtype} of shape {packed.shape}")
    if shape.dtype.kind not in "iu" or shape.ndim != 1:
        raise DataError(f"{path}: '{layer.trace}_shape' should be integers in one dimension; it is {shape.dtype} of shape {shape.shape}")
    steps = 1 if layer.analog else TRACE_STEPS
    spatial = layer.channels, layer.height, layer.width
    fitting = [(steps, *spatial)] + [(steps, layer.channels)] * (spatial[1:] == (1, 1))
    shape = tuple(map(int, shape))
    if shape not in fitting:
        raise DataError(f"{path}: {layer.trace!r} has shape {shape}; layer {layer.name!r} wants {' or '.join(map(str, fitting))} (steps first)")
    bits = int(np.prod(shape))
    if len(packed) != -(-bits // 8):
        raise DataError(f"{path}: {layer.trace!r} holds {len(packed)} bytes; its shape {shape} wants {-(-bits // 8)}")
    return np.unpackbits(packed, count=bits).reshape(steps, *spatial).sum(axis=0, dtype=np.uint8)


def spike_counts(network):
    """What every layer of a network read when the spikes were recorded.

    Parameters
    ----------
    network : neuroflex.compare.shapes.NetworkShape
        Whose ``trace`` names a file.

    Returns
    -------
    dict
        Layer name → uint8 array (C, H, W), spikes summed over time; of analog layers 1 where the value is not zero.

    Raises
    ------
    DataError
        When the file is missing or is not what the network's layers want.
    """
    path = data_file(network.trace, f"spike traces of {network.title}")
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except _BROKEN as error:
            raise DataError(f"{path} cannot be read as .npz, it is truncated or corrupt: {error}") from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is one array (.npy); spike traces are an .npz with packed bits and shapes by layer")
        return {layer.name: _counts(archive, layer, path) for layer in network.layers}
