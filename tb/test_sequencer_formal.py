"""Proofs on the sequencer: what is fetched, loaded, run, handed over and reported, and when.

Test plan
---------
* All inputs are free, in all cycles: descriptors, loader, broadcaster, compressor, memory, starts, soft resets. Assumed: the loader finishes what was started and
  nothing else, with a status that it has; no watchdog. With one weight bank and with two.
* Layers: none runs before broadcaster and compressor are through with the one before, before its load has ended well, after one that met an error, or twice; no load
  starts before the one before has ended, or between its end and its run; the columns in the slices are forgotten when a load starts and then only.
* Settings: a layer's stay from its load to its run, and while it runs; what runs is what was loaded.
* Descriptors: the first from the program's address, each further one behind the last layer's, each once; one that was refused is neither loaded nor run;
  memory's answers go to the loader while it loads, and then only.
* End: only when neither a layer nor a load is under way and nothing is outstanding; with a status, which is the loader's, or of an error of memory where there was one and
  only then; with the number of layers that ended well.
* Nothing is lost: in every phase the sequencer goes on within `PATIENCE` cycles in which it need not wait for another block.
* After a soft reset, whenever it comes, it is idle and all pulses are low; what happened before counts for nothing.
* Reached, with one bank: whole jobs without and with a layer, a second job, ends by errors of memory, loader and descriptor. With two: a load that ends while a layer runs, and the run after
  it; a soft reset while a layer runs and a load is under way.
* The geometry check is left out: its verdicts are two bits of the settings, there at once. `groups_log2` stands for all settings.
* Not vacuous: sequencers with a line of `CHANGES` changed violate it.
"""
import types

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, ResetInserter, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.formats import DESCRIPTOR_WORDS, Status, descriptor_lines
from neuroflex.hdl import sequencer
from neuroflex.layouts import settings_layout

pytestmark = pytest.mark.formal

DOUBLE = PRESETS["tiny"].replace(name="formal", weight_banks=2, chunk_bits=256, laggy_adders=32)     # a descriptor is four lines
SINGLE = DOUBLE.replace(weight_banks=1)
LOADER_CODES = (Status.NONE, Status.BAD_LOAD_RECORD, Status.BAD_LOAD_LENGTH, Status.BUS_ERROR)
DEPTH = 112      # cycles: two descriptors, each of which takes about fifty
PATIENCE = DESCRIPTOR_WORDS
FREE = ("start", "program_address", "cache_busy", "loader_finished", "loader_error", "broadcaster_finished", "compressor_finished", "running_cause", "progress",
        "bus_error", "quiet")


