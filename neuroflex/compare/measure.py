"""One network under every policy on the golden model, layer by layer, and what follows for the baselines."""

__all__ = ["BASELINES", "POLICIES", "Comparison", "Part", "Subject", "compare_network", "subject_of"]

import resource
from dataclasses import dataclass, field, replace
from time import process_time

import numpy as np

from neuroflex.compare import baselines
from neuroflex.compare.histograms import DENSITY_EDGES, density_shares, level_shares
from neuroflex.compare.shaped import chained_network, shaped_layer
from neuroflex.compare.shapes import SHAPES, NetworkShape, host_work
from neuroflex.compare.traces import spike_counts
from neuroflex.compiler.lower import LoweringError, RowTooLong, lower
from neuroflex.compiler.schedule import (Machine, NetworkSchedule, ScheduleError, choose, improve, lowest_product, profile, promising, schedule, schedule_tiles,
                                         ways_of)
from neuroflex.formats import Core, StallCause, Status
from neuroflex.progress import Silent
from neuroflex.sim.cost import column_costs, moved_energy, neuron_steps, placed_energy
from neuroflex.sim.energy import DEFAULT, SETS, TRAFFIC, energy_table, of_kind
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import quantise
from neuroflex.sim.pascif import first_steps
from neuroflex.sim.run import job_workloads, run_arrays
from neuroflex.sim.split import evaluate

BASELINES = ("ann_only", "ann_only_iso_area", "snn_only", "snn_only_iso_area", "layerwise", "random", "dealt", "dense")
POLICIES = ("hybrid", "ann_only", "snn_only", "layerwise", "random", "dealt")
SINGLE = {"ann_only": "all_ann", "snn_only": "all_snn"}
DRAWS = 20       # of a random mapping, until one fits
FIXED = [int(StallCause.CONTROL), int(StallCause.LOAD)]
RUNNING = [int(cause) for cause in StallCause if cause not in (StallCause.CONTROL, StallCause.LOAD)]
_CAUSES = len(StallCause)
_TABLES = {which: energy_table(which) for which in SETS}


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A network that is run as one program, with its inputs.

    ``fraction`` of its rows are run; ``trace`` is its functional evaluation on ``tensors`` (B, C, H, W), ``calibration`` the one that
    schedules are made from.
    """

    network: object
    tensors: np.ndarray
    trace: object
    calibration: object
    fraction: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What to compare: parts that run one after another, and what the report says of them."""

    name: str
    title: str
    parts: list
    images: int
    densities: str
    source: str
    host: dict = field(default_factory=dict)
    host_share: float = 0.0
    accuracy: dict = field(default_factory=lambda: dict.fromkeys(("float", "qcfs", "integer")))
    evaluation_seconds: float = 0.0


def _shaped_parts(shape, seed, rows, show):
    recorded = spike_counts(shape) if shape.trace else {}
    cut = [layer.cut(rows) if rows else (layer, 1.0) for layer in shape.layers]
    drawn = ((shaped_layer(layer, seed=(seed, number), counts=recorded.get(layer.name)), fraction) for number, (layer, fraction) in enumerate(cut))
    if shape.chained:
        drawn = [(chained_network([layer for layer, _ in cut], name=shape.name, seed=seed), cut[0][1])]
    for (network, tensors), fraction in show.track(drawn, f"{shape.name}: draw layers of the stated densities", total=1 if shape.chained else len(cut)):
        started = process_time()
        trace = evaluate(network, tensors, quantised=True)
        yield Part(network=network, tensors=tensors, trace=trace, calibration=trace, fraction=fraction), process_time() - started


