"""Which core and which PE takes each column.

The split between the cores minimises the energy-delay product (EDP), the columns of a core are packed longest first, and every published control is there to compare with. ``docs/scheduling.md`` explains the method.
"""

__all__ = ["METHODS", "LayerSchedule", "Machine", "NetworkSchedule", "ScheduleError", "Way", "choose", "columns_per_pe", "improve", "longest_first", "lowest_product",
           "profile", "promising", "schedule", "schedule_network", "schedule_tiles", "ways_of"]

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from neuroflex.compiler.lower import load_cycles, plan_choices, plan_tiles
from neuroflex.formats import Core
from neuroflex.sim.cost import PACKING_END, column_costs
from neuroflex.sim.split import evaluate

METHODS = ("min_edp", "all_ann", "all_snn", "layerwise", "random", "brute_force")
BRUTE_FORCE_COLUMNS = 12
STARTS = 16               # splits that the refinement starts from, the best ones of the ranking
FEW_STARTS = 3            # the same for tiles of many columns, which pack evenly from anywhere
MANY_COLUMNS = 64
REFINE_COLUMNS = 40       # columns around a split that the refinement may move
WAYS = 3                  # ways to cut a layer into tiles that are scheduled, the most promising ones
_GROUP_COST = 0.01        # of a layer's cycles: what each doubling of the groups costs, since chunks are broadcast to them in turn
_UNMEASURED = 0.02        # the same where no measurement follows: 1 to 4 per cent more than predicted were seen

_ROOMLESS = -1.0
_GAIN = 1e-5              # of the EDP, for which the tiles of a network are gone through once more


class ScheduleError(ValueError):
    """Columns that do not fit on the PEs, or a method that cannot be applied to them."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a tile of columns is packed on: PEs of each core in one group, and what one PE holds."""

    ann_pes: int
    snn_pes: int
    columns_per_pe: int
    values_per_pe: int

    @classmethod
    def of(cls, config, *, groups_log2=0, columns_per_pe=None):
        """The machine of a configuration whose PEs are split into ``2**groups_log2`` groups."""
        return cls(ann_pes=config.ann_pes >> groups_log2, snn_pes=config.snn_pes >> groups_log2,
                   columns_per_pe=min(config.columns_per_pe, columns_per_pe or config.columns_per_pe),
                   values_per_pe=config.value_lines * config.line_bytes)

    @property
    def pes(self):
        """``(ann_pes, snn_pes)``."""
        return self.ann_pes, self.snn_pes


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerSchedule:
    """Where each column of a tile runs.

    Attributes
    ----------
    columns : int64 array (N,)
        Column numbers within the layer.
    core, pe, index : int64 arrays (N,)
        Core (`neuroflex.formats.Core`), PE within the core's group, and place among that PE's columns (0, 1, …, in the
        order of the column numbers). PEs of a core are numbered so that their column counts do not increase.
    load : tuple of two float64 arrays
        Predicted cycles of each PE of the ANN and of the SNN core, for one image, before rows are split over groups.
    energy : float
        Predicted pJ per image.
    method : str
    groups_log2 : int
    floor : float
        Predicted cycles of all that is not a PE: broadcast, reads, compressor.
    """

    columns: np.ndarray
    core: np.ndarray
    pe: np.ndarray
    index: np.ndarray
    load: tuple
    energy: float
    method: str
    groups_log2: int = 0
    floor: float = 0.0

    @property
    def makespan(self):
        """Predicted cycles of the busiest PE, its rows being shared by the groups."""
        return max(float(core.max()) for core in self.load) / (1 << self.groups_log2)

    @property
    def cycles(self):
        """Predicted cycles of the tile: those of its busiest PE, or of what all PEs wait for."""
        return max(self.makespan, self.floor)

    @property
    def edp(self):
        """Energy-delay product, pJ · cycles."""
        return self.energy * self.cycles

    @property
    def rounds(self):
        """Most columns on a PE of the ANN core and of the SNN core."""
        return tuple(int(self.index[self.core == core].max(initial=-1)) + 1 for core in Core)


