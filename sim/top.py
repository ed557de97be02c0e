"""Cycle model of the whole accelerator: control blocks step by step, PEs by events (docs/timing.md).

All blocks are Moore machines, so a cycle is: read every block's outputs, then step every block with them. PEs are
feed-forward: when a chunk's last beat is on the bus, all that they will do with it is known.
"""
from typing import NamedTuple

import numpy as np

from neuroflex.formats import StallCause, descriptor_lines
from neuroflex.sim import ann_pe, broadcaster, compressor, fibercache, loader, memory, memory_arbiter, memory_guard, sequencer, snn_pe
from neuroflex.sim.energy import TRAFFIC
from neuroflex.sim.join import JOIN_WORDS, NEVER, join_chunk, new_join_state, scan_ahead
from neuroflex.sim.loops import njit
from neuroflex.sim.pascif import first_steps, pascif_costs
from neuroflex.sim.qcfs import qcfs_cost
from neuroflex.sim.snn_core import kind_number, pe_chunk, pe_row
from neuroflex.sim.walk import ADDRESS, CONSUME, FIRST_CHUNK, FIRST_WINDOW, GROUP, LAST_CHUNK, LAST_WINDOW, OUTSIDE

__all__ = ["NO_TRACE", "Recorder", "TileArrays", "TopState", "recorder", "tile_arrays", "moves", "top_advance", "top_init", "top_numbers"]

_CAUSES = len(StallCause)
_NEVER = 1 << 60
_PAST = -(1 << 40)
_RING = 64

# Scalars of TopState.
(NOW, BUSY_CYCLES, HITS, MISSES, EVICTIONS, FINISHED_AT, CODE, LAYER, STILL) = range(9)
_STILL = 5           # cycles without a visible move, beyond every fixed latency of the broadcaster, after which to look whether anything moves

# Places of TRAFFIC.
_LINE, _READ, _WRITE, _FETCH, _FILL, _CACHE_CYCLE, _ROUND, _PACKED, _PACK_CYCLE = range(len(TRAFFIC))

# Columns of a Recorder's row: what the memory port and the blocks' ports show in a cycle. Lines are shown by where their contents are: those
# that the core writes or reads from its cache by their address, those from memory by their number in the order of arrival; -1 is a line of zeros.
FIELDS = (
    "request_valid", "request_address", "request_lines", "request_write", "write_valid", "write_line", "read_ready",
    "phase", "layer", "cause", "code", "busy", "running", "prepared", "finish",
    "invalidate", "loader_start", "clear", "run", "cache_busy", "loader_finished", "loader_error", "broadcaster_finished", "compressor_finished",
    "block_done", "cache_idle", "arbiter_idle", "guard_idle", "hit", "miss", "eviction",
    "own_valid", "own_ready", "own_address", "own_lines", "own_data_valid", "own_data_ready", "own_data_line", "own_data_error",
    "fill_request_valid", "fill_request_ready", "fill_request_address", "fill_request_lines", "fill_valid", "fill_ready", "fill_line", "fill_error",
    "evict_valid", "evict_ready", "evict_address", "port_request_valid", "port_request_ready", "port_write_valid", "port_write_ready",
    "cache_fetch_valid", "cache_fetch_ready", "cache_fetch_address", "cache_fetch_lines",
    "cache_read_valid", "cache_read_ready", "cache_read_address", "cache_read_consume",
    "cache_write_valid", "cache_write_ready", "cache_write_address", "cache_write_through", "response", "response_line", "load_line", "load_layer",
    "beat", "group", "first_beat", "last_beat", "first_chunk", "last_chunk", "first_window", "last_window", "mask", "line",
    "slot_free", "row_free", "y_read", "y_bank", "y_index")
REQUEST, WRITE, PHASE, BUSY, INVALIDATE, ENDS, IDLES, EVENTS, OWN, OWN_DATA, FILL_REQUEST, FILL, EVICT, PORT = (FIELDS.index(name) for name in (
    "request_valid", "write_valid", "phase", "busy", "invalidate", "loader_finished", "cache_idle", "hit", "own_valid", "own_data_valid",
    "fill_request_valid", "fill_valid", "evict_valid", "port_request_valid"))
CACHE_FETCH, CACHE_READ, CACHE_WRITE, RESPONSE, LOAD_LINE, BEAT, FREE, Y = (FIELDS.index(name) for name in (
    "cache_fetch_valid", "cache_read_valid", "cache_write_valid", "response", "load_line", "beat", "slot_free", "y_read"))
