"""Job arrays as port values per cycle, for units that take jobs from a stream and answer without back-pressure."""
import numpy as np

__all__ = ["held", "offered", "pulses", "random_arrivals"]


def random_arrivals(rng, jobs, mean_gap):
    """Not decreasing arrival cycles: bursts with no gap, and gaps around the mean and of four times the mean."""
    gaps = rng.choice([0, 1, 4], jobs, p=[0.5, 0.3, 0.2]) * rng.integers(0, 2 * mean_gap + 1, jobs)
    return np.cumsum(gaps)


def offered(arrival, accept, cycles):
    """``(valid, job)`` of each cycle: job ``k`` is offered from its arrival, after its predecessor, until accepted.

    ``job`` is the job on offer or, in cycles without one, some other: its payload must not matter.
    """
    cycle = np.arange(cycles)
    job = np.searchsorted(accept, cycle, side="left")
    valid = job < len(accept)
    job = np.minimum(job, len(accept) - 1)
    valid &= np.asarray(arrival)[job] <= cycle
    return valid, np.where(valid, job, cycle % len(accept))


def pulses(when, cycles):
    """1 in the cycles listed."""
    result = np.zeros(cycles, bool)
    result[when] = True
    return result


def held(when, values, cycles):
    """A register that takes ``values[k]`` in cycle ``when[k]`` and keeps it; 0 before the first."""
    last = np.searchsorted(when, np.arange(cycles), side="right")
    return np.concatenate([[0], values])[last]
