"""Serial bridge: the program that it follows, one yield per cycle."""
import numpy as np

from neuroflex import link
from neuroflex.link import LinkStatus, Op
from neuroflex.sim.uart import line_of

__all__ = ["BridgeModel"]

_FRAME_BITS = 10


class BridgeModel:
    """What the bridge does with the bytes that it hears.

    ``run()`` is a coroutine: it yields the outputs of a cycle as ``(port, address, write, data)`` or ``(port, "answer")`` or None, and takes that cycle's
    inputs: whether the port takes the request, or ``(data, error)`` when it answers.

    Parameters
    ----------
    heard : dict of int to int
        Cycle → byte, see :func:`neuroflex.sim.uart.hear`.
    divisor : int

    Attributes
    ----------
    sent : list of (cycle, byte)
        When each byte of an answer was handed to the transmitter.
    outcomes : list of LinkStatus
        Of the answers, and None for each request that was forgotten.
    """

    def __init__(self, heard, divisor):
        self._heard, self._divisor = heard, divisor
        self._now, self._free = 0, 0
        self._buffer = [0] * link.MAX_WORDS     # reads show what lies in it as data
        self.sent, self.outcomes = [], []

    def line(self, cycles):
        """The line to the host over so many cycles."""
        line = np.ones(cycles + _FRAME_BITS * self._divisor + 1, np.uint8)
        for cycle, byte in self.sent:
            bits = line_of([byte], self._divisor)
            line[cycle + 1:cycle + 1 + len(bits)] = bits
        return line[:cycles]

    def run(self):
        while True:
            if (yield from self._cycle()) != link.REQUEST:
                continue
            status, words = yield from self._request()
            self.outcomes.append(status)
            if status is not None:
                for byte in link.answer_frame(status, words):
                    yield from self._send(byte)

    def _cycle(self, outputs=None):
        """One cycle; the byte that arrived in it, or what a port said."""
        byte = self._heard.get(self._now)
        inputs = yield outputs
        self._now += 1
        return byte if outputs is None else inputs

    def _send(self, byte):
        while self._now < self._free:
            yield from self._cycle()
        self.sent.append((self._now, byte))
        self._free = self._now + _FRAME_BITS * self._divisor + 1
        yield from self._cycle()

    def _listen(self, count):
        """So many bytes, or None after too long a silence."""
        got = bytearray()
        silence = 0
        while len(got) < count:
            byte = yield from self._cycle()
            if byte is None:
                silence += 1
                if silence == link.GAP_BYTES * _FRAME_BITS * self._divisor:
                    return None
            else:
                silence = 0
                got.append(byte)
        return bytes(got)

    def _request(self):
        """Status and words of the answer to a request whose first byte was heard."""
        head = yield from self._listen(6)
        if head is None:
            return None, ()
        op, count, address = head[0], head[1], int.from_bytes(head[2:], "little")
        yield from self._cycle()
        if op not in list(Op):
            return LinkStatus.BAD_OP, ()
        if not 1 <= count <= link.MAX_WORDS:
            return LinkStatus.BAD_COUNT, ()
        if address % 4:
            return LinkStatus.BAD_ADDRESS, ()
        write, registers = op in (Op.WRITE_MEMORY, Op.WRITE_REGISTERS), op in (Op.READ_REGISTERS, Op.WRITE_REGISTERS)
        words = []
        for place in range(count if write else 0):
            word = yield from self._listen(4)
            if word is None:
                return None, ()
            words.append(int.from_bytes(word, "little"))
            yield from self._cycle()
            self._buffer[place] = words[-1]
        sum_ = yield from self._listen(2)
        if sum_ is None:
            return None, ()
        yield from self._cycle()
        body = head + b"".join(word.to_bytes(4, "little") for word in words)
        if link.crc(body) != int.from_bytes(sum_, "big"):
            return LinkStatus.BAD_CHECKSUM, ()
        found = []
        for place in range(count):
            at = (address + 4 * place) % (1 << 32)
            yield from self._cycle()
            if registers and at >= 256:
                return LinkStatus.REFUSED, ()
            port = "registers" if registers else "memory"
            while not (yield from self._cycle((port, at, write, self._buffer[place]))):
                pass
            while (answer := (yield from self._cycle((port, "answer")))) is None:
                pass
            data, error = answer
            if error:
                return LinkStatus.REFUSED, ()
            yield from self._cycle()
            if not write:
                self._buffer[place] = data
            found.append(data)
        return LinkStatus.OK, () if write else tuple(found)
