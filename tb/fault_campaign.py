"""Faults on the bus around the shell's RTL: one event at a time, each with a job in work, and a good job after it."""
from collections import Counter

import numpy as np

from neuroflex.axi import PAGE_BYTES, Response
from neuroflex.formats import Status, descriptor_lines, pack_descriptor
from neuroflex.tb.axi_board import OFFSET, PROGRAM_AT, Board
from neuroflex.tb.axi_system import CHANNELS, BusError, SystemFault

__all__ = ["KINDS", "Campaign", "CampaignFailure", "LONGEST_STALL", "WATCHDOG"]

WATCHDOG = 20_000           # cycles; a stall is shorter unless an event says otherwise
LONGEST_STALL = 10_000
_RESET = None               # outcome of a job that was stopped by a reset or a flush
KINDS = ("read refused", "write refused", "refusals at random", *(f"stall of {channel}" for channel in CHANNELS), "stall beyond the watchdog", "soft reset", "flush",
         "reset in a stall", "reset amid refusals", "flipped bit of a descriptor", "wrong words of a descriptor", "wrong length", "wrong field", "wrong words of weights",
         "pages outside of memory", "wrong program address", "unmapped registers in a job", "writes in a job", "push in a direct job", "random registers")
_CONSTANT = ("identity", "version", "config0", "config1", "config2", "shell")
_KEPT = ("program_page", "tensor_page", "tensor_line", "queue_program", "watchdog")       # registers that nobody but software changes
_LENGTHS = ("load_lines", "out_height", "out_width")
_FIELDS = ("source0_height", "source0_width", "source0_chunks", "source0_kernel_h", "source0_stride", "source0_pad", "out_chunks", "pool_h", "levels_in", "groups_log2",
           "ann_rounds", "snn_rounds", "fetch_lines", "load_address", "source0_base", "out_base", "out_first_chunk")


class CampaignFailure(AssertionError):
    """The circuit hung, reported a wrong result as good, or did not recover; says in which event."""


