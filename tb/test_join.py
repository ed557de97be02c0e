"""Join front end against its event model, every output in every cycle.

Plan: one front end with random column counts (1, odd, the most), random and corner chunks (empty, full, one bit, tails,
skewed; columns without weights), beats with gaps, chunks as soon as a slot is free or later, ``open`` at once (as in the
ANN PE) or late (as behind a laggy prefix sum), slots given back at once or late; several loads in one run.
Coverage: counted in :func:`run`, each point with its threshold. Faults: edits of the generated Verilog must be noticed.
"""
from collections import Counter

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.hdl.join import JoinFrontEnd
from neuroflex.sim.join import join_chunk, new_join_state, scan_ahead
from neuroflex.sim.prefix import prefix_count
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat
from neuroflex.tb.pe_traffic import Chunk, Timeline, bits_to_int, held, last_write, random_levels, random_slice, words

TINY = PRESETS["tiny"]
WIDE = TINY.replace(name="wide", chunk_bits=128, laggy_adders=32)


def drive(rng, config, timeline, trace, start, *, columns, chunks, rows, density, slow):
    """Load one slice and send rows of chunks; the times go to ``trace``. Returns a cycle after everything is over."""
    slice_ = random_slice(rng, config, columns=columns, chunks=chunks, density=density)
    trace["clear"].append(start)
    cycle = timeline.load(start + 1, slice_, pe=rng.integers(config.ann_pes))
    trace["columns"].append((start + 1, 0))
    trace["columns"].append((start + 2, columns))
    state = trace["state"]
    ahead = int(scan_ahead(columns, config.columns_per_pe))
    trace["bank"] = 0
    releases, opened, released = [], -1, -1
    for row in range(rows):
        window = rng.random(2) < 0.5
        for index in range(chunks):
            chunk = Chunk(index, random_levels(rng, config, density), first_chunk=index == 0, last_chunk=index == chunks - 1,
                          first_window=window[0], last_window=window[1])
            pause = rng.random() < 0.1
            gaps = rng.integers(0, 4, 8) if slow and rng.random() < 0.5 else np.zeros(8, np.int64)
            # The slot of the chunk is free once that of the chunk `slots` before it was released.
            earliest = max(cycle, releases[-config.slots] + 1 if len(releases) >= config.slots else 0)
            trace["cover"]["waits for a slot"] += earliest > cycle
            number = len(trace["chunks"])
            cycle = timeline.send(chunk, earliest + (rng.integers(1, 60) if pause else 0), gaps)
            opened = max(chunk.beats[-1], opened + 1) + (rng.integers(0, 12) if slow else 0)
            counts = slice_.match_counts(index, chunk.mask)
            first = np.zeros(len(counts), np.int64)
            begin, retired = join_chunk(state, opened, slice_.pairs, ahead, chunk.empty, counts, first)
            released = max(retired, released) + 1 + (rng.integers(0, 8) if slow else 0)
            releases.append(released)
            slot = number % config.slots
            trace["open"].append(opened)
            trace["release"].append(released)
            trace["retired"].append((retired, slot, trace["bank"], chunk.last_chunk, *window))
            trace["chunks"].append(chunk)
            trace["level_writes"] += [(beat, slot * 8 + i) for i, beat in enumerate(chunk.beats)]
            trace["packed"] += list(np.append(chunk.levels[chunk.mask], np.zeros(8 * config.line_bytes, np.int64))
                                    [:len(chunk.beats) * config.line_bytes].reshape(-1, config.line_bytes))
            cover = trace["cover"]
            cover["joins"] += columns
            cover["empty chunk"] += chunk.empty
            cover["full chunk"] += bool(chunk.mask.all())
            cover["one bit"] += int(chunk.mask.sum()) == 1
            cover["no match in chunk"] += not chunk.empty and not counts.any()
            cover["scan waits for retirement"] += begin > max(opened + 1, trace["scan_free"])
            trace["scan_free"] = int(state[0])
            for pair in np.flatnonzero(counts):
                at = first[pair]
                cover["pair follows at once"] += at == trace["last_match"] + 1
                for half in range(2):
                    if 2 * pair + half == columns:
                        continue
                    weights = slice_.weights[index, 2 * pair + half]
                    position = np.flatnonzero(chunk.mask & (weights != 0))
                    count = len(position)
                    cover["column with one match"] += count == 1
                    cover["second column alone"] += half and at == first[pair] and count > 0
                    trace["matches"].append(np.stack([
                        at + np.arange(count), position, np.full(count, 2 * pair + half), np.full(count, trace["bank"]),
                        np.full(count, slot), weights[position], np.full(count, number)]))
                    at += count
                trace["last_match"] = at - 1
        trace["bank"] = (trace["bank"] + 1) % config.row_buffers
    return max(cycle, released) + 10


