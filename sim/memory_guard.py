"""Memory guard, cycle by cycle."""
import numpy as np

from neuroflex.sim.loops import njit

__all__ = ["GUARD_STATE", "guard_idle", "guard_init", "guard_step"]

# Indices of the state array. The two queues hold at most two entries each; the model keeps their levels only.
REQUESTS, LINES_QUEUED, READS_OWED, LINES_OWED, ANSWERS_OWED, RESETTING = range(6)
GUARD_STATE = 6


def guard_init():
    """State of an idle guard, int64[GUARD_STATE]."""
    return np.zeros(GUARD_STATE, np.int64)


@njit(cache=True)
def guard_idle(state):
    """Nothing is owed and nothing waits."""
    return (state[REQUESTS] == 0 and state[LINES_QUEUED] == 0 and state[READS_OWED] == 0 and state[LINES_OWED] == 0
            and state[ANSWERS_OWED] == 0)


@njit(cache=True)
def guard_step(state, abandon, request_valid, request_lines, request_write, request_taken, line_valid, line_taken, read_moved, answer_moved):
    """One cycle: what the core offers, what memory takes, and the answers that moved (all 0 or 1 but ``request_lines``).

    A queue accepts when it holds fewer than two entries at the cycle's start. Returns (request accepted, line accepted).
    """
    idle, resetting = guard_idle(state), state[RESETTING] == 1
    accept = request_valid and not resetting and state[REQUESTS] < 2
    offered = state[LINES_OWED] != 0 if resetting else line_valid
    accept_line = offered and state[LINES_QUEUED] < 2
    if request_taken:
        state[REQUESTS] -= 1
    if line_taken:
        state[LINES_QUEUED] -= 1
    if accept:
        state[REQUESTS] += 1
        if request_write:
            state[LINES_OWED] += request_lines
            state[ANSWERS_OWED] += 1
        else:
            state[READS_OWED] += request_lines
    if accept_line:
        state[LINES_QUEUED] += 1
        state[LINES_OWED] -= 1
    state[READS_OWED] -= read_moved
    state[ANSWERS_OWED] -= answer_moved
    if abandon:
        state[RESETTING] = 1
    elif idle:
        state[RESETTING] = 0
    return accept, accept_line