NO_TRACE = 0


class TopState(NamedTuple):
    """All state of the accelerator and of the memory behind it; arrays, changed in place."""

    scalars: np.ndarray
    sequencer: np.ndarray
    loader: np.ndarray
    cache: np.ndarray
    arbiter: memory_arbiter.ArbiterState
    guard: np.ndarray
    memory: np.ndarray
    broadcaster: np.ndarray
    compressor: np.ndarray
    ann: np.ndarray
    snn: np.ndarray
    begun: np.ndarray          # chunks begun, by group
    rows_begun: np.ndarray
    released: np.ndarray       # [group, ring]: first cycle in which the chunk's slot shows as free in all PEs
    row_freed: np.ndarray      # [group, ring]: the same for row buffers
    rows_ended: np.ndarray
    outputs_ended: np.ndarray  # outputs of the group whose end is known
    output_done: np.ndarray    # [group, ring]: cycle from which all PEs count the output
    counted: np.ndarray        # outputs counted so far, by group
    ann_done: np.ndarray       # what the compressor sees: per PE, mod 2 * row_buffers
    snn_done: np.ndarray
    ann_columns: np.ndarray
    snn_columns: np.ndarray
    guard_requests: np.ndarray  # ring of (address, lines, write) in the guard's queue
    guard_lines: np.ndarray     # ring of tokens in the guard's queue
    guard_heads: np.ndarray     # head of the two rings
    layers: np.ndarray          # sums per descriptor: causes, matches
    traffic: np.ndarray         # counts of TRAFFIC per descriptor
    seen: np.ndarray            # registers of broadcaster and compressor when all seemed still


class TileArrays(NamedTuple):
    """A tile's workload in the form the loop wants."""

    chunks: np.ndarray
    lines: np.ndarray
    empty: np.ndarray
    matches: np.ndarray
    columns: np.ndarray
    pairs: np.ndarray
    ahead: np.ndarray
    cost1: np.ndarray
    cost2: np.ndarray
    nonzeros: np.ndarray
    settings: np.ndarray
    first: np.ndarray          # room for the cycle of each pair's first match, and of each column's output, of one PE and chunk
    written: np.ndarray


SETTINGS = ("load_address", "load_lines", "fetch_lines", "out_base", "out_chunks", "out_first_chunk", "groups_log2", "ann_rounds",
            "snn_rounds", "levels_in", "to_memory")
(_LOAD_ADDRESS, _LOAD_LINES, _FETCH_LINES, _OUT_BASE, _OUT_CHUNKS, _OUT_FIRST, _GROUPS, _ANN_ROUNDS, _SNN_ROUNDS, _LEVELS_IN,
 _TO_MEMORY, _POSITIONS, _FAULT_LINE, _FAULT) = range(len(SETTINGS) + 3)


class Recorder(NamedTuple):
    """Where a traced run puts what it sees; empty arrays when nothing is to be recorded.

    Attributes
    ----------
    rows : int64[T, len(FIELDS)]
    ann_matches, snn_matches : uint8[T, PEs]
    ann_done, snn_done : int32[T, PEs]
        Outputs that each PE finishes at the end of the cycle before.
    """

    rows: np.ndarray
    ann_matches: np.ndarray
    snn_matches: np.ndarray
    ann_done: np.ndarray
    snn_done: np.ndarray


def recorder(config, cycles):
    """A recorder for ``cycles`` cycles (``NO_TRACE``: none)."""
    return Recorder(np.zeros((cycles, len(FIELDS)), np.int64), np.zeros((cycles, config.ann_pes), np.uint8),
                    np.zeros((cycles, config.snn_pes), np.uint8), np.zeros((cycles, config.ann_pes), np.int32),
                    np.zeros((cycles, config.snn_pes), np.int32))


