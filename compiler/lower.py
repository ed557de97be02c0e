"""Lowering: integer network → tensors in memory, tiles of columns, load streams, descriptors (docs/compiler.md)."""
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from neuroflex.config import ArchConfig
from neuroflex.formats import CHUNK_LINES, Core, Opcode, column_record_lines, descriptor_lines, pack_descriptor, unpack_descriptor

__all__ = ["Job", "LoweringError", "Placement", "RowTooLong", "Tile", "TilePlan", "dense_rows", "load_cycles", "lower", "occupied", "plan_choices", "plan_tiles", "tensor_lines", "tensor_from_lines"]


_DESCRIPTOR_CYCLES = 60    # from one layer's end to the first line of the next one's load stream, with a memory of 20 cycles
_UNEVEN = 0.5             # columns by which the busiest PE is above the average when columns are unequal


class LoweringError(ValueError):
    """A network that this configuration cannot run; the message names the layer and the limit."""


class RowTooLong(LoweringError):
    """A PE has no room for the masks of its columns, since tensors that are written tile by tile have more chunks than packed ones.

    Attributes
    ----------
    layer : str
    chunks : int
        Of a row, as its tensors are placed: tiles planned with ``row_chunks={layer: chunks}`` have room.
    """

    def __init__(self, message, *, layer, chunks):
        super().__init__(message)
        self.layer, self.chunks = layer, chunks


