"""Sequencer, cycle by cycle: phases of a job, and the verdict on each descriptor."""
import numpy as np

from neuroflex.formats import (CHUNK_LINES, DESCRIPTOR_VERSION, DESCRIPTOR_WORDS, Opcode, StallCause, Status, descriptor_checksum,
                               unpack_descriptor)
from neuroflex.sim.geometry import output_size, tensor_end
from neuroflex.sim.loops import njit

__all__ = ["CHECK_CYCLES", "IDLE", "INVALIDATE", "LOAD", "REQUEST", "RECEIVE", "RUN", "RUNNING", "FINISH", "RETURN", "STATE", "check_descriptor", "output_chunks",
           "sequencer_cause", "sequencer_init", "sequencer_step"]

# Phases, as hdl.sequencer.Phase.
IDLE, INVALIDATE, REQUEST, RECEIVE, CHECKSUM, CHECK, DECIDE, LOAD, RUN, FINISH, RETURN = range(11)

# Indices of the state array.
(PHASE, COUNT, CODE, LAYER, POINTER, BUS_ERROR, FETCH_ERROR, SILENCE, RUNNING, FAILED, BROADCASTER_DONE, COMPRESSOR_DONE,
 PULSE_INVALIDATE, PULSE_LOADER, PULSE_CLEAR, PULSE_RUN, PULSE_ABANDON) = range(17)
STATE = 17

CHECK_CYCLES = 10   # of phase CHECK

# As plain integers: Numba takes them as constants.
_NONE, _DONE, _BUS_ERROR, _WATCHDOG, _BAD_PROGRAM = (
    int(status) for status in (Status.NONE, Status.DONE, Status.BUS_ERROR, Status.WATCHDOG, Status.BAD_PROGRAM))
_CONTROL, _LOAD_CAUSE, _DRAIN = int(StallCause.CONTROL), int(StallCause.LOAD), int(StallCause.DRAIN)
_WORDS = DESCRIPTOR_WORDS