def subject_of(which, *, seed=0, rows=None, images=1, show=None):
    """What ``neuroflex compare`` runs.

    Parameters
    ----------
    which : str or NetworkShape or Network or SplitNetwork
        Name of a shape, a shape, or a trained network with images. Each segment of a split network is a part.
    seed : int
        Of weights and activations of shapes.
    rows : int, optional
        Most rows of a layer that are run, for shapes.
    images : int
        How many images of a trained network.
    show : neuroflex.progress.Display, optional
        Gets one step.

    Raises
    ------
    LoweringError
        When a trained network holds fewer images.
    DataError
        When the spike traces of a shape are missing or not what they should be.
    """
    show = show or Silent()
    shape = SHAPES.get(which, which) if isinstance(which, str) else which
    if isinstance(shape, NetworkShape):
        parts, seconds = zip(*_shaped_parts(shape, seed, rows, show))
        return Subject(name=shape.name, title=shape.title, parts=list(parts), images=1, densities=shape.densities, source=shape.source,
                       host=shape.host, host_share=host_work(shape), evaluation_seconds=sum(seconds))
    network = shape
    held = 0 if network.examples is None else len(network.examples.test_images)
    if held < images:
        raise LoweringError(f"network {network.name!r} holds {held} test images, {images} were asked for")
    tensors = quantise(network.input, network.examples.test_images[:images])
    started = process_time()
    with show.step(f"{network.name}: evaluate {images} images with integers"):
        trace = evaluate(network, tensors, quantised=True)
    seconds = process_time() - started
    about, known = network.metadata, profile(network)
    if hasattr(network, "segments"):
        work = {"host": network.host, "host_share": network.host_share}
        parts = [Part(network=segment.network, tensors=trace.tensors[segment.source], trace=trace.segments[segment.name], calibration=known.segments[segment.name])
                 for segment in network.segments]
    else:
        work, parts = {}, [Part(network=network, tensors=tensors, trace=trace, calibration=known)]
    return Subject(name=network.name, title=network.name, images=images, densities="trained weights, real activations",
                   source=str(about.get("data", "A network of your own")), evaluation_seconds=seconds,
                   parts=parts, **work,
                   accuracy={"float": about.get("accuracy_relu"), "qcfs": about.get("accuracy_float"), "integer": about.get("accuracy_integer")})