class Campaign:
    """Random faults against one job, from a seed.

    Each event starts the job directly or through the queue, with one fault. Then the job must end, or be stopped by a reset, within a bound; when its status is DONE its levels must be
    those of the functional network (but for the two kinds in which memory holds another program); a soft reset must bring the accelerator to rest, and the job, in memory that was written again, must end well.

    Parameters
    ----------
    system : AxiSystem
    job : Job
    tensor : uint8[C, H, W]
    want : int[C', H', W']
        Levels of the last layer.
    seed : int

    Attributes
    ----------
    events : Counter
        Of (kind, outcome): a `Status`, "reset" or, where levels do not count, also "other levels".
    accesses : Counter
        Random register accesses by outcome.
    responses : Counter
        Responses chosen for single refusals.
    faults : Counter
        After :meth:`count`: bursts that memory refused, cycles in which a long stall held something up.
    longest : int
        Cycles of the longest job of an event, up to its interrupt.
    """

    def __init__(self, system, job, tensor, want, seed):
        self.system, self.job, self.tensor, self.want, self.seed = system, job, tensor, want, seed
        self.rng = np.random.default_rng(seed)
        self.events, self.accesses, self.responses = Counter(), Counter(), Counter()
        self.longest = self.number = 0
        self.kind = "the first good job"
        self.manners = {}           # how memory behaves beside all this
        self.cycles, self.faults = 0, Counter()
        system.manners(decodes=True)
        self.length, self.reads, self.writes = 0, 1, 1
        self._good(queued=False)
        _, reads, writes = system.traffic
        self._good(queued=False)
        self.reads, self.writes = system.traffic[1] - reads, system.traffic[2] - writes

    def run(self, events):
        """So many events, the kinds by turns."""
        for _ in range(events):
            self.kind = KINDS[self.number % len(KINDS)]
            try:
                self._event()
            except (SystemFault, BusError) as error:
                raise self._failure(str(error)) from error
            self.number += 1

    def recover(self):
        """A flush, a soft reset, and a good job."""
        self.system.refuse()
        self.system.manners(decodes=True)
        self._rest()
        self._good(queued=bool(self.rng.integers(2)))

    def count(self):
        """At the end: cycles, and what memory did, into ``cycles`` and ``faults``."""
        self.cycles = self.system.cycle
        self.faults.update(dict(zip(("reads refused", "writes refused", "cycles stalled"), self.system.faults)))

    # --- one event ---------------------------------------------------------------------------
    def _event(self):
        rng, system, kind = self.rng, self.system, self.kind
        queued, within = bool(rng.integers(2)), int(rng.integers(self.length))
        page = self._restore()
        bound, compared, reset_after, allowed = 3 * self.length + WATCHDOG + LONGEST_STALL, True, None, set(Status)
        stall = int(10 ** rng.uniform(1, np.log10(LONGEST_STALL)))
        response, beat = Response(int(rng.integers(2, 4))), int(rng.integers(-1, 16))
        program, chaos, during = self.job.program, 0.0, None
        if kind == "read refused":
            system.refuse(read=int(rng.integers(self.reads)), response=response, beat=beat)
            self.responses[f"read {response.name}"] += 1
        elif kind == "write refused":
            system.refuse(write=int(rng.integers(self.writes)), response=response)
            self.responses[f"write {response.name}"] += 1
        elif kind in ("refusals at random", "reset amid refusals"):
            chaos = float(rng.choice([0.002, 0.02, 0.2]))
            reset_after = within if kind == "reset amid refusals" else None
        elif kind.startswith("stall of"):
            system.stall(kind.split()[-1], within, stall)
            allowed = {Status.DONE}
        elif kind == "stall beyond the watchdog":
            self.board.set("watchdog", int(rng.integers(50, 3_000)))
            system.stall(str(rng.choice(CHANNELS)), within, int(rng.integers(3_500, LONGEST_STALL + 1)))
            allowed = {Status.DONE, Status.WATCHDOG}
        elif kind == "reset in a stall":
            system.stall(str(rng.choice(CHANNELS)), within // 2, stall)
            reset_after = within
        elif kind in ("soft reset", "flush"):
            queued, reset_after = kind == "flush", within
        elif kind == "flipped bit of a descriptor":
            line = program + int(rng.integers(descriptor_lines(self.job.config)))
            self._line(line)[rng.integers(self.job.config.line_bytes)] ^= 1 << int(rng.integers(8))
            allowed = {Status.BAD_CHECKSUM}
        elif kind == "wrong words of a descriptor":
            tile, words = int(rng.integers(len(self.job.tiles) + 1)), self._words(program, descriptor_lines(self.job.config) * (len(self.job.tiles) + 1))
            each = len(words) // (len(self.job.tiles) + 1)
            for _ in range(int(rng.integers(1, 9))):
                words[tile * each + rng.integers(each)] = rng.integers(1 << 32)
        elif kind in ("wrong length", "wrong field"):
            self._change(str(rng.choice(_LENGTHS if kind == "wrong length" else _FIELDS)))
            compared = kind == "wrong length"
        elif kind == "wrong words of weights":
            settings = self.job.tiles[int(rng.integers(len(self.job.tiles)))].settings
            words = self._words(settings["load_address"], settings["load_lines"])
            for _ in range(int(rng.integers(1, 4))):
                words[rng.integers(len(words))] = rng.integers(1 << 32)
            compared = False
        elif kind == "pages outside of memory":
            outside = (system.base + len(system.memory)) // PAGE_BYTES + int(rng.integers(1 << 16))
            if rng.integers(2):
                page = outside
            else:
                self.board.set("program_page", outside)
            allowed = {Status.BUS_ERROR}
        elif kind == "wrong program address":
            program = int(rng.choice([rng.integers(1 << 32), rng.integers(self.board.tensor_line), program + rng.integers(1, 9)]))
            program += (program - self.job.program) % descriptor_lines(self.job.config) == 0      # another descriptor would be a program
        elif kind == "unmapped registers in a job":
            mapped = set(OFFSET.values())
            during = [(0, 4 * int(n), 0, 15) for n in rng.permutation(PAGE_BYTES // 4)[:100] if 4 * n not in mapped]
            allowed = {Status.DONE}
        elif kind == "writes in a job":
            # To what is read only, to what is refused while the queue is at work, to nothing, with some of the strobes.
            names = _CONSTANT + (("control", "status", "program", "watchdog") if queued else ())
            during = [(1, OFFSET[str(rng.choice(names))], int(rng.integers(1 << 32)), int(rng.choice([15, 15, 0, 5]))) for _ in range(30)]
            during += [(1, 4 * int(rng.integers(0x80, 0x400)), 1, 15) for _ in range(10)]       # before the job is over
            allowed = {Status.DONE}
        elif kind == "push in a direct job":
            queued, allowed = False, {Status.DONE}
        elif kind == "random registers":
            self.random_registers(500)
            self._rest()
            page, allowed = self._restore(), {Status.DONE}
        system.manners(chaos=chaos, decodes=True, **self.manners)
        outcome, output = self._run(page, queued=queued, program=program, bound=bound, reset_after=reset_after, during=during, after=within)
        if outcome is not _RESET:
            if outcome not in allowed:
                raise self._failure(f"the job ended with {outcome.name}, not with {' or '.join(sorted(s.name for s in allowed))}")
            if outcome == Status.DONE and not np.array_equal(output, self.want):
                if compared:
                    raise self._failure("a wrong result was reported as good")
                outcome = "other levels"
        self.events[kind, "reset" if outcome is _RESET else getattr(outcome, "name", outcome)] += 1
        self.recover()

    def _run(self, page, *, queued, program, bound, reset_after=None, during=None, after=0):
        """A job: its status (None when it was reset) and its levels."""
        system, board = self.system, self.board
        begun = system.cycle
        if queued:
            for name, value in (("queue_program", program), ("queue_control", 0x100), ("queue_push", page)):
                board.set(name, value)
        else:
            for name, value in (("tensor_page", page), ("program", program), ("status", 2), ("control", 0x101)):
                board.set(name, value)
        if reset_after is not None:
            system.wait(reset_after)
            return _RESET, None
        if self.kind == "push in a direct job" and program == self.job.program and after:
            self._push_behind(after, bound)
        if during:
            system.wait(after % 300)
            system.accesses(*(np.array(column, np.uint64) for column in zip(*during)))
        system.wait(bound, until_interrupt=True)
        self.longest = max(self.longest, system.cycle - begun)
        if not system.interrupt:
            raise self._failure(f"the job did not end within {bound:,} cycles")
        code = Status(board.get("queue_result" if queued else "status") >> 8 & 255)
        return code, board.output(self.start)

    def _push_behind(self, after, bound):
        """A job for the queue while a direct one is in work, with tensors of its own: it must be good, and wait until the other one is over."""
        system, board = self.system, self.board
        start = board.place(1, self.tensor)
        system.wait(after)
        for name, value in (("queue_program", self.job.program), ("queue_control", 0x100), ("queue_push", board.pages(start))):
            board.set(name, value)
        begun = system.cycle
        while not (word := board.get("queue_result")) & 1:
            system.wait(50)
            if system.cycle - begun > bound:
                raise self._failure(f"the job behind it did not end within {bound:,} cycles")
        if Status(word >> 8 & 255) != Status.DONE or not np.array_equal(board.output(start), self.want):
            raise self._failure(f"the job behind it ended with {Status(word >> 8 & 255).name}, its levels are {'good' if np.array_equal(board.output(start), self.want) else 'wrong'}")

    def _good(self, queued):
        """The job as it should be."""
        page, begun = self._restore(), self.system.cycle
        outcome, output = self._run(page, queued=queued, program=self.job.program, bound=50 * max(self.length, 10_000))
        self._rest()
        if outcome != Status.DONE or not np.array_equal(output, self.want):
            raise self._failure(f"the good job after it ended with {outcome.name}{' and wrong levels' if outcome == Status.DONE else ''}")
        self.length = self.length or self.system.cycle - begun

    def _rest(self):
        """Flush and soft reset, until all is at rest."""
        board = self.board
        board.set("queue_control", 1)
        self._wait("flush", lambda: board.get("queue_status") >> 8 & 1)
        board.set("control", 2)
        self._wait("soft reset", lambda: board.get("status") & 1)
        board.set("status", 2)
        board.set("watchdog", WATCHDOG)
        if board.get("queue_status") or board.get("status") & 3:
            raise self._failure("a soft reset leaves something behind")

    def _wait(self, what, busy):
        begun, most = self.system.cycle, 2 * LONGEST_STALL
        while busy():
            if self.system.cycle - begun > most:
                raise self._failure(f"still busy {most:,} cycles after a {what}")
            self.system.wait(20)

    # --- memory ------------------------------------------------------------------------------
    def _restore(self):
        """Write all of memory and the pages again; the tensors' page."""
        self.system.memory[:] = 0
        self.board = Board(self.system, self.job)
        self.board.set("watchdog", WATCHDOG)
        self.start = self.board.place(0, self.tensor)
        return self.board.pages(self.start)

    def _line(self, line):
        at = PROGRAM_AT + line * self.job.config.line_bytes
        return self.system.memory[at:at + self.job.config.line_bytes]

    def _words(self, line, lines):
        at = PROGRAM_AT + line * self.job.config.line_bytes
        return self.system.memory[at:at + lines * self.job.config.line_bytes].view(np.uint32)

    def _change(self, name):
        """Another value of one field of a descriptor, with a good checksum."""
        rng, number, per = self.rng, int(self.rng.integers(len(self.job.tiles))), descriptor_lines(self.job.config)
        settings = {key: value for key, value in self.job.tiles[number].settings.items() if key != "checksum"}
        old = int(settings[name])
        near = old + int(rng.choice([-2, -1, 1, 2, 7]))
        new = near if near >= 0 and rng.integers(2) else int(rng.integers(0, 2 * old + 2))
        new += new == old
        words = pack_descriptor(**settings | {name: new})
        self._words(self.job.program + number * per, per)[:len(words)] = words

    # --- registers ---------------------------------------------------------------------------
    def random_registers(self, count):
        """Accesses to any address, mostly to registers, with any data and strobes; each is answered, with what is right as far as software can know it."""
        rng, names = self.rng, {offset: name for name, offset in OFFSET.items()}
        offsets = np.where(rng.random(count) < 0.75, rng.choice(list(names), count), rng.integers(0, PAGE_BYTES, count))
        write, values = rng.random(count) < 0.5, rng.integers(0, 1 << 32, count)
        strobes = np.where(rng.random(count) < 0.8, 15, rng.integers(0, 16, count))
        kept = {name: self.board.get(name) for name in _KEPT + _CONSTANT}
        got, responses = self.system.accesses(write, offsets, values, strobes)
        for w, offset, value, strobe, answer, response in zip(*(a.tolist() for a in (write, offsets, values, strobes, got, responses))):
            name = names.get(offset & ~3)
            if w and strobe != 15:
                good = response == (Response.SLVERR if strobe else Response.OKAY)
                what = "write, some strobes" if strobe else "write, no strobes"
            elif name is None:
                good, what = response == Response.SLVERR, "unmapped"
            elif w:
                # The accelerator's own are refused while the queue is at work, a push into a full queue is.
                may_refuse = offset < 0x100 or name == "queue_push"
                good, what = response == Response.OKAY or may_refuse and response == Response.SLVERR, "write" if response == Response.OKAY else "write refused"
                if name in _KEPT and response == Response.OKAY:
                    kept[name] = value
            else:
                good, what = response == Response.OKAY and (name not in kept or answer == kept[name]), "read"
            if not good:
                raise self._failure(f"the {'write to' if w else 'read of'} 0x{offset:03X} (strobes {strobe:04b}) was answered with {Response(response).name}, 0x{answer:08X}")
            self.accesses[what] += 1

    def _failure(self, text):
        return CampaignFailure(f"event {self.number} of seed {self.seed} ({self.kind}): {text}")

    def table(self):
        """Lines of text: kinds and outcomes."""
        for kind in KINDS:
            outcomes = {outcome: n for (k, outcome), n in sorted(self.events.items()) if k == kind}
            yield f"{kind:30} {sum(outcomes.values()):6}  {', '.join(f'{outcome} {n}' for outcome, n in outcomes.items())}"
