"""Energy of memories, from a published table: no memory of this project was laid out."""

__all__ = ["SOURCE", "access_energy", "published_energy"]

from math import sqrt

SOURCE = "M. Horowitz, ISSCC 2014, figure 1.1.9: 10, 20 pJ for 64 bits of an 8, 32 KB cache memory at 45 nm and 0.9 V"
_TO_SKY130 = (130 / 45) * (1.8 / 0.9) ** 2      # C·V²: capacitance goes with the feature size


def published_energy(bits, size):
    """pJ of a read or a write of so many bits at 45 nm and 0.9 V.

    The published energies double when the capacity grows fourfold: they go with its square root, and so does this, down to register
    files, with the bits of a word in proportion.

    Parameters
    ----------
    bits : int
        Of a word.
    size : float
        Of the memory, in bytes.
    """
    return 10.0 * sqrt(size / 8192) * bits / 64


def access_energy(words, width):
    """pJ of a read or a write of one word of a memory of so many words at 130 nm and 1.8 V, see `published_energy`."""
    return published_energy(width, words * width / 8) * _TO_SKY130