@contextmanager
def _of_layer(name):
    """What does not fit the formats within is an error of that layer."""
    try:
        yield
    except ValueError as error:
        raise LoweringError(f"layer {name!r}: {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """A tensor in memory.

    Attributes
    ----------
    base : int
        Line address of the first chunk.
    height, width, chunks : int
        Grid of spines, chunks per spine.
    positions : int64[channels]
        Position of each channel in the spine, ``0 ... chunks * chunk_bits - 1``.
    levels : int
        Largest level of any channel.
    """

    base: int
    height: int
    width: int
    chunks: int
    positions: np.ndarray
    levels: int

    @property
    def lines(self):
        """Lines reserved."""
        return self.height * self.width * self.chunks * CHUNK_LINES


@dataclass(frozen=True, kw_only=True, eq=False)
class TilePlan:
    """Columns of a layer that are on the PEs at the same time, and over how many PE groups its rows are split."""

    columns: np.ndarray
    groups_log2: int
    max_columns_per_pe: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """A tile after scheduling: one descriptor.

    ``core``, ``pe`` and ``index`` say for each of ``columns`` where it runs; PE numbers are within a group.
    """

    layer: str
    columns: np.ndarray
    groups_log2: int
    core: np.ndarray
    pe: np.ndarray
    index: np.ndarray
    rounds: tuple
    first_chunk: int
    chunks: int
    settings: dict


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A program in memory: what the accelerator is started with.

    Attributes
    ----------
    config : ArchConfig
    network : neuroflex.compiler.network.Network
    tiles : tuple of Tile
    placements : dict
        Tensor name → Placement.
    program : int
        Line address of the first descriptor.
    memory : uint8[lines, line_bytes]
        Descriptors and load streams; tensors are zero.
    policy : str or None
        Which of ``neuroflex.flow.POLICIES`` it was scheduled by, where it was one of these.
    """

    config: ArchConfig
    network: object
    tiles: tuple
    placements: dict
    program: int
    memory: np.ndarray
    policy: str | None = None

    def with_input(self, tensor):
        """Memory with an input tensor in place: ``uint8[lines, line_bytes]`` from levels (C, H, W)."""
        memory = self.memory.copy()
        place = self.placements[self.network.input.name]
        lines = tensor_lines(tensor, place, self.config)
        memory[place.base:place.base + len(lines)] = lines
        return memory

    def output(self, memory):
        """The result tensor, levels int64 (C, H, W), from memory after the job."""
        place = self.placements[self.network.layers[-1].name]
        return tensor_from_lines(memory[place.base:place.base + place.lines], place, self.config)


def _chunks(count, config):
    return -(-count // config.chunk_bits)


def tensor_lines(tensor, place, config):
    """A tensor of levels (C, H, W) as lines, ``uint8[place.lines, line_bytes]``."""
    channels, height, width = tensor.shape
    spines = np.zeros((height * width, place.chunks * config.chunk_bits), np.int64)
    spines[:, place.positions] = np.asarray(tensor, np.int64).reshape(channels, -1).T
    return chunk_lines(spines.reshape(-1, config.chunk_bits), config).reshape(-1, config.line_bytes)


def chunk_lines(chunks, config):
    """Many chunks at once: ``uint8[n, CHUNK_LINES, line_bytes]`` from integers (n, chunk_bits); see formats.pack_chunk."""
    mask = chunks != 0
    order = np.argsort(~mask, axis=1, kind="stable")
    packed = np.take_along_axis(chunks, order, axis=1).astype(np.int8).view(np.uint8)
    masks = np.packbits(mask, axis=1, bitorder="little")
    return np.concatenate([masks, packed], axis=1).reshape(len(chunks), CHUNK_LINES, config.line_bytes)


def tensor_from_lines(lines, place, config):
    """Inverse of :func:`tensor_lines`: int64 (C, H, W)."""
    lines = np.asarray(lines, np.uint8).reshape(-1, CHUNK_LINES * config.line_bytes)
    mask = np.unpackbits(lines[:, :config.line_bytes], axis=1, bitorder="little").astype(bool)
    rank = np.cumsum(mask, axis=1) - 1
    values = np.take_along_axis(lines[:, config.line_bytes:], np.maximum(rank, 0), axis=1).view(np.int8).astype(np.int64)
    spines = np.where(mask, values, 0).reshape(place.height * place.width, -1)
    return spines[:, place.positions].T.reshape(len(place.positions), place.height, place.width)


def dense_rows(layer, placements, config):
    """Weights by physical position: int8 (row chunks, chunk_bits, N), zero where a position carries no channel."""
    blocks, k = [], 0
    for source in layer.sources:
        place = placements[source.tensor]
        channels = len(place.positions)
        for _ in range(source.repeat * source.kernel_h * source.kernel_w):
            block = np.zeros((place.chunks * config.chunk_bits, layer.columns), np.int8)
            block[place.positions] = layer.weights[k:k + channels]
            blocks.append(block)
            k += channels
    return np.concatenate(blocks).reshape(-1, config.chunk_bits, layer.columns)


def plan_tiles(network, layer, config, *, fill="either", groups_log2=None, row_chunks=None):
    """Cut a layer's columns into tiles that fit the slices and choose the number of row groups.

    By default a tile never needs more than the smaller core's share of ``n`` columns per PE, so that the same tiles hold for every
    split between the cores; those of a layer that the SNN core cannot take fill the ANN core. Groups are taken when they lower the most loaded PE's work per row.

    Parameters
    ----------
    network, layer, config
    fill : str
        What a tile may take: ``either`` core alone, whichever; the PEs of the ``ann`` core, so that the smaller SNN core of some configurations could not take all of it;
        those of ``both``: larger tiles, or more groups, that fit only splits that use both.
    groups_log2 : int, optional
        So many groups, or as many as a tile can have if that is fewer.
    row_chunks : dict, optional
        Layer name → chunks of a row, where tensors are known not to be packed as tightly as can be: see `RowTooLong`.

    Returns
    -------
    list of TilePlan

    Raises
    ------
    LoweringError
        When one column alone is too long for a slice.
    """
    owner = f"layer {layer.name!r}"
    chunks = max(network.row_chunks(layer, config.chunk_bits), (row_chunks or {}).get(layer.name, 0))
    per_pe = min(config.columns_per_pe, 2 * (config.mask_pairs // chunks))
    if per_pe < 1:
        raise LoweringError(f"{owner}: a row has {chunks} chunks, a PE's slice holds masks for {config.mask_pairs}: "
                            f"raise mask_pairs to at least {chunks}")
    nonzeros = np.count_nonzero(layer.weights, axis=0)
    room = config.value_lines * config.line_bytes
    if nonzeros.max() > room:
        raise LoweringError(f"{owner}: column {int(nonzeros.argmax())} has {int(nonzeros.max())} nonzero weights, a PE's slice "
                            f"holds {room}: raise value_lines")
    # Leave a slack of a quarter for uneven columns; lower() checks what the schedule really asks for.
    per_pe = max(1, min(per_pe, int(room / max(1.0, 1.25 * nonzeros.mean()))))
    alone = layer.levels.min() > config.snn_levels or network.input_levels(layer).max() > config.snn_levels
    pes = config.ann_pes if alone else {"either": min(config.ann_pes, config.snn_pes), "ann": config.ann_pes, "both": config.ann_pes + config.snn_pes}[fill]
    capacity = per_pe * pes
    tiles = -(-layer.columns // capacity)
    size = -(-layer.columns // tiles)
    if tiles > 1:   # full chunks, so that the next layer's rows stay short
        size = min(capacity, -(-size // config.chunk_bits) * config.chunk_bits)
    positions = np.prod([g // p for g, p in zip(network.grid(layer), (layer.pool_h, layer.pool_w))])
    plans = []
    for start in range(0, layer.columns, size):
        columns = np.arange(start, min(start + size, layer.columns))
        possible = [g for g in range(config.max_groups.bit_length()) if (1 << g) <= positions and -(-len(columns) * (1 << g) // pes) <= per_pe]
        best = (min(possible, key=lambda g: (_row_work(nonzeros[columns], 1 << g, positions, config), g)) if groups_log2 is None else
                min(groups_log2, possible[-1]))
        plans.append(TilePlan(columns=columns, groups_log2=best, max_columns_per_pe=per_pe))
    return plans


def plan_choices(network, layer, config, *, both, row_chunks=None):
    """Ways to cut a layer into tiles: `plan_tiles`'s own choice first, then those that fill the ANN core, those with other numbers of groups, and if ``both`` those for both cores."""
    found = [plan_tiles(network, layer, config, row_chunks=row_chunks)]
    for fill in ("either", "ann", "both")[:2 + both]:
        for groups_log2 in (None, *range(config.max_groups.bit_length())):
            plans = plan_tiles(network, layer, config, fill=fill, groups_log2=groups_log2, row_chunks=row_chunks)
            if all([(len(p.columns), p.groups_log2) for p in plans] != [(len(p.columns), p.groups_log2) for p in other] for other in found):
                found.append(plans)
    return found


def _row_work(nonzeros, groups, positions, config):
    """Columns of the most loaded PE, about, times the rows of a group, when rows are shared by ``groups`` groups.

    Where columns are unequal, the fewer a PE has, the less evenly they can be dealt, by about half a column.
    """
    share = len(nonzeros) * groups / (config.ann_pes + config.snn_pes)
    uneven = _UNEVEN if nonzeros.min() < nonzeros.max() else 0.0
    return max(-(-share // 1), share + uneven) * -(-positions // groups)


def load_cycles(network, layer, plan, config):
    """About how many cycles pass before a tile runs, whatever its schedule: a line of its load stream per cycle, and the descriptor."""
    pes = (config.ann_pes + config.snn_pes) >> plan.groups_log2
    chunks = network.row_chunks(layer, config.chunk_bits)
    values = int(np.count_nonzero(layer.weights[:, plan.columns])) / config.line_bytes
    return len(plan.columns) * (column_record_lines(config) + chunks) + values + pes * (2.5 + chunks / 2) + _DESCRIPTOR_CYCLES


def _check_widths(layer, columns, core, peak, reach, config):
    """Refuse what could overflow a register of this configuration, whatever the image (docs/numerics.md).

    ``peak`` are the layer's input levels, ``reach`` its accumulator range.
    """
    owner = f"layer {layer.name!r}"
    low, high = (a[columns] for a in reach)
    limit = 1 << (config.ann_acc_bits - 1)
    worst = np.maximum(-low, high + 1)
    if worst.max() > limit:
        n = int(columns[worst.argmax()])
        raise LoweringError(f"{owner}: column {n} can reach {int(worst.max())}, beyond ann_acc_bits = {config.ann_acc_bits} "
                            f"(up to {limit - 1})")
    theta = layer.theta[columns].astype(np.int64)
    if theta.max() >= 1 << config.theta_bits:
        raise LoweringError(f"{owner}: threshold {int(theta.max())} of column {int(columns[theta.argmax()])} does not fit "
                            f"theta_bits = {config.theta_bits}")
    snn = core == Core.SNN
    if snn.any():
        total = np.abs(layer.weights[:, columns[snn]].astype(np.int64)).sum(axis=0)
        limit = 1 << (config.snn_acc_bits - 1)
        if config.snn_pe == "serial":       # one accumulator for all steps
            total = np.maximum(-low, high)[snn]
            if total.max() >= limit:
                raise LoweringError(f"{owner}: an SNN column can reach {int(total.max())}, beyond snn_acc_bits = {config.snn_acc_bits}; "
                                    "keep it on the ANN core or raise snn_acc_bits")
        elif total.max() >= limit:
            raise LoweringError(f"{owner}: an SNN column's weights add up to {int(total.max())}, beyond snn_acc_bits = "
                                f"{config.snn_acc_bits}; keep it on the ANN core or raise snn_acc_bits")
        most = max(int(peak.max()), int(layer.levels[columns][snn].max()))
        if most > config.snn_levels:
            raise LoweringError(f"{owner}: an SNN column would need {most} levels, snn_levels = {config.snn_levels}")


def spine_levels(tensor, place, config):
    """Levels of a tensor (C, H, W) by physical position, uint8[H * W, chunks * chunk_bits]."""
    spines = np.zeros((place.height * place.width, place.chunks * config.chunk_bits), np.uint8)
    spines[:, place.positions] = tensor.reshape(len(tensor), -1).T
    return spines


def occupied(tensor, place, config):
    """Nonzero levels of a tensor (C, H, W) by physical position, bool[H * W, chunks * chunk_bits]."""
    return spine_levels(tensor, place, config) != 0


def _fetch_lines(layer, placements, trace, config):
    """Lines to fetch ahead per missing chunk: enough for all but one chunk in fifty of the first calibration image."""
    if trace is None:
        return CHUNK_LINES
    counts = [occupied(trace.tensor(s.tensor)[0], placements[s.tensor], config).reshape(-1, config.chunk_bits).sum(axis=1)
              for s in layer.sources]
    return 1 + -(-int(np.quantile(np.concatenate(counts), 0.98, method="higher")) // config.line_bytes)


def lower(network, config, assign, *, trace=None, plans=None):
    """Lower a network.

    Parameters
    ----------
    network : neuroflex.compiler.network.Network
    config : ArchConfig
    assign : callable(layer, plan) → (core, pe, index), int arrays of len(plan.columns)
        The schedule of a tile. PE numbers are within a group, ``0 ... (PEs >> groups_log2) - 1``, numbered so
        that the columns per PE do not increase; ``index`` counts 0, 1, ... on each PE.
    trace : neuroflex.sim.network.Trace, optional
        Calibration run: says how many lines of a missing chunk to fetch ahead; all 9 without it.
    plans : dict, optional
        Layer name → its tiles in order, objects with ``columns`` and ``groups_log2``; those of `plan_tiles` by default.

    Returns
    -------
    Job

    Raises
    ------
    RowTooLong
        When tiles are too large for the chunks that rows turn out to have.
    LoweringError
        For all else that this configuration cannot hold.
    """
    from neuroflex.compiler.load_stream import pack_load_stream

    placements, tiles, streams = {}, [], []
    shape = network.shape(network.input.name)

    def place(name, shape, positions, chunks, levels):
        placements[name] = Placement(base=0, height=shape[1], width=shape[2], chunks=chunks,
                                     positions=np.asarray(positions, np.int64), levels=int(levels))

    place(network.input.name, shape, np.arange(shape[0]), _chunks(shape[0], config), network.input.levels)
    last_reader = {s.tensor: layer.name for layer in network.layers for s in layer.sources}
    part_of = {part: concat for concat in network.concats for part in concat.parts}
    filled = {concat.name: 0 for concat in network.concats}     # chunks of its spines that its parts took so far
    for layer in network.layers:
        rows = dense_rows(layer, placements, config)
        positions = np.zeros(layer.columns, np.int64)
        concat = part_of.get(layer.name)
        first_chunk = filled[concat.name] if concat else 0
        tile_plans = plans[layer.name] if plans else plan_tiles(network, layer, config)
        peak = network.input_levels(layer)
        reach = layer.accumulator_range(peak)
        for number, plan in enumerate(tile_plans):
            core, pe, index = (np.asarray(a, np.int64) for a in assign(layer, plan))
            _check_widths(layer, plan.columns, core, peak, reach, config)
            pairs = (int(index.max()) // 2 + 1) * len(rows)
            if pairs > config.mask_pairs:
                raise RowTooLong(f"layer {layer.name!r}: a PE with {int(index.max()) + 1} columns needs {pairs} pairs of masks, as a row has {len(rows)} chunks; mask_pairs = "
                                 f"{config.mask_pairs}", layer=layer.name, chunks=len(rows))
            lanes = np.array([config.ann_pes, config.snn_pes]) >> plan.groups_log2
            rounds = [int(index[core == c].max(initial=-1)) + 1 for c in Core]
            start = np.array([0, -(-rounds[0] * lanes[0] // lanes[1]) * lanes[1]])
            local = start[core] + index * lanes[core] + pe
            if len(np.unique(local)) != len(local) or (pe >= lanes[core]).any():
                raise LoweringError(f"layer {layer.name!r}: the schedule puts two columns in one place or on a PE that is not there")
            chunks = _chunks(int(start[1] + rounds[1] * lanes[1]), config)
            positions[plan.columns] = first_chunk * config.chunk_bits + local
            with _of_layer(layer.name):
                stream = pack_load_stream(config, rows[:, :, plan.columns], core, pe, index,
                                          theta=layer.theta[plan.columns], bias=layer.bias[plan.columns],
                                          levels=layer.levels[plan.columns])
            streams.append(stream)
            height, width = (g // p for g, p in zip(network.grid(layer), (layer.pool_h, layer.pool_w)))
            settings = {"out_height": height, "out_width": width, "out_first_chunk": first_chunk, "pool_h": layer.pool_h,
                        "pool_w": layer.pool_w, "groups_log2": plan.groups_log2, "ann_rounds": rounds[0], "snn_rounds": rounds[1],
                        "levels_in": int(network.input_levels(layer).max()) if rounds[1] else 0,
                        "fetch_lines": _fetch_lines(layer, placements, trace, config), "load_lines": len(stream),
                        "to_memory": int(layer is network.layers[-1])}
            for i, source in enumerate(layer.sources):
                at = placements[source.tensor]
                settings |= {f"source{i}_{key}": value for key, value in {
                    "height": at.height, "width": at.width, "chunks": at.chunks, "kernel_h": source.kernel_h,
                    "kernel_w": source.kernel_w, "stride": source.stride, "pad": source.padding, "repeat": source.repeat}.items()}
                settings[f"consume{i}"] = int(last_reader[source.tensor] == layer.name and number == len(tile_plans) - 1
                                              and sum(s.tensor == source.tensor for s in layer.sources) == 1)
            tiles.append(Tile(layer=layer.name, columns=plan.columns, groups_log2=plan.groups_log2, core=core, pe=pe,
                              index=index, rounds=tuple(rounds), first_chunk=first_chunk, chunks=chunks, settings=settings))
            first_chunk += chunks
        place(layer.name, (layer.columns, height, width), positions, first_chunk, layer.levels.max())
        if concat:
            filled[concat.name] = first_chunk
            if all(part in placements for part in concat.parts):
                parts = [placements[part] for part in concat.parts]
                place(concat.name, (0, height, width), np.concatenate([part.positions for part in parts]), first_chunk,
                      max(part.levels for part in parts))
                for part, at in zip(concat.parts, parts):
                    placements[part] = replace(at, chunks=first_chunk)
    return _lay_out(network, config, tiles, streams, placements)


def _lay_out(network, config, tiles, streams, placements):
    """Give everything its address: descriptors, load streams, tensors."""
    per_descriptor = descriptor_lines(config)
    address = (len(tiles) + 1) * per_descriptor
    load_address = []
    for stream in streams:
        load_address.append(address)
        address += len(stream)
    placed = {}
    part_of = {part: concat.name for concat in network.concats for part in concat.parts}
    for name, place in placements.items():
        if name not in part_of:
            placed[name] = replace(place, base=address)
            address += place.lines
    for part, concat in part_of.items():
        placed[part] = replace(placements[part], base=placed[concat].base)
    if address > 1 << config.address_bits:
        raise LoweringError(f"network {network.name!r} needs {address} lines of memory, address_bits = {config.address_bits} "
                            f"reach {1 << config.address_bits}")
    memory = np.zeros((address, config.line_bytes), np.uint8)
    final = []
    for number, (tile, stream, start) in enumerate(zip(tiles, streams, load_address)):
        memory[start:start + len(stream)] = stream
        layer = network.layer(tile.layer)
        out = placed[tile.layer]
        settings = {**tile.settings, "load_address": start, "out_base": out.base, "out_chunks": out.chunks}
        settings |= {f"source{i}_base": placed[s.tensor].base for i, s in enumerate(layer.sources)}
        with _of_layer(tile.layer):
            words = pack_descriptor(opcode=Opcode.LAYER, **settings)
        memory[number * per_descriptor:(number + 1) * per_descriptor] = words.view(np.uint8).reshape(per_descriptor, -1)
        final.append(Tile(**{**vars(tile), "settings": unpack_descriptor(words)}))
    words = pack_descriptor(opcode=Opcode.END)
    memory[len(tiles) * per_descriptor:(len(tiles) + 1) * per_descriptor] = words.view(np.uint8).reshape(per_descriptor, -1)
    return Job(config=config, network=network, tiles=tuple(final), placements=placed, program=0, memory=memory)
