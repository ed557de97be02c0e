"""Stream queue as an object, for models that are stepped in plain Python."""
from collections import deque

__all__ = ["StreamQueue"]


class StreamQueue:
    """Queue of ``depth`` entries that shows what it held at the cycle's start.

    Within a cycle first read ``ready``, ``valid`` and ``head``, then call ``step`` once.
    """

    def __init__(self, depth):
        self.depth, self.entries = depth, deque()

    @property
    def ready(self):
        """It takes an entry in this cycle."""
        return int(len(self.entries) < self.depth)

    @property
    def valid(self):
        """It has an entry on offer."""
        return int(bool(self.entries))

    @property
    def head(self):
        """The entry on offer; 0 when there is none."""
        return self.entries[0] if self.entries else 0

    def step(self, pop, *pushed):
        """End of the cycle: the head leaves when ``pop``, then entries come in; the caller has looked at ``valid`` and ``ready``."""
        if pop:
            self.entries.popleft()
        self.entries.extend(pushed)
