"""Functional coverage: named points that a testbench must have hit."""

__all__ = ["Coverage"]


class Coverage:
    """Counts hits of named points.

    Parameters
    ----------
    name : str
        The block, for the message.
    points : iterable of str
        All points; hitting another one is an error, so that a misspelt point cannot hide.
    """

    def __init__(self, name, points):
        self.name = name
        self.hits = dict.fromkeys(points, 0)

    def hit(self, point, count=1):
        """Count a point; ``count`` may be a bool or 0."""
        self.hits[point] += int(count)

    def require(self, least):
        """Fail when a point was hit less than ``least`` times, naming it."""
        short = {point: hits for point, hits in self.hits.items() if hits < least}
        assert not short, f"{self.name}: hit less than {least} times: {short}"
