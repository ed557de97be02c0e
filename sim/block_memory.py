"""Local memory, cycle by cycle."""
from collections import deque

import numpy as np

__all__ = ["BlockMemoryModel"]

READ_LATENCY, READS_UNDERWAY = 3, 4
HOST_CYCLES = 3


class BlockMemoryModel:
    """Lines behind the accelerator's memory port and the host's.

    ``outputs()`` depends on the state only; ``step(...)`` advances a cycle. Lines are Python integers.

    Parameters
    ----------
    chunk_bits, depth : int
    """

    def __init__(self, chunk_bits, depth):
        self._word_bytes, self._words, self._depth = 4, chunk_bits // 32, depth
        self.words = np.zeros((depth, self._words), np.uint32)
        self._now = 0
        self._todo = "idle"             # read, write, answer, or host until a cycle
        self._address = self._left = self._until = 0
        self._failed = False
        self._underway = deque()        # (cycle from which it is on offer, line, error)
        self._wanted = self._answer = None
        self._last_answer = (0, 0)

    def outputs(self):
        """Signals of this cycle, by port name; payloads count while valid."""
        offer = bool(self._underway) and self._underway[0][0] <= self._now
        _, line, error = self._underway[0] if offer else (0, 0, 0)
        data, refused = self._last_answer
        return {"memory__request__ready": int(self._todo == "idle" and self._wanted is None),
                "memory__write_data__ready": int(self._todo == "write"),
                "memory__read_data__valid": int(offer), "line": line, "error": int(error),
                "memory__write_done__valid": int(self._todo == "answer"), "memory__write_done__payload": int(self._failed),
                "host_request__ready": int(self._wanted is None and self._answer is None),
                "host_response__valid": int(self._answer is not None), "host_response__payload": data | refused << 32}

    def step(self, *, request, line, read_ready, done_ready, host, host_ready):
        """One cycle: what is on offer (``request`` (address, lines, write), ``line``, ``host`` (byte address, write, data), or None), and who is ready."""
        shown = self.outputs()
        underway = len(self._underway)
        if shown["memory__read_data__valid"] and read_ready:
            self._underway.popleft()
        if shown["host_response__valid"] and host_ready:
            self._answer = None
        if self._todo == "idle":
            self._failed = False
            if self._wanted is not None:
                self._todo, self._until = "host", self._now + HOST_CYCLES
            elif request is not None:
                self._address, self._left, write = request
                self._todo = "write" if write else "read"
        elif self._todo == "read":
            if underway < READS_UNDERWAY:
                self._underway.append((self._now + READ_LATENCY, self._line(self._address), self._address >= self._depth))
                self._next("idle")
        elif self._todo == "write":
            if line is not None:
                if self._address < self._depth:
                    self.words[self._address] = [line >> 32 * i & 0xFFFFFFFF for i in range(self._words)]
                else:
                    self._failed = True
                self._next("answer")
        elif self._todo == "answer":
            if done_ready:
                self._todo = "idle"
        elif self._now == self._until:
            self._answer = self._last_answer = self._access(*self._wanted)
            self._wanted = None
            self._todo = "idle"
        if shown["host_request__ready"] and host is not None:
            self._wanted = host
        self._now += 1

    def _next(self, after):
        self._address, self._left = self._address + 1, self._left - 1
        if self._left == 0:
            self._todo = after

    def _line(self, address):
        return sum(int(word) << 32 * i for i, word in enumerate(self.words[address % self._depth]))

    def _access(self, address, write, data):
        line, word = divmod(address // 4, self._words)
        if line >= self._depth:
            return 0, 1
        if write:
            self.words[line, word] = data
            return 0, 0
        return int(self.words[line, word]), 0