@njit(cache=True)
def _pack(order, delay, size, pes, most, room, pe):
    """Longest first onto the least loaded PE that has room; fills ``pe`` and returns the makespan, or -1 without room."""
    load = np.zeros(pes)
    count = np.zeros(pes, np.int64)
    held = np.zeros(pes, np.int64)
    for column in order:
        best = -1
        for p in range(pes):
            if count[p] < most and held[p] + size[column] <= room and (best < 0 or load[p] < load[best]):
                best = p
        if best < 0:
            return _ROOMLESS
        pe[column] = best
        load[best] += delay[column]
        count[best] += 1
        held[best] += size[column]
    return load.max()


def longest_first(delay, size, pes, most, room):
    """Makespan of columns packed longest first on equal PEs that hold ``most`` columns and ``room`` nonzero weights each."""
    span = _pack(np.argsort(-delay, kind="stable"), delay, size, pes, most, room, np.empty(len(delay), np.int64))
    if span < 0:
        raise ScheduleError(f"{len(delay)} columns do not fit on {pes} PEs that hold {most} columns and {room} weights each")
    return float(span)


@njit(cache=True)
def _edp(core, orders, delay, energy, size, pes, most, room, pe, around):
    """EDP of a split with both cores packed longest first; infinite when it does not fit.

    ``around`` is (energy, delay) of the layers that are not being split, which is added to this one's, the cycles that this one takes at least, and the energy of each
    PE of the ANN and the SNN core that has a column.
    """
    span = around[2]
    total = around[0]
    for c in range(2):
        order = orders[c][core[orders[c]] == c]
        if order.size:
            one = _pack(order, delay[c], size, pes[c], most, room, pe)
            if one < 0:
                return np.inf
            span = max(span, one)
            total += energy[c][order].sum() + around[3 + c] * min(order.size, pes[c])
    return total * (around[1] + span)


@njit(cache=True)
def _prefixes(ranked, orders, delay, energy, size, pes, most, room, pe, around):
    """EDP with the first 0, 1, … all of the ranked columns on the SNN core."""
    core = np.zeros(len(size), np.int64)
    values = np.empty(len(ranked) + 1)
    values[0] = _edp(core, orders, delay, energy, size, pes, most, room, pe, around)
    for count in range(len(ranked)):
        core[ranked[count]] = 1
        values[count + 1] = _edp(core, orders, delay, energy, size, pes, most, room, pe, around)
    return values


@njit(cache=True)
def _refine(core, movable, best, orders, delay, energy, size, pes, most, room, pe, around):
    """Changes the core of one or two columns at a time while that lowers the EDP, in place; returns the EDP.

    Packing is what takes time: a change that would not lower the EDP even with perfectly even PEs is not packed.
    """
    improved = True
    while improved:
        improved = False
        spent = around[0]
        work = np.zeros(2)
        for column in range(len(core)):
            spent += energy[core[column], column]
            work[core[column]] += delay[core[column], column]
        for first in range(len(movable)):
            for second in range(first, len(movable)):
                a, b = movable[first], movable[second]
                for turn in range(1 if a == b else 2):
                    column = a if turn == 0 else b
                    old, new = core[column], 1 - core[column]
                    core[column] = new
                    spent += energy[new, column] - energy[old, column]
                    work[old] -= delay[old, column]
                    work[new] += delay[new, column]
                even = max(around[2], work[0] / pes[0], work[1] / pes[1])
                if spent * (around[1] + even) < best * (1 - 1e-12) * (1 + 1e-9):
                    value = _edp(core, orders, delay, energy, size, pes, most, room, pe, around)
                    if value < best * (1 - 1e-12):
                        best = value
                        improved = True
                        continue
                for turn in range(1 if a == b else 2):
                    column = a if turn == 0 else b
                    old, new = core[column], 1 - core[column]
                    core[column] = new
                    spent += energy[new, column] - energy[old, column]
                    work[old] -= delay[old, column]
                    work[new] += delay[new, column]
    return best


@njit(cache=True)
def _brute_force(spiking, orders, delay, energy, size, pes, most, room, pe, around):
    """The best of all splits, the cores packed longest first."""
    n = len(spiking)
    core = np.zeros(n, np.int64)
    best, found = np.inf, -1
    for code in range(1 << n):
        allowed = True
        for column in range(n):
            core[column] = code >> column & 1
            allowed = allowed and (core[column] == 0 or spiking[column])
        if allowed:
            value = _edp(core, orders, delay, energy, size, pes, most, room, pe, around)
            if value < best:
                best, found = value, code
    return found


def _orders(costs):
    """Columns by falling delay for each core; equal ones by number."""
    return np.stack([np.lexsort((np.arange(len(costs.size)), -costs.delay[core])) for core in Core])


