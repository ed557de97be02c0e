"""PASC-IF unit: the spiking neuron of an SNN column, which equals QCFS for any arrival order."""
from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.widths import membrane_bits, signed_bits

__all__ = ["PascIF"]


class PascIF(wiring.Component):
    """The three stages of PASC-IF over the accumulators of one column, ``steps_per_cycle`` time steps per cycle.

    1. *Integrate and fire*, T1 steps: ``mem += x[t]; if mem >= theta: mem -= theta, count += 1`` with
       ``x[t] = pseudo - correction[t]`` and ``correction[0] = 0``.
    2. *Inhibit*, ``max(T1, T2) - 1`` steps: a membrane of theta or more fires (count + 1), a negative one takes a spike
       back (count - 1).
    3. *Emit*: T2 steps of a spike each while the count lasts. Levels are stored as counts, so the circuit
       computes the number of those spikes, ``min(max(count, 0), T2)``, and not the spikes one by one.

    The membrane starts at ``bias + theta // 2``. Half units never decide a comparison (``mem`` and ``theta`` are
    integers), so this equals the neuron in doubled units, ``2*mem + theta % 2``.

    Stages 1 and 2 are two units in a pipeline; each handles one column at a time.

    **Timing.** With ``cost1 = ceil(T1 / steps)`` and ``cost2 = max(1, ceil((max(T1, T2) - 1) / steps))``, columns of equal
    T1 and T2 are accepted every ``max(cost1, cost2)`` cycles, and a result is out ``cost1 + cost2 + FIXED_LATENCY``
    cycles after its acceptance when stage 2 was free in time. For mixed ones a column that finds
    stage 2 busy waits in stage 1: ``handover[k] = max(accept[k] + cost1[k], handover[k-1] + cost2[k-1])``,
    ``result[k] = handover[k] + cost2[k] + FIXED_LATENCY``, and the next one is accepted from cycle ``handover[k]`` on.
    No back-pressure at the output; both ports are driven from registers.

    Source: Ramesh and Srinivasan, "PASCAL", 2025, integer form and proof in ``docs/neurons.md``.

    Parameters
    ----------
    acc_bits, bias_bits : int
        Widths of the accumulators and of ``bias``, signed.
    theta_bits : int
        Width of ``theta``, unsigned. A job's theta must not be 0.
    max_levels : int
        Largest T1 and T2; a job's must be from 1 to this.
    steps_per_cycle : int
        Time steps chained in a cycle.
    tag_bits : int
        Width of a tag that travels with the job.

    Members
    -------
    i : In(stream.Signature({pseudo, corrections, bias, theta, t1, t2, tag}))
        ``corrections`` packs ``correction[t]``, signed, t from 1 to ``max_levels - 1``, ``acc_bits`` each; those of
        ``t >= t1`` do not count. (Plain bits, because Yosys trips over the element names of an array that crosses modules.)
    o : Out(wiring.Signature({valid, payload: {y, tag}}))
        Holds its last payload while not valid.
    """

    FIXED_LATENCY = 2

    def __init__(self, *, acc_bits, theta_bits, bias_bits, max_levels, steps_per_cycle=2, tag_bits=1):
        sizes = dict(acc_bits=acc_bits, theta_bits=theta_bits, bias_bits=bias_bits, max_levels=max_levels,
                     steps_per_cycle=steps_per_cycle, tag_bits=tag_bits)
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self._acc_bits, self._theta_bits, self._bias_bits = acc_bits, theta_bits, bias_bits
        self._max_levels, self._steps, self._tag_bits = max_levels, steps_per_cycle, tag_bits
        level = range(max_levels + 1)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "pseudo": signed(acc_bits), "corrections": (max_levels - 1) * acc_bits,
                "bias": signed(bias_bits), "theta": theta_bits, "t1": level, "t2": level, "tag": tag_bits}))),
            "o": Out(wiring.Signature({"valid": Out(1), "payload": Out(data.StructLayout({"y": level, "tag": tag_bits}))})),
        })

    @property
    def membrane_bits(self):
        """Width of the membranes and of their distances from multiples of theta."""
        return membrane_bits(arrival_bits=self._acc_bits + 1, bias_bits=self._bias_bits, theta_bits=self._theta_bits,
                             levels=self._max_levels, steps=self._steps)

    def elaborate(self, platform):
        m = Module()
        job, steps, most = self.i.payload, self._steps, self._max_levels
        membrane, arrival = signed(self.membrane_bits), signed(self._acc_bits + 1)
        reduced = signed(signed_bits(-(1 << self._acc_bits) - (1 << self._theta_bits), (1 << self._acc_bits) - 1))
        count = signed(signed_bits(-(most - 1), 2 * most - 1))
        level = range(most + 1)
        accept = Signal()
        handover = Signal()

        corrections = [job.corrections.word_select(t, self._acc_bits).as_signed() for t in range(most - 1)]

        # Stage 1. Each lane is a time step of the coming cycle: its arrival, the arrival less theta (so that a step is one
        # adder and a choice), and whether the step exists. An arrival beyond T1 is 0 and cannot fire.
        integrate_valid = Signal()
        integrate_left = Signal(level)
        integrate_mem = Signal(membrane)
        integrate_count = Signal(count)         # spikes before the last cycle
        integrate_fired = Signal(steps)         # spikes of the last cycle, not counted yet
        integrate_theta = Signal(self._theta_bits)
        integrate_t1 = Signal(level)
        integrate_t2 = Signal(level)
        integrate_tag = Signal(self._tag_bits)
        pseudo = Signal(arrival)
        pseudo_less_theta = Signal(reduced)
        pending = [Signal(signed(self._acc_bits), name=f"correction_{t}") for t in range(steps, most)]
        lanes = [(Signal(name=f"lane{i}_active"), Signal(arrival, name=f"lane{i}_arrival"),
                  Signal(reduced, name=f"lane{i}_less_theta")) for i in range(steps)]

        mem, fires = integrate_mem, []
        for i, (active, x, x_less_theta) in enumerate(lanes):
            kept = Signal(membrane, name=f"integrate{i}_kept")
            spent = Signal(membrane, name=f"integrate{i}_spent")
            fire = Signal(name=f"integrate{i}_fire")
            mem_next = Signal(membrane, name=f"integrate{i}_mem")
            m.d.comb += [kept.eq(mem + x), spent.eq(mem + x_less_theta), fire.eq(active & (spent >= 0)),
                         mem_next.eq(Mux(fire, spent, kept))]
            mem = mem_next
            fires.append(fire)

        integrate_total = Signal(count)
        m.d.comb += integrate_total.eq(integrate_count + sum(integrate_fired))
        integrate_last = Signal()
        inhibit_free = Signal()
        m.d.comb += [integrate_last.eq(integrate_left <= steps),
                     handover.eq(integrate_valid & integrate_last & inhibit_free),
                     self.i.ready.eq(~integrate_valid | handover),
                     accept.eq(self.i.valid & self.i.ready)]
        with m.If(integrate_valid & ~integrate_last):
            m.d.sync += [integrate_left.eq(integrate_left - steps), integrate_mem.eq(mem),
                         integrate_count.eq(integrate_total), integrate_fired.eq(Cat(fires))]
            for i, (active, x, x_less_theta) in enumerate(lanes):
                correction = pending[i] if i < len(pending) else 0
                m.d.sync += active.eq(integrate_left > steps + i)
                with m.If(integrate_left > steps + i):
                    m.d.sync += [x.eq(pseudo - correction), x_less_theta.eq(pseudo_less_theta - correction)]
                with m.Else():
                    m.d.sync += x.eq(0)
            m.d.sync += [register.eq(later) for register, later in zip(pending, pending[steps:])]
        with m.If(handover):
            m.d.sync += integrate_valid.eq(0)
        with m.If(accept):
            m.d.sync += [integrate_valid.eq(1), integrate_left.eq(job.t1), integrate_count.eq(0), integrate_fired.eq(0),
                         integrate_mem.eq(job.bias + (job.theta >> 1)), integrate_theta.eq(job.theta),
                         integrate_t1.eq(job.t1), integrate_t2.eq(job.t2), integrate_tag.eq(job.tag),
                         pseudo.eq(job.pseudo), pseudo_less_theta.eq(job.pseudo - job.theta)]
            for i, (active, x, x_less_theta) in enumerate(lanes):
                correction = corrections[i - 1] if 1 <= i < most else 0
                m.d.sync += [active.eq(job.t1 > i), x.eq(Mux(job.t1 > i, job.pseudo - correction, 0)),
                             x_less_theta.eq(job.pseudo - correction - job.theta)]
            m.d.sync += [register.eq(corrections[t - 1]) for t, register in enumerate(pending, steps)]

        # Stage 2. The membrane moves by theta, by its sign, until it lies in 0 ... theta - 1. It cannot turn back on the
        # way, so the steps of a cycle go the same way, and each is decided by a multiple of theta, all at once.
        inhibit_valid = Signal()
        inhibit_left = Signal(level)
        inhibit_last = Signal()
        inhibit_mem = Signal(membrane)
        inhibit_count = Signal(count)           # spikes before the last cycle
        inhibit_moved = Signal(steps)           # changes of the last cycle, not counted yet
        inhibit_revoked = Signal()              # they take spikes back
        inhibit_t2 = Signal(level)
        inhibit_tag = Signal(self._tag_bits)
        below = Signal()
        m.d.comb += [inhibit_last.eq(inhibit_valid & (inhibit_left <= steps)),
                     inhibit_free.eq(~inhibit_valid | inhibit_last), below.eq(inhibit_mem < 0)]

        rest, moves, short = inhibit_mem, [], 1  # short: one step less leaves the membrane negative
        for i in range(1, steps + 1):
            multiple = sum(integrate_theta << bit for bit in range(i.bit_length()) if i >> bit & 1)
            plus = Signal(self._theta_bits + i.bit_length(), name=f"plus_{i}_theta")
            minus = Signal(signed(self._theta_bits + i.bit_length() + 1), name=f"minus_{i}_theta")
            with m.If(handover):
                m.d.sync += [plus.eq(multiple), minus.eq(-multiple)]
            moved = Signal(membrane, name=f"inhibit{i}_moved")
            take = Signal(name=f"inhibit{i}_take")
            chosen = Signal(membrane, name=f"inhibit{i}_mem")
            m.d.comb += [moved.eq(inhibit_mem + Mux(below, plus, minus)),
                         take.eq((inhibit_left >= i) & Mux(below, short, moved >= 0)),
                         chosen.eq(Mux(take, moved, rest))]
            rest, short = chosen, moved < 0
            moves.append(take)

        inhibit_total = Signal(count)
        m.d.comb += inhibit_total.eq(inhibit_count + Mux(inhibit_revoked, -sum(inhibit_moved), sum(inhibit_moved)))
        with m.If(inhibit_valid):
            m.d.sync += [inhibit_left.eq(inhibit_left - steps), inhibit_mem.eq(rest), inhibit_count.eq(inhibit_total),
                         inhibit_moved.eq(Cat(moves)), inhibit_revoked.eq(below)]
        with m.If(inhibit_last):
            m.d.sync += inhibit_valid.eq(0)
        with m.If(handover):
            longer = Mux(integrate_t1 > integrate_t2, integrate_t1, integrate_t2)
            m.d.sync += [inhibit_valid.eq(1), inhibit_mem.eq(mem), inhibit_left.eq(longer - 1), inhibit_count.eq(integrate_total),
                         inhibit_moved.eq(Cat(fires)), inhibit_revoked.eq(0), inhibit_t2.eq(integrate_t2),
                         inhibit_tag.eq(integrate_tag)]

        # Stage 3: the number of spikes that T2 steps emit.
        done = Signal()
        done_count = Signal(count)
        done_moved = Signal(steps)
        done_revoked = Signal()
        done_total = Signal(count)
        done_t2 = Signal(level)
        done_tag = Signal(self._tag_bits)
        m.d.comb += done_total.eq(done_count + Mux(done_revoked, -sum(done_moved), sum(done_moved)))
        m.d.sync += [done.eq(inhibit_last), self.o.valid.eq(done)]
        with m.If(inhibit_last):
            m.d.sync += [done_count.eq(inhibit_total), done_moved.eq(Cat(moves)), done_revoked.eq(below),
                         done_t2.eq(inhibit_t2), done_tag.eq(inhibit_tag)]
        with m.If(done):
            m.d.sync += self.o.payload.tag.eq(done_tag)
            with m.If(done_total < 0):
                m.d.sync += self.o.payload.y.eq(0)
            with m.Elif(done_total > done_t2):
                m.d.sync += self.o.payload.y.eq(done_t2)
            with m.Else():
                m.d.sync += self.o.payload.y.eq(done_total)
        return m
