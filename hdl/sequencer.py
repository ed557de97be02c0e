"""Sequencer: runs a whole program of layers, checks every descriptor, and always ends with a status code."""
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import (CHUNK_LINES, DESCRIPTOR_FIELDS, DESCRIPTOR_VERSION, DESCRIPTOR_WORDS, Opcode, StallCause, Status,
                               descriptor_checksum, descriptor_lines)
from neuroflex.hdl.geometry import GEOMETRY_CASES, GEOMETRY_LATENCY, GeometryCheck
from neuroflex.layouts import burst_layout, read_data_layout, settings_layout

__all__ = ["CHECK_CYCLES", "Phase", "Sequencer"]

CHECK_CYCLES = GEOMETRY_CASES - 1 + GEOMETRY_LATENCY   # the last case has no tensor, and is through earlier

_WORD_BITS = 32
CHECKSUM_START = descriptor_checksum([])


class Phase(enum.Enum, shape=4):
    """What the sequencer is doing."""

    IDLE = 0
    INVALIDATE = 1   # the cache forgets what an earlier job left
    REQUEST = 2      # ask for the next descriptor
    RECEIVE = 3      # its lines arrive
    CHECKSUM = 4     # one word per cycle
    CHECK = 5        # field by field, and geometry
    DECIDE = 6       # start the layer, end the job or stop
    LOAD = 7         # weights on their way to the slices
    RUN = 8          # broadcaster and compressor at work; with two weight banks: until they are through with the layer before
    FINISH = 9       # wait until memory has taken and answered everything
    RETURN = 10      # report


