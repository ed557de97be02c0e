"""Model of a PE array: the PEs of a core by their event models, and every output of the array in every cycle.

A chunk's last beat sets off all PEs of its group: each scans it, matches, retires, frees its slot, and at the end of a row activates its
columns, as its own recurrences say (``sim/ann_pe.py``, ``sim/snn_core.py``). The array adds up: a group's slot or row is free
when that of each of its PEs is, and the array is idle when all are.
"""
import numpy as np

from neuroflex.formats import Core
from neuroflex.sim import ann_pe, snn_pe
from neuroflex.sim.join import JOIN_WORDS, NEVER, join_chunk, new_join_state, scan_ahead
from neuroflex.sim.pascif import first_steps, pascif_costs
from neuroflex.sim.qcfs import qcfs_cost
from neuroflex.sim.snn_core import kind_number, pe_chunk, pe_row

__all__ = ["PeArray"]


class _Pe:
    """What one PE does: its state, and the events that its outputs show."""

    def __init__(self, config, core):
        words = ann_pe.ANN_WORDS if core == Core.ANN else snn_pe.SNN_WORDS
        self.state = np.full(words, NEVER, np.int64)
        self.state[:JOIN_WORDS] = new_join_state(1)[0]
        self.columns, self.levels = 0, np.zeros(0, np.int64)
        self.changes = [(0, 0)]                   # (cycle, columns)
        self.slots, self.rows = ([], []), ([], [])   # first cycles in which one more, one less is held
        self.matches = []                         # (first cycle, count)
        self.dones = []                           # cycles in which `done` goes up
        self.writes = []                          # (cycle, output bank, column, level)
        self.outputs = 0                          # pooled outputs finished since the layer began
        self.pooled = None                        # levels so far of the one in work
        self.first = np.zeros(config.pairs_per_pe, np.int64)
        self.written = np.zeros(config.columns_per_pe, np.int64)


