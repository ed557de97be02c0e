"""One PE of the SNN core, of whichever kind: what a chunk and a row do in it. ``sim/snn_pe.py`` and its siblings have the recurrences."""
from neuroflex.config import SNN_PES
from neuroflex.sim import radix_pe, serial_pe, snn_pe
from neuroflex.sim.binary_pe import bit_count, weighed_row
from neuroflex.sim.join import join_chunk
from neuroflex.sim.loops import njit

__all__ = ["kind_number", "pe_chunk", "pe_row"]

SERIAL, BINARY, RADIX = map(list(SNN_PES).index, ("serial", "binary", "radix"))


def kind_number(config):
    """Number of ``ArchConfig.snn_pe``, for compiled functions."""
    return list(SNN_PES).index(config.snn_pe)


@njit(cache=True)
def pe_chunk(kind, state, arrival, levels_in, laggy_cycles, pairs, ahead, empty, matches, first):
    """Advance one PE by one chunk.

    Parameters
    ----------
    kind : int
        :func:`kind_number`.
    state : int64[SNN_WORDS]
        A row of :func:`~neuroflex.sim.snn_pe.new_snn_state`; changed.
    arrival : int
        Cycle of the chunk's last beat.
    levels_in, laggy_cycles : int
    pairs, ahead, empty, matches, first
        As for :func:`~neuroflex.sim.join.join_chunk`; additions for matches, if the PE adds serially.

    Returns
    -------
    slot_free, drained : int
        First cycle in which the chunk's slot counts as free; cycle in which the row that it ends is drained.
    """
    if kind == SERIAL:
        _, retired = serial_pe.serial_chunk(state, arrival, pairs, ahead, empty, matches, first)
        return retired + serial_pe.SLOT_RELEASE, retired + serial_pe.DRAIN_LATENCY
    if kind == RADIX:
        _, retired = join_chunk(state, arrival, pairs, ahead, empty, matches, first)
        return retired + radix_pe.SLOT_RELEASE, retired + radix_pe.DRAIN_LATENCY
    ended = snn_pe.snn_chunk(state, arrival, levels_in > 1, laggy_cycles, pairs, ahead, empty, matches, first)[4]
    return ended + snn_pe.RELEASE_LATENCY + 1, ended + snn_pe.DRAIN_LATENCY


@njit(cache=True)
def pe_row(kind, state, drained, levels_in, cost1, cost2, written):
    """Advance one PE's neuron by one row: :func:`~neuroflex.sim.snn_pe.snn_row`, or with sums that are weighed first."""
    if kind == BINARY or kind == RADIX:
        return weighed_row(state, drained, bit_count(levels_in), cost1, cost2, written)
    return snn_pe.snn_row(state, drained, cost1, cost2, written)