@dataclass(eq=False)
class Sums:
    """A layer under one policy: cycles by cause and matches of both cores (float64[causes + 2]), what FiberCache and compressor did (float64[TRAFFIC]), SNN columns,
    bus beats, and energy by set of coefficients and by block.
    """

    counts: np.ndarray
    traffic: np.ndarray
    spiking: int = 0
    beats: float = 0.0
    loaded: int = 0
    parts: dict = field(default_factory=dict)

    @property
    def energy(self):
        """pJ by set of coefficients."""
        return {which: sum(one.values()) for which, one in self.parts.items()}

    @property
    def fixed(self):
        """Cycles for descriptors and weights."""
        return float(self.counts[FIXED].sum())

    @property
    def running(self):
        """All other cycles."""
        return float(self.counts[RUNNING].sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What came out.

    Attributes
    ----------
    result : dict
        What ``--json`` prints for the network: ``docs/comparison.md``.
    schedules : list of dict
        Of the hybrid, by part: layer name → schedules of its tiles.
    """

    result: dict
    schedules: list


def _parts(pes, traffic, config, table):
    """Energy by block."""
    return dict(zip(("pes", "cache", "compressor"), (pes, *moved_energy(traffic, config, energy=table))))


def _read_again(traffic, factor):
    """What cache and compressor do when activations are read ``factor`` times as often: reads, fetches and their lines, and the cycles at work with them: all but one per write."""
    again = traffic.copy()
    read, fetch, line, cycle, write = (TRAFFIC.index(name) for name in ("cache_read", "cache_fetch", "cache_line", "cache_cycle", "cache_write"))
    again[[read, fetch]] *= factor
    again[line] += (factor - 1) * traffic[read]
    again[cycle] += (factor - 1) * max(traffic[cycle] - traffic[write], 0)
    return again


class _Runner:
    """Runs schedules of a subject's parts on the golden model; equal schedules of a part run once."""

    def __init__(self, subject, config, memory):
        self.subject, self.config, self.memory = subject, config, memory
        self.done = {}
        self.seconds = 0.0

    def run(self, part, tiles, *, calibrating=False):
        """`Sums` of each layer of a part, mean over its images, and the seconds that the model took; ``calibrating``: of the first calibration image."""
        calibrating = calibrating and part.calibration is not part.trace
        key = id(part), calibrating, b"".join(np.stack([t.columns, t.core, t.pe, t.index, np.full_like(t.pe, t.groups_log2)]).tobytes() for one in tiles.values() for t in one)
        if key not in self.done:
            self.done[key] = self._run(part, NetworkSchedule(tiles=tiles, method="measured"), *((part.calibration, 1) if calibrating else (part.trace, len(part.tensors))))
        return self.done[key]

    def _run(self, part, schedules, trace, images):
        network, config = part.network, self.config
        job = lower(network, config, schedules, trace=part.calibration, plans=schedules.tiles)
        layers = {layer.name: Sums(np.zeros(_CAUSES + 2), np.zeros(len(TRAFFIC))) for layer in network.layers}
        seconds = 0.0
        for image in range(images):
            started = process_time()
            arrays = job_workloads(job, trace, image)
            run = run_arrays(job, arrays, self.memory, trace.output[image].astype(np.int64))
            seconds += process_time() - started
            if run.status != Status.DONE:
                raise LoweringError(f"network {network.name!r}: the job ended with {run.status.name}")
            for tile, array, counts, traffic in zip(job.tiles, arrays, run.layers, run.traffic):
                sums = layers[tile.layer]
                sums.counts += counts / images
                sums.traffic += traffic / images
                sums.beats += np.maximum(array.lines, 1).sum() / images
            last = layers[job.tiles[-1].layer]        # the last descriptor, END, waits for the writes of the last layer
            last.counts += run.layers[-1] / images
            last.traffic += run.traffic[-1] / images
        scale = np.where(np.isin(np.arange(_CAUSES + 2), FIXED), 1.0, 1 / part.fraction)
        for layer in network.layers:
            sums = layers[layer.name]
            sums.counts *= scale
            sums.traffic /= part.fraction
            sums.parts = {which: _parts(placed_energy(network, layer, trace.layers[layer.name], config, schedules.tiles[layer.name], energy=table) / part.fraction,
                                        sums.traffic, config, table) for which, table in _TABLES.items()}
            sums.loaded = sum(tile.settings["load_lines"] for tile in job.tiles if tile.layer == layer.name)
            sums.spiking = sum(int((tile.core == Core.SNN).sum()) for tile in schedules.tiles[layer.name])
            sums.beats /= part.fraction
        return layers, seconds


def _dealt(tile, costs, config, rng, most):
    """A tile's split with the columns of each core dealt to its PEs in random order, one after the other: random, but as many on each."""
    pe, index = np.zeros_like(tile.pe), np.zeros_like(tile.index)
    for core, pes in zip(Core, (config.ann_pes, config.snn_pes)):
        lanes = pes >> tile.groups_log2
        own = np.flatnonzero(tile.core == core)
        pe[own] = rng.permutation(len(own)) % lanes
        for p in range(lanes):
            mine = own[pe[own] == p]
            index[mine] = np.arange(len(mine))
            if len(mine) > most or costs.size[mine].sum() > config.value_lines * config.line_bytes:
                raise ScheduleError(f"columns dealt at random do not fit PE {p}")
    return replace(tile, pe=pe, index=index, method="dealt")


def _drawn(tile, costs, config, rng, most):
    """A tile's split with each column on a PE drawn at random among those with room; a PE takes at most so many."""
    machine = Machine.of(config, groups_log2=tile.groups_log2, columns_per_pe=most)
    return schedule(costs, machine, method="random", seed=rng.integers(1 << 32), columns=tile.columns, groups_log2=tile.groups_log2, start=tile.core)


def _at_random(how, tile, costs, config, seed, most):
    """``how`` applied to a tile, drawn again until the columns fit; as many on each PE where they never do."""
    for draw in range(DRAWS):
        try:
            return how(tile, costs, config, np.random.default_rng((*seed, draw)), most)
        except ScheduleError:
            pass
    return tile if how is _dealt else _at_random(_dealt, tile, costs, config, seed, most)


class _Planner:
    """Schedules of every policy: predicted ones, and of those the ones that are best on the golden model.

    A schedule of a subject is a list over its parts of dicts, layer name → schedules of its tiles.
    """

    def __init__(self, subject, config, runner, coefficients, row_chunks):
        self.subject, self.config, self.runner, self.coefficients, self.row_chunks = subject, config, runner, coefficients, row_chunks
        self.layers, self.ways = [], []
        self.most = []              # columns of a layer for whose masks a PE has room
        self.costs = [{} for _ in subject.parts]

    def cut(self, show):
        """Costs of all columns, and the ways to cut each layer into tiles."""
        for number, part in enumerate(show.track(self.subject.parts, f"{self.subject.name}: costs of every column on both cores, ways to cut layers")):
            for layer in part.network.layers:
                costs = column_costs(part.network, layer, part.calibration.layers[layer.name], self.config, energy=_TABLES[self.coefficients], per_pe=np.inf)
                costs = self.costs[number][layer.name] = costs.scaled(1 / part.fraction)
                self.layers.append((number, layer.name))
                self.ways.append(ways_of(part.network, layer, costs, self.config, row_chunks=self.row_chunks))
                chunks = max(part.network.row_chunks(layer, self.config.chunk_bits), self.row_chunks.get(layer.name, 0))
                self.most.append(2 * (self.config.mask_pairs // chunks))

    def options(self, show):
        """For each layer schedules by policy: one or more for both cores, the predicted one first, and one or two for each single mode."""
        predicted = choose([promising(ways, self.config) for ways in self.ways], self.config)
        work = [item for way, _ in predicted for item in way.work]
        fixed = sum(way.fixed for way, _ in predicted)
        tiles = iter(schedule_tiles(work, self.config, fixed_cycles=fixed, start=[tile for _, tiles in predicted for tile in tiles]))
        predicted = [(way, [next(tiles) for _ in way.work]) for way, _ in predicted]
        total = np.array([sum(t.energy for _, tiles in predicted for t in tiles), fixed + sum(t.cycles for _, tiles in predicted for t in tiles)])
        found = []
        for ways, (chosen, tiles) in zip(show.track(self.ways, f"{self.subject.name}: schedule for {self.config.name}"), predicted):
            rest = total - (sum(t.energy for t in tiles), chosen.fixed + sum(t.cycles for t in tiles))
            options = {"hybrid": [tiles]}
            for way in promising(ways, self.config):
                if way is not chosen:
                    try:
                        options["hybrid"].append(improve(way.work, way.tiles(self.config, "min_edp"), self.config, rest=(rest[0], rest[1] + way.fixed)))
                    except ScheduleError:
                        continue
            for policy, method in SINGLE.items():
                options[policy] = []
                for way in promising(ways, self.config, most=1, single=True):
                    try:
                        options[policy].append(way.tiles(self.config, method))
                    except ScheduleError:
                        continue
            found.append(options)
        return found

    def of(self, tiles):
        """The schedule with these tiles of each layer."""
        by_part = [{} for _ in self.subject.parts]
        for (number, name), one in zip(self.layers, tiles):
            by_part[number][name] = one
        return by_part

    def measured(self, options, show=None):
        """Energy and cycles of each layer's options on the golden model, for calibration inputs: a list of float64[options, 2]."""
        found = [np.zeros((len(one), 2)) for one in options]
        variants = range(max(map(len, options)))
        parts = self.subject.parts if show is None else show.track(self.subject.parts, f"{self.subject.name}: measure ways to run each layer on the golden model")
        for number, part in enumerate(parts):
            own = [at for at, (of, _) in enumerate(self.layers) if of == number]
            for variant in variants:
                if any(variant < len(options[at]) for at in own):
                    layers, _ = self.runner.run(part, {self.layers[at][1]: options[at][min(variant, len(options[at]) - 1)] for at in own}, calibrating=True)
                    for at in own:
                        if variant < len(options[at]):
                            sums = layers[self.layers[at][1]]
                            found[at][variant] = sums.energy[self.coefficients], sums.fixed + sums.running
        return found

    def best(self, options):
        """Of each layer's options those with which the network's energy-delay product is lowest."""
        return [one[at] for one, at in zip(options, lowest_product(self.measured(options)))]

    @staticmethod
    def recut(way, tiles):
        """A layer's split on other tiles, still without PEs: on those that hold any mapping, a random one has room to be one."""
        core = np.zeros(sum(len(tile.columns) for tile in tiles), np.int64)
        for tile in tiles:
            core[tile.columns] = tile.core
        return [replace(tiles[0], columns=plan.columns, core=core[plan.columns], pe=np.zeros_like(plan.columns), index=np.zeros_like(plan.columns), groups_log2=plan.groups_log2)
                for _, plan, _ in way.work]

    def schedules(self, seed, show):
        """The schedule of every policy."""
        self.cut(show)
        options = self.options(show)
        self.measured([[tiles for policy in one.values() for tiles in policy] for one in options], show)
        found = {policy: self.best([one[policy] for one in options]) for policy in SINGLE}
        found["layerwise"] = self.best([list(pair) for pair in zip(*found.values())])
        predicted = [one["hybrid"][0] for one in options]
        chosen = self.best([one["hybrid"] + list(single) for one, *single in zip(options, *(found[policy] for policy in SINGLE))])
        # In a program layers share the cache: what is best of each is seen together before it is taken.
        found["hybrid"] = min((chosen, predicted), key=lambda tiles: np.prod(sum(self.measured([[one] for one in tiles])).sum(axis=0)))
        mapped = {"random": (_drawn, [self.recut(ways[0], tiles) for ways, tiles in zip(self.ways, found["hybrid"])]), "dealt": (_dealt, found["hybrid"])}
        for policy, (how, layers) in mapped.items():
            found[policy] = [[_at_random(how, tile, self.costs[number][name].take(tile.columns), self.config, (seed, at, place), self.most[at]) for place, tile in enumerate(tiles)]
                             for at, ((number, name), tiles) in enumerate(zip(self.layers, layers))]
        return {policy: self.of(tiles) for policy, tiles in found.items()}


def compare_network(subject, config, *, seed=0, coefficients=DEFAULT, latency=20, show=None):
    """Run a subject under every policy.

    Parameters
    ----------
    subject : Subject
    config : neuroflex.config.ArchConfig
    seed : int
        Of the random mapping.
    coefficients : str
        A set of `neuroflex.sim.energy.SETS`: the one that schedules are made with. Energies are given for all sets.
    latency : int
        Cycles that memory takes to answer a read.
    show : neuroflex.progress.Display, optional
        Gets nine steps.

    Returns
    -------
    Comparison
    """
    row_chunks = {}
    while True:     # ends as in `neuroflex.flow.compile_network`
        try:
            return _compared(subject, config, seed, coefficients, latency, show or Silent(), row_chunks)
        except RowTooLong as short:
            row_chunks[short.layer] = short.chunks


def _compared(subject, config, seed, coefficients, latency, show, row_chunks):
    """`compare_network` with rows of layers planned with so many chunks at least."""
    runner = _Runner(subject, config, MemoryTrace.constant(latency))
    planner = _Planner(subject, config, runner, coefficients, row_chunks)
    by_part = planner.schedules(seed, show)
    runs, seconds = {}, subject.evaluation_seconds
    for policy in POLICIES:
        runs[policy] = []
        for part, tiles in zip(show.track(subject.parts, f"{subject.name}: run {policy} on the golden model"), by_part[policy]):
            layers, took = runner.run(part, tiles)
            runs[policy].append(layers)
            seconds += took if policy == "hybrid" else 0.0

    def total(policy):
        layers = [layer for part in runs[policy] for layer in part.values()]
        return {"cycles": sum(layer.fixed + layer.running for layer in layers), "cycles_running": sum(layer.running for layer in layers),
                "energies": {which: sum(layer.energy[which] for layer in layers) for which in SETS}}

    def predicted(policy):
        sums = total(policy)
        return sums["cycles"] * sums["energies"][coefficients]

    # Schedules are chosen with calibration images; should a single mode be better on the ones that count, it is what runs.
    as_chosen = predicted("hybrid")
    best = min(("hybrid", "ann_only", "snn_only"), key=predicted)
    if best != "hybrid":
        runs["hybrid"], by_part["hybrid"] = runs[best], by_part[best]
    measured = {policy: total(policy) | {"pes": config.ann_pes + config.snn_pes, "how": "golden cycle model"} for policy in POLICIES}
    measured["hybrid"]["edp_as_chosen"] = as_chosen
    iso = baselines.iso_area(config)
    measured |= _iso_area(subject, config, iso, by_part, planner.costs, runs)
    measured["dense"] = _dense(subject, config)
    by_set = {which: _products(measured, which) for which in SETS}
    for name, one in measured.items():
        del one["energies"]
        one |= {key: values[name] for key, values in by_set[coefficients].items()}
    return Comparison(result=_result(subject, config, seed, coefficients, measured, by_set, iso, best, runs, by_part, seconds), schedules=by_part["hybrid"])


def _products(measured, which):
    """Energies and energy-delay products of all baselines with one set of coefficients."""
    energy = {name: one["energies"][which] for name, one in measured.items()}
    return {"energy_pj": energy, "edp": {name: _product(one["cycles"], energy[name]) for name, one in measured.items()},
            "edp_running": {name: _product(one["cycles_running"], energy[name]) for name, one in measured.items()}}


def _product(cycles, energy):
    return None if cycles is None or energy is None else cycles * energy


def _iso_area(subject, config, iso, by_part, costs, runs):
    """Iso-area single-mode machines: running cycles scaled by makespans, layer by layer."""
    names = {Core.ANN: ("ann_only", "ann_only_iso_area"), Core.SNN: ("snn_only", "snn_only_iso_area")}
    if isinstance(iso, str):
        return {name: {"cycles": None, "cycles_running": None, "energies": dict.fromkeys(SETS), "pes": None, "how": iso} for _, name in names.values()}
    found = {}
    for core, (policy, name) in names.items():
        cycles = running = 0.0
        spent = dict.fromkeys(SETS, 0.0)
        for part, tiles, of_layers, sums in zip(subject.parts, by_part[policy], costs, runs[policy]):
            for layer in part.network.layers:
                one, own = of_layers[layer.name], sums[layer.name]
                chunks_per_pe = 2 * (config.mask_pairs // max(part.network.row_chunks(layer, config.chunk_bits), 1))
                grid = part.network.grid(layer)
                span, passes = baselines.iso_span(
                    one.delay[core], one.size, iso.pes(core), columns_per_pe=max(1, min(config.columns_per_pe, chunks_per_pe)),
                    values_per_pe=config.value_lines * config.line_bytes, rows=max(1, grid[0] * grid[1] // (layer.pool_h * layer.pool_w)))
                same = sum(tile.makespan for tile in tiles[layer.name])
                repeated = passes / len(tiles[layer.name])
                beats = own.beats * repeated
                run = max(own.running * span / same, beats)
                running += run
                cycles += run + own.fixed
                spared = 0.0
                if core == Core.SNN:
                    steps = neuron_steps(first_steps(config, int(part.network.input_levels(layer).max())), layer.levels.astype(np.int64))
                    on = np.concatenate([tile.columns[tile.core == Core.SNN] for tile in tiles[layer.name]])
                    spared = float((steps - layer.levels)[on].sum()) * grid[0] * grid[1] / part.fraction
                moved = _read_again(own.traffic, repeated)
                for which, table in _TABLES.items():
                    spent[which] += sum(_parts(own.parts[which]["pes"] - spared * of_kind(table, config.snn_pe)["pascif_step"], moved, config, table).values())
        found[name] = {"cycles": cycles, "cycles_running": running, "energies": spent, "pes": iso.pes(core),
                       "how": "same-chip cycles scaled to " + f"{iso.pes(core)} PEs: {iso.source}"}
    return found


def _dense_inputs(network, layer):
    """K of a layer for a dense machine: a skip that is an identity is an addition, not a product."""
    first = layer.sources[0].entries(network.shape(layer.sources[0].tensor)[0])
    identity = len(layer.sources) > 1 and np.count_nonzero(layer.weights[first:], axis=0).max() <= layer.sources[1].repeat
    return first if identity else layer.weights.shape[0]


def _dense(subject, config):
    array = baselines.systolic_array(config.ann_pes + config.snn_pes)
    cycles, spent = 0.0, dict.fromkeys(SETS, 0.0)
    for part in subject.parts:
        for layer in part.network.layers:
            height, width = part.network.grid(layer)
            rows = round(height * width / part.fraction)
            size = rows, _dense_inputs(part.network, layer), layer.columns
            cycles += baselines.dense_cycles(*size, array)
            moved = baselines.dense_traffic(*size, layer.pool_h * layer.pool_w, config)
            for which, table in _TABLES.items():
                spent[which] += baselines.dense_energy(*size, array, layer.levels, table) + sum(moved_energy(moved, config, energy=table))
    return {"cycles": cycles, "cycles_running": cycles, "energies": spent, "pes": array[0] * array[1],
            "how": f"formula: output-stationary systolic array, {array[0]} x {array[1]}"}


def _result(subject, config, seed, coefficients, measured, by_set, iso, best, runs, by_part, seconds):
    hybrid, random = measured["hybrid"], measured["random"]
    layers = _layers(subject, config, coefficients, runs, by_part)
    pes = config.ann_pes + config.snn_pes
    matches = sum(layer["matches"] for layer in layers)
    full = [layer for layer in layers if layer["matches_per_column"] >= 12]
    return {
        "network": subject.name, "title": subject.title, "configuration": config.name, "seed": seed, "images": subject.images,
        "densities": subject.densities, "source": subject.source, "coefficients": coefficients, "by_coefficients": by_set,
        "energy_by_block": {which: {name: sum(layer["energies_by_block"][which][name] for layer in layers) for name in layers[0]["energies_by_block"][which]} for which in SETS},
        "cycles": hybrid["cycles"], "cycles_running": hybrid["cycles_running"], "energy_pj": hybrid["energy_pj"],
        "edp": {name: measured[name]["edp"] for name in ("hybrid", *BASELINES)},
        "edp_running": {name: measured[name]["edp_running"] for name in ("hybrid", *BASELINES)},
        "throughput_vs_random": random["cycles"] / hybrid["cycles"],
        "throughput_vs_random_running": random["cycles_running"] / hybrid["cycles_running"],
        "throughput_vs_dealt": measured["dealt"]["cycles"] / hybrid["cycles"],
        "throughput_vs_dealt_running": measured["dealt"]["cycles_running"] / hybrid["cycles_running"],
        "utilisation": matches / (pes * hybrid["cycles_running"]),
        "utilisation_12_matches": (sum(layer["matches"] for layer in full) / (pes * sum(layer["running"] for layer in full)) if full else None),
        "utilisation_random": matches / (pes * random["cycles_running"]),
        "utilisation_dealt": matches / (pes * measured["dealt"]["cycles_running"]),
        "accuracy": subject.accuracy, "hybrid_schedule": best, "baselines": measured,
        "iso_area": {"unavailable": iso} if isinstance(iso, str) else vars(iso),
        "host": subject.host, "host_share": subject.host_share, "sampled": min(part.fraction for part in subject.parts),
        "stalls": {cause.name.lower(): sum(layer["cycles"][cause.name.lower()] for layer in layers) for cause in StallCause},
        "joins": sum(layer["joins"] for layer in layers), "density_edges": list(DENSITY_EDGES), "layers": layers,
        "model_seconds": seconds, "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _layers(subject, config, coefficients, runs, by_part):
    """The per-layer table of the hybrid schedule."""
    table = []
    for number, part in enumerate(subject.parts):
        network, images = part.network, len(part.tensors)
        for layer in network.layers:
            sums, trace = runs["hybrid"][number][layer.name], part.trace.layers[layer.name]
            grid = network.grid(layer)
            rows = round(grid[0] * grid[1] / part.fraction)
            matches = float(sums.counts[_CAUSES:].sum())        # those of serial SNN PEs count as often as they add
            chunks = network.row_chunks(layer, config.chunk_bits)
            levels, read = int(network.input_levels(layer).max()), part.trace.tensor(layer.sources[0].tensor)
            table.append({
                "layer": layer.name, "rows": rows, "inputs": layer.weights.shape[0], "columns": layer.columns, "on_snn": sums.spiking,
                "levels_in": levels, "levels_out": int(layer.levels.max()),
                "activation_density": trace.density, "weight_density": trace.weight_density,
                "level_shares": level_shares(read, levels).tolist(), "channel_density_shares": density_shares(read, 1).tolist(),
                "column_density_shares": density_shares(layer.weights, 1).tolist(),
                "matches": matches, "matches_per_column": float(trace.matches.sum()) / (images * grid[0] * grid[1] * layer.columns),
                "joins": rows * chunks * layer.columns,
                "total": sums.fixed + sums.running, "running": sums.running,
                "cycles": {cause.name.lower(): float(sums.counts[cause]) for cause in StallCause},
                "utilisation": matches / ((config.ann_pes + config.snn_pes) * max(sums.running, 1.0)),
                "energy_pj": sums.energy[coefficients], "energies_pj": sums.energy, "energies_by_block": sums.parts,
                "moved": dict(zip(TRAFFIC, sums.traffic.tolist())), "lines": sums.loaded + _lines(layer, part, config, images), "sampled": part.fraction,
                "against": {policy: {"running": runs[policy][number][layer.name].running,
                                     "total": runs[policy][number][layer.name].running + runs[policy][number][layer.name].fixed,
                                     "energy_pj": runs[policy][number][layer.name].energy[coefficients]} for policy in POLICIES}})
    return table


def _lines(layer, part, config, images):
    """Lines of tensors that must cross the memory port once: inputs and outputs, masks and packed nonzero values."""

    def tensor(values):
        chunks = -(-values.shape[1] // config.chunk_bits) * values[:, 0].size
        return (chunks + np.count_nonzero(values) / config.line_bytes) / images

    inputs = sum(tensor(part.trace.tensor(source.tensor)) for source in layer.sources)
    return (inputs + tensor(part.trace.layers[layer.name].output)) / part.fraction