def output_chunks(ann_rounds, snn_rounds, groups_log2, config):
    """Chunks of an output spine that this many rounds of both cores fill (docs/architecture.md)."""
    ann_lanes, snn_lanes = config.ann_pes >> groups_log2, config.snn_pes >> groups_log2
    positions = -(-ann_rounds * ann_lanes // snn_lanes) * snn_lanes + snn_rounds * snn_lanes
    return -(-positions // config.chunk_bits)


def check_descriptor(words, config):
    """What the hardware says of a descriptor.

    Parameters
    ----------
    words : uint32[DESCRIPTOR_WORDS]
    config : ArchConfig

    Returns
    -------
    Status
        NONE: a layer that can run. DONE: the end of the program. Anything else: why the job stops here.
    """
    if descriptor_checksum(words[:-1]) != int(words[-1]):
        return Status.BAD_CHECKSUM
    d = unpack_descriptor(words)
    if d["version"] != DESCRIPTOR_VERSION or d["opcode"] not in tuple(Opcode):
        return Status.BAD_OPCODE
    if d["opcode"] == Opcode.END:
        return Status.DONE
    space = 1 << config.address_bits
    sources = []
    for index in range(2):
        s = {k.removeprefix(f"source{index}_"): v for k, v in d.items() if k.startswith(f"source{index}_")}
        if s["height"] == 0:
            if index == 0:
                return Status.BAD_SOURCE
            continue
        fits = (s["width"] and s["chunks"] and 1 <= s["kernel_h"] <= 7 and 1 <= s["kernel_w"] <= 7 and 1 <= s["stride"] <= 7
                and s["pad"] < s["kernel_h"] and s["pad"] < s["kernel_w"] and s["repeat"]
                and tensor_end(s["base"], s["height"], s["width"], s["chunks"]) <= space)
        if not fits:
            return Status.BAD_SOURCE
        sources.append(s)
    fits = (d["out_height"] and d["out_width"] and d["out_chunks"] and 1 <= d["pool_h"] <= 7 and 1 <= d["pool_w"] <= 7
            and d["groups_log2"] <= config.max_groups.bit_length() - 1 and 1 <= d["fetch_lines"] <= CHUNK_LINES
            and tensor_end(d["out_base"], d["out_height"], d["out_width"], d["out_chunks"]) <= space
            and d["ann_rounds"] <= config.columns_per_pe and d["snn_rounds"] <= config.columns_per_pe and d["ann_rounds"] + d["snn_rounds"]
            and d["levels_in"] <= config.snn_levels and (d["levels_in"] or not d["snn_rounds"]))
    if not fits:
        return Status.BAD_OUTPUT
    for s in sources:
        for size, kernel, pool, out in (("height", "kernel_h", "pool_h", "out_height"), ("width", "kernel_w", "pool_w", "out_width")):
            if output_size(s[size], s[kernel], s["stride"], s["pad"], d[pool]) != d[out]:
                return Status.BAD_OUTPUT
    if output_chunks(d["ann_rounds"], d["snn_rounds"], d["groups_log2"], config) + d["out_first_chunk"] > d["out_chunks"]:
        return Status.BAD_OUTPUT
    if not 1 <= d["load_lines"] < space or d["load_address"] + d["load_lines"] > space:
        return Status.BAD_LOAD_LENGTH
    return Status.NONE


def sequencer_init():
    """State of an idle sequencer, int64[STATE]."""
    return np.zeros(STATE, np.int64)


@njit(cache=True)
def sequencer_cause(state, running_cause):
    """StallCause of this cycle."""
    if state[RUNNING]:
        return _DRAIN if state[BROADCASTER_DONE] else running_cause
    return _LOAD_CAUSE if state[PHASE] == LOAD else _CONTROL


@njit(cache=True)
def sequencer_step(state, overlap, descriptor_lines, last_program, verdict, watchdog, start, program, cache_busy, request_ready, read_valid, read_error,
                   loader_finished, loader_error, broadcaster_finished, compressor_finished, progress, bus_error, quiet):
    """One cycle.

    With ``overlap`` a descriptor that is loaded, or the reason why it will not be, waits in phase RUN for the end of the layer before; ``state[RUNNING]`` says whether
    a layer runs. ``verdict`` is what :func:`check_descriptor` says of the descriptor at ``state[POINTER]``; it is looked at once
    the descriptor has been received; ``last_program`` is the last line at which one fits into memory. All other arguments are the inputs of the block in this cycle.
    """
    phase, count, code, running = state[PHASE], state[COUNT], state[CODE], state[RUNNING]
    stop = RUN if overlap else FINISH       # where the reason for a job's end waits for the layer that still runs
    pulse_invalidate, pulse_run, error_before = state[PULSE_INVALIDATE], state[PULSE_RUN], state[BUS_ERROR]
    for pulse in range(PULSE_INVALIDATE, STATE):
        state[pulse] = 0
    if bus_error and phase != IDLE:
        state[BUS_ERROR] = 1
    following = phase

    if phase == IDLE:
        if start:
            following, state[PULSE_INVALIDATE], state[POINTER] = INVALIDATE, 1, program
            state[COUNT], state[CODE], state[LAYER], state[BUS_ERROR], state[FAILED] = 0, _NONE, 0, 0, 0
    elif phase == INVALIDATE:
        state[COUNT] = 1
        if count == 1 and not pulse_invalidate and not cache_busy:
            following = REQUEST
    elif phase == REQUEST:
        state[COUNT] = state[FETCH_ERROR] = 0
        if state[POINTER] > last_program:
            state[CODE], following = _BAD_PROGRAM, stop
        elif request_ready:
            following = RECEIVE
    elif phase == RECEIVE:
        if read_valid:
            state[COUNT] = count + 1
            if read_error:
                state[FETCH_ERROR if overlap else BUS_ERROR] = 1
            if count == descriptor_lines - 1:
                following, state[COUNT] = CHECKSUM, 0
    elif phase == CHECKSUM:
        state[COUNT] = count + 1
        if count == _WORDS - 1:
            following, state[COUNT] = CHECK, 0
    elif phase == CHECK:
        state[COUNT] = count + 1
        if count == CHECK_CYCLES - 1:
            following = DECIDE
            state[CODE] = _BUS_ERROR if (state[FETCH_ERROR] if overlap else error_before) else verdict
    elif phase == DECIDE:
        if code != _NONE or state[FAILED]:
            following = stop
        else:
            following, state[PULSE_LOADER], state[PULSE_CLEAR] = LOAD, 1, 1
    elif phase == LOAD:
        if not overlap:
            state[BROADCASTER_DONE], state[COMPRESSOR_DONE] = 0, 0
        if loader_finished:
            if loader_error != _NONE:
                state[CODE], following = loader_error, stop
            else:
                following = RUN
                if not overlap:
                    state[PULSE_RUN] = state[RUNNING] = 1
    elif phase == RUN and not running:
        if state[FAILED] or code != _NONE:
            following = FINISH
            if state[FAILED]:
                state[CODE] = _BUS_ERROR
        else:
            following, state[PULSE_RUN], state[RUNNING] = REQUEST, 1, 1
            state[BROADCASTER_DONE], state[COMPRESSOR_DONE] = 0, 0
            state[POINTER] += descriptor_lines
    elif phase == FINISH:
        if quiet:
            following = RETURN
            if (error_before or bus_error) and code == _DONE:
                state[CODE] = _BUS_ERROR
    elif phase == RETURN:
        following = IDLE

    if running:
        both = state[BROADCASTER_DONE] and state[COMPRESSOR_DONE]
        if broadcaster_finished and not pulse_run:
            state[BROADCASTER_DONE] = 1
        if compressor_finished:
            state[COMPRESSOR_DONE] = 1
        if both:
            state[RUNNING] = 0
            if error_before and overlap:
                state[FAILED] = 1
            elif error_before:
                state[CODE], following = _BUS_ERROR, FINISH
            else:
                state[LAYER] += 1
                if not overlap:
                    following = REQUEST
                    state[POINTER] += descriptor_lines

    if progress or phase == IDLE or phase == RETURN:
        state[SILENCE] = 0
    else:
        if watchdog != 0 and state[SILENCE] >= watchdog:
            state[CODE], following, state[PULSE_ABANDON], state[RUNNING] = _WATCHDOG, RETURN, 1, 0
        state[SILENCE] += 1
    state[PHASE] = following
