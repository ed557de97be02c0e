"""Serial lines, bit by bit: what a line looks like, and what a receiver hears on it."""
import numpy as np

__all__ = ["LINE_DELAY", "hear", "line_of"]

LINE_DELAY = 2      # registers between the pin and the receiver


def line_of(content, divisor, gaps=None):
    """The line while bytes are sent, uint8 per cycle; ``gaps[i]`` idle cycles before byte i."""
    gaps = np.zeros(len(content), np.int64) if gaps is None else gaps
    parts = []
    for byte, gap in zip(content, gaps, strict=True):
        bits = [0, *((byte >> i) & 1 for i in range(8)), 1]
        parts += [np.ones(int(gap), np.uint8), np.repeat(np.array(bits, np.uint8), divisor)]
    return np.concatenate(parts) if parts else np.ones(0, np.uint8)


def hear(line, divisor):
    """What a receiver makes of a line.

    From the first low value, seen ``LINE_DELAY`` cycles late, half a bit and a cycle to the middle of the start bit, which must still be low; then every
    ``divisor`` cycles a bit. A byte counts when its stop bit is high, in the cycle after that.

    Returns
    -------
    dict of int to int
        Cycle → byte.
    """
    seen = np.concatenate([np.ones(LINE_DELAY, np.uint8), line])[:len(line)]
    low = np.flatnonzero(seen == 0)
    heard, t = {}, 0
    while True:
        first = np.searchsorted(low, t)
        if first == len(low):
            return heard
        start = int(low[first]) + divisor // 2 + 1
        samples = start + divisor * np.arange(10)
        if start >= len(seen):
            return heard
        if seen[start]:
            t = start + 1
            continue
        if samples[-1] >= len(seen):
            return heard
        bits = seen[samples]
        t = int(samples[-1]) + 1
        if bits[9]:
            heard[t] = int(np.packbits(bits[1:9], bitorder="little")[0])
