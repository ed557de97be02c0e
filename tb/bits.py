"""Bit vectors per cycle as NumPy arrays: the form in which benches exchange values.

A value of up to 64 bits per cycle is a 1-D integer array. A wider one is an
array of shape ``(cycles, ceil(width / 64))`` of uint64 words, the least
significant word first.
"""

import numpy as np

__all__ = ["Layout", "concat", "split", "words_of"]


def words_of(width):
    """Number of 64-bit words that hold `width` bits."""
    return -(-width // 64)


def concat(*fields):
    """Concatenate fields into one vector per cycle, as a packed struct is.

    Parameters
    ----------
    *fields : tuple of (array, int)
        Values and width in bits of each field, the least significant first.
        Negative values are taken in two's complement.

    Returns
    -------
    ndarray of uint64
        1-D if the widths add up to 64 or less, else ``(cycles, words)``.
    """
    width = sum(w for _, w in fields)
    cycles = max(len(np.atleast_1d(values)) for values, _ in fields)
    out = np.zeros((cycles, words_of(width)), np.uint64)
    start = 0
    for values, w in fields:
        _insert(out, start, w, _as_words(values, w, cycles, "field"))
        start += w
    return out[:, 0] if width <= 64 else out


def split(vector, *widths):
    """Undo `concat`: the unsigned fields of a vector per cycle.

    Parameters
    ----------
    vector : ndarray
        1-D, or ``(cycles, words)``.
    *widths : int
        Width of each field, the least significant first.

    Returns
    -------
    list of ndarray of uint64
    """
    words = np.asarray(vector).astype(np.uint64, copy=False).reshape(len(vector), -1)
    starts = np.cumsum([0, *widths])
    return [_extract(words, int(start), w) for start, w in zip(starts, widths)]


class Layout:
    """Places of named ports in one wide vector of 64-bit words.

    A port of up to 64 bits never straddles a word and a wider one starts at a
    word, so packing and comparing are shifts of whole arrays.

    Parameters
    ----------
    ports : iterable of (str, int, bool)
        Name, width in bits, and whether it is signed.

    Attributes
    ----------
    places : dict of str to (start, width, signed)
        The bit at which each port starts.
    words : int
        Length of the vector, at least 2.
    """

    def __init__(self, ports):
        self.places, bit = {}, 0
        for name, width, signed in ports:
            if width > 64 or bit % 64 + width > 64:
                bit = words_of(bit) * 64
            self.places[name] = (bit, width, signed)
            bit += width
        self.words = max(2, words_of(bit))

    def pack(self, values, cycles, *, what):
        """Words of shape ``(cycles, words)``; ports without values are 0.

        Raises
        ------
        KeyError
            For a name that is no port.
        TypeError, ValueError
            For values that are no integers, do not fit, or have another length.
        """
        out = np.zeros((cycles, self.words), np.uint64)
        for name, array in values.items():
            start, width, _ = self.place(name, what)
            _insert(out, start, width, _as_words(array, width, cycles, f"{what} {name!r}"))
        return out

    def mask(self, where, cycles):
        """Words with a 1 in each bit that counts: all, but a port in `where` only in its cycles."""
        out = np.zeros((cycles, self.words), np.uint64)
        for name, (start, width, _) in self.places.items():
            ones = np.full((cycles, words_of(width)), 2**64 - 1, np.uint64)
            if width % 64:
                ones[:, -1] = 2**(width % 64) - 1
            if name in where:
                ones[~np.asarray(where[name], bool)] = 0
            _insert(out, start, width, ones)
        return out

    def place(self, name, what="port"):
        """``(start, width, signed)`` of a port."""
        if name not in self.places:
            raise KeyError(f"{what} {name!r} is not one of {', '.join(self.places) or 'no ports'}")
        return self.places[name]

    def unpack(self, words, names=None):
        """Dict of arrays: int64 for ports of less than 64 bits and signed ones, else uint64 words."""
        out = {}
        for name in self.places if names is None else names:
            start, width, signed = self.place(name, "signal")
            values = _extract(words, start, width)
            if width < 64:
                values = values.astype(np.int64)
                if signed:
                    values -= (values >> (width - 1)) << width
            elif width == 64 and signed:
                values = values.view(np.int64)
            out[name] = values
        return out


def _as_words(values, width, cycles, what):
    """Values as ``(cycles, words)``, checked and cut to `width` bits."""
    values = np.asarray(values)
    if values.dtype.kind not in "biu":
        raise TypeError(f"{what} must be integers, not {values.dtype}")
    if width > 64:
        shape = (cycles, words_of(width))
        if values.ndim == 0 and 0 <= values:
            words = np.zeros(shape, np.uint64)
            words[:, 0] = values
            return words
        if values.shape != shape:
            raise ValueError(f"{what} of {width} bits must have the shape {shape}, not {values.shape}")
        words = values.astype(np.uint64, copy=False)
        if width % 64 and len(words) and int(words[:, -1].max()) >> width % 64:
            raise ValueError(f"{what} has values that do not fit {width} bits")
        return words
    if values.ndim == 0:
        values = np.broadcast_to(values, cycles)
    if values.shape != (cycles,):
        raise ValueError(f"{what} must have the shape ({cycles},), not {values.shape}")
    if cycles and not -(2**width) // 2 <= int(values.min()) <= int(values.max()) < 2**width:
        raise ValueError(f"{what} has values from {values.min()} to {values.max()}, which do not fit {width} bits")
    return (values.astype(np.uint64) & np.uint64(2**width - 1))[:, None]


def _insert(out, start, width, words):
    """Or `words` of a field of `width` bits into `out` at bit `start`."""
    word, shift = divmod(start, 64)
    if shift == 0:
        out[:, word:word + words.shape[1]] |= words
        return
    for i in range(words.shape[1]):
        out[:, word + i] |= words[:, i] << np.uint64(shift)
        if word + i + 1 < out.shape[1]:
            out[:, word + i + 1] |= words[:, i] >> np.uint64(64 - shift)


def _extract(words, start, width):
    """Field of `width` bits at bit `start`: 1-D up to 64 bits, else words."""
    word, shift = divmod(start, 64)
    count = words_of(width)
    out = words[:, word:word + count] >> np.uint64(shift)
    if shift:
        above = words[:, word + 1:word + 1 + count] << np.uint64(64 - shift)
        out[:, :above.shape[1]] |= above
    if width % 64:
        out[:, -1] &= np.uint64(2**(width % 64) - 1)
    return out[:, 0].copy() if width <= 64 else out.copy()
