"""Memory behind the port: what the outside world does to the accelerator, as patterns that RTL runs and model share."""
from dataclasses import dataclass

import numpy as np

from neuroflex.registers import MAX_LATENCY
from neuroflex.sim.loops import njit

__all__ = ["MEMORY_STATE", "MemoryTrace", "memory_init", "memory_outputs", "memory_step"]

QUEUE = 256   # requests that memory can hold; more than the core ever has outstanding


@dataclass(frozen=True, eq=False)
class MemoryTrace:
    """Timing of a memory: readiness by cycle, latency by request. Patterns repeat.

    Attributes
    ----------
    request_ready, write_ready : bool[period]
        Whether memory takes a request, a line of write data, in cycle ``t % period``.
    read_go : bool[period]
        Whether memory may begin to show a read line in cycle ``t % period``; once shown it stays until taken.
    latency : int64[period]
        Cycles from the acceptance of the i-th read request to its first line, 1 to `neuroflex.registers.MAX_LATENCY`.
    answer_latency : int
        Cycles from a write request's last line of data to its answer, 1 to `MAX_LATENCY`.
    error_line : int
        Number of the read line (counted over the run) that comes with the error flag; -1 for none.
    error_write : int
        Number of the write request (likewise) whose answer has the error flag, though its lines are written; -1 for none.
    """

    request_ready: np.ndarray
    write_ready: np.ndarray
    read_go: np.ndarray
    latency: np.ndarray
    answer_latency: int = 1
    error_line: int = -1
    error_write: int = -1

    def __post_init__(self):
        for name in ("request_ready", "write_ready", "read_go"):
            pattern = np.ascontiguousarray(getattr(self, name), np.uint8)
            if pattern.ndim != 1 or not pattern.any():
                raise ValueError(f"{name} must be a row of flags, one of them set, or nothing ever moves")
            object.__setattr__(self, name, pattern)
        object.__setattr__(self, "latency", np.ascontiguousarray(self.latency, np.int64))
        if self.latency.ndim != 1 or not len(self.latency) or self.latency.min() < 1 or self.answer_latency < 1:
            raise ValueError("latencies must be at least one cycle")
        if max(self.latency.max(), self.answer_latency) > MAX_LATENCY:
            raise ValueError(f"latencies must be at most {MAX_LATENCY:,} cycles, half of the watchdog: beyond it the circuit ends the job, the model waits")

    @classmethod
    def constant(cls, latency=20):
        """Always ready, every read after ``latency`` cycles, then one line a cycle."""
        on = np.ones(1, bool)
        return cls(on, on, on, np.array([latency]), latency)

    @classmethod
    def random(cls, rng, period=997, most=60):
        """Random readiness and latencies up to ``most`` cycles."""
        density = rng.uniform(0.3, 1.0, 3)
        patterns = [rng.random(period) < d for d in density]
        for pattern in patterns:
            pattern[0] = True
        return cls(*patterns, rng.integers(1, most + 1, period), int(rng.integers(1, most)))


# Indices of the state array; two rings of QUEUE entries follow. With DRIVEN set, somebody else is memory and writes before each cycle
# what it shows in it; nothing is kept then but the number of lines read.
(TIME, REQUESTS, LINES, READ_HEAD, READ_TAIL, READ_POSITION, HELD, WRITE_HEAD, WRITE_TAIL, WRITE_LEFT,
 ANSWER_HEAD, ANSWER_TAIL, DRIVEN, REQUEST_READY, WRITE_READY, LINE_VALID, ANSWER_VALID, ANSWER_ERROR) = range(18)
_FIXED = 18
_ADDRESS, _COUNT, _READY_AT, _WRITES_BEFORE = (_FIXED + QUEUE * i for i in range(4))
_WRITE_ADDRESS, _WRITE_COUNT, _ANSWER_AT = (_FIXED + QUEUE * i for i in range(4, 7))
MEMORY_STATE = _FIXED + 7 * QUEUE


def memory_init():
    """State of a memory at rest, int64[MEMORY_STATE]."""
    return np.zeros(MEMORY_STATE, np.int64)


@njit(cache=True)
def memory_outputs(state, request_ready, write_ready, read_go):
    """(request ready, write-data ready, read line shown, its address, its number, answer shown) in this cycle."""
    if state[DRIVEN]:
        return state[REQUEST_READY], state[WRITE_READY], state[LINE_VALID], np.int64(0), state[LINES], state[ANSWER_VALID]
    t = state[TIME]
    shown = np.int64(0)
    address = np.int64(0)
    if state[READ_HEAD] != state[READ_TAIL]:
        slot = state[READ_HEAD] % QUEUE
        # A read takes effect after every write that was requested before it.
        if state[HELD] or (t >= state[_READY_AT + slot] and read_go[t % len(read_go)]
                           and state[WRITE_HEAD] >= state[_WRITES_BEFORE + slot]):
            shown = np.int64(1)
            address = state[_ADDRESS + slot] + state[READ_POSITION]
    answer = np.int64(0)
    if state[ANSWER_HEAD] != state[ANSWER_TAIL] and t >= state[_ANSWER_AT + state[ANSWER_HEAD] % QUEUE]:
        answer = np.int64(1)
    # Data are taken only once their request has been taken.
    write_go = np.int64(0)
    if state[WRITE_HEAD] != state[WRITE_TAIL]:
        write_go = np.int64(write_ready[t % len(write_ready)])
    return np.int64(request_ready[t % len(request_ready)]), write_go, shown, address, state[LINES], answer


@njit(cache=True)
def memory_step(state, latency, answer_latency, shown, answer, request, address, lines, write, write_line, read_taken, answer_taken):
    """One cycle: a ``request`` moved, a ``write_line`` moved, the shown line was taken, the answer was taken.

    Returns the address to which a moved write line goes, else -1.
    """
    t = state[TIME]
    written = np.int64(-1)
    if state[DRIVEN]:
        if shown and read_taken:
            state[LINES] += 1
        state[TIME] = t + 1
        return written
    if request:
        if write:
            slot = state[WRITE_TAIL] % QUEUE
            state[_WRITE_ADDRESS + slot], state[_WRITE_COUNT + slot] = address, lines
            state[WRITE_TAIL] += 1
        else:
            slot = state[READ_TAIL] % QUEUE
            state[_ADDRESS + slot], state[_COUNT + slot] = address, lines
            state[_READY_AT + slot] = t + latency[state[REQUESTS] % len(latency)]
            state[_WRITES_BEFORE + slot] = state[WRITE_TAIL]
            state[READ_TAIL] += 1
            state[REQUESTS] += 1
    if write_line:
        slot = state[WRITE_HEAD] % QUEUE
        written = state[_WRITE_ADDRESS + slot] + state[WRITE_LEFT]
        state[WRITE_LEFT] += 1
        if state[WRITE_LEFT] == state[_WRITE_COUNT + slot]:
            state[WRITE_LEFT] = 0
            state[WRITE_HEAD] += 1
            state[_ANSWER_AT + state[ANSWER_TAIL] % QUEUE] = t + answer_latency
            state[ANSWER_TAIL] += 1
    state[HELD] = 0
    if shown:
        if read_taken:
            state[LINES] += 1
            slot = state[READ_HEAD] % QUEUE
            state[READ_POSITION] += 1
            if state[READ_POSITION] == state[_COUNT + slot]:
                state[READ_POSITION] = 0
                state[READ_HEAD] += 1
        else:
            state[HELD] = 1
    if answer and answer_taken:
        state[ANSWER_HEAD] += 1
    state[TIME] = t + 1
    return written