def tile_arrays(workload, settings, config, fault_line=-1, fault=0):
    """Workload and settings of a tile for :func:`top_advance`."""
    columns = workload.columns
    pairs = -(-columns // 2)
    cost1, cost2 = np.ones_like(workload.levels), np.zeros_like(workload.levels)
    cost1[0] = qcfs_cost(workload.levels[0])
    if settings["levels_in"]:
        cost1[1], cost2[1] = pascif_costs(first_steps(config, settings["levels_in"]), workload.levels[1], config.neuron_steps)
    numbers = [settings[name] for name in SETTINGS] + [settings["out_height"] * settings["out_width"], fault_line, fault]
    return TileArrays(workload.chunks, workload.lines, workload.empty, workload.matches, columns, pairs,
                      scan_ahead(columns, config.columns_per_pe), cost1, cost2, workload.nonzeros, np.array(numbers, np.int64),
                      np.zeros(workload.matches.shape[3], np.int64), np.zeros(2 * workload.matches.shape[3], np.int64))


def _new_ann_state(pes):
    state = np.full((pes, ann_pe.ANN_WORDS), NEVER, np.int64)
    state[:, :JOIN_WORDS] = new_join_state(pes)
    return state


def top_init(config, descriptors):
    """State after reset; sums are kept for ``descriptors`` descriptors."""
    groups = max(config.max_groups, 1)

    def ring(value):
        return np.full((groups, _RING), value, np.int64)

    return TopState(
        np.zeros(9, np.int64), sequencer.sequencer_init(), loader.loader_init(config), fibercache.cache_init(config),
        memory_arbiter.arbiter_init(config), memory_guard.guard_init(), memory.memory_init(), broadcaster.broadcaster_init(config),
        compressor.compressor_init(config), _new_ann_state(config.ann_pes), snn_pe.new_snn_state(config.snn_pes),
        np.zeros(groups, np.int64), np.zeros(groups, np.int64), ring(_PAST), ring(_PAST), np.zeros(groups, np.int64),
        np.zeros(groups, np.int64), ring(_NEVER), np.zeros(groups, np.int64),
        *(np.zeros(n, np.int64) for n in (config.ann_pes, config.snn_pes, config.ann_pes, config.snn_pes)),
        np.zeros((4, 3), np.int64), np.zeros(4, np.int64), np.zeros(2, np.int64), np.zeros((descriptors, _CAUSES + 2), np.int64),
        np.zeros((descriptors, len(TRAFFIC)), np.int64),
        np.zeros(len(broadcaster.broadcaster_init(config)) + len(compressor.compressor_init(config)), np.int64))


def top_numbers(config):
    """What :func:`top_advance` has to know of a configuration."""
    per = descriptor_lines(config)
    return per, (1 << config.address_bits) - per, config.laggy_cycles, config.slots, config.row_buffers, kind_number(config), config.overlap


def moves(state):
    """A snapshot that differs from an earlier one if anything has moved since: a beat, a line, an output, a phase."""
    packer, mover = state.compressor.copy(), state.broadcaster.copy()
    packer[compressor.HEAD] = mover[broadcaster.CYCLE] = 0
    phases = state.sequencer.copy()
    phases[sequencer.SILENCE] = 0
    port = state.memory[[memory.REQUESTS, memory.LINES, memory.READ_TAIL, memory.WRITE_TAIL, memory.WRITE_HEAD, memory.ANSWER_HEAD]]
    return np.concatenate([phases, mover, packer, state.loader, port, state.counted, state.scalars[[HITS, MISSES, EVICTIONS]]])


@njit(cache=True)
def _clear(state, tile):
    """A layer begins: counters of outputs start at 0."""
    for g in range(len(state.begun)):
        state.begun[g] = state.rows_begun[g] = state.rows_ended[g] = state.outputs_ended[g] = state.counted[g] = 0
        state.released[g, :] = _PAST
        state.row_freed[g, :] = _PAST
        state.output_done[g, :] = _NEVER
    for core, columns, done in ((0, state.ann_columns, state.ann_done), (1, state.snn_columns, state.snn_done)):
        lanes = len(columns) >> tile.settings[_GROUPS]
        for pe in range(len(columns)):
            columns[pe] = tile.columns[core, pe % lanes]
            done[pe] = 0


@njit(cache=True)
def _chunk_events(state, tile, chunk, now, laggy_cycles, snn_kind, record):
    """A chunk's last beat is on the bus: what all PEs of its group will do."""
    group = tile.chunks[chunk, GROUP]
    row_ends = tile.chunks[chunk, LAST_CHUNK] == 1
    output_ends = row_ends and tile.chunks[chunk, LAST_WINDOW] == 1
    released, freed = _PAST, _PAST
    first, written = tile.first, tile.written
    traced = len(record.rows) > 0
    for core in range(2):
        lanes = len(state.ann_columns if core == 0 else state.snn_columns) >> tile.settings[_GROUPS]
        for i in range(lanes):
            columns = tile.columns[core, i]
            if columns == 0:
                continue
            pe = group * lanes + i
            matches = tile.matches[core, chunk, i]
            pairs, ahead = tile.pairs[core, i], tile.ahead[core, i]
            if core == 0:
                start, retired = join_chunk(state.ann[pe], now, pairs, ahead, tile.empty[chunk], matches, first)
                released = max(released, retired + ann_pe.SLOT_RELEASE)
                if row_ends:
                    end = ann_pe.ann_row_end(state.ann[pe], retired, tile.cost1[0, i], columns, written) - 1
            else:
                slot_free, drained = pe_chunk(snn_kind, state.snn[pe], now, tile.settings[_LEVELS_IN], laggy_cycles, pairs, ahead, tile.empty[chunk],
                                              matches, first)
                released = max(released, slot_free)
                if row_ends:
                    end = pe_row(snn_kind, state.snn[pe], drained, tile.settings[_LEVELS_IN], tile.cost1[1, i, :columns], tile.cost2[1, i, :columns], written)
            if row_ends:
                freed = max(freed, end + 1)
            if traced:
                seen = record.ann_matches if core == 0 else record.snn_matches
                if not tile.empty[chunk]:
                    for pair in range(pairs):
                        if matches[pair]:
                            seen[first[pair]:first[pair] + matches[pair], pe] = 1
                if output_ends:
                    ends = record.ann_done if core == 0 else record.snn_done
                    if end + 1 < len(ends):
                        ends[end + 1, pe] += 1
            layer = state.sequencer[sequencer.LAYER]
            if layer < len(state.layers):
                total = 0
                for pair in range(pairs):
                    total += matches[pair]
                state.layers[layer, _CAUSES + core] += total
    state.released[group, (state.begun[group] - 1) % _RING] = released
    if row_ends:
        state.row_freed[group, state.rows_ended[group] % _RING] = freed
        state.rows_ended[group] += 1
    if output_ends:
        state.output_done[group, state.outputs_ended[group] % _RING] = freed
        state.outputs_ended[group] += 1


@njit(cache=True)
def _skip_still(state, cause, groups_log2, row_buffers, slots, limit):
    """Jump to the next event of a PE when broadcaster and compressor do nothing but wait for one.

    With cache, memory and bus idle, a cycle that leaves their registers as they are is followed by equal ones until a
    slot, a row buffer or an output is done. Counters of cycles and the position in the compressor's ring do not matter once the
    ring is empty.
    """
    r, bus, packer, seen = state.scalars, state.broadcaster, state.compressor, state.seen
    still = not packer[compressor.HEAD + 1:].any()     # no round on its way through the compressor
    for i in range(len(bus)):
        if seen[i] != bus[i] and i != broadcaster.CYCLE:
            still = False
        seen[i] = bus[i]
    for i in range(len(packer)):
        if seen[len(bus) + i] != packer[i] and i != compressor.HEAD:
            still = False
        seen[len(bus) + i] = packer[i]
    if not still:
        return
    now = r[NOW]
    event = limit
    for g in range(1 << groups_log2):
        slot = state.released[g, (state.begun[g] - slots) % _RING]
        if state.begun[g] >= slots and slot >= now:
            event = min(event, slot)
        row = state.row_freed[g, (state.rows_begun[g] - row_buffers) % _RING]
        if state.rows_begun[g] >= row_buffers and row >= now:
            event = min(event, row)
        if state.counted[g] < state.outputs_ended[g]:
            event = min(event, max(state.output_done[g, state.counted[g] % _RING], now))
    skipped = event - now
    if event == limit or skipped <= 0:
        return
    r[NOW] = event
    r[BUSY_CYCLES] += skipped
    r[STILL] = 0
    state.memory[memory.TIME] += skipped
    state.cache[fibercache.NOW] += skipped
    bus[broadcaster.CYCLE] += skipped
    layer = state.sequencer[sequencer.LAYER]
    if layer < len(state.layers):
        state.layers[layer, cause] += skipped


@njit(cache=True)
def top_advance(state, tile, coming, numbers, verdict, start_at, program, patterns, latency, answer_latency, error_line, error_write, record,
                limit, abandon):
    """Advance until the sequencer is through with a descriptor.

    Parameters
    ----------
    state : TopState
    tile : TileArrays
        Of the layer that runs; anything of that shape when none does.
    coming : int64[...]
        ``settings`` of the descriptor that the sequencer will read next; anything of that shape when it is not a layer. With one weight bank those of ``tile``,
        with two ``tile`` belongs to the descriptor of the call before.
    numbers : (descriptor lines, last line for a descriptor, laggy cycles, slots, row buffers, kind of SNN PE, whether loading overlaps)
        From :func:`top_numbers`.
    verdict : int
        :func:`~neuroflex.sim.sequencer.check_descriptor` of the coming descriptor.
    start_at : int
        Cycle of the start pulse.
    program : int
        Line address of the first descriptor.
    patterns : (request_ready, write_ready, read_go), latency, answer_latency, error_line, error_write
        See :class:`~neuroflex.sim.memory.MemoryTrace`.
    record : Recorder
    limit : int
        Stop before this cycle whatever happens.
    abandon : int
        The guard is told to settle what is owed, see :mod:`~neuroflex.sim.memory_guard`; whoever says so resets the rest.

    Returns
    -------
    int
        1: the layer is over, or with two weight banks begins, and the next descriptor will be asked for. 2: the job is over. 0: stopped by ``limit``.
    """
    r = state.scalars
    descriptor_lines, last_program, laggy_cycles, slots, row_buffers, snn_kind, overlap = numbers
    request_ready, write_ready, read_go = patterns
    seq, bus, settings = state.sequencer, state.broadcaster, tile.settings
    groups = 1 << settings[_GROUPS]      # those beyond never see a chunk
    traced = len(record.rows) > 0
    while r[NOW] < limit:
        now = r[NOW]
        phase = seq[sequencer.PHASE]
        pulse_run, pulse_clear, pulse_loader = seq[sequencer.PULSE_RUN], seq[sequencer.PULSE_CLEAR], seq[sequencer.PULSE_LOADER]
        loading, running = phase == sequencer.LOAD, seq[sequencer.RUNNING]

        # --- outputs of this cycle: functions of the state ---
        memory_request, memory_line, shown, _, line_number, answer = memory.memory_outputs(state.memory, request_ready, write_ready, read_go)
        request_valid, request_address, request_lines, request_write = memory_arbiter.request(state.arbiter)
        line_valid, line_token = memory_arbiter.write_data(state.arbiter)
        guard_request = state.guard[memory_guard.REQUESTS] > 0
        guard_line = state.guard[memory_guard.LINES_QUEUED] > 0
        out_request, out_line = state.guard_requests[state.guard_heads[0]], state.guard_lines[state.guard_heads[1]]
        read_ready = memory_arbiter.read_data_ready(state.arbiter)
        cache_line, cache_line_number, cache_line_error = memory_arbiter.cache_data(state.arbiter)
        own_line, own_line_number, own_error = memory_arbiter.sequencer_data(state.arbiter)
        read_error, write_error = memory_arbiter.errors(state.arbiter)
        fill_valid, fill_address, fill_lines = fibercache.read_request(state.cache)
        evict_valid, evict_address, evict_token = fibercache.write_request(state.cache)
        response_valid, response_address, _ = fibercache.response(state.cache)
        hit, miss, eviction, _ = fibercache.pulses(state.cache)
        store_valid = compressor.compressor_write_valid(state.compressor)
        store_address = compressor.compressor_write_address(state.compressor)
        store_ready = fibercache.write_ready(state.cache)
        fetch_valid, read_valid = bus[broadcaster.FETCH_VALID], bus[broadcaster.READ_VALID]
        fetch_address = tile.chunks[bus[broadcaster.FETCH_CHUNK], ADDRESS] if fetch_valid else 0
        read_address = tile.chunks[bus[broadcaster.READ_CHUNK], ADDRESS] + bus[broadcaster.READ_LINE] if read_valid else 0
        read_consume = tile.chunks[bus[broadcaster.READ_CHUNK], CONSUME] if read_valid else 0
        beat = bus[broadcaster.BUS_VALID]
        chunk = bus[broadcaster.BUS_CHUNK] if beat else 0
        cause = sequencer.sequencer_cause(seq, bus[broadcaster.CAUSE])
        cache_idle = fibercache.is_idle(state.cache)
        quiet = cache_idle and memory_arbiter.is_idle(state.arbiter) and memory_guard.guard_idle(state.guard)
        own_valid = loader.loader_request_valid(state.loader) if loading else phase == sequencer.REQUEST and seq[sequencer.POINTER] <= last_program
        own_address = loader.loader_request_address(state.loader) if loading else seq[sequencer.POINTER]
        own_lines = loader.loader_request_lines(state.loader) if loading else descriptor_lines
        own_ready = loading or phase == sequencer.RECEIVE
        slot_free, row_free = 0, 0
        for g in range(groups):
            if state.begun[g] < slots or state.released[g, (state.begun[g] - slots) % _RING] <= now:
                slot_free |= 1 << g
            if state.rows_begun[g] < row_buffers or state.row_freed[g, (state.rows_begun[g] - row_buffers) % _RING] <= now:
                row_free |= 1 << g
            while state.counted[g] < state.outputs_ended[g] and state.output_done[g, state.counted[g] % _RING] <= now:
                state.counted[g] += 1
                for done in (state.ann_done, state.snn_done):
                    lanes = len(done) >> settings[_GROUPS]
                    for pe in range(g * lanes, (g + 1) * lanes):
                        done[pe] = state.counted[g] % (2 * row_buffers)

        # --- sums and trace ---
        busy = phase != sequencer.IDLE
        if busy:
            r[BUSY_CYCLES] += 1
            if seq[sequencer.LAYER] < len(state.layers):
                state.layers[seq[sequencer.LAYER], cause] += 1
        r[HITS] += hit
        r[MISSES] += miss
        r[EVICTIONS] += eviction
        if phase == sequencer.RETURN:
            r[FINISHED_AT], r[CODE], r[LAYER] = now, seq[sequencer.CODE], seq[sequencer.LAYER]
        if traced:
            row = record.rows[now]
            if guard_request:
                row[REQUEST], row[REQUEST + 1], row[REQUEST + 2], row[REQUEST + 3] = 1, out_request[0], out_request[1], out_request[2]
            row[WRITE], row[WRITE + 1], row[WRITE + 2] = guard_line, out_line, read_ready
            row[PHASE], row[PHASE + 1], row[PHASE + 2], row[PHASE + 3] = phase, seq[sequencer.LAYER], cause, seq[sequencer.CODE]
            row[BUSY], row[BUSY + 1], row[BUSY + 2], row[BUSY + 3] = (
                busy, running, running or loading and not overlap, phase == sequencer.RETURN)
            row[INVALIDATE], row[INVALIDATE + 1], row[INVALIDATE + 2], row[INVALIDATE + 3], row[INVALIDATE + 4] = (
                seq[sequencer.PULSE_INVALIDATE], pulse_loader, pulse_clear, pulse_run, fibercache.is_busy(state.cache))
            row[ENDS], row[ENDS + 1], row[ENDS + 2], row[ENDS + 3], row[ENDS + 4] = (
                loader.loader_finished(state.loader), loader.loader_error(state.loader), bus[broadcaster.FINISHED],
                compressor.compressor_finished(state.compressor), compressor.compressor_block_done(state.compressor))
            row[IDLES], row[IDLES + 1], row[IDLES + 2] = (
                fibercache.is_idle(state.cache), memory_arbiter.is_idle(state.arbiter), memory_guard.guard_idle(state.guard))
            row[EVENTS], row[EVENTS + 1], row[EVENTS + 2] = hit, miss, eviction
            row[OWN], row[OWN + 1], row[OWN + 2], row[OWN + 3] = (
                own_valid, memory_arbiter.sequencer_request_ready(state.arbiter), own_address, own_lines)
            row[OWN_DATA], row[OWN_DATA + 1], row[OWN_DATA + 2], row[OWN_DATA + 3] = own_line, own_ready, own_line_number, own_error
            row[FILL_REQUEST], row[FILL_REQUEST + 1], row[FILL_REQUEST + 2], row[FILL_REQUEST + 3] = (
                fill_valid, memory_arbiter.cache_request_ready(state.arbiter), fill_address, fill_lines)
            row[FILL], row[FILL + 1], row[FILL + 2], row[FILL + 3] = (
                cache_line, fibercache.data_ready(state.cache), cache_line_number, cache_line_error)
            row[EVICT], row[EVICT + 1], row[EVICT + 2] = evict_valid, memory_arbiter.cache_write_ready(state.arbiter), evict_address
            row[PORT], row[PORT + 1], row[PORT + 2], row[PORT + 3] = (
                request_valid, state.guard[memory_guard.REQUESTS] < 2, line_valid, state.guard[memory_guard.LINES_QUEUED] < 2)
            row[CACHE_FETCH], row[CACHE_FETCH + 1], row[CACHE_FETCH + 2], row[CACHE_FETCH + 3] = (
                fetch_valid, fibercache.fetch_ready(state.cache), fetch_address, settings[_FETCH_LINES])
            row[CACHE_READ], row[CACHE_READ + 1], row[CACHE_READ + 2], row[CACHE_READ + 3] = (
                read_valid, fibercache.read_ready(state.cache), read_address, read_consume)
            row[CACHE_WRITE], row[CACHE_WRITE + 1], row[CACHE_WRITE + 2], row[CACHE_WRITE + 3] = (
                store_valid, store_ready, store_address, settings[_TO_MEMORY])
            row[RESPONSE], row[RESPONSE + 1] = response_valid, response_address
            row[LOAD_LINE], row[LOAD_LINE + 1] = loader.loader_beat_line(state.loader), seq[sequencer.LAYER] + (1 if overlap and (running or seq[sequencer.FAILED]) else 0)
            if beat:
                outside = tile.chunks[chunk, OUTSIDE] == 1
                row[BEAT], row[BEAT + 1], row[BEAT + 2], row[BEAT + 3] = (
                    1, tile.chunks[chunk, GROUP], bus[broadcaster.BUS_FIRST], bus[broadcaster.BUS_LAST])
                row[BEAT + 4], row[BEAT + 5], row[BEAT + 6], row[BEAT + 7] = (
                    tile.chunks[chunk, FIRST_CHUNK], tile.chunks[chunk, LAST_CHUNK], tile.chunks[chunk, FIRST_WINDOW], tile.chunks[chunk, LAST_WINDOW])
                row[BEAT + 8] = -1 if outside else tile.chunks[chunk, ADDRESS]
                row[BEAT + 9] = -1 if outside or tile.empty[chunk] else tile.chunks[chunk, ADDRESS] + 1 + bus[broadcaster.BUS_BEAT]
            others = (1 << len(state.begun)) - (1 << groups)     # groups that do not exist show as free
            row[FREE], row[FREE + 1] = slot_free | others, row_free | others

        # --- all blocks step ---
        read_moved = shown and read_ready
        request_moved, line_moved = guard_request and memory_request, guard_line and memory_line
        line_error = 1 if line_number == error_line else 0
        answer_error = 1 if answer and state.memory[memory.ANSWER_HEAD] == error_write else 0
        memory.memory_step(state.memory, latency, answer_latency, shown, answer, request_moved, out_request[0], out_request[1], out_request[2],
                           line_moved, read_ready, 1)
        accepted, line_accepted = memory_guard.guard_step(state.guard, abandon, request_valid, request_lines, request_write, request_moved,
                                                          line_valid, line_moved, read_moved, answer)
        if request_moved:
            state.guard_heads[0] = (state.guard_heads[0] + 1) % 4
        if line_moved:
            state.guard_heads[1] = (state.guard_heads[1] + 1) % 4
        if accepted:
            place = (state.guard_heads[0] + state.guard[memory_guard.REQUESTS] - 1) % 4
            state.guard_requests[place, 0], state.guard_requests[place, 1], state.guard_requests[place, 2] = (
                request_address, request_lines, request_write)
        if line_accepted:
            state.guard_lines[(state.guard_heads[1] + state.guard[memory_guard.LINES_QUEUED] - 1) % 4] = line_token
        cache_data_ready = fibercache.data_ready(state.cache)
        cache_request_ready = memory_arbiter.cache_request_ready(state.arbiter)
        cache_write_ready = memory_arbiter.cache_write_ready(state.arbiter)
        own_request_ready = memory_arbiter.sequencer_request_ready(state.arbiter)
        memory_arbiter.arbiter_step(state.arbiter, evict_valid, evict_address, evict_token, fill_valid, fill_address, fill_lines,
                                    own_valid, own_address, own_lines, cache_data_ready, own_ready, accepted, line_accepted,
                                    shown, line_number, line_error, answer, answer_error or state.memory[memory.ANSWER_ERROR])
        fetch_ready, cache_read_ready = fibercache.fetch_ready(state.cache), fibercache.read_ready(state.cache)
        cache_busy = fibercache.is_busy(state.cache)
        counted, traffic = busy and seq[sequencer.LAYER] < len(state.traffic), state.traffic[min(seq[sequencer.LAYER], len(state.traffic) - 1)]
        if counted:
            filled = cache_line and cache_data_ready
            written = store_valid and store_ready
            traffic[_LINE] += hit + eviction + (1 if filled else 0) + (1 if written else 0)
            traffic[_READ] += 1 if read_valid and cache_read_ready else 0
            traffic[_WRITE] += 1 if written else 0
            traffic[_FETCH] += 1 if fetch_valid and fetch_ready else 0
            traffic[_FILL] += 1 if filled else 0
            traffic[_CACHE_CYCLE] += 0 if cache_idle else 1
            traffic[_PACKED] += 1 if written else 0
        fibercache.cache_step(state.cache, fetch_valid, fetch_address, settings[_FETCH_LINES], read_valid, read_address, read_consume,
                              store_valid, store_address, settings[_TO_MEMORY], store_address, cache_line, 0, 0,
                              cache_request_ready, cache_write_ready, seq[sequencer.PULSE_INVALIDATE])
        block_done, compressor_finished = compressor.compressor_block_done(state.compressor), compressor.compressor_finished(state.compressor)
        broadcaster_finished = bus[broadcaster.FINISHED]
        loader_finished, loader_error = loader.loader_finished(state.loader), loader.loader_error(state.loader)
        if pulse_run:
            compressor.compressor_start(state.compressor, settings[_OUT_BASE], settings[_POSITIONS], settings[_OUT_CHUNKS],
                                        settings[_OUT_FIRST], settings[_GROUPS], settings[_ANN_ROUNDS], settings[_SNN_ROUNDS])
        else:
            head = state.compressor[compressor.HEAD]
            y_bank, y_index = compressor.compressor_y_bank(state.compressor), compressor.compressor_y_index(state.compressor)
            y_read = compressor.compressor_step(state.compressor, tile.nonzeros, state.ann_columns, state.ann_done, state.snn_columns,
                                                state.snn_done, store_ready)
            if counted:
                traffic[_ROUND] += y_read
                traffic[_PACK_CYCLE] += 1 if state.compressor[compressor.HEAD] != head and compressor.compressor_work(state.compressor) else 0
            if traced:
                record.rows[now, Y], record.rows[now, Y + 1], record.rows[now, Y + 2] = y_read, y_bank, y_index
        if beat:
            group = tile.chunks[chunk, GROUP]
            if bus[broadcaster.BUS_FIRST]:
                state.begun[group] += 1
                state.rows_begun[group] += tile.chunks[chunk, FIRST_CHUNK]
            if bus[broadcaster.BUS_LAST]:
                _chunk_events(state, tile, chunk, now, laggy_cycles, snn_kind, record)
        broadcaster.broadcaster_step(bus, tile.chunks, tile.lines, pulse_run, fetch_ready, cache_read_ready, response_valid, slot_free,
                                     row_free, block_done)
        if pulse_loader:
            loader.loader_start(state.loader, coming[_LOAD_ADDRESS], coming[_LOAD_LINES], coming[_FAULT_LINE], coming[_FAULT])
        else:
            loader.loader_step(state.loader, own_request_ready if loading else 0, own_line if loading else 0, own_error)
        if pulse_run if overlap else pulse_clear:
            _clear(state, tile)
        if overlap:     # errors of the running layer's reads only
            read_error = 1 if cache_line and cache_data_ready and cache_line_error else 0
        sequencer.sequencer_step(seq, overlap, descriptor_lines, last_program, verdict, 0, now == start_at, program, cache_busy, own_request_ready,
                                 own_line and not loading, own_error, loader_finished, loader_error, broadcaster_finished,
                                 compressor_finished, 1, read_error or write_error, quiet)
        r[NOW] = now + 1
        after = seq[sequencer.PHASE]
        if (not traced and after == sequencer.RUN and seq[sequencer.RUNNING] and quiet and not (beat or fetch_valid or read_valid or response_valid or store_valid)
                and state.begun[0]):
            r[STILL] += 1
            if r[STILL] >= _STILL:
                _skip_still(state, cause, settings[_GROUPS], row_buffers, slots, limit)
        else:
            r[STILL] = 0
        if phase == sequencer.RUN and after == sequencer.REQUEST:
            return 1
        if phase == sequencer.RETURN:
            return 2
    return 0
