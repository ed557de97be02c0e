"""Geometry of a descriptor: where its tensors end, and whether its output size follows from its sources."""
from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import CHUNK_LINES
from neuroflex.hdl.arithmetic import times
from neuroflex.layouts import settings_layout

__all__ = ["GEOMETRY_CASES", "GEOMETRY_LATENCY", "GeometryCheck"]

GEOMETRY_CASES = 4
GEOMETRY_LATENCY = 7   # from a case to its verdict


class GeometryCheck(wiring.Component):
    """Four cases, one per cycle, through a pipeline of six stages that has one multiplier for each product.

    Tensor of case 0, 1, 2: source 0, source 1, output. It has to end within the memory:
    ``base + height * width * chunks * 9 <= 2**address_bits``.

    Output size of case 0, 1: rows and columns of source 0; 2, 3: of source 1. A convolution and a pool without padding give
    ``out = ((size + 2 * pad - kernel) // stride + 1) // pool``. Without a divider: with ``step = stride * pool``,
    that is ``0 <= size + 2 * pad + stride - kernel - out * step < step``.

    Members
    -------
    clear : In(1)
        Forget the verdicts up to now.
    valid : In(1), index : In(2)
        The case to look at.
    settings : In(settings_layout(config))
        What counts is what they are in the cycle of the case.
    source_wrong, output_wrong : Out(1)
        A source ends beyond the memory; the output does, or has another size. ``GEOMETRY_LATENCY`` cycles after the case (5 for the
        output size), until ``clear``. A source of height 0 is absent and not looked at.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({"clear": In(1), "valid": In(1), "index": In(range(GEOMETRY_CASES)), "settings": In(settings_layout(config)),
                          "source_wrong": Out(1), "output_wrong": Out(1)})

    def elaborate(self, platform):
        m = Module()

        def stage(name, value, bits=None, count=1):
            """A register, or a row of ``count``."""
            for number in range(count):
                register = Signal(value.shape() if bits is None else bits, name=name if count == 1 else f"{name}_{number}")
                m.d.sync += register.eq(value)
                value = register
            return value

        with m.If(self.clear):
            m.d.sync += [self.source_wrong.eq(0), self.output_wrong.eq(0)]
        self._extent(m, stage)
        self._size(m, stage)
        return m

    def _extent(self, m, stage):
        bits, settings = self._config.address_bits, self.settings

        def of(name):
            return Array([settings[f"{tensor}_{name}"] for tensor in ("source0", "source1", "out", "out")])[self.index]

        chunks = stage("chunks", of("chunks"), 12, count=2)
        spines = stage("spines", stage("height", of("height"), 16) * stage("width", of("width"), 16))
        low = stage("low_product", spines[:16] * chunks)
        high = stage("high_product", spines[16:] * chunks)
        all_chunks = low + (high << 16)
        tensor_lines = stage("tensor_lines", times(stage("tensor_chunks", all_chunks[:bits]), CHUNK_LINES))
        tensor_end = stage("tensor_end", tensor_lines + stage("base", of("base")[:bits], bits, count=5))
        huge = stage("huge", all_chunks[bits:].any(), count=3)

        present = stage("tensor_present", self.valid & (self.index != 3) & (of("height") != 0), count=6)
        of_output = stage("of_output", self.index == 2, count=6)
        with m.If(present & (huge | (tensor_end > 1 << bits))):
            with m.If(of_output):
                m.d.sync += self.output_wrong.eq(1)
            with m.Else():
                m.d.sync += self.source_wrong.eq(1)

    def _size(self, m, stage):
        settings = self.settings
        columns, source = self.index[0], self.index[1]

        def of(of_rows, of_columns):
            """A setting of the case's source and direction."""
            return Array([settings[f"source{index}_{name}"] for index in range(2) for name in (of_rows, of_columns)])[self.index]

        size, kernel = stage("size", of("height", "width"), 16), stage("kernel", of("kernel_h", "kernel_w"), 4)
        stride, pad = stage("stride", of("stride", "stride"), 4), stage("pad", of("pad", "pad"), 4)
        pool = stage("pool", Mux(columns, settings.pool_w, settings.pool_h))
        out = stage("out", Mux(columns, settings.out_width, settings.out_height), count=2)
        room = stage("room", (size + (pad << 1)) + (stride - kernel), count=2)
        step = stage("step", stride * pool)
        rest = stage("rest", room - stage("used", out * step))
        step = stage("step_behind", step, count=2)
        present = stage("size_present", self.valid & (Mux(source, settings.source1_height, settings.source0_height) != 0), count=4)
        with m.If(present & ((rest < 0) | (rest >= step))):
            m.d.sync += self.output_wrong.eq(1)