def run(config, seed, *, loads, engine="library", verilog_edit=None, covers=True, component=None):
    print("seed", seed)
    rng = np.random.default_rng([seed, config.chunk_bits])
    c = config.chunk_bits
    timeline = Timeline(config)
    trace = {"clear": [], "columns": [(0, 0)], "open": [], "release": [], "retired": [], "chunks": [], "matches": [], "packed": [],
             "level_writes": [], "cover": Counter(), "state": new_join_state(1)[0], "scan_free": 0, "last_match": -1}
    cycle = 0
    for load in range(loads):
        cycle = drive(rng, config, timeline, trace, cycle, columns=int(rng.choice([1, 2, 7, 8, 9, 15, 16, rng.integers(1, 17)])),
                      chunks=int(rng.integers(1, 9)), rows=6, density=rng.choice([0.02, 0.1, 0.4, 0.9]), slow=load % 3 == 2)
    cycles = cycle

    def pulses(at):
        array = np.zeros(cycles, np.int64)
        array[np.asarray(at, np.int64)] = 1
        return array

    def fields(rows, *widths, hold=True):
        """Packed fields of events ``(cycle, *values)`` with their valid bit; between events they hold or are 0."""
        event = pulses(rows[0])
        source = np.where(event, np.arange(cycles), -1)
        source = np.maximum.accumulate(source) if hold else source
        out = []
        for values in rows[1:]:
            array = np.zeros(cycles + 1, np.int64)
            array[rows[0]] = values
            out.append(array[source])        # -1 is the zero at the end
        return concat((event, 1), *zip(out, widths))

    position_bits, slot_bits = (c - 1).bit_length(), (config.slots - 1).bit_length()
    bank_bits, column_bits = (config.row_buffers - 1).bit_length(), (config.columns_per_pe - 1).bit_length()
    at, position, column, bank, slot, weight, number = np.concatenate(trace["matches"], axis=1)
    retired = np.array(trace["retired"], np.int64).T
    level_slot, mask_slot = rng.integers(0, config.slots, (2, cycles))
    level_offset = rng.integers(0, c, cycles)
    stimulus = {
        "bus": timeline.bus(cycles), "load": timeline.load_bus(cycles), "load_here": np.ones(cycles, np.int64), "clear": pulses(trace["clear"]),
        "open": pulses(trace["open"]), "slot_release": pulses(trace["release"]), "level_slot": level_slot,
        "level_offset": level_offset, "mask_slot": mask_slot,
    }

    chunks = trace["chunks"]
    first_beats, last_beats = np.array([(chunk.beats[0], chunk.beats[-1]) for chunk in chunks]).T
    chunk_slots = np.arange(len(chunks)) % config.slots
    in_slots = held(cycles, first_beats + 1, np.array(trace["release"]) + 1)
    columns = np.zeros(cycles, np.int64)
    for since, value in trace["columns"]:
        columns[since:] = value
    masks = [bits_to_int(chunk.mask) for chunk in chunks]
    mask_of = last_write(first_beats, chunk_slots, mask_slot)
    write_cycles, write_lines = np.array(trace["level_writes"]).T
    line_of = last_write(write_cycles, write_lines, level_slot * 8 + level_offset // config.line_bytes)
    of_match = np.full(cycles, -1)
    of_match[at + 1] = number
    of_match = number[np.maximum(np.cumsum(of_match >= 0) - 1, 0)] if len(number) else of_match
    expected = {
        "arrived": pulses(last_beats),
        "row_started": pulses([chunk.beats[0] for chunk in chunks if chunk.first_chunk]),
        "slot_free": (in_slots < config.slots) | (columns == 0),
        "columns": columns,
        "enabled": columns != 0,
        "matching": pulses(at),
        "match": fields((at + 1, position, column, bank, slot), position_bits, column_bits, bank_bits, slot_bits),
        "activation_mask": words([masks[n] if t > at[0] else 0 for t, n in enumerate(of_match)], c),
        "weighted": fields((at + JoinFrontEnd.WEIGHT_LATENCY, weight, column, bank), 8, column_bits, bank_bits),
        "retired": fields(tuple(retired), slot_bits, bank_bits, 1, 1, 1, hold=False),
        "level": np.where(line_of >= 0, np.array(trace["packed"])[line_of, level_offset % config.line_bytes], 0),
        "mask": words([masks[n] if n >= 0 else 0 for n in mask_of], c),
        "busy": in_slots > 0,
    }
    Bench(component or JoinFrontEnd(config), "join_front_end", verilog_edit=verilog_edit).run(
        stimulus, expected, seed=seed, engine=engine)
    assert len(np.unique(at)) == len(at), "the model issues two matches in one cycle"
    if covers:
        cover = trace["cover"]
        assert cover["joins"] >= 10_000
        for point in ("waits for a slot", "empty chunk", "full chunk", "one bit", "no match in chunk", "scan waits for retirement",
                      "pair follows at once", "column with one match", "second column alone"):
            assert cover[point] >= 30, f"{point}: {cover[point]} times, wanted 30"


def test_join():
    run(TINY, 1, loads=60)


def test_join_of_wide_chunks():
    run(WIDE, 2, loads=12, covers=False, engine="cocotb")


@pytest.mark.parametrize("fault", [
    ("second_single <= ", "second_single <= 1 ^ "),        # one match too many or too few in a second column
    ("started < 3'h4", "started < 3'h2"),                  # scans ahead less than it may
    ("    valid <= ", "    valid <= valid | "),            # takes from an empty queue
    ("full <= ", "full <= 1'h0 & "),                       # never says that its slots are full
])
def test_faults_are_noticed(fault):
    with pytest.raises(Mismatch):
        run(TINY, 3, loads=4, covers=False, verilog_edit=lambda text: text.replace(*fault))


def test_short_queue_is_noticed():
    class ShortQueue(JoinFrontEnd):
        queue_depth = 8        # half of what chunks of 16 columns need

    with pytest.raises(Mismatch):
        run(TINY, 3, loads=12, covers=False, component=ShortQueue(TINY))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.long
def test_join_seeds(seed):
    run(TINY, 10 + seed, loads=400)
    run(WIDE, 20 + seed, loads=80)
