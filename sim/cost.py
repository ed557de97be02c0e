"""Cost of a column on either core: cycles on its PE and energy, from the matches that calibration counted."""

__all__ = ["ColumnCosts", "CostModel", "column_costs", "fit", "moved_energy", "memory_weights", "neuron_steps", "pair_bits", "placed_energy", "stream_cycles",
           "traffic_weights"]

from dataclasses import dataclass, field, replace

import numpy as np

from neuroflex.cache_policy import PRIORITY_MAX, age_bits, tag_bits
from neuroflex.config import PRESETS
from neuroflex.formats import LEVEL_BITS, Core
from neuroflex.power.sram import access_energy
from neuroflex.sim.binary_pe import bit_count
from neuroflex.sim.energy import TRAFFIC, energy_table, of_kind
from neuroflex.sim.pascif import first_steps

PACKING_END = 1.4       # cycles of the compressor per output position, besides those of its rounds
FROM_CACHE = 2.9        # cycles per chunk that the cache holds, at least: eight are read ahead, 23 cycles each
FROM_MEMORY = 7.2       # cycles per chunk that memory holds, at least
FETCHED_LINE = 1.7      # cycles per line of such a chunk
CACHE_AT_WORK = 20.0    # cycles in which the cache has something under way per chunk that it holds, when PEs take one now and then
MEMORY_AT_WORK = 47.0   # the same per chunk that memory holds


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Cycles that a column takes on its PE: ``row · rows + match · matches`` for each core, or half a cycle per chunk of every row where that is more.

    The defaults were fitted by ``scripts/fit_cost.py`` to the cycles of the ``paper`` preset: laggy drain and neurons are hidden
    behind the next row, so both cores cost about a cycle per row and column besides their matches. With narrow chunks and few matches the PE waits
    for its scanner, which reads the masks of two columns per cycle.

    An SNN PE that adds serially makes one addition per cycle: for its columns ``matches`` are additions, the sum of the levels of the matches. Their
    number varies more from PE to PE than that of matches, and a broadcast waits for the slowest: its rows cost half a cycle more.
    """

    ann_row: float = 0.97
    ann_match: float = 0.99
    snn_row: float = 0.99
    snn_match: float = 0.99
    serial_row: float = 1.46
    serial_match: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not np.isfinite(value) or value < 0:
                raise ValueError(f"cost model: {name} must not be negative, it is {value!r}")

    def delay(self, core, *, rows, matches, chunks, serial=False):
        """Cycles of columns with so many ``matches`` in so many ``rows`` of so many ``chunks``; ``serial`` SNN PEs: so many additions."""
        row, match = ((self.ann_row, self.ann_match) if core == Core.ANN else
                      (self.serial_row, self.serial_match) if serial else (self.snn_row, self.snn_match))
        return np.maximum(row * rows + match * matches, rows * chunks / 2)


def fit(matches, cycles, rows=1):
    """Least-squares coefficients of ``cycles ≈ row · rows + match · matches``, neither negative.

    Parameters
    ----------
    matches, cycles : array (samples,)
        Matches of a column or a whole PE, and the cycles that were measured for them.
    rows : array (samples,) or float
        Rows of each sample times its columns; with the default the first coefficient is a constant per sample.

    Returns
    -------
    (row, match) : floats
    """
    matches = np.asarray(matches, dtype=np.float64).ravel()
    cycles = np.asarray(cycles, dtype=np.float64).ravel()
    rows = np.broadcast_to(np.asarray(rows, dtype=np.float64), matches.shape)
    if matches.shape != cycles.shape or len(matches) < 2:
        raise ValueError(f"at least two pairs of matches and cycles are needed, not {len(matches)} and {len(cycles)}")
    table = np.stack([rows, matches], axis=1)
    best = np.linalg.lstsq(table, cycles, rcond=None)[0]
    if (best < 0).any():
        # With two unknowns the constrained optimum lies on an axis when the free one is outside.
        single = [max(column @ cycles / max(column @ column, 1e-300), 0.0) for column in table.T]
        rest = [np.square(cycles - value * column).sum() for value, column in zip(single, table.T)]
        best = np.array([single[0], 0.0]) if rest[0] <= rest[1] else np.array([0.0, single[1]])
    return float(best[0]), float(best[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnCosts:
    """Costs of the columns of a layer for one image.

    Attributes
    ----------
    delay, energy : float64 arrays (2, N)
        Cycles and pJ on the ANN core (row 0) and the SNN core (row 1).
    spiking : bool array (N,)
        Whether the SNN core can take the column.
    size : int64 array (N,)
        Nonzero weights: bytes in a PE's slice.
    taking : float64 array (2,)
        pJ that each PE of a core spends on taking the rows' chunks once it has a column, however many; not in ``energy``.
    reading : float
        pJ of FiberCache for the chunks of all rows, whatever the split; not in ``energy``. Packing and writing a column's outputs is.
    stream : float
        Cycles that the chunks of all rows take to be read and broadcast, whatever the PEs do: see `stream_cycles`.
    outputs : float
        Pooled output positions, which the compressor packs one after the other.
    """

    delay: np.ndarray
    energy: np.ndarray
    spiking: np.ndarray
    size: np.ndarray
    taking: np.ndarray = field(default_factory=lambda: np.zeros(2))
    reading: float = 0.0
    stream: float = 0.0
    outputs: float = 0.0

    def __post_init__(self):
        n = len(self.size)
        for name, shape in (("delay", (2, n)), ("energy", (2, n)), ("spiking", (n,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"column costs: {name} has shape {getattr(self, name).shape}, not {shape}")

    def take(self, columns):
        """The costs of some columns, as a tile of their own."""
        return replace(self, delay=self.delay[:, columns], energy=self.energy[:, columns], spiking=self.spiking[columns], size=self.size[columns])

    def scaled(self, factor):
        """The costs of ``factor`` times as many rows."""
        return replace(self, delay=self.delay * factor, energy=self.energy * factor, taking=self.taking * factor, reading=self.reading * factor, stream=self.stream * factor,
                       outputs=self.outputs * factor)

    def floor(self, pes):
        """Cycles that a tile of all these columns takes whatever the split between cores of ``pes`` PEs (in a group), and however fast the PEs are.

        The larger of ``stream`` and what the compressor takes: a cycle per round of the larger core, and at the end of a position's chunk one or two for its last lines.
        """
        return max(self.stream, self.outputs * (-(-len(self.size) // max(pes)) + PACKING_END))


def neuron_steps(levels_in, levels_out):
    """Steps of the PASC-IF neuron, its three stages together, for one output."""
    return levels_in + np.maximum(levels_in, levels_out) - 1 + levels_out


def column_costs(network, layer, trace, config, *, model=None, energy=None, per_pe=None):
    """Costs of a layer's columns from a calibration run.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network
    layer : neuroflex.compiler.network.Layer
    trace : neuroflex.sim.network.LayerTrace
        Of this layer, over any number of images; costs are per image.
    config : neuroflex.config.ArchConfig
        Says which columns the SNN core can take: input and output levels up to ``snn_levels``, sums of weights within
        ``snn_acc_bits`` (times the input levels, if its PEs add serially).
    model : CostModel, optional
    energy : dict, optional
        From `neuroflex.sim.energy.energy_table`.
    per_pe : float, optional
        Columns that share what a PE spends on a chunk; as many as PEs have in the mean, by default. What really is spent depends on
        which PEs have columns, see `placed_energy`: with infinity columns have no share, and ``taking`` says what a PE spends.
    """
    model = model or CostModel()
    pj = of_kind(energy or energy_table(), config.snn_pe)
    images = len(trace.output)
    rows = trace.rows
    matches = trace.matches / images
    levels_in = int(network.input_levels(layer).max())
    levels_out = layer.levels.astype(np.int64)

    chunks = network.row_chunks(layer, config.chunk_bits)
    per_pe = per_pe or max(layer.columns / (config.ann_pes + config.snn_pes), 1.0)
    bits = np.array([int(level).bit_length() for level in levels_out])
    steps = neuron_steps(first_steps(config, levels_in), levels_out)
    kind, additions = config.snn_pe, trace.level_sum / images
    serial = kind == "serial"

    join, fast, laggy, chunk, scan = (pj[name] * config.chunk_bits / 128 for name in ("join", "fast_prefix", "laggy_chunk", "chunk", "scan"))
    weight, level, masks = (sum(pj[name] * factor for name, factor in of.items()) for of in memory_weights(config))
    several = levels_in > 1     # with one level the FIFO, the corrections or the SNN PE's level prefix stand still, and no level is read
    common = matches * (join + fast + weight) + rows * chunks * (chunk / per_pe + (scan + masks) / 2)
    ann = matches * (fast + level + pj["mac"]) + rows * (pj["ann_output"] + bits * pj["qcfs_step"])
    if kind in ("serial", "radix"):
        added = additions if serial else trace.level_bits / images
        snn = added * pj["pseudo"] + matches * pj["match_rest"] + several * matches * (fast + level + pj["speculation"])
    else:
        lacking = levels_in * matches - additions if kind == "dual_prefix" else trace.lacking_bits / images
        snn = (matches * pj["pseudo"] + several * (matches * (level + pj["speculation"]) + lacking * pj["correction"])
               + rows * chunks * laggy / per_pe)
    weighed = bit_count(levels_in) if kind in ("binary", "radix") else 0
    snn = snn + rows * (pj["snn_output"] + steps * pj["pascif_step"] + weighed * pj["weigh_step"])
    delay = np.empty((2, layer.columns))
    for core in Core:
        delay[core] = model.delay(core, rows=rows, matches=additions if serial and core == Core.SNN else matches, chunks=chunks, serial=serial)

    reach = np.abs(layer.weights.astype(np.int64)).sum(axis=0) * (levels_in if serial else 1)
    spiking = (levels_out <= config.snn_levels) & (levels_in <= config.snn_levels) & (reach < 1 << config.snn_acc_bits - 1)
    reading, writing = _moved(network, layer, trace, config, pj, delay[Core.ANN].sum() / (config.ann_pes + config.snn_pes))
    common = common + writing
    energy = np.stack([common + ann + delay[Core.ANN] * pj["ann_cycle"], common + snn + delay[Core.SNN] * pj["snn_cycle"]])
    taking = rows * chunks * np.array([chunk, chunk + (0.0 if kind in ("serial", "radix") else laggy)]) * np.isinf(per_pe)
    return ColumnCosts(delay=delay, energy=energy, spiking=spiking, size=np.count_nonzero(layer.weights, axis=0).astype(np.int64), taking=taking, reading=reading,
                       stream=stream_cycles(network, layer, trace, config), outputs=float(np.prod(trace.output.shape[2:])))


def _inside(source, shape, grid):
    """How many of the windows' places lie within a tensor of ``shape`` (H, W), for all positions of the grid."""
    total = 1
    for size, kernel, count in zip(shape, (source.kernel_h, source.kernel_w), grid):
        at = np.arange(count)[:, None] * source.stride + np.arange(kernel) - source.padding
        total *= int(((at >= 0) & (at < size)).sum())
    return total