class PeArray:
    """All PEs of a core, from layer to layer.

    Call in the order of time: :meth:`layer`, :meth:`load` for each PE with columns, :meth:`chunk` for each chunk; at last :meth:`outputs`.

    Parameters
    ----------
    config : ArchConfig
    core : Core
    """

    def __init__(self, config, core):
        self.config, self.core = config, Core(core)
        self.pes = [_Pe(config, core) for _ in range(config.ann_pes if core == Core.ANN else config.snn_pes)]
        self._clears, self._groups_log2, self._levels_in = [], [(0, 0)], 1

    @property
    def per_group(self):
        """PEs of each group."""
        return len(self.pes) >> self._groups_log2[-1][1]

    def layer(self, cycle, *, groups_log2, levels_in):
        """``clear`` (with two weight banks: ``swap``) in this cycle; ``groups_log2`` holds from it on, as do the levels of the layer's inputs."""
        self._clears.append(cycle)
        self._groups_log2.append((cycle, groups_log2))
        self._levels_in = levels_in
        for pe in self.pes:
            pe.columns = pe.outputs = 0
            pe.changes.append((cycle + 1, 0))

    def load(self, cycle, number, columns, levels):
        """The beat with the number of columns, for PE ``number`` of each group, is on the load bus (with two weight banks: was, and is swapped in); levels of
        each column."""
        for pe in self.pes[number::self.per_group]:
            pe.columns, pe.levels = columns, np.asarray(levels, np.int64)
            pe.changes.append((cycle + 1, columns))

    def chunk(self, group, beats, matches, *, empty, first_chunk, last_chunk, first_window, last_window, levels=None):
        """A chunk is sent to a group.

        Parameters
        ----------
        group : int
        beats : sequence of int
            Cycles of its beats.
        matches : sequence of int64[>= pairs]
            For each PE of the group, the matches of its pairs of columns; the additions, if it adds serially.
        empty, first_chunk, last_chunk, first_window, last_window : bool
            The mask is empty; place of the chunk in its row, of the row in its window.
        levels : sequence of int arrays
            With a row's last chunk: the row's level of each column, for each PE of the group.

        Returns
        -------
        slot_free, row_free : int
            First cycle in which the chunk's slot, the row's buffer is free in all PEs of the group (0 if none has columns; the latter
            only with a row's last chunk).
        """
        slot_free = row_free = 0
        for number, pe in enumerate(self.pes[group * self.per_group:(group + 1) * self.per_group]):
            if not pe.columns:
                continue
            free, freed = self._advance(pe, int(beats[-1]), np.asarray(matches[number], np.int64), empty, last_chunk)
            slot_free = max(slot_free, free)
            pe.slots[0].append(beats[0] + 1)
            pe.slots[1].append(free)
            if first_chunk:
                pe.rows[0].append(beats[0] + 1)
            if last_chunk:
                row_free = max(row_free, freed)
                pe.rows[1].append(freed)
                pe.pooled = np.asarray(levels[number]) if first_window else np.maximum(pe.pooled, levels[number])
                bank = pe.outputs % self.config.row_buffers
                pe.writes += [(pe.written[column], bank, column, value) for column, value in enumerate(pe.pooled)]
                if last_window:
                    pe.outputs += 1
                    pe.dones.append(freed)
        return slot_free, row_free

    def _advance(self, pe, last_beat, matches, empty, last_chunk):
        """One chunk in one PE: first cycles in which its slot is free and, at the end of a row, the row's buffer."""
        config, columns = self.config, pe.columns
        pairs, ahead = -(-columns // 2), int(scan_ahead(columns, config.columns_per_pe))
        freed = 0
        if self.core == Core.ANN:
            _, retired = join_chunk(pe.state, last_beat, pairs, ahead, empty, matches, pe.first)
            free = retired + ann_pe.SLOT_RELEASE
            if last_chunk:
                freed = ann_pe.ann_row_end(pe.state, retired, qcfs_cost(pe.levels), columns, pe.written)
        else:
            kind = kind_number(config)
            free, drained = pe_chunk(kind, pe.state, last_beat, self._levels_in, config.laggy_cycles, pairs, ahead, empty, matches, pe.first)
            if last_chunk:
                steps_in = np.full(columns, first_steps(config, self._levels_in))
                freed = pe_row(kind, pe.state, drained, self._levels_in, *pascif_costs(steps_in, pe.levels, config.neuron_steps), pe.written) + 1
        if not empty:
            pe.matches += [(pe.first[pair], matches[pair]) for pair in range(pairs) if matches[pair]]
        return free, freed

    def outputs(self, cycles, y_bank, y_index):
        """Every output in each of the first ``cycles`` cycles.

        Parameters
        ----------
        cycles : int
        y_bank, y_index : int arrays, shape (cycles,)
            Address of ``y``.

        Returns
        -------
        dict of int64 arrays
            ``slot_free``, ``row_free`` (max_groups, cycles); ``enabled``, ``columns``, ``done``, ``y``, ``matching`` and, inside the array,
            ``busy`` (PEs, cycles); ``idle`` (cycles,).
        """
        config, pes = self.config, len(self.pes)
        slot_free, row_free = np.ones((2, config.max_groups, cycles), np.int64)
        columns, done, y, matching, busy = np.zeros((5, pes, cycles), np.int64)
        group_of = np.arange(pes)[:, None] // (pes >> _held(self._groups_log2, cycles))
        for number, pe in enumerate(self.pes):
            columns[number] = _held(pe.changes, cycles)
            slots, rows = _level(*pe.slots, cycles), _level(*pe.rows, cycles)
            for group in range(config.max_groups):
                elsewhere = group_of[number] != group
                slot_free[group] &= elsewhere | (slots < config.slots)
                row_free[group] &= elsewhere | (rows < config.row_buffers)
            busy[number] = (slots > 0) | (rows > 0)
            for first, count in pe.matches:
                matching[number, first:first + count] += 1
            finished = np.cumsum(np.bincount(pe.dones, minlength=cycles)[:cycles]) if pe.dones else np.zeros(cycles, np.int64)
            before = _held([(0, 0), *((clear + 1, finished[clear]) for clear in self._clears if clear < cycles)], cycles)
            done[number] = (finished - before) % (2 * config.row_buffers)
            y[number, 1:] = (_memory(pe.writes, y_bank, y_index, config) * (y_index < columns[number]))[:-1]
        return {"slot_free": slot_free, "row_free": row_free, "enabled": (columns > 0).astype(np.int64), "columns": columns,
                "done": done, "y": y, "matching": matching, "busy": busy, "idle": 1 - busy.max(axis=0)}


def _held(changes, cycles):
    """The last value by cycle of ``(cycle, value)`` in order, the first in cycle 0."""
    array = np.zeros(cycles, np.int64)
    for since, value in changes:
        array[since:] = value
    return array


def _level(begins, ends, cycles):
    """How many are held in each cycle."""
    change = np.zeros(cycles + 1, np.int64)
    np.add.at(change, np.minimum(np.asarray(begins, np.int64), cycles), 1)
    np.add.at(change, np.minimum(np.asarray(ends, np.int64), cycles), -1)
    return np.cumsum(change)[:cycles]


def _memory(writes, bank, index, config):
    """What reads in each cycle see of ``(cycle, bank, column, value)`` written at the ends of cycles, in order."""
    memory = np.zeros((config.row_buffers, config.columns_per_pe), np.int64)
    seen = np.zeros(len(bank), np.int64)
    upcoming = iter([*writes, (len(bank), 0, 0, 0)])
    at, *where, value = next(upcoming)
    for cycle in range(len(bank)):
        seen[cycle] = memory[bank[cycle], index[cycle]]
        while at == cycle:
            memory[tuple(where)] = value
            at, *where, value = next(upcoming)
    return seen