def _ranking(costs):
    """Columns that the SNN core can take, by energy saved per delay added, best first; equal ones by number."""
    candidates = np.flatnonzero(costs.spiking)
    saved = (costs.energy[Core.ANN] - costs.energy[Core.SNN])[candidates]
    added = (costs.delay[Core.SNN] - costs.delay[Core.ANN])[candidates]
    # A column that is no slower as spikes is ranked by its saving alone, before all that are slower if it saves.
    scale = np.abs(costs.delay).max() * 1e-9 + 1e-30
    return candidates[np.lexsort((candidates, -saved / np.maximum(added, scale)))]


def _split(costs, machine, method, around, start):
    """Core of each column, int64 (N,); ``around`` as in `_edp`."""
    n = len(costs.size)
    core = np.zeros(n, np.int64)
    if method == "all_ann":
        return core
    if method == "random" and start is not None:
        return start
    if method == "all_snn":
        return costs.spiking.astype(np.int64)
    orders = _orders(costs)
    common = (orders, costs.delay, costs.energy, costs.size, np.array(machine.pes, np.int64), machine.columns_per_pe,
              machine.values_per_pe, np.empty(n, np.int64), around)
    if method == "layerwise":
        spikes = costs.spiking.astype(np.int64)
        return spikes if _edp(spikes, *common) < _edp(core, *common) else core
    if method == "brute_force" and n > BRUTE_FORCE_COLUMNS:
        raise ScheduleError(f"brute force takes at most {BRUTE_FORCE_COLUMNS} columns, not {n}")
    if n <= BRUTE_FORCE_COLUMNS:      # a few milliseconds, and exact
        found = _brute_force(costs.spiking, *common)
        return core if found < 0 else np.array([found >> column & 1 for column in range(n)], dtype=np.int64)
    return _search(costs, common, start)


