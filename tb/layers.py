"""Random layers, and packed payloads, for the benches of blocks that work on a layer."""
import numpy as np

from neuroflex.formats import DESCRIPTOR_FIELDS
from neuroflex.tb.bits import concat

__all__ = ["KINDS", "pack_payload", "random_layer"]

KINDS = ("conv", "pool", "residual", "dense", "wide", "point")


def random_layer(rng, config, kind, *, most=2000):
    """Settings of a random layer that the sequencer would accept, by field name.

    Parameters
    ----------
    rng : numpy.random.Generator
    config : ArchConfig
    kind : str
        One of ``KINDS``. ``conv``: one source; ``pool``: with a fused pool; ``residual``: two sources of different geometry; ``dense``: the kernel
        covers the tensor, one output; ``wide``: many chunks per spine; ``point``: many positions,
        kernel 1 x 1.
    most : int
        Largest number of chunks to broadcast.
    """
    while True:
        layer = {field.name: 0 for field in DESCRIPTOR_FIELDS}
        layer["pool_h"], layer["pool_w"] = rng.integers(1, 4, 2) if kind == "pool" else (1, 1)
        out = rng.integers(1, 16 if kind == "point" else 6, 2)
        chunks_high = 40 if kind == "wide" else 4
        work = 0
        for source in range(2 if kind == "residual" else 1):
            kernel = rng.integers(1, 8, 2) if rng.random() < 0.5 else np.repeat(rng.choice([1, 3]), 2)
            if kind == "point":
                kernel = np.array([1, 1])
            stride = int(rng.integers(1, 8) if rng.random() < 0.3 else rng.integers(1, 3))
            pad = int(rng.integers(kernel.min()))
            size = (out * (layer["pool_h"], layer["pool_w"]) - 1) * stride + kernel - 2 * pad
            if kind == "dense":
                size, stride, pad, out = kernel, 1, 0, np.array([1, 1])
            elif rng.random() < 0.3:
                size = size + rng.integers(stride, size=2)     # rows that no window uses
            if size.min() < 1:
                size = np.maximum(size, 1)
            values = {"base": rng.integers(1 << config.address_bits), "height": size[0], "width": size[1],
                      "chunks": rng.integers(1, chunks_high + 1), "kernel_h": kernel[0], "kernel_w": kernel[1], "stride": stride,
                      "pad": pad, "repeat": rng.choice([1, 1, 2, 3, 15])}
            layer.update({f"source{source}_{name}": value for name, value in values.items()})
            work += values["chunks"] * kernel[0] * kernel[1] * values["repeat"]
        layer["out_height"], layer["out_width"] = out
        layer["groups_log2"] = rng.integers(config.max_groups.bit_length())
        layer["fetch_lines"] = rng.integers(1, 10)
        layer["consume0"], layer["consume1"] = rng.integers(2, size=2)
        if work * out.prod() * layer["pool_h"] * layer["pool_w"] <= most:
            return {name: int(value) for name, value in layer.items()}


def pack_payload(layout, **fields):
    """Values of a packed struct from those of its fields; fields left out are 0."""
    unknown = fields.keys() - dict(layout).keys()
    if unknown:
        raise KeyError(f"the layout has no field {', '.join(sorted(unknown))}")
    return concat(*((np.asarray(fields.get(name, 0)), field.width) for name, field in layout))
