"""QCFS unit: the activation of an ANN column, without divider and multiplier."""
from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.widths import signed_bits, signed_range

__all__ = ["QCFS"]


class QCFS(wiring.Component):
    """``y = clip(floor((2*z + 2*bias + theta) / (2*theta)), 0, levels)`` by compare and subtract.

    Since ``z + bias`` is an integer, the quotient equals ``floor((z + bias + theta // 2) / theta)``: half units never
    decide a comparison, so the circuit drops them. The dividend is compared with ``theta * 2**i`` from the top bit of
    ``levels`` down. A negative dividend loses every comparison, which is the clip at 0; one beyond the top bit wins all
    of them, and the last stage clips to ``levels``.

    **Timing.** A job costs ``n = max(1, ceil(log2(levels + 1)))`` cycles: after an acceptance in cycle ``a`` the next one
    is possible in ``a + n``, and the result is out in ``a + n + FIXED_LATENCY``. No bubbles, no back-pressure at the
    output; both ports are driven from registers.

    Source: Bu et al., "Optimal ANN-SNN conversion", ICLR 2022; integer form in ``docs/neurons.md``.

    Parameters
    ----------
    acc_bits, bias_bits : int
        Widths of ``z`` and ``bias``, signed.
    theta_bits : int
        Width of ``theta``, unsigned. A job's theta must not be 0.
    level_bits : int
        Width of ``levels`` and ``y``, unsigned. A job's levels must not be 0.
    tag_bits : int
        Width of a tag that travels with the job.

    Members
    -------
    i : In(stream.Signature({z, bias, theta, levels, tag}))
    o : Out(wiring.Signature({valid, payload: {y, tag}}))
        Holds its last payload while not valid.
    """

    FIXED_LATENCY = 3

    def __init__(self, *, acc_bits, theta_bits, bias_bits, level_bits, tag_bits=1):
        widths = dict(acc_bits=acc_bits, theta_bits=theta_bits, bias_bits=bias_bits, level_bits=level_bits, tag_bits=tag_bits)
        for name, value in widths.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self._acc_bits, self._theta_bits, self._bias_bits, self._level_bits = acc_bits, theta_bits, bias_bits, level_bits
        self._tag_bits = tag_bits
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "z": signed(acc_bits), "bias": signed(bias_bits), "theta": theta_bits, "levels": level_bits,
                "tag": tag_bits}))),
            "o": Out(wiring.Signature({"valid": Out(1), "payload": Out(data.StructLayout({"y": level_bits, "tag": tag_bits}))})),
        })

    @property
    def dividend_bits(self):
        """Width of the dividend and of its difference with the largest ``theta * 2**i``."""
        z, bias, theta = signed_range(self._acc_bits), signed_range(self._bias_bits), (1 << self._theta_bits) - 1
        return signed_bits(z[0] + bias[0] - (theta << self._level_bits - 1), z[1] + bias[1] + theta // 2)

    def elaborate(self, platform):
        m = Module()
        job = self.i.payload
        bits, width = self._level_bits, self.dividend_bits
        accept = Signal()
        top = Signal(range(max(bits, 2)))  # index of the top bit of levels: comparisons - 1
        gap = Signal.like(top)             # cycles until the next job may come

        # A job that is accepted never waits inside: the gap to the next one is made here, at the door.
        for i in range(bits):
            with m.If(job.levels[i]):
                m.d.comb += top.eq(i)
        m.d.comb += [self.i.ready.eq(gap == 0), accept.eq(self.i.valid & self.i.ready)]
        with m.If(accept):
            m.d.sync += gap.eq(top)
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)

        # First cycle: sum and bias. Second: half a threshold, and theta aligned with the top bit.
        sum_valid = Signal()
        sum_value = Signal(signed(width))
        sum_theta = Signal(self._theta_bits)
        sum_top = Signal.like(top)
        sum_levels = Signal(bits)
        sum_tag = Signal(self._tag_bits)
        m.d.sync += sum_valid.eq(accept)
        with m.If(accept):
            m.d.sync += [sum_value.eq(job.z + job.bias), sum_theta.eq(job.theta), sum_top.eq(top),
                         sum_levels.eq(job.levels), sum_tag.eq(job.tag)]

        divide = Signal()
        left = Signal.like(top)
        dividend = Signal(signed(width))
        divisor = Signal(self._theta_bits + bits - 1)
        quotient = Signal(bits)
        divide_levels = Signal(bits)
        divide_tag = Signal(self._tag_bits)
        rest = Signal(signed(width))
        digit = Signal()
        last = Signal()
        m.d.comb += [rest.eq(dividend - divisor), digit.eq(rest >= 0), last.eq(divide & (left == 0))]
        with m.If(divide):
            m.d.sync += [dividend.eq(Mux(digit, rest, dividend)), divisor.eq(divisor >> 1),
                         quotient.eq(Cat(digit, quotient)), left.eq(left - 1)]
        with m.If(last):
            m.d.sync += divide.eq(0)
        with m.If(sum_valid):
            m.d.sync += [divide.eq(1), left.eq(sum_top), dividend.eq(sum_value + (sum_theta >> 1)),
                         divisor.eq(sum_theta << sum_top), quotient.eq(0), divide_levels.eq(sum_levels),
                         divide_tag.eq(sum_tag)]

        done = Signal()
        raw = Signal(bits)
        done_levels = Signal(bits)
        done_tag = Signal(self._tag_bits)
        m.d.sync += done.eq(last)
        with m.If(last):
            m.d.sync += [raw.eq(Cat(digit, quotient)), done_levels.eq(divide_levels), done_tag.eq(divide_tag)]

        m.d.sync += self.o.valid.eq(done)
        with m.If(done):
            m.d.sync += [self.o.payload.y.eq(Mux(raw > done_levels, done_levels, raw)), self.o.payload.tag.eq(done_tag)]
        return m
