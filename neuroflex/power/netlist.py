"""A mapped netlist as arrays, with what each event on it costs."""

__all__ = ["Memory", "Netlist"]

import re
from dataclasses import dataclass

import numpy as np

from neuroflex.power.liberty import LibertyError, truth_table

_SLEW = 0.05        # ns, of primary inputs and clocks


@dataclass(frozen=True)
class Memory:
    """A memory that stayed one: its place among the arrays, its size in words and bits, its ports."""

    name: str
    words: int
    width: int
    reads: int
    writes: int


def _pins(nets):
    return ((pin, net) for pin, net in nets.items() if pin != "part")


def _path(name):
    """Submodule of a cell: ``front_end.encoder`` of ``$flatten\\front_end.\\encoder.$abc$1``."""
    found = re.match(r"\$flatten\\((?:[A-Za-z_]\w*\.\\)*[A-Za-z_]\w*)\.", name) or re.match(r"((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)\.", name)
    return found[1].replace("\\", "") if found else ""


def _flags(text, count):
    value = int(text.replace("x", "0"), 2)
    return [bool(value >> i & 1) for i in range(count)]


class Netlist:
    """Cells and memories of a mapped module as arrays for `neuroflex.power.activity`, and its delays.

    Energies of events follow Liberty: a transition of a net costs ``½·C·V²`` of the input pins that it drives, the internal energy of the output
    that drives it (mean over related pins) and that of the inputs (mean over conditions). There are no wires. Slews come from the same pass that finds arrival times.

    Parameters
    ----------
    module : dict
        From `neuroflex.power.mapping.map_to_cells`.
    library : neuroflex.power.liberty.Library

    Attributes
    ----------
    area : float
        µm², of the cells, without memories.
    leakage : float
        nW.
    counts : dict
        Cell type → number.
    memories : list of Memory
    delay : float
        ns from a register or an input to a register or an output; memories count nothing.
    flipflops, gated : int
        Flip-flops, and how many of them have a gated clock.
    rise, fall : float64 arrays (nets,)
        pJ of a transition.
    parts : list of str
        Submodules by path (``front_end.encoder``); "" is what is not in any, with the inputs.
    part_area : float64 array (parts,)
        µm².
    drivers : dict
        Net → cell that drives it, its output pin, its nets by pin.
    sinks : list
        For each net the cells and pins that it drives.
    """

    def __init__(self, module, library):
        self.library, self.ports = library, module["ports"]
        self._number = {}
        self.counts, self.area, self.leakage = {}, 0.0, 0.0
        combinational, registers, gates, memories = [], [], [], []
        self.constants, self.parts, areas = {}, [""], [0.0]
        for name, cell in module["cells"].items():
            kind, pins = cell["type"], cell["connections"]
            if kind == "$mem_v2":
                memories.append((name, cell["parameters"], {port: [self._net(bit) for bit in bits] for port, bits in pins.items()}))
                continue
            if kind.startswith("$"):
                raise LibertyError(f"{name}: a cell {kind} was left by the mapper")
            one = library[kind]
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.leakage += one.leakage
            path = _path(name)
            if path not in self.parts:
                self.parts.append(path)
                areas.append(0.0)
            areas[self.parts.index(path)] += one.area
            nets = {pin: self._net(bits[0]) for pin, bits in pins.items()} | {"part": self.parts.index(path)}
            (gates if one.clock_gate else registers if one.register else combinational).append((one, nets))
        self.part_area = np.array(areas)
        self.area = float(self.part_area.sum())
        for port in self.ports.values():
            port["nets"] = [self._net(bit) for bit in port["bits"]]
        self.nets = len(self._number)
        self._loads(combinational, registers, gates)
        self._registers(registers, gates)
        self._memories(memories)
        self._nodes(combinational)
        self._time(combinational, registers, gates)
        self._energies(combinational, registers, gates)
        self._fan_out()

    def _net(self, bit):
        number = self._number.setdefault(bit, len(self._number))
        if isinstance(bit, str):
            self.constants[number] = bit == "1"
        return number

    def _loads(self, *groups):
        """Capacitance of each net (pF), its sinks and its driver."""
        self.load, self.sinks = np.zeros(self.nets), [[] for _ in range(self.nets)]
        self.drivers = {}
        for group in groups:
            for cell, nets in group:
                for pin, net in _pins(nets):
                    if cell.pins[pin].direction == "input":
                        self.load[net] += cell.pins[pin].capacitance
                        self.sinks[net].append((cell, pin))
                    else:
                        self.drivers[net] = cell, pin, nets

    def _registers(self, registers, gates):
        clock = self.ports["clk"]["nets"][0] if "clk" in self.ports else -1
        self._clock = clock
        by_output = {}
        for cell, nets in gates:
            pins = {pin.role: nets[pin.name] for pin in cell.pins.values() if pin.role}
            if pins["clock"] != clock:
                raise LibertyError("a clock gate behind a clock gate")
            by_output[pins["out"]] = len(by_output)
        self.gate_enable = np.array([nets[next(p.name for p in cell.pins.values() if p.role == "enable")] for cell, nets in gates], np.int64)
        self.register_d, self.register_q, self.register_gate, self.register_negated = [], [], [], []
        for cell, nets in registers:
            clock_pin, next_state = cell.register
            if next_state not in cell.pins:
                raise LibertyError(f"{cell.name}: only plain flip-flops are simulated, its next state is {next_state!r}")
            gate = -1 if nets[clock_pin] == clock else by_output[nets[clock_pin]]
            for pin in cell.outputs:
                if pin in nets:
                    self.register_d.append(nets[next_state])
                    self.register_q.append(nets[pin])
                    self.register_gate.append(gate)
                    self.register_negated.append(cell.pins[pin].function == cell.state[1])
        for name in ("register_d", "register_q", "register_gate", "register_negated"):
            setattr(self, name, np.array(getattr(self, name), np.int64))
        self.flipflops = len(registers)
        self.gated = sum(nets[cell.register[0]] != clock for cell, nets in registers)

    def _memories(self, memories):
        """Ports as rows: read (memory, first address net, bits, first data net, width, sync, enable, reset), write likewise."""
        self.memories, self._asynchronous = [], []
        self.pin_list, self.read_ports, self.write_ports, self.read_enable_first = [], [], [], []
        offset = 0
        self.memory_offset = []
        for name, parameters, pins in memories:
            def number(key, parameters=parameters):
                return int(parameters[key].replace("x", "0"), 2)

            words, width, address_bits = number("SIZE"), number("WIDTH"), number("ABITS")
            reads, writes = number("RD_PORTS"), number("WR_PORTS")
            if number("RD_TRANSPARENCY_MASK") or number("RD_WIDE_CONTINUATION") or number("WR_WIDE_CONTINUATION") or number("OFFSET"):
                raise LibertyError(f"memory {name}: transparent or wide ports are not simulated")
            self.memories.append(Memory(name, words, width, reads, writes))
            sync = _flags(parameters["RD_CLK_ENABLE"], reads)
            for port in range(reads):
                address = pins["RD_ADDR"][port * address_bits:(port + 1) * address_bits]
                data = pins["RD_DATA"][port * width:(port + 1) * width]
                self.read_ports.append((len(self.memory_offset), self._list(address), address_bits, self._list(data), width, sync[port],
                                        pins["RD_EN"][port], pins["RD_SRST"][port]))
            for port in range(writes):
                address = pins["WR_ADDR"][port * address_bits:(port + 1) * address_bits]
                data = pins["WR_DATA"][port * width:(port + 1) * width]
                enable = pins["WR_EN"][port * width:(port + 1) * width]
                self.write_ports.append((len(self.memory_offset), self._list(address), address_bits, self._list(data), width, self._list(enable), 0, 0))
            self.memory_offset.append((offset, words, width))
            offset += words * width
        self.memory_bits = offset
        shape = (-1, 8)
        self.read_ports = np.array(self.read_ports, np.int64).reshape(shape)
        self.write_ports = np.array(self.write_ports, np.int64).reshape(shape)
        self.memory_offset = np.array(self.memory_offset, np.int64).reshape(-1, 3)
        self.pin_list = np.array(self.pin_list, np.int64)

    def _list(self, nets):
        self.pin_list += nets
        return len(self.pin_list) - len(nets)

    def _nodes(self, combinational):
        """Outputs of cells: output net, truth table, input nets; then a node for each asynchronous read port."""
        self.node_out, self.node_table, inputs = [], [], []
        for cell, nets in combinational:
            pins = [pin for pin in cell.inputs if pin in nets]
            for output in cell.outputs:
                if output in nets:
                    self.node_out.append(nets[output])
                    self.node_table.append(truth_table(cell.pins[output].function, pins))
                    inputs.append([nets[pin] for pin in pins])
        self.cells = len(inputs)
        for port in range(len(self.read_ports)):
            memory, address, bits, _, _, sync, _, _ = self.read_ports[port]
            if not sync:
                self.node_out.append(-1 - port)
                self.node_table.append(0)
                inputs.append(list(self.pin_list[address:address + bits]))
        self.node_out = np.array(self.node_out, np.int64)
        self.node_table = np.array(self.node_table, np.uint64)
        self.node_inputs = np.concatenate([np.array(one, np.int64) for one in inputs] or [np.zeros(0, np.int64)])
        self.node_start = np.cumsum([0] + [len(one) for one in inputs]).astype(np.int64)

    def _fan_out(self):
        readers = [[] for _ in range(self.nets)]
        for node in range(len(self.node_out)):
            for net in self.node_inputs[self.node_start[node]:self.node_start[node + 1]]:
                readers[net].append(node)
        self.reader_start = np.cumsum([0] + [len(one) for one in readers]).astype(np.int64)
        self.readers = np.array([node for one in readers for node in one], np.int64)

    def _time(self, combinational, registers, gates):
        """Latest arrival and largest slew of rises and falls at each net, in topological order."""
        arrival, slew = np.zeros((self.nets, 2)), np.full((self.nets, 2), _SLEW)
        for cell, nets in registers:
            for pin in cell.outputs:
                if pin in nets:
                    for arc in cell.pins[pin].arcs:
                        for edge, name in enumerate(("fall", "rise")):
                            if name in arc.tables and arc.kind.endswith("edge"):
                                arrival[nets[pin], edge] = arc.tables[name](_SLEW, self.load[nets[pin]])
                                slew[nets[pin], edge] = arc.tables[name + "_slew"](_SLEW, self.load[nets[pin]])
        waiting, users = [], {}
        for index, (cell, nets) in enumerate(combinational):
            driven = {net for pin, net in _pins(nets) if cell.pins[pin].direction == "input" and self.drivers.get(net, (None,))[0] is not None
                      and not self.drivers[net][0].register and not self.drivers[net][0].clock_gate}
            waiting.append(len(driven))
            for net in driven:
                users.setdefault(net, []).append(index)
        ready, done = [index for index, count in enumerate(waiting) if not count], 0
        while ready:
            cell, nets = combinational[ready.pop()]
            done += 1
            for pin in cell.outputs:
                if pin not in nets:
                    continue
                net = nets[pin]
                best = np.zeros((2, 2))
                best[1] = _SLEW
                for arc in cell.pins[pin].arcs:
                    if arc.related not in nets:
                        continue
                    source = nets[arc.related]
                    for edge, name in enumerate(("fall", "rise")):
                        if name not in arc.tables:
                            continue
                        causes = {"positive_unate": (edge,), "negative_unate": (1 - edge,)}.get(arc.sense, (0, 1))
                        for cause in causes:
                            late = arrival[source, cause] + arc.tables[name](slew[source, cause], self.load[net])
                            best[0, edge] = max(best[0, edge], late)
                            best[1, edge] = max(best[1, edge], arc.tables[name + "_slew"](slew[source, cause], self.load[net]))
                arrival[net], slew[net] = best
                for user in users.get(net, ()):
                    waiting[user] -= 1
                    if not waiting[user]:
                        ready.append(user)
        if done < len(combinational):
            raise LibertyError("the netlist has a combinational loop, or one through a memory's read port")
        self.arrival, self.slew = arrival.max(axis=1), slew.mean(axis=1)
        ends = [arrival[nets[cell.register[1]]].max() + cell.pins[cell.register[1]].setup for cell, nets in registers]
        ends += [arrival[nets[pin.name]].max() + pin.setup for cell, nets in gates for pin in cell.pins.values() if pin.role == "enable"]
        ends += [arrival[net].max() for port in self.ports.values() if port["direction"] == "output" for net in port["nets"]]
        ends += [arrival[net].max() for net in self.pin_list]
        self.delay = float(max(ends, default=0.0))

    def internal(self, pin, slew, load, related=None):
        """Mean (rise, fall) of a pin's internal energy over related pins and conditions."""
        pairs = [pair for name, group in pin.power.items() if related is None or name in related for pair in group]
        return [float(np.mean([pair[edge](slew, load) for pair in pairs if pair[edge]] or [0.0])) for edge in (0, 1)]

    def _energies(self, combinational, registers, gates):
        half = 0.5 * self.library.voltage ** 2
        self.rise, self.fall = half * self.load, half * self.load
        self.net_part = np.zeros(self.nets, np.int64)
        memo = {}
        for net, (cell, pin, nets) in self.drivers.items():
            if cell.clock_gate:
                continue
            slew = _SLEW if cell.register else float(np.mean([self.slew[n] for p, n in _pins(nets) if cell.pins[p].direction == "input"]))
            rise, fall = self.internal(cell.pins[pin], slew, self.load[net])
            self.net_part[net] = nets["part"]
            self.rise[net] += rise
            self.fall[net] += fall
        for net, sinks in enumerate(self.sinks):
            for cell, pin in sinks:
                key = cell.name, pin, round(float(self.slew[net]), 2)
                if key not in memo:
                    memo[key] = self.internal(cell.pins[pin], float(self.slew[net]), 0.0, related=("",))
                self.rise[net] += memo[key][0]
                self.fall[net] += memo[key][1]
        # Clock pins: both edges in every cycle; behind a clock gate only when it is open.
        self.clock_energy = np.zeros(len(self.parts))
        self.gate_energy, self.gate_part = np.zeros(len(gates)), np.array([nets["part"] for _, nets in gates], np.int64)
        outputs = {}
        for index, (cell, nets) in enumerate(gates):
            pins = {pin.role: pin for pin in cell.pins.values() if pin.role}
            self.clock_energy[nets["part"]] += sum(self.internal(pins["clock"], _SLEW, 0.0, related=("",))) + 2 * half * pins["clock"].capacitance
            out = nets[pins["out"].name]
            outputs[out] = index
            self.gate_energy[index] += sum(self.internal(pins["out"], _SLEW, self.load[out])) + 2 * half * self.load[out]
        for cell, nets in registers:
            pin = cell.pins[cell.register[0]]
            energy = sum(self.internal(pin, _SLEW, 0.0, related=("",)))
            if nets[pin.name] == self._clock:
                self.clock_energy[nets["part"]] += energy + 2 * half * pin.capacitance
            else:
                self.gate_energy[outputs[nets[pin.name]]] += energy
        if self._clock >= 0:
            self.rise[self._clock] = self.fall[self._clock] = 0.0
