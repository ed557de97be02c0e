"""The accelerator: everything between its memory port and its register port."""
from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import Core, StallCause
from neuroflex.hdl.broadcaster import Broadcaster
from neuroflex.hdl.compressor import COMPRESSOR_SETTINGS, Compressor
from neuroflex.hdl.fibercache import FiberCache
from neuroflex.hdl.loader import Loader
from neuroflex.hdl.memory_arbiter import MemoryArbiter
from neuroflex.hdl.memory_guard import MemoryGuard, memory_port
from neuroflex.hdl.pe_array import PeArray
from neuroflex.hdl.registers import RegisterFile, register_request, register_response
from neuroflex.hdl.sequencer import Phase, Sequencer
from neuroflex.layouts import broadcast_layout, load_layout, settings_layout

__all__ = ["NeuroFlex", "NeuroFlexCore", "probe_layout"]


def probe_layout(config):
    """What a verification build shows of the inside, each cycle: everything that crosses a block boundary.

    A stream ``x`` is ``x_valid``, ``x_ready`` and its payload, which counts while it is valid.

    Members
    -------
    phase, layer, cause, code
        Of the sequencer.
    invalidate, loader_start, clear, run, cache_busy, loader_finished, loader_error, broadcaster_finished, compressor_finished, block_done
        Start and end of the sequencer's steps; ``loader_error`` counts with ``loader_finished``.
    settings
        Of the layer, while it is loaded and runs.
    own, own_data
        Streams: requests of sequencer or loader to the arbiter, and the lines for them.
    fill_request, fill, evict
        Streams between cache and arbiter: bursts to read, their lines, lines to write.
    port_request, port_write
        Streams from the arbiter to the memory guard; their payload is that of the memory port a cycle later.
    cache_fetch, cache_read, cache_write
        Streams to the cache from broadcaster and compressor.
    response, response_line
        The cache's answers to reads.
    load
        Bus from the loader to the slices.
    beat, group, first_beat, last_beat, first_chunk, last_chunk, first_window, last_window, mask, line
        Broadcast bus; all but the first count while there is a ``beat``.
    slot_free, row_free
        Bit g: all PEs of group g have a slot, a row buffer.
    y_bank, y_index
        What the compressor reads.
    ann_matches, snn_matches
        Bit i: PE i issued a match.
    ann_done, snn_done
        Bit i: PE i's counter of finished outputs, lowest bit.
    cache_idle, arbiter_idle, guard_idle
        Nothing is queued or owed.
    hit, miss, eviction
        Of the cache.
    """
    address, line = config.address_bits, config.chunk_bits
    burst = {"address": address, "lines": 8}
    streams = {
        "own": burst, "own_data": {"line": line, "error": 1}, "fill_request": burst, "fill": {"line": line, "error": 1},
        "evict": {"address": address, "line": line}, "port_request": {}, "port_write": {},
        "cache_fetch": {"address": address, "lines": 4}, "cache_read": {"address": address, "consume": 1},
        "cache_write": {"address": address, "line": line, "through": 1}}
    flags = ("invalidate", "loader_start", "clear", "run", "cache_busy", "loader_finished", "broadcaster_finished", "compressor_finished",
             "block_done", "cache_idle", "arbiter_idle", "guard_idle", "hit", "miss", "eviction", "response")
    bus = broadcast_layout(config)
    return data.StructLayout({
        "phase": Phase, "layer": 16, "cause": 4, "code": 8, **dict.fromkeys(flags, 1), "loader_error": 8,
        **{f"{name}_{member}": shape for name, payload in streams.items() for member, shape in ({"valid": 1, "ready": 1} | payload).items()},
        "response_line": line,
        **{f"load_{name}": field.shape for name, field in load_layout(config)},
        "beat": 1, **{name: field.shape for name, field in bus if name != "valid"},
        "slot_free": config.max_groups, "row_free": config.max_groups,
        "y_bank": range(max(config.row_buffers, 2)), "y_index": range(max(config.columns_per_pe, 2)),
        "ann_matches": config.ann_pes, "snn_matches": config.snn_pes, "ann_done": config.ann_pes, "snn_done": config.snn_pes,
        "settings": settings_layout(config)})


