"""One bank of the FiberCache: tags, replacement state, victims and data of its sets."""
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from neuroflex.cache_policy import PRIORITY_MAX, age_bits, set_bits, tag_bits

__all__ = ["CacheBank", "Client", "CLIENTS"]


class Client(enum.IntEnum, shape=2):
    """Where an operation comes from, in the order of priority."""

    FILL = 0
    READ = 1
    WRITE = 2
    FETCH = 3


CLIENTS = len(Client)


def _way_layout(config):
    """A way's state; ``valid`` is its lowest bit, for it is kept in a memory of its own."""
    return data.StructLayout({"valid": 1, "dirty": 1, "priority": range(PRIORITY_MAX + 1), "age": age_bits(config)})


def _candidate_layout(config):
    """A way in the search for a victim: the smallest ``rank`` goes, its lowest bit being of least weight."""
    return data.StructLayout({"rank": age_bits(config) + 3, "dirty": 1, "way": range(config.cache_ways)})


class CacheBank(wiring.Component):
    """Takes one operation per cycle, looks it up one cycle later, and lets it take effect one cycle after that.

    Stages of an operation granted in cycle ``i``: row of tags and state read and compared in ``i + 1``; effect in
    ``i + 2`` (new state row, data memory access, outcome); the state row is written in ``i + 3``, and the next victim
    of the set found in ``i + 3`` and ``i + 4``. So an operation must not be granted while one of its set is in the first two
    stages, and one that may allocate (fill, write) not while one is in the first three.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    request, set, tag
        By client: may be granted an operation of this bank; set and tag of its line.
    grant
        To which client; nothing but the first that requests.
    replay
        By client: its operations in all three stages come to nothing.
    room, write_room
        The write buffer takes a line of a fill, of a write, in the effect stage.
    fill_skip, fill_demand, consume, through, fill_line, write_line
        Of the operations in the effect stage, whatever their bank: the fill is not to be stored, a read waits for it; the read
        drops its line; the write goes to the write buffer.
    done
        By client, effect stage: the operation hit (read, fetch), is complete (write), or is complete unless it evicts (fill).
    evicts
        Effect stage: a dirty victim leaves. Its ``victim_tag`` and ``victim_set`` are out one cycle later, its ``line`` two.
    read_hits
        Effect stage: a read hits; its ``line`` is out two cycles later.
    presses
        Look-up stage: a fill will take effect next, and the next victim of its set is dirty.
    clear, clear_set
        Invalidate a set; no operation may be under way but those whose outcome was out a cycle ago.
    """

    def __init__(self, config):
        self._config = config
        sets, tags = set_bits(config), tag_bits(config)
        super().__init__({
            "request": In(CLIENTS),
            "set": In(data.ArrayLayout(sets, CLIENTS)),
            "tag": In(data.ArrayLayout(tags, CLIENTS)),
            "grant": In(CLIENTS),
            "replay": In(CLIENTS),
            "room": In(1),
            "write_room": In(1),
            "fill_skip": In(1),
            "fill_demand": In(1),
            "consume": In(1),
            "through": In(1),
            "fill_line": In(config.chunk_bits),
            "write_line": In(config.chunk_bits),
            "done": Out(CLIENTS),
            "evicts": Out(1),
            "read_hits": Out(1),
            "presses": Out(1),
            "line": Out(config.chunk_bits),
            "victim_tag": Out(tags),
            "victim_set": Out(sets),
            "clear": In(1),
            "clear_set": In(sets),
        })

    def elaborate(self, platform):
        config = self._config
        ways, sets = config.cache_ways, config.cache_sets
        way_layout = _way_layout(config)
        victim_layout = data.StructLayout({"dirty": 1, "way": range(ways)})
        m = Module()

        m.submodules.tags = tags = Memory(shape=data.ArrayLayout(tag_bits(config), ways), depth=sets, init=[])
        # What is valid has a memory of its own, which can stand with the tags: only these two decide a match.
        m.submodules.valids = valids = Memory(shape=ways, depth=sets, init=[])
        m.submodules.states = states = Memory(shape=data.ArrayLayout(way_layout.size - 1, ways), depth=sets, init=[])
        m.submodules.victims = victims = Memory(shape=victim_layout, depth=sets, init=[])
        m.submodules.lines = lines = Memory(shape=config.chunk_bits, depth=sets * ways, init=[])
        tag_read, tag_write = tags.read_port(domain="comb"), tags.write_port(granularity=1)
        valid_read, valid_write = valids.read_port(domain="comb"), valids.write_port()
        state_read, state_write = states.read_port(domain="comb"), states.write_port()
        victim_read, victim_write = victims.read_port(domain="comb"), victims.write_port()
        line_read, line_write = lines.read_port(), lines.write_port()

        # --- granted: the choice does not wait for the grant -----------------------------------------
        look, raw_act = Signal(CLIENTS), Signal(CLIENTS, name="act")
        look_set, act_set, row_set, deciding_set = (
            Signal(set_bits(config), name=f"{stage}_set") for stage in ("look", "act", "row", "deciding"))
        look_tag, act_tag = (Signal(tag_bits(config), name=f"{stage}_tag") for stage in ("look", "act"))
        for client in reversed(Client):
            with m.If(self.request[client]):
                m.d.sync += [look_set.eq(self.set[client]), look_tag.eq(self.tag[client])]
        m.d.sync += [look.eq(self.grant & ~self.replay), raw_act.eq(look & ~self.replay), act_tag.eq(look_tag),
                     act_set.eq(look_set), row_set.eq(act_set), deciding_set.eq(row_set)]

        # --- look-up -------------------------------------------------------------------------------
        m.d.comb += [port.addr.eq(look_set) for port in (tag_read, valid_read, state_read, victim_read)]
        row = Signal(data.ArrayLayout(way_layout, ways))
        row_tags = Signal(data.ArrayLayout(tag_bits(config), ways))
        matches, victim = Signal(ways), Signal(ways)
        victim_way, victim_dirty = Signal(range(ways)), Signal()
        m.d.sync += [row.eq(Cat(Cat(valid_read.data[way], state_read.data[way]) for way in range(ways))), row_tags.eq(tag_read.data),
                     victim_way.eq(victim_read.data.way), victim_dirty.eq(victim_read.data.dirty)]
        for way in range(ways):
            m.d.sync += [matches[way].eq(valid_read.data[way] & (tag_read.data[way] == look_tag)),
                         victim[way].eq(victim_read.data.way == way)]
        m.d.comb += self.presses.eq(look[Client.FILL] & ~self.replay[Client.FILL] & victim_read.data.dirty)

        # --- effect --------------------------------------------------------------------------------
        act = Signal(CLIENTS, name="effective")
        m.d.comb += act.eq(raw_act & ~self.replay)
        fill, read, write, fetch = (act[client] for client in Client)
        hit, store, keep, allocate, drop = (Signal(name=name) for name in ("hit", "store", "keep", "allocate", "drop"))
        fill_evicts, write_evicts, write_drops = (Signal(name=name) for name in ("fill_evicts", "write_evicts", "write_drops"))
        m.d.comb += [
            hit.eq(matches.any()),
            store.eq(fill & ~hit & ~self.fill_skip),
            keep.eq(write & ~self.through),
            allocate.eq((store | keep & ~hit) & ~victim_dirty),
            fill_evicts.eq(store & victim_dirty & self.room),
            write_evicts.eq(keep & ~hit & victim_dirty & self.write_room),
            self.evicts.eq(fill_evicts | write_evicts),
            self.read_hits.eq(read & hit),
            write_drops.eq(write & self.through & self.write_room),
            drop.eq(read & self.consume | write_drops),
            self.done[Client.FILL].eq(fill & ~fill_evicts),
            self.done[Client.READ].eq(self.read_hits),
            self.done[Client.WRITE].eq(write_drops | keep & (hit | ~victim_dirty)),
            self.done[Client.FETCH].eq(fetch & hit),
        ]

        oldest = (1 << age_bits(config)) - 1
        new_row = Signal.like(row)
        for way in range(ways):
            old, new = row[way], new_row[way]
            m.d.comb += new.eq(old)
            with m.If(allocate):
                m.d.comb += new.age.eq(old.age + (old.age != oldest))
                with m.If(victim[way]):
                    m.d.comb += [new.valid.eq(1), new.dirty.eq(keep), new.age.eq(0),
                                 new.priority.eq(fill & ~self.fill_demand)]
            with m.Elif(self.evicts):
                with m.If(victim[way]):
                    m.d.comb += [new.valid.eq(0), new.dirty.eq(0)]
            with m.Elif(matches[way]):
                with m.If(drop):
                    m.d.comb += [new.valid.eq(0), new.dirty.eq(0)]
                with m.Elif(read | fetch | keep):
                    m.d.comb += [new.age.eq(0), new.dirty.eq(old.dirty | keep)]
                with m.If(read):
                    m.d.comb += new.priority.eq(old.priority - (old.priority != 0))
                with m.If(fetch):
                    m.d.comb += new.priority.eq(old.priority + (old.priority != PRIORITY_MAX))

        index = Signal(range(ways))
        for bit in range(len(index)):
            found = Cat(matches[way] for way in range(ways) if way >> bit & 1).any()
            m.d.comb += index[bit].eq(found | victim_way[bit] & ~hit)
        m.d.comb += [
            tag_write.addr.eq(row_set),
            line_read.addr.eq(Cat(index, act_set)),
            line_write.addr.eq(line_read.addr),
            line_write.data.eq(Mux(raw_act[Client.WRITE], self.write_line, self.fill_line)),
            line_write.en.eq(allocate | keep & hit),
            self.victim_set.eq(row_set),
        ]
        m.d.sync += self.line.eq(line_read.data)    # the data memory takes half a cycle to answer
        row_tag = Signal(tag_bits(config))
        m.d.sync += [tag_write.en.eq(Mux(allocate, victim, 0)), row_tag.eq(act_tag)]     # written with the state row
        for way in range(ways):
            m.d.comb += tag_write.data[way].eq(row_tag)
        gone = 0
        for way in range(ways):
            gone = gone | Mux(victim[way], row_tags[way], 0)
        m.d.sync += self.victim_tag.eq(gone)

        # --- write the row; the next victim: two half-searches, one cycle each -------------------------------------
        ranked, ranking = Signal.like(row), Signal()
        m.d.sync += [ranked.eq(new_row), ranking.eq(raw_act.any())]
        m.d.comb += [
            valid_write.data.eq(Mux(self.clear, 0, Cat(way.valid for way in ranked))),
            *(state_write.data[way].eq(Mux(self.clear, 0, ranked[way].as_value()[1:])) for way in range(ways)),
            *(port.addr.eq(Mux(self.clear, self.clear_set, row_set)) for port in (valid_write, state_write)),
            *(port.en.eq(ranking | self.clear) for port in (valid_write, state_write)),
        ]
        candidates = []
        for way in range(ways):
            candidate = Signal(_candidate_layout(config), name=f"candidate_{way}")
            state = ranked[way]
            m.d.comb += [candidate.way.eq(way), candidate.dirty.eq(state.valid & state.dirty),
                         candidate.rank.eq(Mux(state.valid, Cat(~state.age, state.priority, 1), 0))]
            candidates.append(candidate)
        rounds = ways.bit_length() - 1

        def play(players, count, stage):
            for number in range(count):
                winners = []
                for i in range(0, len(players), 2):
                    winner = Signal.like(players[i], name=f"winner_{stage}_{number}_{i // 2}")
                    m.d.comb += winner.eq(Mux(players[i + 1].rank < players[i].rank, players[i + 1], players[i]))
                    winners.append(winner)
                players = winners
            return players

        finalists = []
        for i, winner in enumerate(play(candidates, (rounds + 1) // 2, "early")):
            finalist = Signal.like(winner, name=f"finalist_{i}")
            m.d.sync += finalist.eq(winner)
            finalists.append(finalist)
        deciding = Signal()
        m.d.sync += deciding.eq(ranking)
        (loser,) = play(finalists, rounds // 2, "late")
        m.d.comb += [
            victim_write.addr.eq(Mux(self.clear, self.clear_set, deciding_set)),
            victim_write.data.eq(Mux(self.clear, 0, Cat(loser.dirty, loser.way))),
            victim_write.en.eq(deciding | self.clear),
        ]
        return m
