"""Proofs on the circuits: QCFS and PASC-IF give the same level for the same sum, and neither ever hangs.

Test plan
---------
* Equality: both units get the same jobs, any number of them in any cycles, with any accumulators, bias, theta, T1 and T2 (legal
  ones); one job, chosen freely, is followed, and the two levels must be equal. Since the accumulators are free, so are the
  arrivals and their order. A proof for all cycles (an inductive invariant), at reduced widths: accumulators of 2 bits,
  theta and bias of 2 or 3 bits, up to 3 levels, 1 and 2 steps per cycle.
* Time: every job's result comes within the documented cycles, and ready never stays 0 longer than documented. These
  do not depend on data, so they are proved with up to 15 levels.
* Not vacuous: the claims that a level is never the largest, never 0, or that a result takes one cycle less, fail.
* Faults: a neuron with a membrane or a dividend that is too narrow fails.
"""
import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.pascif import PascIF
from neuroflex.hdl.qcfs import QCFS
from neuroflex.widths import level_bits, signed_bits

pytestmark = pytest.mark.formal


class Neurons(wiring.Component):
    """Both units side by side, fed with the same jobs; subclasses say what must hold for the job that is followed."""

    def __init__(self, *, acc_bits, theta_bits, bias_bits, max_levels, steps_per_cycle, qcfs=QCFS, pascif=PascIF):
        total = signed_bits(-max_levels << acc_bits, max_levels << acc_bits)
        self.qcfs = qcfs(acc_bits=total, theta_bits=theta_bits, bias_bits=bias_bits, level_bits=level_bits(max_levels))
        self.pascif = pascif(acc_bits=acc_bits, theta_bits=theta_bits, bias_bits=bias_bits, max_levels=max_levels,
                             steps_per_cycle=steps_per_cycle)
        self.max_levels, self.steps = max_levels, steps_per_cycle
        level = range(max_levels + 1)
        super().__init__({
            "valid": In(1), "follow": In(1),
            "job": In(data.StructLayout({
                "pseudo": signed(acc_bits), "corrections": data.ArrayLayout(signed(acc_bits), max_levels - 1),
                "bias": signed(bias_bits), "theta": theta_bits, "t1": level, "t2": level}))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.qcfs, m.submodules.pascif = qcfs, pascif = self.qcfs, self.pascif
        job = self.job
        m.d.comb += [Assume(~ResetSignal()), Assume(job.theta != 0),
                     *(Assume((level != 0) & (level <= self.max_levels)) for level in (job.t1, job.t2))]

        followed = Signal()     # a job is followed already
        tag = Signal()
        self.accept = Signal()
        m.d.comb += [self.accept.eq(self.valid & qcfs.i.ready & pascif.i.ready), tag.eq(self.follow & ~followed)]
        with m.If(self.accept & tag):
            m.d.sync += followed.eq(1)
        total = job.pseudo + sum(Mux(job.t1 > t, job.pseudo - job.corrections[t - 1], 0) for t in range(1, self.max_levels))
        m.d.comb += [
            qcfs.i.valid.eq(self.accept), pascif.i.valid.eq(self.accept),
            qcfs.i.payload.z.eq(total), qcfs.i.payload.levels.eq(job.t2), qcfs.i.payload.tag.eq(tag),
            pascif.i.payload.pseudo.eq(job.pseudo), pascif.i.payload.corrections.eq(job.corrections),
            pascif.i.payload.t1.eq(job.t1), pascif.i.payload.t2.eq(job.t2), pascif.i.payload.tag.eq(tag)]
        for unit in (qcfs, pascif):
            m.d.comb += [unit.i.payload.bias.eq(job.bias), unit.i.payload.theta.eq(job.theta)]
        self.claim(m, self.accept & tag)
        return m


class SameLevel(Neurons):
    """The job that is followed gets the same level from both. ``never`` adds a false claim about that level."""

    never = None

    def claim(self, m, start):
        levels = []
        for name, unit in (("qcfs", self.qcfs), ("pascif", self.pascif)):
            here = Signal(name=f"{name}_here")
            level = Signal.like(unit.o.payload.y, name=f"{name}_level")
            with m.If(unit.o.valid & unit.o.payload.tag):
                m.d.sync += [here.eq(1), level.eq(unit.o.payload.y)]
            levels.append((here, level))
        (here0, level0), (here1, level1) = levels
        with m.If(here0 & here1):
            m.d.comb += Assert(level0 == level1)
            if self.never is not None:
                m.d.comb += Assert(level1 != self.never)


class InTime(Neurons):
    """Results and ready keep to their documented times. ``less`` claims results that many cycles too early."""

    less = 0

    def claim(self, m, start):
        most, steps = self.max_levels, self.steps
        slow1, slow2 = -(-most // steps), max(1, -(-(most - 1) // steps))
        t1, t2 = self.job.t1, self.job.t2
        bits = Signal(range(most.bit_length() + 1))
        for i in range(most.bit_length()):
            with m.If(t2[i]):
                m.d.comb += bits.eq(i + 1)
        stage1 = (t1 + steps - 1) // steps if steps & steps - 1 == 0 else slow1
        stage2 = Mux(t1 > t2, t1, t2) + steps - 2
        stage2 = stage2 // steps if steps & steps - 1 == 0 else slow2
        exact, limit = Signal(8), Signal(8)
        age, running = Signal(8), Signal()
        with m.If(start):
            m.d.sync += [running.eq(1), age.eq(1), exact.eq(bits + QCFS.FIXED_LATENCY - self.less),
                         limit.eq(Mux(stage1 > slow2, stage1, slow2) + Mux(stage2 > 1, stage2, 1) + PascIF.FIXED_LATENCY
                                  - self.less)]
        with m.Elif(age != 255):
            m.d.sync += age.eq(age + running)

        due = self.qcfs.o.valid & self.qcfs.o.payload.tag
        answered = Signal()
        with m.If(self.pascif.o.valid & self.pascif.o.payload.tag):
            m.d.sync += answered.eq(1)
        with m.If(running):
            m.d.comb += [Assert(due == (age == exact)),
                         Assert(answered | (self.pascif.o.valid & self.pascif.o.payload.tag) | (age < limit))]

        for name, unit, longest in (("qcfs", self.qcfs, most.bit_length()), ("pascif", self.pascif, max(slow1, slow2))):
            waited = Signal(8, name=f"{name}_waited")
            m.d.sync += waited.eq(Mux(unit.i.ready, 0, waited + 1))
            m.d.comb += Assert(unit.i.ready | (waited < longest - 1))


TINY = dict(acc_bits=2, theta_bits=2, bias_bits=2, max_levels=2, steps_per_cycle=2)


@pytest.mark.parametrize("sizes", [
    TINY, TINY | dict(steps_per_cycle=1), TINY | dict(theta_bits=3, bias_bits=3), TINY | dict(max_levels=3)],
    ids=["2 levels", "1 step", "3 bits", "3 levels"])
def test_same_level(sizes):
    prove(SameLevel(**sizes))


@pytest.mark.parametrize("sizes", [TINY, TINY | dict(max_levels=8), TINY | dict(max_levels=15, steps_per_cycle=4)],
                         ids=["2 levels", "8 levels", "15 levels"])
def test_in_time(sizes):
    prove(InTime(**sizes))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_can_come(level):
    claim = SameLevel(**TINY)
    claim.never = level
    with pytest.raises(ProofFailed):
        prove(claim)


def test_shorter_time_is_refuted():
    claim = InTime(**TINY)
    claim.less = 1
    with pytest.raises(ProofFailed):
        prove(claim)


class NarrowMembrane(PascIF):
    """A fault: the membrane is a bit short."""

    @property
    def membrane_bits(self):
        return super().membrane_bits - 1


class NarrowDividend(QCFS):
    """A fault: the dividend is two bits short."""

    @property
    def dividend_bits(self):
        return super().dividend_bits - 2


@pytest.mark.parametrize("fault", [dict(pascif=NarrowMembrane), dict(qcfs=NarrowDividend)], ids=["membrane", "dividend"])
def test_faults_are_found(fault):
    with pytest.raises(ProofFailed):
        prove(SameLevel(**TINY, **fault))


def test_bounded_proof():
    prove(SameLevel(**TINY), mode="bmc", depth=8)
    with pytest.raises(ProofFailed, match="a property of SameLevel can be violated in cycle"):
        prove(SameLevel(**TINY, pascif=NarrowMembrane), mode="bmc", depth=8)
