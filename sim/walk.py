"""The im2col walk as nested loops: which chunks a layer broadcasts, in order, and when the circuit offers them."""
import numpy as np
from numba import njit

from neuroflex.formats import CHUNK_LINES

__all__ = ["ADDRESS", "CONSUME", "FIRST_CHUNK", "FIRST_WINDOW", "GROUP", "LAST_CHUNK", "LAST_OF_LAYER", "LAST_WINDOW",
           "NEW_BLOCK", "OUTSIDE", "SOURCE", "WALK_FIELDS", "WALK_LATENCY", "walk_chunks", "walk_times"]

WALK_LATENCY = 8   # cycles from the start pulse to the first description on offer

WALK_FIELDS = ("address", "outside", "group", "first_chunk", "last_chunk", "first_window", "last_window", "new_block",
               "consume", "source", "last_of_layer")
(ADDRESS, OUTSIDE, GROUP, FIRST_CHUNK, LAST_CHUNK, FIRST_WINDOW, LAST_WINDOW, NEW_BLOCK, CONSUME, SOURCE,
 LAST_OF_LAYER) = range(len(WALK_FIELDS))

_SOURCE_FIELDS = ("base", "height", "width", "chunks", "kernel_h", "kernel_w", "stride", "pad", "repeat")


@njit(cache=True)
def _walk(table, sources, consume, out_height, out_width, pool_h, pool_w, groups, address_mask):
    """Fill ``table`` (all but the flags of first and last) and return the number of chunks."""
    positions = out_height * out_width
    count = 0
    for block in range(0, positions, groups):
        block_start = count
        for window in range(pool_h * pool_w):
            row_start = count
            members = min(groups, positions - block)
            for source in range(len(sources)):
                base, height, width, chunks, kernel_h, kernel_w, stride, pad, repeats = sources[source]
                for repeat in range(repeats):
                    for kh in range(kernel_h):
                        for kw in range(kernel_w):
                            for chunk in range(chunks):
                                for group in range(members):
                                    oh, ow = divmod(block + group, out_width)
                                    ih = (oh * pool_h + window // pool_w) * stride + kh - pad
                                    iw = (ow * pool_w + window % pool_w) * stride + kw - pad
                                    used_below = kh >= stride and oh + 1 < out_height
                                    used_right = kw >= stride and ow + 1 < out_width
                                    last_use = repeat == repeats - 1 and not used_below and not used_right
                                    entry = table[count]
                                    if 0 <= ih < height and 0 <= iw < width:
                                        number = (ih * width + iw) * chunks + chunk
                                        entry[ADDRESS] = (base + number * CHUNK_LINES) & address_mask
                                    else:
                                        entry[OUTSIDE] = 1
                                    entry[GROUP] = group
                                    entry[CONSUME] = consume[source] and last_use and groups * pool_h * pool_w == 1
                                    entry[SOURCE] = source
                                    entry[FIRST_WINDOW] = window == 0
                                    entry[LAST_WINDOW] = window == pool_h * pool_w - 1
                                    count += 1
            table[row_start:row_start + members, FIRST_CHUNK] = 1
            table[count - members:count, LAST_CHUNK] = 1
        table[block_start, NEW_BLOCK] = 1
    table[count - 1, LAST_OF_LAYER] = 1


def walk_chunks(settings, *, config):
    """Every chunk a layer broadcasts, in order (the loops of ``docs/architecture.md``).

    Parameters
    ----------
    settings : mapping
        Values of the layer's descriptor by field name, as :func:`~neuroflex.formats.unpack_descriptor` gives them.
    config : ArchConfig

    Returns
    -------
    int64[chunks, len(WALK_FIELDS)]
        A row per chunk, columns ``ADDRESS`` ... ``LAST_OF_LAYER``. The address of a chunk outside its tensor is 0.
    """
    sources = [index for index in range(2) if index == 0 or settings["source1_height"]]
    geometry = np.array([[settings[f"source{index}_{name}"] for name in _SOURCE_FIELDS] for index in sources], np.int64)
    consume = np.array([settings[f"consume{index}"] for index in sources], np.int64)
    _, _, _, chunks, kernel_h, kernel_w, _, _, repeat = geometry.T
    length = settings["pool_h"] * settings["pool_w"] * int((chunks * kernel_h * kernel_w * repeat).sum())
    table = np.zeros((settings["out_height"] * settings["out_width"] * length, len(WALK_FIELDS)), np.int64)
    _walk(table, geometry, consume, settings["out_height"], settings["out_width"], settings["pool_h"], settings["pool_w"],
          1 << settings["groups_log2"], (1 << config.address_bits) - 1)
    return table


def walk_times(ready, start, chunks):
    """Cycle in which each description is on offer first, and in which it is taken.

    A description comes on offer ``WALK_LATENCY`` cycles after ``start`` or in the cycle after the one before was taken.

    Parameters
    ----------
    ready : bool[T]
        The receiver's ``ready`` in every cycle.
    start : int
        Cycle of the start pulse.
    chunks : int
        Number of descriptions.

    Returns
    -------
    int64[chunks], int64[chunks]
        Cycles; descriptions that are not taken within ``T`` cycles are taken at ``T``, or offered then.
    """
    first = start + WALK_LATENCY
    taken = np.full(chunks, len(ready), np.int64)
    accepted = first + np.flatnonzero(ready[first:])[:chunks]
    taken[:len(accepted)] = accepted
    offered = np.concatenate([[first], np.minimum(taken[:-1] + 1, len(ready))])
    return offered, taken
