"""Small constant multiples, without a multiplier."""

__all__ = ["times"]


def times(value, factor):
    """``value * factor`` by shifts and additions, for a constant of few ones: synthesis would take a DSP block for it, far from everything else."""
    return sum(value << bit for bit in range(factor.bit_length()) if factor >> bit & 1)
