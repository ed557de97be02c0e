"""MemoryArbiter: clocked model of who is served when, without the lines' contents.

A line's content is stood for by a **token**, any integer; see :mod:`neuroflex.sim.fibercache`.
"""
from typing import NamedTuple

import numpy as np

from neuroflex.cache_policy import MAX_WRITES
from neuroflex.sim.loops import njit

__all__ = ["ArbiterState", "arbiter_init", "arbiter_step", "cache_data", "cache_request_ready", "cache_write_ready",
           "errors", "is_idle", "read_data_ready", "read_is_the_sequencers", "request", "sequencer_data", "sequencer_request_ready", "write_data"]

# Queues, rows of ArbiterState.queues; each is a list with its oldest entry first.
WRITES, CACHE_READS, SEQUENCER_READS, REQUESTS, WRITE_LINES, CACHE_ANSWERS, SEQUENCER_ANSWERS, OWNERS = range(8)
UNCONFIRMED, READ_ERROR, WRITE_ERROR, _COUNT = range(4)
_DEPTH = 2


class ArbiterState(NamedTuple):
    """Registers of the arbiter: int64 arrays, changed in place by :func:`arbiter_step`.

    Attributes
    ----------
    scalars : (n,)
        Writes not confirmed, and the error pulses.
    head, level : (8 queues,)
        Place of the oldest entry, and number of entries.
    queues : (8 queues, places, 3)
        Requests: address, lines, whether it writes. Lines: token, error. Owners: reader (0 cache, 1 sequencer), lines still
        to come.
    """

    scalars: np.ndarray
    head: np.ndarray
    level: np.ndarray
    queues: np.ndarray


def arbiter_init(config):
    """State after reset, for an ArchConfig."""
    return ArbiterState(np.zeros(_COUNT, np.int64), np.zeros(8, np.int64), np.zeros(8, np.int64),
                        np.zeros((8, max(config.pending_lines, _DEPTH), 3), np.int64))


@njit(cache=True)
def _push(state, queue, first, second, third):
    places = state.queues.shape[1]
    place = (state.head[queue] + state.level[queue]) % places
    state.queues[queue, place, 0], state.queues[queue, place, 1], state.queues[queue, place, 2] = first, second, third
    state.level[queue] += 1


@njit(cache=True)
def _pop(state, queue):
    state.head[queue] = (state.head[queue] + 1) % state.queues.shape[1]
    state.level[queue] -= 1


@njit(cache=True)
def _oldest(state, queue, field):
    return state.queues[queue, state.head[queue], field]


# --- outputs: functions of the state ---------------------------------------------------------------------
@njit(cache=True)
def cache_write_ready(state):
    """``cache_write.ready``."""
    return 1 if state.level[WRITES] < _DEPTH else 0


@njit(cache=True)
def cache_request_ready(state):
    """``cache_request.ready``."""
    return 1 if state.level[CACHE_READS] < _DEPTH else 0


@njit(cache=True)
def sequencer_request_ready(state):
    """``sequencer_request.ready``."""
    return 1 if state.level[SEQUENCER_READS] < _DEPTH else 0


@njit(cache=True)
def request(state):
    """``request``: valid, address, lines, write."""
    if state.level[REQUESTS] == 0:
        return 0, 0, 0, 0
    return 1, _oldest(state, REQUESTS, 0), _oldest(state, REQUESTS, 1), _oldest(state, REQUESTS, 2)


@njit(cache=True)
def _line(state, queue):
    if state.level[queue] == 0:
        return 0, 0, 0
    return 1, _oldest(state, queue, 0), _oldest(state, queue, 1)


@njit(cache=True)
def write_data(state):
    """``write_data``: valid, token."""
    valid, token, _ = _line(state, WRITE_LINES)
    return valid, token


@njit(cache=True)
def cache_data(state):
    """``cache_data``: valid, token, error."""
    return _line(state, CACHE_ANSWERS)


@njit(cache=True)
def sequencer_data(state):
    """``sequencer_data``: valid, token, error."""
    return _line(state, SEQUENCER_ANSWERS)


