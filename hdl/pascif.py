"""PASC-IF unit: the spiking neuron of an SNN column, which equals QCFS for any arrival order."""
from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.hdl.arithmetic import times
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
    max_levels_in : int, optional
        Largest T1, where that is less.
    tag_bits : int
        Width of a tag that travels with the job.

    Members
    -------
    i : In(stream.Signature({pseudo, corrections, bias, theta, t1, t2, tag}))
        ``corrections`` packs ``correction[t]``, signed, t from 1 to ``max_levels_in - 1``, ``acc_bits`` each; those of
        ``t >= t1`` do not count; without them where there is only step 0. (Plain bits, because Yosys trips over the element names of an array that crosses modules.)
    o : Out(wiring.Signature({valid, payload: {y, tag}}))
        Holds its last payload while not valid.
    """

    FIXED_LATENCY = 2

    def __init__(self, *, acc_bits, theta_bits, bias_bits, max_levels, max_levels_in=None, steps_per_cycle=2, tag_bits=1):
        max_levels_in = max_levels if max_levels_in is None else max_levels_in
        sizes = dict(acc_bits=acc_bits, theta_bits=theta_bits, bias_bits=bias_bits, max_levels=max_levels, max_levels_in=max_levels_in,
                     steps_per_cycle=steps_per_cycle, tag_bits=tag_bits)
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if max_levels_in > max_levels:
            raise ValueError(f"max_levels_in must be at most max_levels = {max_levels}, not {max_levels_in}")
        self._acc_bits, self._theta_bits, self._bias_bits = acc_bits, theta_bits, bias_bits
        self._max_levels, self._max_in, self._steps, self._tag_bits = max_levels, max_levels_in, steps_per_cycle, tag_bits
        level = range(max_levels + 1)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "pseudo": signed(acc_bits), **({"corrections": (max_levels_in - 1) * acc_bits} if max_levels_in > 1 else {}),
                "bias": signed(bias_bits), "theta": theta_bits, "t1": level, "t2": level, "tag": tag_bits}))),
            "o": Out(wiring.Signature({"valid": Out(1), "payload": Out(data.StructLayout({"y": level, "tag": tag_bits}))})),
        })

    @property
    def membrane_bits(self):
        """Width of the membranes and of their distances from multiples of theta."""
        return membrane_bits(arrival_bits=self._acc_bits + 1, bias_bits=self._bias_bits, theta_bits=self._theta_bits,
                             levels=self._max_in, steps=self._steps)

    def _ahead_bits(self, lane, spikes):
        """Width of the arrivals up to a lane less a theta for each spike."""
        arrivals, spent = (lane + 1) << self._acc_bits, spikes * ((1 << self._theta_bits) - 1)
        return signed_bits(-arrivals - spent, arrivals)

    def elaborate(self, platform):
        m = Module()
        job, steps, most, most_in = self.i.payload, self._steps, self._max_levels, self._max_in
        lanes = min(steps, most_in)
        membrane = signed(self.membrane_bits)
        count = signed(signed_bits(-(most - 1), 2 * most - 1))
        level = range(most + 1)
        accept = Signal()
        handover = Signal()

        # Stage 1. Each lane is a time step of the coming cycle. The membrane after it is the one before the cycle, plus the
        # arrivals up to this lane, less a theta for each spike up to it. Registers hold what is to be added for every number
        # of spikes that is possible; the additions then stand side by side, and their signs tell which one is true.
        integrate_valid = Signal()
        integrate_left = Signal(level)
        integrate_last = Signal()               # no more than the coming cycle is left
        integrate_mem = Signal(membrane)
        integrate_count = Signal(count)         # spikes before the last cycle
        integrate_fired = Signal(lanes)         # spikes of the last cycle, not counted yet
        integrate_theta = Signal(self._theta_bits)
        integrate_inhibit = Signal(level)       # steps of stage 2
        integrate_t2 = Signal(level)
        integrate_tag = Signal(self._tag_bits)
        pseudo = Signal(signed(self._acc_bits))
        pending = [Signal(signed(self._acc_bits), name=f"correction_{t}") for t in range(lanes, most_in)]
        active = Signal(lanes)
        ahead = {(lane, spikes): Signal(signed(self._ahead_bits(lane, spikes)), name=f"lane{lane}_spikes{spikes}")
                 for lane in range(lanes) for spikes in range(0 if lane == lanes - 1 else 1, lane + 2)}

        def prepare(pseudo, corrections, theta):
            """The coming cycle's arrivals: ``pseudo`` less a lane's correction, nothing for lanes without one."""
            for (lane, spikes), register in ahead.items():
                here = corrections[:lane + 1]
                m.d.sync += register.eq(times(pseudo, len(here)) - sum(here) - times(theta, spikes))

        after = {}                              # membrane after (lane, spikes)
        for (lane, spikes), register in ahead.items():
            after[lane, spikes] = Signal(membrane, name=f"integrate{lane}_spikes{spikes}")
            m.d.comb += after[lane, spikes].eq(integrate_mem + register)
        fires, spent = [], [Const(1, 1)]        # spent: one hot, spikes of the lanes so far
        for lane in range(lanes):
            fire = Signal(name=f"integrate{lane}_fire")
            fits = [after[lane, spikes + 1] >= 0 for spikes in range(lane + 1)]
            m.d.comb += fire.eq(active[lane] & Cat(was & fit for was, fit in zip(spent, fits)).any())
            spent = [Mux(fire, more, same) for more, same in zip([Const(0, 1), *spent], [*spent, Const(0, 1)])]
            fires.append(fire)
        mem = Signal(membrane, name="integrate_next")
        m.d.comb += mem.eq(after[lanes - 1, 0])
        for spikes in range(1, lanes + 1):
            with m.If(spent[spikes]):
                m.d.comb += mem.eq(after[lanes - 1, spikes])

        integrate_total = Signal(count)
        m.d.comb += integrate_total.eq(integrate_count + sum(integrate_fired))
        # Stage 2 is empty or in its last cycle; stage 1 is empty or hands over. Registers of their own, for readiness goes far.
        inhibit_free, ready = Signal(init=1), Signal(init=1)
        next_last, next_free = Signal(), Signal()
        m.d.comb += [handover.eq(integrate_valid & integrate_last & inhibit_free),
                     self.i.ready.eq(ready),
                     accept.eq(self.i.valid & self.i.ready)]
        m.d.comb += next_last.eq(integrate_last)
        m.d.sync += [integrate_last.eq(next_last), inhibit_free.eq(next_free), ready.eq(~accept & (~integrate_valid | handover) | next_last & next_free)]
        if most_in > steps:
            with m.If(integrate_valid & ~integrate_last):
                m.d.comb += next_last.eq(integrate_left <= 2 * steps)
                m.d.sync += [integrate_left.eq(integrate_left - steps), integrate_mem.eq(mem), integrate_count.eq(integrate_total), integrate_fired.eq(Cat(fires)),
                             active.eq(Cat(integrate_left > steps + lane for lane in range(lanes)))]
                prepare(pseudo, pending[:lanes], integrate_theta)
                m.d.sync += [register.eq(later) for register, later in zip(pending, [*pending[lanes:], *[pseudo] * lanes])]
        with m.If(handover):
            m.d.sync += integrate_valid.eq(0)
        with m.If(accept):
            m.d.comb += next_last.eq(job.t1 <= steps)
            m.d.sync += [integrate_valid.eq(1), integrate_left.eq(job.t1),
                         integrate_count.eq(0), integrate_fired.eq(0), integrate_mem.eq(job.bias + (job.theta >> 1)),
                         integrate_theta.eq(job.theta), integrate_inhibit.eq(Mux(job.t1 > job.t2, job.t1, job.t2) - 1),
                         integrate_t2.eq(job.t2), integrate_tag.eq(job.tag), pseudo.eq(job.pseudo),
                         active.eq(Cat(job.t1 > lane for lane in range(lanes)))]
            # Steps beyond T1 bring nothing: their correction is all of pseudo.
            corrections = [0, *(Mux(job.t1 > t, job.corrections.word_select(t - 1, self._acc_bits).as_signed(), job.pseudo)
                                for t in range(1, most_in))]
            prepare(job.pseudo, corrections[:lanes], job.theta)
            m.d.sync += [register.eq(correction) for register, correction in zip(pending, corrections[lanes:])]

        # Stage 2. The membrane moves by theta until it lies in 0 ... theta - 1. It cannot turn back on the way, so all steps
        # go the way that its sign tells in the beginning, and those of a cycle are decided all at once.
        inhibit_valid = Signal()
        inhibit_left = Signal(level)
        inhibit_last = Signal()
        inhibit_mem = Signal(membrane)
        inhibit_below = Signal()                # it began negative
        inhibit_count = Signal(count)           # spikes before the last cycle
        inhibit_moved = Signal(steps)           # changes of the last cycle, not counted yet
        inhibit_revoked = Signal()              # they take spikes back
        inhibit_t2 = Signal(level)
        inhibit_tag = Signal(self._tag_bits)
        m.d.comb += inhibit_last.eq(inhibit_valid & inhibit_free)

        rest, moves, short = inhibit_mem, [], inhibit_mem < 0      # short: one step less leaves the membrane negative
        for i in range(1, steps + 1):
            multiple = times(integrate_theta, i)
            move = Signal(signed(self._theta_bits + i.bit_length() + 1), name=f"inhibit{i}_move")
            with m.If(handover):
                m.d.sync += move.eq(Mux(mem < 0, multiple, -multiple))
            moved = Signal(membrane, name=f"inhibit{i}_moved")
            take = Signal(name=f"inhibit{i}_take")
            chosen = Signal(membrane, name=f"inhibit{i}_mem")
            m.d.comb += [moved.eq(inhibit_mem + move),
                         take.eq((inhibit_left >= i) & Mux(inhibit_below, short, moved >= 0)),
                         chosen.eq(Mux(take, moved, rest))]
            rest, short = chosen, moved < 0
            moves.append(take)

        inhibit_total = Signal(count)
        m.d.comb += inhibit_total.eq(inhibit_count + Mux(inhibit_revoked, -sum(inhibit_moved), sum(inhibit_moved)))
        with m.If(inhibit_valid):
            m.d.sync += [inhibit_left.eq(inhibit_left - steps), inhibit_mem.eq(rest), inhibit_count.eq(inhibit_total),
                         inhibit_moved.eq(Cat(moves)), inhibit_revoked.eq(inhibit_below)]
        m.d.comb += next_free.eq(inhibit_free)
        with m.If(inhibit_last):
            m.d.sync += inhibit_valid.eq(0)
        with m.Elif(inhibit_valid):
            m.d.comb += next_free.eq(inhibit_left <= 2 * steps)
        with m.If(handover):
            m.d.comb += next_free.eq(integrate_inhibit <= steps)
            m.d.sync += [inhibit_valid.eq(1), inhibit_mem.eq(mem), inhibit_below.eq(mem < 0), inhibit_left.eq(integrate_inhibit),
                         inhibit_count.eq(integrate_total),
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
            m.d.sync += [done_count.eq(inhibit_total), done_moved.eq(Cat(moves)), done_revoked.eq(inhibit_below),
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