class AnyGeometry(wiring.Component):
    """Verdicts that depend on bits of the descriptor which nothing else looks at."""

    def __init__(self, *, config):
        super().__init__({"settings": In(settings_layout(config)), "clear": In(1), "valid": In(1), "index": In(2), "source_wrong": wiring.Out(1), "output_wrong": wiring.Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.source_wrong.eq(self.settings.to_memory), self.output_wrong.eq(self.settings.consume0)]
        return m


# What a changed sequencer does → the line, which is there once, and what stands there instead.
CHANGES = {
    "hands over when only the broadcaster is through": ("return broadcaster_done & compressor_done", "return broadcaster_done"),
    "swaps the weights while a layer runs": ("with m.If(~running):", "with m.If(running | ~running):"),
    "swaps the weights while they are loaded": ("with m.If(self.loader_finished):", "with m.If(self.loader_finished | self.progress):"),
    "runs a layer twice": ("phase.eq(Phase.REQUEST), pointer.eq(pointer + lines)]\n                else", "phase.eq(Phase.RUN), pointer.eq(pointer + lines)]\n                else"),
    "loses the hand-over": ("self.run.eq(1), running.eq(1), ", "running.eq(1), "),
    "does not forget the columns": ("self.loader_start.eq(1), self.clear.eq(1)]", "self.loader_start.eq(1)]"),
    "goes on after an error of the memory": ("failed.eq(bus_error), self.layer", "failed.eq(0), self.layer"),
    "does not report the last write's error": ("with m.If((bus_error | self.bus_error) & (code == Status.DONE)):", "with m.If(bus_error & (code == Status.DONE)):"),
    "loads what was refused": ("with m.If((code != Status.NONE) | failed if overlap else code != Status.NONE):", "with m.If(failed if overlap else code != Status.NONE):"),
    "ends while memory has not answered": ("with m.If(self.quiet):", "with m.If(self.quiet | self.progress):"),
}


def changed(old, new):
    """The sequencer's class with some text of its module changed."""
    with open(sequencer.__file__, encoding="utf-8") as file:
        text = file.read()
    assert text.count(old) == 1, f"{text.count(old)} times in the sequencer: {old}"
    module = types.ModuleType("changed_sequencer")
    exec(compile(text.replace(old, new), "changed_sequencer", "exec"), vars(module))
    module.GeometryCheck, module.Phase = AnyGeometry, sequencer.Phase
    return module.Sequencer


class Contract(wiring.Component):
    def __init__(self, config, kind=sequencer.Sequencer):
        self._config, self._dut = config, kind(config=config)
        super().__init__({**{name: self._dut.signature.members[name] for name in FREE}, "request_ready": In(1), "line_valid": In(1),
                          "line": In(self._dut.read_data.payload.shape()), "soft_reset": In(1)})

    def elaborate(self, platform):
        m = Module()
        dut, was_reset = self._dut, Signal()
        busiest, stopped = Signal(), Signal()       # a layer runs and a load is under way; a soft reset then
        m.submodules.watched = ResetInserter(self.soft_reset)(self._watched(busiest))
        m.d.sync += [was_reset.eq(self.soft_reset), stopped.eq(self.soft_reset & busiest)]
        m.d.comb += [Assume(~ResetSignal()),
                     Assert(~was_reset | ~(dut.busy | dut.run | dut.clear | dut.loader_start | dut.cache_invalidate | dut.finish | dut.abandon | dut.loading | dut.request.valid)),
                     *([Cover(stopped & ~dut.busy)] if self._config.overlap else [])]
        return m

    def _watched(self, busiest):
        """The sequencer and what is observed of it, all of which a soft reset resets."""
        m = Module()
        m.submodules.sequencer = dut = self._dut
        config = self._config
        m.d.comb += [*(getattr(dut, name).eq(getattr(self, name)) for name in FREE), dut.watchdog.eq(0), dut.request.ready.eq(self.request_ready),
                     dut.read_data.valid.eq(self.line_valid), dut.read_data.payload.eq(self.line)]
        begins = self.start & ~dut.busy

        runs, sent, packed, hurt, failed = Signal(), Signal(), Signal(), Signal(), Signal()      # a layer; what ended of it; an error of memory, and at its end
        with m.If(dut.run):
            m.d.sync += [runs.eq(1), sent.eq(0), packed.eq(self.compressor_finished)]
        with m.Elif(runs):
            m.d.sync += [sent.eq(sent | self.broadcaster_finished), packed.eq(packed | self.compressor_finished)]
            with m.If(sent & packed):
                m.d.sync += [runs.eq(0), failed.eq(hurt)]
        layers = Signal.like(dut.layer)     # that ended well
        with m.If(begins):
            m.d.sync += layers.eq(0)
        with m.Elif(runs & sent & packed & ~hurt):
            m.d.sync += layers.eq(layers + 1)

        loads, loaded, refused = Signal(), Signal(), Signal.like(self.loader_error)
        with m.If(self.loader_finished):
            m.d.sync += [loads.eq(0), loaded.eq(self.loader_error == Status.NONE), refused.eq(self.loader_error)]
        with m.If(dut.loader_start):
            m.d.sync += loads.eq(1)
        with m.If(dut.run):
            m.d.sync += loaded.eq(0)

        asked, due = Signal(), Signal.like(dut.request.payload.address)      # the descriptor in front; its address
        lines, torn = Signal(range(descriptor_lines(config) + 1)), Signal()  # of it; one of them came with an error
        behind = Signal.like(due)
        m.d.comb += behind.eq(Mux(dut.run, due + descriptor_lines(config), due))
        with m.If(dut.run):
            m.d.sync += [asked.eq(0), due.eq(behind)]
        with m.If(dut.request.valid & self.request_ready):
            m.d.sync += [asked.eq(1), lines.eq(0), torn.eq(0)]
        with m.If(dut.read_data.ready & self.line_valid):
            m.d.sync += [lines.eq(lines + 1), torn.eq(torn | self.line.error)]
        with m.If(self.bus_error & dut.busy):
            m.d.sync += hurt.eq(1)
        was_quiet, had_failed = Signal(), Signal()
        m.d.sync += [was_quiet.eq(self.quiet), had_failed.eq(failed)]
        with m.If(begins):
            m.d.sync += [asked.eq(0), due.eq(self.program_address), torn.eq(0), hurt.eq(0), failed.eq(0), loaded.eq(0), refused.eq(Status.NONE)]

        in_front = (dut.load_settings if config.overlap else dut.settings).groups_log2
        prepared, before, ran = Signal.like(in_front), Signal.like(in_front), Signal()
        m.d.sync += [before.eq(dut.settings.groups_log2), ran.eq(runs | dut.run)]
        with m.If(dut.clear):
            m.d.sync += prepared.eq(in_front)

        Phase, phase, phase_before, patience = sequencer.Phase, dut.phase, Signal(sequencer.Phase), Signal(range(PATIENCE + 2))
        waits = Signal()
        with m.Switch(phase):
            with m.Case(Phase.INVALIDATE):
                m.d.comb += waits.eq(self.cache_busy)
            with m.Case(Phase.REQUEST):
                m.d.comb += waits.eq(dut.request.valid & ~self.request_ready)
            with m.Case(Phase.RECEIVE):
                m.d.comb += waits.eq(~self.line_valid)
            with m.Case(Phase.LOAD):
                m.d.comb += waits.eq(loads & ~self.loader_finished)
            with m.Case(Phase.RUN):
                m.d.comb += waits.eq(runs)
            with m.Case(Phase.FINISH):
                m.d.comb += waits.eq(~self.quiet)
        m.d.sync += phase_before.eq(phase)
        with m.If(~dut.busy | (phase != phase_before)):
            m.d.sync += patience.eq(0)
        with m.Elif(~waits):
            m.d.sync += patience.eq(patience + 1)

        asserted = {
            "one layer at a time": ~(dut.run & runs),
            "run what was loaded": ~dut.run | (loaded & ~loads),
            "no layer after an error": ~dut.run | ~failed,
            "no refused descriptor is loaded": ~dut.loader_start | (dut.code == Status.NONE),
            "none is run": ~dut.run | (dut.code == Status.NONE),
            "one load at a time, none over another": ~(dut.loader_start & (loads | loaded & (dut.code == Status.NONE))),
            "none after an end": ~dut.loader_start | ~(torn | had_failed),       # one that is decided on in the cycle in which a layer fails begins, and ends
            "forget with a load": dut.clear == dut.loader_start,
            "loading": dut.loading == (loads | dut.loader_start),
            "settings stay while a layer runs": ~(runs & ran) | (before == dut.settings.groups_log2),
            "settings of what was loaded": ~dut.run | (dut.settings.groups_log2 == prepared),
            "settings in front stay": ~(loads | loaded & ~dut.finish & dut.busy & (dut.code == Status.NONE)) | (in_front == prepared) | dut.run,
            "descriptors in order": ~dut.request.valid | (~asked | dut.run) & (dut.request.payload.address == behind),
            "lines that were asked for": ~dut.read_data.ready | asked & (lines < descriptor_lines(config)),
            "end": ~dut.finish | ~(runs | loads | dut.run) & was_quiet & dut.busy,
            "end has a status": ~dut.finish | (dut.code != Status.NONE),
            "an error is not DONE": ~(dut.finish & hurt & (dut.code == Status.DONE)),
            "a layer's error": ~(dut.finish & failed) | (dut.code == Status.BUS_ERROR),
            "a descriptor's error": ~(dut.finish & torn) | (dut.code == Status.BUS_ERROR),
            "the loader's error": ~(dut.finish & ~failed & (refused != Status.NONE)) | (dut.code == refused),
            "no error from nothing": ~(dut.finish & (dut.code == Status.BUS_ERROR)) | hurt | torn | (refused == Status.BUS_ERROR),
            "layers that ended well": ~dut.finish | (dut.layer == layers),
            "goes on": patience <= PATIENCE,
        }
        both, jobs = Signal(), Signal(2)    # the load of the layer in front ended while the one before ran; jobs that ended
        with m.If(self.loader_finished):
            m.d.sync += both.eq(runs)
        with m.If(dut.finish):
            m.d.sync += jobs.eq(jobs + 1)
        covered = [dut.code == Status.DONE, (dut.code == Status.DONE) & (layers == 1), failed, (refused == Status.BAD_LOAD_LENGTH) & (dut.code == refused), torn,
                   dut.code == Status.BAD_PROGRAM, dut.code == Status.BAD_CHECKSUM, dut.code == Status.BAD_SOURCE, jobs == 1]
        # With two banks what one bank does not have: the more there are of these, the longer all of them take.
        m.d.comb += [busiest.eq(runs & loads), *([Cover(dut.run & both)] if config.overlap else (Cover(dut.finish & one) for one in covered))]

        # By its own contract the loader ends what was started, with one of these.
        known = Signal()
        m.d.comb += known.eq(Cat(self.loader_error == code for code in LOADER_CODES).any())
        m.d.comb += [Assume(~self.loader_finished | loads & known), *map(Assert, asserted.values())]
        return m


@pytest.fixture(autouse=True)
def no_geometry(monkeypatch):
    monkeypatch.setattr(sequencer, "GeometryCheck", AnyGeometry)


@pytest.mark.parametrize("config", [SINGLE, DOUBLE], ids=["one bank", "two banks"])
def test_contract(config):
    prove(Contract(config))


@pytest.mark.parametrize("config", [SINGLE, DOUBLE], ids=["one bank", "two banks"])
def test_covers(config):
    prove(Contract(config), mode="cover", depth=DEPTH)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_found(change):
    with pytest.raises(ProofFailed):
        prove(Contract(DOUBLE, changed(*CHANGES[change])))