def _inside_density(network, layer, trace):
    """Places of each source's windows that lie within its tensor, and the density of what lies there."""
    grid, shapes = network.grid(layer), [network.shape(source.tensor) for source in layer.sources]
    places = [_inside(source, shape[1:], grid) for source, shape in zip(layer.sources, shapes)]
    entries = sum(place * source.repeat * shape[0] for place, source, shape in zip(places, layer.sources, shapes))
    return places, trace.density * trace.rows * layer.weights.shape[0] / max(entries, 1)


def _chunks(network, layer, trace, config):
    """Chunks that the rows' windows read: for each part of a source its places, the source, chunks of a place, and lines of values of a chunk, by density."""
    places, density = _inside_density(network, layer, trace)
    for place, source in zip(places, layer.sources):
        for part in network.parts(source.tensor):
            channels = network.shape(part)[0]
            chunks = -(-channels // config.chunk_bits)
            yield place, source, chunks, np.maximum(density * channels / chunks / config.line_bytes + 0.5, 1)


def pair_bits(config):
    """Bits of a word of a PE's memory of masks: those of two columns, and where their weights begin."""
    return 2 * (config.chunk_bits + config.value_base_bits)


def memory_weights(config):
    """What a read of a PE's memories costs in a configuration, over what it costs in the preset ``paper``, as the memory model says.

    Returns
    -------
    weights, levels, masks : dict
        Name of the coefficient (`neuroflex.sim.energy.EVENTS`) → factor. Bytes cost as the square root of the memory's size goes, lines also as their bits go.
    """
    def sizes(one):
        return np.array([(one.value_lines, one.chunk_bits), (8 * one.slots, LEVEL_BITS * one.line_bytes), (one.mask_pairs, pair_bits(one))], float)

    own, paper = sizes(config), sizes(PRESETS["paper"])
    of_bytes = np.sqrt(own.prod(axis=1) / paper.prod(axis=1))
    of_lines = of_bytes * own[:, 1] / paper[:, 1]
    return {"weight_read": of_bytes[0], "weight_line": of_lines[0]}, {"level_read": of_bytes[1], "level_line": of_lines[1]}, {"mask_line": of_lines[2]}


def traffic_weights(config):
    """What an event of FiberCache or compressor (`neuroflex.sim.energy.TRAFFIC`) costs in a configuration, over what it costs in the preset ``paper``: float64 array.

    Accesses of lines go as the memory model says. Look-ups go half with the energy of a set's tags and states and half with the bits of a line. The other events have a
    part that stays and one that goes with banks × ways, lanes, or a line's bits, so that the preset ``tiny`` has what was measured on it too (docs/energy.md).
    """
    paper = PRESETS["paper"]

    def sizes(one):
        states = one.cache_ways * (tag_bits(one) + age_bits(one) + PRIORITY_MAX.bit_length() + 2)
        return np.array([access_energy(one.cache_sets * one.cache_ways, one.chunk_bits), access_energy(one.cache_sets, states), one.chunk_bits, one.cache_banks * one.cache_ways,
                         one.lanes], float)

    line, states, bits, ways, lanes = sizes(config) / sizes(paper)
    look_up = (states + bits) / 2
    by_name = {"cache_line": line, "cache_cycle": 0.06 + 0.94 * ways, "pack_round": 0.3 + 0.7 * lanes, "pack_line": 0.2 + 0.8 * bits, "pack_cycle": 0.14 + 0.86 * lanes}
    return np.array([by_name.get(name, look_up) for name in TRAFFIC])


def moved_energy(traffic, config, *, energy=None):
    """Energy in pJ of what FiberCache and compressor did.

    Parameters
    ----------
    traffic : array (..., events)
        Counts, in the order of `neuroflex.sim.energy.TRAFFIC`.
    config
    energy : dict, optional
        From `neuroflex.sim.energy.energy_table`.

    Returns
    -------
    (float, float)
        Of FiberCache, of the compressor.
    """
    pj = energy or energy_table()
    spent = np.asarray(traffic, float).reshape(-1, len(TRAFFIC)).sum(axis=0) * traffic_weights(config) * [pj[name] for name in TRAFFIC]
    cache = np.array([name.startswith("cache") for name in TRAFFIC])
    return float(spent[cache].sum()), float(spent[~cache].sum())


def _moved(network, layer, trace, config, pj, cycles):
    """What FiberCache and compressor will spend: on reading all rows' chunks, and on packing and writing each column's outputs, pJ per image.

    ``cycles`` are about what the PEs take: the less of them there are for each chunk, the more of the cache's work for one overlaps with that for others.
    """
    cost = dict(zip(TRAFFIC, traffic_weights(config) * [pj[name] for name in TRAFFIC]))
    reading = 0.0
    read = list(_chunks(network, layer, trace, config))
    period = max(cycles, stream_cycles(network, layer, trace, config)) / max(sum(chunks * place * source.repeat for place, source, chunks, _ in read), 1)

    def at_work(alone):
        return alone * (1 - np.exp(-period / alone))

    for place, source, chunks, lines in read:
        first = chunks * (min(np.prod(network.shape(source.tensor)[1:]), place) if source.tensor == network.input.name else 0)
        count = chunks * place * source.repeat
        reading += (count * (cost["cache_fetch"] + (1 + lines) * (cost["cache_read"] + cost["cache_line"]) + at_work(CACHE_AT_WORK) * cost["cache_cycle"])
                    + first * ((1 + lines) * (cost["cache_fill"] + cost["cache_line"]) + (at_work(MEMORY_AT_WORK) - at_work(CACHE_AT_WORK)) * cost["cache_cycle"]))
    positions = float(np.prod(trace.output.shape[2:]))
    nonzero = np.count_nonzero(trace.output, axis=(2, 3)).mean(axis=0)
    lines = nonzero / config.line_bytes + positions * 1.5 / config.chunk_bits         # a mask and half a line for the rest of a chunk
    line = sum(cost[name] for name in ("cache_write", "cache_line", "pack_line", "cache_cycle"))
    return reading, lines * line + positions / config.lanes * (cost["pack_round"] + cost["pack_cycle"])


def stream_cycles(network, layer, trace, config):
    """Cycles in which the chunks of all rows of a layer are read and broadcast while no PE makes them wait.

    A chunk in the cache takes a cycle for each of its lines, or what eight chunks that are read ahead leave of the way there and back. One that the cache asks memory
    for, as those of the network's input are when they are read first, takes longer, by what eight chunks or 32 lines that are asked for ahead leave of the
    memory's latency. One outside its tensor takes about one. How many lines a chunk has follows from the density of a calibration run.

    The coefficients are those of the golden cycle model with a memory of 20 cycles: on the layers of VGG-16 and GoogLeNet (preset ``paper``, almost no columns)
    it is within 8 % in all but six of 63, the shortest.

    Parameters
    ----------
    network, layer, trace, config
        As for `column_costs`.

    Returns
    -------
    float
        Cycles per image.
    """
    shapes = [network.shape(source.tensor) for source in layer.sources]
    places, density = _inside_density(network, layer, trace)
    cycles = 0.0
    for place, source, shape in zip(places, layer.sources, shapes):
        for part in network.parts(source.tensor):
            channels = network.shape(part)[0]
            chunks = -(-channels // config.chunk_bits)
            lines = np.maximum(density * channels / chunks / config.line_bytes + 0.5, 1)
            fullest = np.maximum(density * min(channels, config.chunk_bits) / config.line_bytes + 0.5, 1)
            first = min(shape[1] * shape[2], place) if source.tensor == network.input.name else 0
            outside = trace.rows * source.kernel_h * source.kernel_w - place
            cycles += chunks * (first * max(FROM_MEMORY, FETCHED_LINE * (1 + fullest)) + (place * source.repeat - first) * max(FROM_CACHE, 1.15 + lines)
                                + 1.2 * outside * source.repeat)
    return float(cycles)


def placed_energy(network, layer, trace, config, tiles, *, energy=None):
    """Energy of a layer's PEs in pJ per image, from its events: those of its columns, and those of each chunk that a PE takes.

    FiberCache and compressor are not in it: what they did is counted by the golden cycle model, see `moved_energy`. A row's chunks go to all PEs of its group that have columns of the tile, and each of them takes every one, however many columns it has.

    Parameters
    ----------
    network, layer, trace, config, energy
        As for `column_costs`.
    tiles : iterable
        The layer's tiles: objects with ``columns``, ``core`` and ``pe``, int arrays of equal lengths; PEs are counted within a group.

    Returns
    -------
    float
    """
    table = (energy or energy_table()) | dict.fromkeys(TRAFFIC, 0.0)
    pj = of_kind(table, config.snn_pe)
    costs = column_costs(network, layer, trace, config, energy=table, per_pe=np.inf)
    taken = trace.rows * network.row_chunks(layer, config.chunk_bits) * config.chunk_bits / 128
    laggy = 0.0 if config.snn_pe in ("serial", "radix") else pj["laggy_chunk"]
    total = 0.0
    for tile in tiles:
        taking = {core: len(np.unique(tile.pe[tile.core == core])) for core in Core}
        total += float(costs.energy[tile.core, tile.columns].sum()) + taken * (pj["chunk"] * sum(taking.values()) + laggy * taking[Core.SNN])
    return total
