"""A serial port whose other end is a pair of simulated lines."""
import numpy as np

from neuroflex import link
from neuroflex.sim.uart import LINE_DELAY, hear, line_of

__all__ = ["LinePort"]

_BITS = 10


class LinePort:
    """What a back end wants of a port, on a session with the ports ``rx`` and ``tx``.

    Parameters
    ----------
    session : neuroflex.tb.bench.Session
    divisor : int
        Cycles per bit.
    """

    def __init__(self, session, divisor):
        self._session, self._divisor = session, divisor
        self._line, self._bytes = np.ones(0, np.uint8), b""

    def _step(self, line):
        self._line = np.concatenate([self._line, self._session.step({"rx": line}, ["tx"])["tx"].astype(np.uint8)])
        heard = hear(self._line, self._divisor)
        if heard:
            self._bytes += bytes(heard.values())
            self._line = self._line[max(heard) - LINE_DELAY - 1:]       # from the middle of the last stop bit on

    def write(self, content):
        """Send bytes without a pause."""
        self._step(line_of(content, self._divisor))

    def read(self, count):
        """So many bytes, or fewer when no more come for a while."""
        waited, most = 0, 400 * _BITS * self._divisor
        while len(self._bytes) < count and waited < most:
            self._step(np.ones(1_000, np.uint8))
            waited += 1_000
        answer, self._bytes = self._bytes[:count], self._bytes[count:]
        return answer

    def reset_input_buffer(self):
        """Forget what came, after the silence that ends a broken request."""
        self._step(np.ones(2 * link.GAP_BYTES * _BITS * self._divisor, np.uint8))
        self._bytes = b""

    def close(self):
        self._session.close()
