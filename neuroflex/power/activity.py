"""Runs a mapped netlist on traffic and counts what it costs, cycle by cycle."""

__all__ = ["Activity", "simulate"]

from dataclasses import dataclass

import numpy as np
from numba import njit


@dataclass(frozen=True, eq=False)
class Activity:
    """What a run gave; all arrays have a row per cycle; ``parts`` are those of the netlist, a net belongs to what drives it.

    Attributes
    ----------
    outputs : dict
        Output port → values: int64 up to 63 bits, else bool (cycles, bits).
    settled : float64 (cycles, parts)
        pJ of transitions when every net changes at most once per cycle (no delays, no glitches), without clocks.
    glitches : float64 (cycles, parts)
        pJ of the further transitions when each cell and each memory takes the same time (unit delay, no pulse too short to pass).
    clock : float64 (cycles, parts)
        pJ of clock pins, clock gates, and flip-flops that are clocked.
    reads, writes : int64 (cycles, ports)
        Accesses by port, in the order of the memories and their ports. An asynchronous port is read in the cycles in which its address or its word changes.
    """

    outputs: dict
    settled: np.ndarray
    glitches: np.ndarray
    clock: np.ndarray
    reads: np.ndarray
    writes: np.ndarray


@njit(cache=True)
def _address(value, pins, first, bits):
    address = 0
    for i in range(bits):
        address |= value[pins[first + i]] << i
    return address


@njit(cache=True)
def _flip(net, value, start, stamp, cycle, touched, count):
    """Change a net; returns the number of nets touched in this cycle."""
    if stamp[net] != cycle:
        stamp[net] = cycle
        start[net] = value[net]
        touched[count] = net
        count += 1
    value[net] ^= 1
    return count


@njit(cache=True)
def _run(value, stimulus, input_nets, output_nets, node_out, node_table, node_inputs, node_start, readers, reader_start,
         register_d, register_q, register_gate, register_negated, gate_enable, read_ports, write_ports, memory_offset, pins, contents,
         rise, fall, net_part, clock_energy, gate_energy, gate_part, outputs, settled, glitches, clock, reads, writes):
    nets, nodes = len(value), len(node_out)
    start, stamp, touched = np.zeros(nets, np.uint8), np.full(nets, -1), np.zeros(nets, np.int64)
    node_stamp = np.full(nodes, -1)
    changed, next_changed = np.zeros(nets, np.int64), np.zeros(nets, np.int64)
    work = np.zeros(nodes, np.int64)
    held = np.zeros(len(register_d), np.uint8)           # what flip-flops take at the edge
    port_changed = np.zeros(len(read_ports), np.uint8)
    memory_written = np.zeros(len(memory_offset), np.uint8)
    port_data = np.zeros((len(read_ports), 1024), np.uint8)
    wave = 0
    for cycle in range(len(stimulus)):
        count = total = 0
        energy = glitches[cycle]
        # Clock edge: registers, synchronous reads, then writes; new inputs.
        if cycle:
            for r in range(len(register_d)):
                gate = register_gate[r]
                held[r] = value[register_q[r]]
                if gate < 0 or value[gate_enable[gate]]:
                    held[r] = value[register_d[r]] ^ register_negated[r]
            for p in range(len(read_ports)):
                memory, first, bits, data, width, sync, enable, reset = read_ports[p]
                port_changed[p] = 0
                if sync and (value[enable] or value[reset]):
                    port_changed[p] = 1
                    reads[cycle - 1, p] += not value[reset]
                    word = _address(value, pins, first, bits)
                    offset, words, _ = memory_offset[memory]
                    for i in range(width):
                        port_data[p, i] = 0 if value[reset] or word >= words else contents[offset + word * width + i]
            for m in range(len(memory_offset)):
                memory_written[m] = 0
            for p in range(len(write_ports)):
                memory, first, bits, data, width, enable, _, _ = write_ports[p]
                word = _address(value, pins, first, bits)
                offset, words, _ = memory_offset[memory]
                some = False
                for i in range(width):
                    if value[pins[enable + i]] and word < words:
                        contents[offset + word * width + i] = value[pins[data + i]]
                        some = True
                if some:
                    memory_written[memory] = 1
                    writes[cycle - 1, p] += 1
            for r in range(len(register_d)):
                q = register_q[r]
                if held[r] != value[q]:
                    energy[net_part[q]] += fall[q] if value[q] else rise[q]
                    count = _flip(q, value, start, stamp, cycle, touched, count)
                    changed[total] = q
                    total += 1
            for p in range(len(read_ports)):
                if port_changed[p]:
                    data, width = read_ports[p, 3], read_ports[p, 4]
                    for i in range(width):
                        q = pins[data + i]
                        if port_data[p, i] != value[q]:
                            energy[net_part[q]] += fall[q] if value[q] else rise[q]
                            count = _flip(q, value, start, stamp, cycle, touched, count)
                            changed[total] = q
                            total += 1
        for i in range(len(input_nets)):
            net = input_nets[i]
            if net >= 0 and stimulus[cycle, i] != value[net]:
                energy[net_part[net]] += fall[net] if value[net] else rise[net]
                count = _flip(net, value, start, stamp, cycle, touched, count)
                changed[total] = net
                total += 1
        # Waves: all cells whose inputs have just changed, together.
        first_wave = True
        while total or first_wave:
            wave += 1
            queued = 0
            for i in range(total):
                net = changed[i]
                for k in range(reader_start[net], reader_start[net + 1]):
                    node = readers[k]
                    if node_stamp[node] != wave:
                        node_stamp[node] = wave
                        work[queued] = node
                        queued += 1
            if first_wave:
                for node in range(nodes):       # everything once at the start; written memories show their new words
                    if node_stamp[node] != wave and (cycle == 0 or node_out[node] < 0 and memory_written[read_ports[-1 - node_out[node], 0]]):
                        node_stamp[node] = wave
                        work[queued] = node
                        queued += 1
                first_wave = False
            fresh = 0
            for k in range(queued):
                node = work[k]
                out = node_out[node]
                if out >= 0:
                    index = 0
                    for i in range(node_start[node], node_start[node + 1]):
                        index |= value[node_inputs[i]] << (i - node_start[node])
                    if ((node_table[node] >> np.uint64(index)) & np.uint64(1)) != value[out]:
                        next_changed[fresh] = out
                        fresh += 1
                else:
                    p = -1 - out
                    memory, first, bits, data, width, sync, enable, reset = read_ports[p]
                    word = _address(value, pins, first, bits)
                    offset, words, _ = memory_offset[memory]
                    for i in range(width):
                        bit = contents[offset + word * width + i] if word < words else 0
                        if bit != value[pins[data + i]]:
                            next_changed[fresh] = pins[data + i]
                            fresh += 1
            for i in range(fresh):
                net = next_changed[i]
                energy[net_part[net]] += fall[net] if value[net] else rise[net]
                count = _flip(net, value, start, stamp, cycle, touched, count)
            changed, next_changed = next_changed, changed
            total = fresh
        for i in range(count):
            net = touched[i]
            if value[net] != start[net]:
                settled[cycle, net_part[net]] += rise[net] if value[net] else fall[net]
        energy -= settled[cycle]
        for p in range(len(read_ports)):
            memory, first, bits, data, width, sync, enable, reset = read_ports[p]
            if not sync:
                for i in range(bits):
                    net = pins[first + i]
                    if stamp[net] == cycle and start[net] != value[net]:
                        reads[cycle, p] = 1
                for i in range(width):
                    net = pins[data + i]
                    if stamp[net] == cycle and start[net] != value[net]:
                        reads[cycle, p] = 1
        clock[cycle] += clock_energy
        for g in range(len(gate_enable)):
            if value[gate_enable[g]]:
                clock[cycle, gate_part[g]] += gate_energy[g]
        for i in range(len(output_nets)):
            outputs[cycle, i] = value[output_nets[i]]


