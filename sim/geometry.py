"""Geometry of a descriptor: where its tensors end, which output size follows from a source, and when the circuit says so."""
import numpy as np

from neuroflex.formats import CHUNK_LINES

__all__ = ["EXTENT_LATENCY", "SIZE_LATENCY", "geometry_verdicts", "output_size", "tensor_end"]

EXTENT_LATENCY = 7   # cycles from a case to the verdict on its tensor
SIZE_LATENCY = 5     # to the verdict on the output size


def tensor_end(base, height, width, chunks):
    """Line address after a tensor's last; integers or int64 arrays."""
    return base + height * width * chunks * CHUNK_LINES


def output_size(size, kernel, stride, pad, pool):
    """Rows (or columns) that a source of ``size`` gives: a convolution, then a pool, none padded beyond ``pad``.

    Integers or int64 arrays; ``stride`` and ``pool`` at least 1. Negative where the kernel is larger than the padded source.
    """
    return ((size + 2 * pad - kernel) // stride + 1) // pool


def geometry_verdicts(config, *, clear, valid, case, settings):
    """Both verdicts in every cycle.

    Parameters
    ----------
    config : ArchConfig
    clear, valid : bool[cycles]
    case : int64[cycles]
        0, 1, 2: tensor of source 0, source 1, output; also 0, 1: rows and columns of source 0; 2, 3: of source 1.
    settings : dict of int64[cycles]
        Fields of the descriptor. What counts is what they are in the cycle of the case.

    Returns
    -------
    source_wrong, output_wrong : bool[cycles]
        A verdict shows ``EXTENT_LATENCY`` or ``SIZE_LATENCY`` cycles after its case, until the cycle after ``clear``. One
        that comes just then is not forgotten.
    """
    clear, valid, case = np.asarray(clear, bool), np.asarray(valid, bool), np.asarray(case)

    def of(choices):
        """The case's choice in each cycle."""
        return np.choose(case, np.broadcast_arrays(*(settings.get(name, 0) * np.ones_like(case) for name in choices)))

    base, height, width, chunks = (of([f"{tensor}_{name}" for tensor in ("source0", "source1", "out")] + ["none"])
                                   for name in ("base", "height", "width", "chunks"))
    space = 1 << config.address_bits
    beyond = valid & (case < 3) & (height > 0) & (tensor_end(base % space, height, width, chunks) > space)

    size, kernel = (of([f"source{source}_{name}" for source in range(2) for name in names])
                    for names in (("height", "width"), ("kernel_h", "kernel_w")))
    stride, pad, present = (of([f"source{source}_{name}" for source in (0, 0, 1, 1)]) for name in ("stride", "pad", "height"))
    pool, out = of(["pool_h", "pool_w"] * 2), of(["out_height", "out_width"] * 2)
    possible = (stride > 0) & (pool > 0)
    follows = possible & (output_size(size, kernel, np.maximum(stride, 1), pad, np.maximum(pool, 1)) == out)
    unequal = valid & (present > 0) & ~follows

    return (_kept(clear, _later(beyond & (case != 2), EXTENT_LATENCY)),
            _kept(clear, _later(beyond & (case == 2), EXTENT_LATENCY) | _later(unequal, SIZE_LATENCY)))


def _later(found, cycles):
    """Moved by so many cycles."""
    return np.concatenate([np.zeros(cycles, bool), found])[:len(found)]


def _kept(clear, shown):
    """From each cycle in which a verdict first shows until the one after a ``clear``."""
    cycle = np.arange(len(shown))
    last_shown = np.maximum.accumulate(np.where(shown, cycle, -1))
    last_forgotten = np.maximum.accumulate(np.where(_later(clear, 1), cycle, 0))
    return (last_shown >= 0) & (last_shown >= last_forgotten)