class Sequencer(wiring.Component):
    """Controls a job: invalidate, then for each descriptor fetch, check, load, run; END waits for memory and reports.

    With two weight banks the next descriptor is fetched, checked and loaded while a layer runs; in phase RUN it waits for that layer's end. Then its
    settings are handed over, ``run`` is pulsed, and the descriptor after it is asked for. What is wrong with the next layer is reported when the running one has
    ended well; when that one met a memory error, this is what is reported. ``layer`` is the one that runs, or the next one while none does.

    Cycles of a layer besides loading and running: request handshake + memory latency + ``descriptor_lines`` beats
    + 32 (checksum) + ``CHECK_CYCLES`` = 10 (check) + 1 (decide). A job that is started in cycle t (``start`` high) shows ``busy`` in t + 1.

    Members
    -------
    start, program_address, watchdog : In
        From the register file.
    busy, finish, code, layer : Out
        ``finish`` is a pulse in phase RETURN; ``code`` is a :class:`Status`, valid with it.
    request, read_data : streams
        Descriptor lines from memory: {address, lines} and {line, error}.
    cache_invalidate : Out(1), cache_busy : In(1)
    loader_start : Out(1), loader_finished : In(1), loader_error : In(8)
        ``loader_error`` is a Status, valid in the cycle of ``loader_finished``, NONE when all was well.
    loading : Out(1)
        Memory answers belong to the loader.
    settings : Out
        The layer's settings, stable from ``clear`` until the layer's end; with two weight banks from ``run`` on.
    load_settings : Out
        Settings of the layer that is loaded, stable from ``clear`` until it runs. Only with two weight banks.
    clear, run : Out(1)
        Pulses: forget the columns in the slices, or in their spare bank (with ``loader_start``); start broadcaster and compressor, and swap the weight banks.
    broadcaster_finished, compressor_finished : In(1)
        High from the broadcaster's last beat to the next ``run``; a pulse from the compressor.
    running_cause : In
        The broadcaster's StallCause.
    cause : Out
        What this cycle is counted under.
    progress, bus_error, quiet : In(1)
        Something moved; memory answered with an error (sticky here until the next start; with two weight banks: an error of the running layer, that is
        of the cache's reads or of a write); nothing is outstanding.
    abandon : Out(1)
        Pulse: the watchdog struck; the parent resets the core.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "start": In(1), "program_address": In(32), "watchdog": In(32),
            "busy": Out(1), "finish": Out(1), "code": Out(8), "layer": Out(16), "phase": Out(Phase),
            "request": Out(stream.Signature(burst_layout(config))),
            "read_data": In(stream.Signature(read_data_layout(config))),
            "cache_invalidate": Out(1), "cache_busy": In(1),
            "loader_start": Out(1), "loader_finished": In(1), "loader_error": In(8), "loading": Out(1),
            "settings": Out(settings_layout(config)),
            **({"load_settings": Out(settings_layout(config))} if config.overlap else {}),
            "clear": Out(1), "run": Out(1), "broadcaster_finished": In(1), "compressor_finished": In(1),
            "running_cause": In(4), "cause": Out(4),
            "progress": In(1), "bus_error": In(1), "quiet": In(1), "abandon": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, overlap = self._config, self._config.overlap
        lines = descriptor_lines(config)
        words = Signal(data.ArrayLayout(_WORD_BITS, DESCRIPTOR_WORDS))
        flat = words.as_value()
        field = {f.name: words[f.word][f.lsb:f.lsb + f.bits] for f in DESCRIPTOR_FIELDS}
        prepared = self.load_settings if overlap else self.settings
        for name, _ in settings_layout(config):
            m.d.comb += prepared[name].eq(field[name])

        phase = Signal(Phase)
        pointer = Signal(32)         # all bits of the register: an address beyond memory is refused, not cut
        beyond = Signal()
        count = Signal(range(DESCRIPTOR_WORDS + 1))
        checksum = Signal(_WORD_BITS)
        code = Signal(8)
        bus_error = Signal()
        silence = Signal(32)
        broadcaster_done, compressor_done = Signal(), Signal()
        running, failed = Signal(), Signal()        # with two weight banks: a layer runs; the last one met a memory error
        fetch_error = Signal()                      # on a line of the descriptor
        stop = Phase.RUN if overlap else Phase.FINISH       # where the reason for a job's end waits for the layer that still runs
        check = self._checks(m, field)
        m.submodules.geometry = geometry = GeometryCheck(config=config)
        m.d.comb += [geometry.settings.eq(prepared), geometry.clear.eq(phase == Phase.CHECKSUM),
                     geometry.valid.eq((phase == Phase.CHECK) & (count < GEOMETRY_CASES)), geometry.index.eq(count)]

        m.d.comb += [
            self.phase.eq(phase), self.busy.eq(phase != Phase.IDLE), self.code.eq(code),
            beyond.eq(pointer > (1 << config.address_bits) - lines),
            self.request.valid.eq((phase == Phase.REQUEST) & ~beyond),
            self.request.payload.address.eq(pointer), self.request.payload.lines.eq(lines),
            self.read_data.ready.eq(phase == Phase.RECEIVE),
            self.loading.eq(phase == Phase.LOAD),
            self.finish.eq(phase == Phase.RETURN),
        ]
        with m.Switch(phase):
            with m.Case(Phase.LOAD):
                m.d.comb += self.cause.eq(StallCause.LOAD)
            if not overlap:
                with m.Case(Phase.RUN):
                    m.d.comb += self.cause.eq(Mux(broadcaster_done, StallCause.DRAIN, self.running_cause))
            with m.Default():
                m.d.comb += self.cause.eq(StallCause.CONTROL)
        if overlap:
            with m.If(running):
                m.d.comb += self.cause.eq(Mux(broadcaster_done, StallCause.DRAIN, self.running_cause))

        m.d.sync += [self.cache_invalidate.eq(0), self.loader_start.eq(0), self.clear.eq(0), self.run.eq(0), self.abandon.eq(0)]
        with m.If(self.bus_error & (phase != Phase.IDLE)):
            m.d.sync += bus_error.eq(1)

        with m.Switch(phase):
            with m.Case(Phase.IDLE):
                with m.If(self.start):
                    m.d.sync += [phase.eq(Phase.INVALIDATE), self.cache_invalidate.eq(1), pointer.eq(self.program_address), count.eq(0),
                                 code.eq(Status.NONE), self.layer.eq(0), bus_error.eq(0), *([failed.eq(0)] if overlap else [])]
            with m.Case(Phase.INVALIDATE):
                # The pulse is out in the first cycle, the cache is busy from the second one on.
                m.d.sync += count.eq(1)
                with m.If((count == 1) & ~self.cache_invalidate & ~self.cache_busy):
                    m.d.sync += phase.eq(Phase.REQUEST)
            with m.Case(Phase.REQUEST):
                m.d.sync += [count.eq(0), checksum.eq(CHECKSUM_START), *([fetch_error.eq(0)] if overlap else [])]
                with m.If(beyond):
                    m.d.sync += [code.eq(Status.BAD_PROGRAM), phase.eq(stop)]
                with m.Elif(self.request.ready):
                    m.d.sync += phase.eq(Phase.RECEIVE)
            with m.Case(Phase.RECEIVE):
                with m.If(self.read_data.valid):
                    m.d.sync += [flat.eq(Cat(flat[config.chunk_bits:], self.read_data.payload.line)), count.eq(count + 1)]
                    with m.If(self.read_data.payload.error):
                        m.d.sync += (fetch_error if overlap else bus_error).eq(1)
                    with m.If(count == lines - 1):
                        m.d.sync += [phase.eq(Phase.CHECKSUM), count.eq(0)]
            with m.Case(Phase.CHECKSUM):
                # The words rotate once around, so that no 32-way multiplexer is needed.
                m.d.sync += [flat.eq(Cat(flat[_WORD_BITS:], flat[:_WORD_BITS])), count.eq(count + 1)]
                with m.If(count == DESCRIPTOR_WORDS - 1):
                    m.d.sync += [phase.eq(Phase.CHECK), count.eq(0)]
                with m.Else():
                    m.d.sync += checksum.eq(checksum.rotate_left(1) + words[0])
            with m.Case(Phase.CHECK):
                # The verdicts on single fields are two registers behind the words, those on the geometry come last.
                m.d.sync += count.eq(count + 1)
                with m.If(count == CHECK_CYCLES - 1):
                    m.d.sync += phase.eq(Phase.DECIDE)
                    with m.If(fetch_error if overlap else bus_error):
                        m.d.sync += code.eq(Status.BUS_ERROR)
                    with m.Elif(checksum != field["checksum"]):
                        m.d.sync += code.eq(Status.BAD_CHECKSUM)
                    with m.Elif(check["opcode"]):
                        m.d.sync += code.eq(Status.BAD_OPCODE)
                    with m.Elif(field["opcode"] == Opcode.END):
                        m.d.sync += code.eq(Status.DONE)
                    with m.Elif(check["source"] | geometry.source_wrong):
                        m.d.sync += code.eq(Status.BAD_SOURCE)
                    with m.Elif(check["output"] | geometry.output_wrong):
                        m.d.sync += code.eq(Status.BAD_OUTPUT)
                    with m.Elif(check["load"]):
                        m.d.sync += code.eq(Status.BAD_LOAD_LENGTH)
            with m.Case(Phase.DECIDE):
                with m.If((code != Status.NONE) | failed if overlap else code != Status.NONE):
                    m.d.sync += phase.eq(stop)
                with m.Else():
                    m.d.sync += [phase.eq(Phase.LOAD), self.loader_start.eq(1), self.clear.eq(1)]
            with m.Case(Phase.LOAD):
                if not overlap:
                    m.d.sync += [broadcaster_done.eq(0), compressor_done.eq(0)]
                with m.If(self.loader_finished):
                    with m.If(self.loader_error != Status.NONE):
                        m.d.sync += [code.eq(self.loader_error), phase.eq(stop)]
                    with m.Else():
                        m.d.sync += [phase.eq(Phase.RUN), *([] if overlap else [self.run.eq(1)])]
            with m.Case(Phase.RUN):
                if overlap:
                    with m.If(~running):
                        with m.If(failed):
                            m.d.sync += [code.eq(Status.BUS_ERROR), phase.eq(Phase.FINISH)]
                        with m.Elif(code != Status.NONE):
                            m.d.sync += phase.eq(Phase.FINISH)
                        with m.Else():
                            m.d.sync += [self.settings.eq(prepared), self.run.eq(1), running.eq(1), broadcaster_done.eq(0), compressor_done.eq(0),
                                         phase.eq(Phase.REQUEST), pointer.eq(pointer + lines)]
                else:
                    with m.If(self._layer_ends(m, broadcaster_done, compressor_done)):
                        with m.If(bus_error):
                            m.d.sync += [code.eq(Status.BUS_ERROR), phase.eq(Phase.FINISH)]
                        with m.Else():
                            m.d.sync += [phase.eq(Phase.REQUEST), pointer.eq(pointer + lines), self.layer.eq(self.layer + 1)]
            with m.Case(Phase.FINISH):
                with m.If(self.quiet):
                    m.d.sync += phase.eq(Phase.RETURN)
                    # The arbiter tells of the last answer's error in the cycle in which it becomes idle.
                    with m.If((bus_error | self.bus_error) & (code == Status.DONE)):
                        m.d.sync += code.eq(Status.BUS_ERROR)
            with m.Case(Phase.RETURN):
                m.d.sync += phase.eq(Phase.IDLE)

        if overlap:
            with m.If(running):
                with m.If(self._layer_ends(m, broadcaster_done, compressor_done)):
                    m.d.sync += [running.eq(0), failed.eq(bus_error), self.layer.eq(self.layer + ~bus_error)]

        with m.If(self.progress | (phase == Phase.IDLE) | (phase == Phase.RETURN)):
            m.d.sync += silence.eq(0)
        with m.Else():
            m.d.sync += silence.eq(silence + 1)
            with m.If((self.watchdog != 0) & (silence >= self.watchdog)):
                m.d.sync += [code.eq(Status.WATCHDOG), phase.eq(Phase.RETURN), self.abandon.eq(1), *([running.eq(0)] if overlap else [])]
        return m

    def _layer_ends(self, m, broadcaster_done, compressor_done):
        """Broadcaster and compressor are both through; to be called where a layer runs."""
        with m.If(self.broadcaster_finished & ~self.run):   # in the first cycle it is the layer before's
            m.d.sync += broadcaster_done.eq(1)
        with m.If(self.compressor_finished):
            m.d.sync += compressor_done.eq(1)
        return broadcaster_done & compressor_done

    def _checks(self, m, field):
        """Registered verdicts on the descriptor, up to two cycles behind its words."""
        config = self._config
        verdict = {name: Signal(name=f"bad_{name}") for name in ("opcode", "source", "output", "load")}
        top = config.address_bits

        def outside(value, low, high):
            return (value < low) | (value > high)

        m.d.comb += verdict["opcode"].eq(
            (field["version"] != DESCRIPTOR_VERSION) | ((field["opcode"] != Opcode.LAYER) & (field["opcode"] != Opcode.END)))

        bad_source = []
        for index in range(2):
            def f(name, index=index):
                return field[f"source{index}_{name}"]
            bad = ((f("width") == 0) | (f("chunks") == 0) | outside(f("kernel_h"), 1, 7) | outside(f("kernel_w"), 1, 7)
                   | outside(f("stride"), 1, 7) | (f("pad") >= f("kernel_h")) | (f("pad") >= f("kernel_w")) | (f("repeat") == 0)
                   | (f("base")[top:] != 0))
            bad_source.append((f("height") == 0) if index == 0 else 0)
            bad_source.append(bad & (f("height") != 0))
        m.d.comb += verdict["source"].eq(Cat(*bad_source).any())

        # Positions of an output row, as the compressor lays them out; Pg is a power of two.
        ann_positions, snn_positions, snn_lanes = Signal(16), Signal(16), Signal(range(config.snn_pes + 1))
        positions, chunks = Signal(16), Signal(16)
        m.d.comb += snn_lanes.eq(config.snn_pes >> field["groups_log2"])
        m.d.comb += [
            ann_positions.eq((field["ann_rounds"] * config.ann_pes) >> field["groups_log2"]),
            snn_positions.eq((field["snn_rounds"] * config.snn_pes) >> field["groups_log2"]),
        ]
        m.d.sync += positions.eq(((ann_positions + snn_lanes - 1) & ~(snn_lanes - 1)) + snn_positions)
        m.d.comb += chunks.eq((positions + config.chunk_bits - 1) >> (config.chunk_bits.bit_length() - 1))
        too_many_groups = field["groups_log2"] > (config.max_groups.bit_length() - 1)
        m.d.comb += verdict["output"].eq(Cat(
            field["out_height"] == 0, field["out_width"] == 0, field["out_chunks"] == 0,
            outside(field["pool_h"], 1, 7), outside(field["pool_w"], 1, 7), too_many_groups,
            outside(field["fetch_lines"], 1, CHUNK_LINES), field["out_base"][top:] != 0,
            field["ann_rounds"] > config.columns_per_pe, field["snn_rounds"] > config.columns_per_pe,
            (field["ann_rounds"] == 0) & (field["snn_rounds"] == 0),
            field["levels_in"] > config.snn_levels, (field["snn_rounds"] != 0) & (field["levels_in"] == 0),
            (chunks + field["out_first_chunk"]) > field["out_chunks"],
        ).any())
        load_end = Signal(top + 1)
        m.d.comb += load_end.eq(field["load_address"][:top] + field["load_lines"][:top])
        m.d.comb += verdict["load"].eq((field["load_lines"] == 0) | (field["load_lines"][top:] != 0) | (field["load_address"][top:] != 0)
                                       | (load_end > 1 << top))
        registered = {name: Signal(name=f"bad_{name}_seen") for name in verdict}
        for name, value in verdict.items():
            m.d.sync += registered[name].eq(value)
        return registered
