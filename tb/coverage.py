"""Functional coverage: named points that a testbench must have hit."""
import numpy as np

__all__ = ["Coverage"]


class Coverage:
    """Counts hits of named points.

    Parameters
    ----------
    name : str
        The block, for the message.
    points : iterable of str, optional
        All points; hitting another one is an error, so that a misspelt point cannot hide. Without them, the points are
        those that :meth:`add` is given: it names each of them in every call, hit or not.

    Attributes
    ----------
    hits : dict of str to int
    """

    def __init__(self, name, points=None):
        self.name = name
        self._open = points is None
        self.hits = dict.fromkeys(points or (), 0)

    def hit(self, point, count=1):
        """Count a point; ``count`` may be a bool or 0."""
        if self._open:
            self.hits.setdefault(point, 0)
        self.hits[point] += int(count)

    def add(self, **points):
        """Count the true elements of each array under its name."""
        for point, hits in points.items():
            self.hit(point, np.count_nonzero(hits))

    def require(self, least):
        """Fail when a point was hit less than ``least`` times, naming it."""
        short = {point: hits for point, hits in self.hits.items() if hits < least}
        assert not short, f"{self.name}: hit less than {least} times: {short}"