def _search(costs, common, start=None):
    """Minimum-EDP split: prefixes of the ranking, then a local search from the best of them; never worse than ``start``."""
    ranked = _ranking(costs)
    by_delay = ranked[np.argsort(costs.delay[Core.SNN][ranked], kind="stable")]
    # Few large columns pack badly, whatever they save: splits by size are starting points too, and those that give either core
    # an even share of large and small ones.
    evenly = by_delay[np.argsort([int(f"{rank:016b}"[::-1], 2) for rank in range(len(ranked))])]
    starts = [(value, count, order) for order in (ranked, by_delay, by_delay[::-1], evenly)
              for count, value in enumerate(_prefixes(order, *common))]
    starts.sort(key=lambda start: start[0])
    result = np.zeros(len(costs.size), np.int64) if start is None else start
    best = _edp(result, *common)
    for value, count, order in starts[:STARTS if len(costs.size) <= MANY_COLUMNS else FEW_STARTS]:
        core = np.zeros(len(costs.size), np.int64)
        core[order[:count]] = 1
        first = max(0, min(count - REFINE_COLUMNS // 2, len(order) - REFINE_COLUMNS))
        value = _refine(core, order[first:first + REFINE_COLUMNS], value, *common)
        if value < best:
            result, best = core, value
    return result


def _random_pes(columns, costs, machine, core, rng):
    """A PE drawn uniformly for each column, among those that still have room."""
    pes = machine.pes[core]
    count, held, pe = np.zeros(pes, np.int64), np.zeros(pes, np.int64), np.zeros(len(columns), np.int64)
    for i, column in enumerate(columns):
        room = np.flatnonzero((count < machine.columns_per_pe) & (held + costs.size[column] <= machine.values_per_pe))
        if not room.size:
            return None
        pe[i] = rng.choice(room)
        count[pe[i]] += 1
        held[pe[i]] += costs.size[column]
    return pe


def schedule(costs, machine, *, method="min_edp", seed=0, columns=None, groups_log2=0,
             around=(0.0, 0.0), start=None):
    """Schedule one tile of columns.

    Parameters
    ----------
    costs : neuroflex.sim.cost.ColumnCosts
        Of the tile's columns.
    machine : Machine
    method : str
        ``min_edp``: the minimum-EDP split (for up to 12 columns all splits are tried); ``all_ann``, ``all_snn`` (columns
        that the SNN core cannot take stay on the ANN core), ``layerwise`` (the better of those two), ``random`` (the split
        of ``min_edp`` with a random PE for each column), ``brute_force`` (the best of all splits, at most 12 columns). All
        but ``random`` pack longest first.
    seed : int
        For ``random``.
    columns : int array, optional
        The columns' numbers in their layer; 0 … N-1 by default.
    groups_log2 : int
        Recorded, and taken into account in the makespan.
    around : (float, float)
        Energy (pJ) and delay (cycles) of the rest of the network: the EDP that is minimised is that of the whole.
    start : int array (N,), optional
        A split that the search must not be worse than; with ``random``, the split.

    Returns
    -------
    LayerSchedule

    Raises
    ------
    ScheduleError
        When the columns do not fit.
    """
    if method not in METHODS:
        raise ScheduleError(f"no method {method!r}; there are {', '.join(METHODS)}")
    columns = np.arange(len(costs.size)) if columns is None else np.asarray(columns)
    groups = 1 << groups_log2
    # In the kernels delays count as if one group did all rows, so those around are scaled up alike.
    context = np.array([around[0] + costs.reading, around[1] * groups, costs.floor(machine.pes) * groups, *costs.taking])

    def attempt(snn_pes, start):
        some = replace(machine, snn_pes=snn_pes)
        core = _split(costs, some, method, context, start)
        return _place(costs, some, core, method, np.random.default_rng(seed), columns, groups_log2, machine.snn_pes)

    def product(tile):
        return (around[0] + tile.energy) * (around[1] + tile.cycles)

    best = attempt(machine.snn_pes, start)
    if method != "min_edp" or not costs.taking[Core.SNN] or not costs.spiking.any():
        return best
    # Each PE pays for the chunks that it takes: as many as the split needs may be cheaper than all, at the same speed.
    tried, snn_pes = {machine.snn_pes}, _needed(best) or machine.snn_pes // 2
    while snn_pes and snn_pes not in tried:
        tried.add(snn_pes)
        try:
            tile = attempt(snn_pes, best.core)
        except ScheduleError:
            break
        if product(tile) < product(best):
            best = tile
            snn_pes = _needed(best)
        elif not best.core.any():
            snn_pes //= 2
    return best


def _needed(tile):
    """SNN PEs that would be enough for a tile's SNN columns if each were as long at work as the tile takes."""
    return int(np.ceil(tile.load[Core.SNN].sum() / max(tile.cycles * (1 << tile.groups_log2), 1e-9) - 1e-6))


def _place(costs, machine, core, method, rng, columns, groups_log2, snn_pes):
    """PE and place of each column of a split; ``snn_pes`` are those that there are, the machine's those that may be used."""
    n = len(costs.size)
    orders = _orders(costs)
    there = machine.ann_pes, snn_pes
    pe, index, load, used = np.zeros(n, np.int64), np.zeros(n, np.int64), [], []
    for c in Core:
        own = np.flatnonzero(core == c)
        if method == "random":
            drawn = _random_pes(own, costs, machine, c, rng)
            fits = drawn is not None
            if fits:
                pe[own] = drawn
        else:
            order = orders[c][core[orders[c]] == c]
            fits = not own.size or _pack(order, costs.delay[c], costs.size, machine.pes[c], machine.columns_per_pe,
                                         machine.values_per_pe, pe) >= 0
        if not fits:
            raise ScheduleError(f"{len(own)} columns with {costs.size[own].sum()} nonzero weights do not fit on the "
                                f"{machine.pes[c]} PEs of the {c.name} core, which hold {machine.columns_per_pe} columns and "
                                f"{machine.values_per_pe} weights each")
        # The output layout relies on it: fuller PEs come first.
        counts = np.bincount(pe[own], minlength=there[c])
        rank = np.empty(there[c], np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(there[c])
        pe[own] = rank[pe[own]]
        for p in range(there[c]):
            mine = own[pe[own] == p]
            index[mine] = np.arange(len(mine))
        load.append(np.bincount(pe[own], weights=costs.delay[c][own], minlength=there[c]))
        used.append(np.count_nonzero(counts))
    rounds = sum(int(index[core == c].max(initial=-1)) + 1 for c in Core)
    return LayerSchedule(columns=columns, core=core, pe=pe, index=index, load=tuple(load), method=method, groups_log2=groups_log2,
                         energy=float(costs.energy[core, np.arange(n)].sum() + costs.taking @ used + costs.reading), floor=max(costs.stream, costs.outputs * (rounds + PACKING_END)))


def profile(network, images=None):
    """Run calibration images (those kept with the network by default) and return their trace, of `neuroflex.sim.split.evaluate`."""
    if images is None:
        if network.examples is None or not len(network.examples.calibration_images):
            raise ScheduleError(f"network {network.name!r} holds no calibration images; import it again with --calibration FILE.npy of bytes (uint8; --pixel-scale says what one unit is)")
        images = network.examples.calibration_images
    return evaluate(network, images)


def columns_per_pe(plans, config):
    """Columns of a layer's tile that a PE has in the mean, at least 1: they share what it spends on a chunk."""
    return max(float(np.mean([len(plan.columns) << plan.groups_log2 for plan in plans])) / (config.ann_pes + config.snn_pes), 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkSchedule:
    """Schedules of all tiles of a network, by layer name; called with a layer and a tile's plan, as lowering does, it gives
    that tile's ``(core, pe, index)``.
    """

    tiles: dict
    method: str

    def __call__(self, layer, plan):
        for tile in self.tiles[layer.name]:
            if np.array_equal(tile.columns, plan.columns):
                return tile.core, tile.pe, tile.index
        raise ScheduleError(f"layer {layer.name!r}: no tile with columns {plan.columns[0]} … {plan.columns[-1]} was scheduled")

    @property
    def energy(self):
        """Predicted pJ per image."""
        return sum(tile.energy for tiles in self.tiles.values() for tile in tiles)

    @property
    def delay(self):
        """Predicted cycles per image: one tile after another."""
        return sum(tile.cycles for tiles in self.tiles.values() for tile in tiles)

    @property
    def edp(self):
        """Energy-delay product, pJ · cycles."""
        return self.energy * self.delay


def lowest_product(options):
    """The choice of one option for each layer that makes the product of two sums lowest: exact.

    The product of two positive sums is lowest at a corner of the lower convex hull of all sums, and those corners are reached by going along the hulls of all layers at once, the steepest
    edge first.

    Parameters
    ----------
    options : list of float64 arrays (n, 2)
        Energy and delay of each option, by layer.

    Returns
    -------
    list of int
        The option of each layer.
    """
    chosen, edges = [], []
    for layer, points in enumerate(options):
        hull = []
        for point in np.lexsort((points[:, 0], points[:, 1])):       # from the fastest on
            if hull and points[point, 0] >= points[hull[-1], 0]:
                continue
            while len(hull) > 1:
                (e1, d1), (e2, d2), (e3, d3) = points[hull[-2]], points[hull[-1]], points[point]
                if (e1 - e2) * (d3 - d1) > (e1 - e3) * (d2 - d1):
                    break
                hull.pop()
            hull.append(int(point))
        chosen.append(hull[0])
        for one, two in zip(hull, hull[1:]):
            saved, added = points[one] - points[two]
            edges.append((saved / max(-added, 1e-300), layer, two))
    total = sum(points[one] for points, one in zip(options, chosen))
    best, found, at = np.prod(total), list(chosen), list(chosen)
    for _, layer, two in sorted(edges, key=lambda edge: -edge[0]):
        total = total + options[layer][two] - options[layer][at[layer]]
        at[layer] = two
        if np.prod(total) < best:
            best, found = np.prod(total), list(at)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """A layer cut into tiles in one way: work items as for `schedule_tiles`, and the cycles that pass before they run."""

    work: list
    fixed: float

    def tiles(self, config, method, **options):
        """Schedules of the tiles, each on its own."""
        return [_tile(item, config, method, **options) for item in self.work]


def promising(ways, config, *, most=WAYS, single=False):
    """The first way and those that would be fastest if the cores were equal, ``most`` of them; or with one core at work, ``single``."""
    def estimate(way):
        total = way.fixed
        for _, plan, costs in way.work:
            pes = (config.ann_pes + config.snn_pes * (not single and costs.spiking.any())) >> plan.groups_log2
            try:
                span = longest_first(costs.delay[Core.ANN], costs.size, pes, plan.max_columns_per_pe, config.value_lines * config.line_bytes)
            except ScheduleError:
                return np.inf
            total += max(span / (1 << plan.groups_log2), costs.floor((config.ann_pes >> plan.groups_log2, config.snn_pes >> plan.groups_log2))) * (
                1 + _GROUP_COST * plan.groups_log2)
        return total

    known = {number: estimate(way) for number, way in enumerate(ways)}
    order = sorted((number for number in known if np.isfinite(known[number])), key=lambda number: known[number])[:most]
    return [ways[number] for number in dict.fromkeys([0, *order])]


def choose(layers, config, *, methods=(("min_edp", "all_ann", "all_snn"), ("min_edp",)), seed=0, doubt=0.0):
    """For each layer the way to cut it that predicts the lowest EDP of the whole.

    Parameters
    ----------
    layers : list of list of Way
    config : neuroflex.config.ArchConfig
    methods : tuple of tuple of str
        Those that are tried for a layer's first way, its second, and so on; the last ones for all that follow too.
    seed : int
    doubt : float
        Share of its cycles that a tile is taken to last longer for each doubling of its groups.

    Returns
    -------
    list of (Way, list of LayerSchedule)
    """
    found = []
    for ways in layers:
        options, errors = [], []
        for number, way in enumerate(ways):
            for method in methods[min(number, len(methods) - 1)]:
                try:
                    options.append((way, way.tiles(config, method, seed=seed)))
                except ScheduleError as error:
                    errors.append(error)
        if not options:
            raise errors[0]
        found.append(options)
    totals = [np.array([[sum(t.energy for t in tiles), way.fixed + sum(t.cycles * (1 + doubt * t.groups_log2) for t in tiles)] for way, tiles in options]) for options in found]
    return [options[one] for options, one in zip(found, lowest_product(totals))]


def ways_of(network, layer, costs, config, *, plans=None, row_chunks=None):
    """Ways to cut a layer.

    Parameters
    ----------
    network, layer, config
    costs : neuroflex.sim.cost.ColumnCosts
        Of the layer's columns, without a share of what PEs spend on chunks (``per_pe`` infinite).
    plans : list of list of TilePlan, optional
        By default those of `plan_choices`, with tiles that need both cores where the SNN core can take columns.
    row_chunks : dict, optional
        As for `neuroflex.compiler.lower.plan_tiles`.

    Returns
    -------
    list of Way
    """
    plans = plans or plan_choices(network, layer, config, both=bool(costs.spiking.any()), row_chunks=row_chunks)
    return [Way(work=[(layer.name, plan, costs.take(plan.columns)) for plan in one], fixed=sum(load_cycles(network, layer, plan, config) for plan in one)) for one in plans]


def schedule_network(network, config, trace, plans=None, *, method="min_edp", seed=0, model=None, energy=None, fixed_cycles=None, row_chunks=None):
    """Schedule all layers so that the EDP of the whole network is lowest.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network
    config : neuroflex.config.ArchConfig
    trace : neuroflex.sim.network.Trace
        Calibration run, from `profile`.
    plans : dict, optional
        Layer name → list of tile plans, objects with ``columns`` (int array), ``groups_log2`` and ``max_columns_per_pe``. By default those of
        `neuroflex.compiler.lower.plan_tiles`; for ``min_edp`` the best of several ways to cut a layer; for ``all_ann``, and ``layerwise`` where that is better, tiles that
        fill the ANN core.
    method, seed
        As for `schedule_tiles`.
    model : neuroflex.sim.cost.CostModel, optional
    energy : dict, optional
        From `neuroflex.sim.energy.energy_table`.
    fixed_cycles : float, optional
        As for `schedule_tiles`; about what loading takes, by default, or 0 for plans that are given.
    row_chunks : dict, optional
        As for `neuroflex.compiler.lower.plan_tiles`.

    Returns
    -------
    NetworkSchedule

    Raises
    ------
    ScheduleError
        When a tile does not fit; the message names the layer.
    """
    free = plans is None and method == "min_edp"
    fills = () if free else {"all_ann": ("ann",), "layerwise": ("ann", "either")}.get(method, ("either",))
    layers = []
    for layer in network.layers:
        given = None if free else [plan_tiles(network, layer, config, fill=fill, row_chunks=row_chunks) for fill in fills] if plans is None else [plans[layer.name]]
        costs = column_costs(network, layer, trace.layers[layer.name], config, model=model, energy=energy, per_pe=np.inf)
        ways = ways_of(network, layer, costs, config, plans=given, row_chunks=row_chunks)
        layers.append(promising(ways, config) if free else ways)
    if plans is None and method == "layerwise":
        picked = choose(layers, config, methods=(("all_ann",), ("all_snn",)))
        return NetworkSchedule(tiles={layer.name: tiles for layer, (_, tiles) in zip(network.layers, picked)}, method=method)
    picked = choose(layers, config, doubt=_UNMEASURED) if free else [(ways[0], None) for ways in layers]
    if fixed_cycles is None:
        fixed_cycles = 0.0 if plans is not None else sum(way.fixed for way, _ in picked)
    work = [item for way, _ in picked for item in way.work]
    start = [tile for _, tiles in picked for tile in tiles] if free else None
    by_layer = {layer.name: [] for layer in network.layers}
    for (name, _, _), one in zip(work, schedule_tiles(work, config, method=method, seed=seed, fixed_cycles=fixed_cycles, start=start)):
        by_layer[name].append(one)
    return NetworkSchedule(tiles=by_layer, method=method)


def _tile(item, config, method, **options):
    """Schedule of a work item; an error names the layer."""
    name, plan, costs = item
    machine = Machine.of(config, groups_log2=plan.groups_log2, columns_per_pe=plan.max_columns_per_pe)
    try:
        return schedule(costs, machine, method=method, columns=plan.columns, groups_log2=plan.groups_log2, **options)
    except ScheduleError as error:
        raise ScheduleError(f"layer {name!r}: {error}") from None


def improve(work, tiles, config, *, method="min_edp", seed=0, rest=(0.0, 0.0)):
    """Schedules one tile after another for the EDP of all of them together, until that gains nothing worth while any more.

    Parameters
    ----------
    work : list of (name, plan, costs)
    tiles : list of LayerSchedule
        To start from.
    config, method, seed
        As for `schedule_tiles`.
    rest : (float, float)
        Energy and cycles of all that is not among them.

    Returns
    -------
    list of LayerSchedule
    """
    tiles = list(tiles)
    before, total = np.inf, np.array(rest) + _sums(tiles)
    while np.prod(total) < before * (1 - _GAIN):
        before = np.prod(total)
        for position, item in enumerate(work):
            around = total - (tiles[position].energy, tiles[position].cycles)
            new = _tile(item, config, method, seed=seed, around=tuple(around), start=tiles[position].core)
            if np.prod(around + (new.energy, new.cycles)) < np.prod(total) * (1 - 1e-9):
                tiles[position] = new
                total = around + (new.energy, new.cycles)
    return tiles


def _sums(tiles):
    return np.array([sum(t.energy for t in tiles), sum(t.cycles for t in tiles)])


def schedule_tiles(work, config, *, method="min_edp", seed=0, fixed_cycles=0.0, start=None):
    """Schedule tiles that run one after another so that their common EDP is lowest.

    Parameters
    ----------
    work : list of (name, plan, costs)
        Name of the layer, tile plan and `ColumnCosts` of the tile's columns.
    config : neuroflex.config.ArchConfig
    method, seed
        As for `schedule`.
    fixed_cycles : float
        Cycles that pass whatever the schedule is, as for loading weights: they count in the delay of the whole.
    start : list of LayerSchedule, optional
        What ``min_edp`` starts from, besides the single modes.

    Returns
    -------
    list of LayerSchedule

    Raises
    ------
    ScheduleError
        When a tile does not fit; the message names the layer.
    """
    rest = 0.0, fixed_cycles

    def everywhere(methods, found):
        """The best of what was found and some methods, each applied to all tiles on its own; those that do not fit are left out."""
        errors = []
        for name in methods:
            try:
                found.append([_tile(item, config, name, seed=seed) for item in work])
            except ScheduleError as error:
                errors.append(error)
        if not found:
            raise errors[0]
        return min(found, key=lambda tiles: np.prod(rest + _sums(tiles)))

    if method in ("all_ann", "all_snn"):
        return everywhere([method], [])
    if method == "layerwise":
        return improve(work, everywhere(["all_ann", "all_snn"], []), config, method=method, seed=seed, rest=rest)
    split = "min_edp" if method == "random" else method
    singles = ["all_ann", "all_snn"]
    tiles = improve(work, everywhere(singles, [start]) if start else everywhere([split, *singles], []), config, method=split, seed=seed, rest=rest)
    if method == "random":
        return [_tile(item, config, method, seed=seed, start=t.core) for item, t in zip(work, tiles)]
    return tiles