@njit(cache=True)
def read_data_ready(state):
    """``read_data.ready``: the client of the oldest burst has room."""
    if state.level[OWNERS] == 0:
        return 0
    return 1 if state.level[CACHE_ANSWERS + _oldest(state, OWNERS, 0)] < _DEPTH else 0


@njit(cache=True)
def read_is_the_sequencers(state):
    """Whether the next line from memory is for the sequencer or the loader, and not for the cache."""
    return state.level[OWNERS] > 0 and _oldest(state, OWNERS, 0) == 1


@njit(cache=True)
def errors(state):
    """``read_error``, ``write_error``."""
    return state.scalars[READ_ERROR], state.scalars[WRITE_ERROR]


@njit(cache=True)
def is_idle(state):
    """``idle``."""
    return 1 if state.level.sum() + state.scalars[UNCONFIRMED] == 0 else 0


# --- one cycle --------------------------------------------------------------------------------------------
@njit(cache=True)
def arbiter_step(state, write_valid, write_address, write_token, cache_valid, cache_address, cache_lines,
                 sequencer_valid, sequencer_address, sequencer_lines, cache_data_ready, sequencer_data_ready,
                 request_ready, write_data_ready, data_valid, data_token, data_error, done_valid, done_error):
    """Advance by one cycle with these inputs; all integers.

    Parameters
    ----------
    state : ArbiterState
        Changed in place. Read the outputs of a cycle before the step that ends it. ``write_done.ready`` is always 1.
    """
    r, level = state.scalars, state.level
    accept_write = write_valid and cache_write_ready(state)
    accept_cache = cache_valid and cache_request_ready(state)
    accept_sequencer = sequencer_valid and sequencer_request_ready(state)
    accept_data = data_valid and read_data_ready(state)
    request_room, line_room = level[REQUESTS] < _DEPTH, level[WRITE_LINES] < _DEPTH
    owner_room = level[OWNERS] < state.queues.shape[1]
    unconfirmed = r[UNCONFIRMED]
    r[READ_ERROR] = 1 if accept_data and data_error else 0
    r[WRITE_ERROR] = 1 if done_valid and done_error else 0

    # What leaves.
    if level[REQUESTS] and request_ready:
        _pop(state, REQUESTS)
    if level[WRITE_LINES] and write_data_ready:
        _pop(state, WRITE_LINES)
    if level[CACHE_ANSWERS] and cache_data_ready:
        _pop(state, CACHE_ANSWERS)
    if level[SEQUENCER_ANSWERS] and sequencer_data_ready:
        _pop(state, SEQUENCER_ANSWERS)
    if done_valid:
        r[UNCONFIRMED] -= 1

    # A line for the client whose burst is the oldest.
    if accept_data:
        owner = state.head[OWNERS]
        _push(state, CACHE_ANSWERS + state.queues[OWNERS, owner, 0], data_token, data_error, 0)
        state.queues[OWNERS, owner, 1] -= 1
        if state.queues[OWNERS, owner, 1] == 0:
            _pop(state, OWNERS)

    # One request: a write, else a read of the cache, else one of the sequencer.
    if level[WRITES]:
        if request_room and line_room and unconfirmed < MAX_WRITES:
            _push(state, REQUESTS, _oldest(state, WRITES, 0), 1, 1)
            _push(state, WRITE_LINES, _oldest(state, WRITES, 1), 0, 0)
            _pop(state, WRITES)
            r[UNCONFIRMED] += 1
    elif request_room and owner_room and level[CACHE_READS] + level[SEQUENCER_READS]:
        queue = CACHE_READS if level[CACHE_READS] else SEQUENCER_READS
        address, lines = _oldest(state, queue, 0), _oldest(state, queue, 1)
        _push(state, REQUESTS, address, lines, 0)
        _push(state, OWNERS, queue - CACHE_READS, lines, 0)
        _pop(state, queue)

    # New requests.
    if accept_write:
        _push(state, WRITES, write_address, write_token, 0)
    if accept_cache:
        _push(state, CACHE_READS, cache_address, cache_lines, 0)
    if accept_sequencer:
        _push(state, SEQUENCER_READS, sequencer_address, sequencer_lines, 0)