class NeuroFlexCore(wiring.Component):
    """The blocks that a soft reset resets, wired as in ``docs/architecture.md``.

    Members
    -------
    memory : Out(memory_port)
    start, program_address, watchdog : In
    busy, finish, code, layer, abandon : Out
        See :class:`Sequencer`.
    memory_idle : In(1)
        The memory guard owes nothing.
    probe : Out(probe_layout)
    """

    def __init__(self, *, config):
        self._config = config
        super().__init__({
            "memory": Out(memory_port(config)),
            "start": In(1), "program_address": In(32), "watchdog": In(32),
            "busy": Out(1), "finish": Out(1), "code": Out(8), "layer": Out(16), "abandon": Out(1),
            "memory_idle": In(1), "probe": Out(probe_layout(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.sequencer = sequencer = Sequencer(config=config)
        m.submodules.loader = loader = Loader(config=config)
        m.submodules.arbiter = arbiter = MemoryArbiter(config)
        m.submodules.cache = cache = FiberCache(config)
        m.submodules.broadcaster = broadcaster = Broadcaster(config=config)
        m.submodules.ann_array = ann = PeArray(config, Core.ANN)
        m.submodules.snn_array = snn = PeArray(config, Core.SNN)
        m.submodules.compressor = compressor = Compressor(config=config)

        # Jobs.
        m.d.comb += [
            sequencer.start.eq(self.start), sequencer.program_address.eq(self.program_address), sequencer.watchdog.eq(self.watchdog),
            self.busy.eq(sequencer.busy), self.finish.eq(sequencer.finish), self.code.eq(sequencer.code),
            self.layer.eq(sequencer.layer), self.abandon.eq(sequencer.abandon),
        ]

        # Memory: sequencer and loader take turns as one client of the arbiter.
        for name in ("request", "write_data"):
            wiring.connect(m, getattr(arbiter, name), wiring.flipped(getattr(self.memory, name)))
        for name in ("read_data", "write_done"):
            wiring.connect(m, wiring.flipped(getattr(self.memory, name)), getattr(arbiter, name))
        wiring.connect(m, cache.read_request, arbiter.cache_request)
        wiring.connect(m, cache.write_request, arbiter.cache_write)
        wiring.connect(m, arbiter.cache_data, cache.read_data)
        with m.If(sequencer.loading):
            m.d.comb += [
                arbiter.sequencer_request.valid.eq(loader.request.valid), arbiter.sequencer_request.payload.eq(loader.request.payload),
                loader.request.ready.eq(arbiter.sequencer_request.ready),
                loader.read_data.valid.eq(arbiter.sequencer_data.valid), arbiter.sequencer_data.ready.eq(loader.read_data.ready),
            ]
        with m.Else():
            m.d.comb += [
                arbiter.sequencer_request.valid.eq(sequencer.request.valid), arbiter.sequencer_request.payload.eq(sequencer.request.payload),
                sequencer.request.ready.eq(arbiter.sequencer_request.ready),
                sequencer.read_data.valid.eq(arbiter.sequencer_data.valid), arbiter.sequencer_data.ready.eq(sequencer.read_data.ready),
            ]
        m.d.comb += [loader.read_data.payload.eq(arbiter.sequencer_data.payload),
                     sequencer.read_data.payload.eq(arbiter.sequencer_data.payload)]

        # A layer: settings, load, run.
        settings = sequencer.settings
        load_settings = sequencer.load_settings if config.overlap else settings
        m.d.comb += [
            cache.invalidate.eq(sequencer.cache_invalidate), sequencer.cache_busy.eq(cache.busy),
            loader.start.eq(sequencer.loader_start), loader.address.eq(load_settings.load_address), loader.lines.eq(load_settings.load_lines),
            loader.groups_log2.eq(load_settings.groups_log2),
            sequencer.loader_finished.eq(loader.finished), sequencer.loader_error.eq(loader.error),
            broadcaster.start.eq(sequencer.run), broadcaster.settings.eq(settings),
            compressor.start.eq(sequencer.run), *(getattr(compressor, name).eq(settings[name]) for name in COMPRESSOR_SETTINGS),
            sequencer.broadcaster_finished.eq(broadcaster.finished), sequencer.compressor_finished.eq(compressor.finished),
            sequencer.running_cause.eq(broadcaster.cause),
            broadcaster.slot_free.eq(ann.slot_free & snn.slot_free), broadcaster.row_free.eq(ann.row_free & snn.row_free),
            broadcaster.block_done.eq(compressor.block_done), broadcaster.response.eq(cache.response),
        ]
        for array, prefix in ((ann, "ann"), (snn, "snn")):
            m.d.comb += [
                array.groups_log2.eq(settings.groups_log2), array.levels_in.eq(settings.levels_in), array.clear.eq(sequencer.clear),
                array.load.eq(loader.load), array.bus.eq(broadcaster.broadcast),
                array.y_bank.eq(compressor.y_bank), array.y_index.eq(compressor.y_index),
                *(getattr(compressor, f"{prefix}_{name}").eq(getattr(array, name)) for name in ("done", "columns", "y")),
            ]
            if config.overlap:
                m.d.comb += [array.load_groups_log2.eq(load_settings.groups_log2), array.swap.eq(sequencer.run)]
        wiring.connect(m, broadcaster.fetch, cache.fetch)
        wiring.connect(m, broadcaster.read, cache.read)
        wiring.connect(m, compressor.write, cache.write)

        written = compressor.write.valid & compressor.write.ready
        read_error = arbiter.read_error
        if config.overlap:      # of the running layer: sequencer and loader see those of the next one
            read_error = cache.read_data.valid & cache.read_data.ready & cache.read_data.payload.error
        moved = Cat(*(s.valid & s.ready for s in (self.memory.request, self.memory.write_data, self.memory.read_data, self.memory.write_done)))
        m.d.comb += [
            sequencer.progress.eq(moved.any() | broadcaster.broadcast.valid | ann.matching.any() | snn.matching.any() | written),
            sequencer.bus_error.eq(read_error | arbiter.write_error),
            sequencer.quiet.eq(cache.idle & arbiter.idle & self.memory_idle & ann.idle & snn.idle),
        ]

        done_bits = len(ann.done) // config.ann_pes
        probe = self.probe
        shown = {
            "own": arbiter.sequencer_request, "own_data": arbiter.sequencer_data, "fill_request": cache.read_request, "fill": cache.read_data,
            "evict": cache.write_request, "port_request": self.memory.request, "port_write": self.memory.write_data,
            "cache_fetch": cache.fetch, "cache_read": cache.read, "cache_write": cache.write}
        for name, port in shown.items():
            m.d.comb += [probe[f"{name}_valid"].eq(port.valid), probe[f"{name}_ready"].eq(port.ready)]
            if not name.startswith("port"):
                m.d.comb += [probe[f"{name}_{member}"].eq(port.payload[member]) for member, _ in port.payload.shape()]
        m.d.comb += [
            *(probe[name].eq(getattr(sequencer, name)) for name in ("phase", "layer", "cause", "code", "loader_start", "clear", "run", "settings",
                                                                    "cache_busy", "loader_finished", "loader_error",
                                                                    "broadcaster_finished", "compressor_finished")),
            probe.invalidate.eq(sequencer.cache_invalidate), probe.block_done.eq(compressor.block_done),
            probe.cache_idle.eq(cache.idle), probe.arbiter_idle.eq(arbiter.idle), probe.guard_idle.eq(self.memory_idle),
            *(probe[name].eq(getattr(cache, name)) for name in ("hit", "miss", "eviction")),
            probe.response.eq(cache.response.valid), probe.response_line.eq(cache.response.line),
            *(probe[f"load_{name}"].eq(loader.load[name]) for name, _ in load_layout(config)),
            probe.beat.eq(broadcaster.broadcast.valid),
            *(probe[name].eq(broadcaster.broadcast[name]) for name, _ in broadcast_layout(config) if name != "valid"),
            probe.slot_free.eq(broadcaster.slot_free), probe.row_free.eq(broadcaster.row_free),
            probe.y_bank.eq(compressor.y_bank), probe.y_index.eq(compressor.y_index),
            probe.ann_matches.eq(ann.matching), probe.snn_matches.eq(snn.matching),
            probe.ann_done.eq(Cat(ann.done[i * done_bits] for i in range(config.ann_pes))),
            probe.snn_done.eq(Cat(snn.done[i * done_bits] for i in range(config.snn_pes))),
        ]
        return m


class NeuroFlex(wiring.Component):
    """The hybrid accelerator.

    Parameters
    ----------
    config : ArchConfig
    probe : bool
        Add the ``probe`` port of a verification build.

    Members
    -------
    memory : Out(memory_port)
        Burst reads and writes, any latency.
    registers_request, registers_response : streams
        See :class:`RegisterFile`; the map is in ``docs/registers.md``.
    irq : Out(1)
    probe : Out(probe_layout)
        Only with ``probe``.
    """

    def __init__(self, *, config, probe=False):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config, self._probe = config, bool(probe)
        super().__init__({
            "memory": Out(memory_port(config)),
            "registers_request": In(stream.Signature(register_request())),
            "registers_response": Out(stream.Signature(register_response())),
            "irq": Out(1),
            **({"probe": Out(probe_layout(config))} if probe else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.registers = registers = RegisterFile(config=config)
        m.submodules.guard = guard = MemoryGuard(config=config)
        core = NeuroFlexCore(config=config)
        m.submodules.core = ResetInserter(guard.core_reset)(core)

        wiring.connect(m, wiring.flipped(self.registers_request), registers.request)
        wiring.connect(m, registers.response, wiring.flipped(self.registers_response))
        wiring.connect(m, core.memory, guard.core)
        wiring.connect(m, guard.memory, wiring.flipped(self.memory))
        probe = core.probe
        m.d.comb += [
            core.start.eq(registers.start), core.program_address.eq(registers.program_address), core.watchdog.eq(registers.watchdog),
            core.memory_idle.eq(guard.idle),
            guard.abandon.eq(core.abandon | registers.soft_reset),
            registers.busy.eq(core.busy | guard.core_reset), registers.finish.eq(core.finish), registers.code.eq(core.code),
            registers.layer.eq(core.layer),
            self.irq.eq(registers.irq),
        ]
        # Counters are one register behind what they count.
        count = Signal(registers.count.shape())
        ann_count, snn_count = (sum(bits[i] for i in range(len(bits))) for bits in (probe.ann_matches, probe.snn_matches))
        m.d.sync += [count.cycles.eq(core.busy), count.matches_ann.eq(ann_count), count.matches_snn.eq(snn_count),
                     count.cache_hits.eq(probe.hit), count.cache_misses.eq(probe.miss), count.cache_evictions.eq(probe.eviction)]
        for cause in StallCause:
            m.d.sync += count[f"cycles_{cause.name.lower()}"].eq(core.busy & (probe.cause == cause))
        m.d.comb += registers.count.eq(count)
        if self._probe:
            m.d.comb += self.probe.eq(probe)
        return m