def _bits(values, width, cycles):
    """A port's values as bits, uint8 (cycles, width)."""
    values = np.asarray(values)
    if values.ndim == 0:
        values = np.full(cycles, values)
    words = values[:, None] if values.ndim == 1 else values
    raw = np.ascontiguousarray(words.astype(np.int64 if words.dtype.kind in "ib" else np.uint64).view(np.uint64))
    return np.unpackbits(raw.view(np.uint8), axis=1, bitorder="little", count=width)


def simulate(netlist, stimulus, *, reset_cycles=2):
    """Run a netlist.

    Parameters
    ----------
    netlist : neuroflex.power.netlist.Netlist
    stimulus : dict
        Input port → values per cycle, in the form of `neuroflex.tb.bench.Bench`; missing inputs are 0.
    reset_cycles : int
        Cycles with ``rst`` high before the first one; they are not in the result. Registers and memories start at 0.

    Returns
    -------
    Activity
    """
    cycles = max(len(np.atleast_1d(np.asarray(values))) for values in stimulus.values())
    total = cycles + reset_cycles
    inputs = {name: port for name, port in netlist.ports.items() if port["direction"] == "input" and name != "clk"}
    unknown = sorted(set(stimulus) - set(inputs))
    if unknown:
        raise ValueError(f"the netlist has no input {unknown[0]!r}; it has {', '.join(inputs)}")
    input_nets = np.array([net for port in inputs.values() for net in port["nets"]], np.int64)
    drive, column = np.zeros((total, len(input_nets)), np.uint8), 0
    for name, port in inputs.items():
        width = len(port["nets"])
        if name in stimulus:
            drive[reset_cycles:, column:column + width] = _bits(stimulus[name], width, cycles)
        elif name == "rst":
            drive[:reset_cycles, column] = 1
        column += width
    ports = {name: port for name, port in netlist.ports.items() if port["direction"] == "output"}
    output_nets = np.array([net for port in ports.values() for net in port["nets"]], np.int64)
    value = np.zeros(netlist.nets, np.uint8)
    for net, level in netlist.constants.items():
        value[net] = level
    for q in netlist.register_q[netlist.register_negated == 1]:
        value[q] = 1
    outputs = np.zeros((total, len(output_nets)), np.uint8)
    settled, glitches, clock = np.zeros((3, total, len(netlist.parts)))
    reads = np.zeros((total, len(netlist.read_ports)), np.int64)
    writes = np.zeros((total, len(netlist.write_ports)), np.int64)
    contents = np.zeros(netlist.memory_bits, np.uint8)
    _run(value, drive, input_nets, output_nets, netlist.node_out, netlist.node_table, netlist.node_inputs, netlist.node_start, netlist.readers,
         netlist.reader_start, netlist.register_d, netlist.register_q, netlist.register_gate, netlist.register_negated, netlist.gate_enable,
         netlist.read_ports, netlist.write_ports, netlist.memory_offset, netlist.pin_list, contents, netlist.rise, netlist.fall,
         netlist.net_part, netlist.clock_energy, netlist.gate_energy, netlist.gate_part, outputs, settled, glitches, clock, reads, writes)
    found, column = {}, 0
    keep = slice(reset_cycles, None)
    for name, port in ports.items():
        width = len(port["nets"])
        bits = outputs[keep, column:column + width]
        found[name] = bits.astype(np.int64) @ (1 << np.arange(width)) if width < 64 else bits.astype(bool)
        column += width
    return Activity(found, settled[keep], glitches[keep], clock[keep], reads[keep], writes[keep])
