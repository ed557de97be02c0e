"""Measure what PEs, FiberCache and compressor take on standard cells: area, delay, and energy per event.

A block is synthesised to the cells of a Liberty file (``--liberty`` or NEUROFLEX_LIBERTY), runs the traffic of its testbench at gate level, with every output held
against the model in every cycle, and a regression over traffic of many densities and levels gives pJ per event. Method, results and limits: docs/energy.md.
Netlists are kept in ``build/energy`` under a hash of circuit, library and mapper.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from importlib import metadata
from pathlib import Path

import energy_blocks
import numpy as np
from amaranth.back import rtlil
from rich.console import Console

from neuroflex.config import PRESETS, SNN_PES
from neuroflex.formats import LEVEL_BITS, Core
from neuroflex.hdl.ann_pe import AnnPe
from neuroflex.hdl.binary_pe import BinaryPe
from neuroflex.hdl.radix_pe import RadixPe
from neuroflex.hdl.serial_pe import SerialPe
from neuroflex.hdl.snn_pe import SnnPe
from neuroflex.power import mapping
from neuroflex.power.activity import simulate
from neuroflex.power.liberty import Library
from neuroflex.power.netlist import Netlist
from neuroflex.power.sram import SOURCE, access_energy
from neuroflex.sim.binary_pe import bit_count
from neuroflex.sim.cost import neuron_steps, pair_bits
from neuroflex.sim.pascif import first_steps
from neuroflex.tb.array_traffic import Layers

__all__ = ["EVENTS", "EXPLAINED_BY", "blocks_markdown", "coefficients", "column_energy", "fit", "layers_of", "markdown", "measure_block", "measure_pe", "measured", "netlist_of"]

ROOT = Path(__file__).parent.parent
PES = {"AnnPe": AnnPe, "SnnPe": SnnPe, "SerialPe": SerialPe, "BinaryPe": BinaryPe, "RadixPe": RadixPe}
KINDS = {block: kind for kind, block in SNN_PES.items()}
# What the energy of a layer is explained by, and for which PEs.
EVENTS = {
    "cycle": "cycles", "match": "matches", "chunk": "chunks broadcast", "scan": "pairs of column masks read", "output": "column outputs",
    "qcfs_step": "steps of the QCFS unit: bits of L per output",
    "speculation": "matches of layers with several levels", "correction": "levels that matches lack to L (`BinaryPe`: bits of that number)",
    "laggy_chunk": "chunks of layers with several levels", "addition": "levels of matches (`RadixPe`: bits of them)",
    "weigh_step": "bits of L per output", "pascif_step": "steps of the PASC-IF neuron",
}
_COMMON = ("cycle", "match", "chunk", "scan", "output")
EXPLAINED_BY = {
    "AnnPe": (*_COMMON, "qcfs_step"),
    "SnnPe": (*_COMMON, "speculation", "correction", "laggy_chunk", "pascif_step"),
    "SerialPe": (*_COMMON, "speculation", "addition", "pascif_step"),
    "BinaryPe": (*_COMMON, "speculation", "correction", "laggy_chunk", "weigh_step", "pascif_step"),
    "RadixPe": (*_COMMON, "speculation", "addition", "weigh_step", "pascif_step"),
}
errors = Console(stderr=True)


def netlist_of(component, name, library, folder):
    """The mapped netlist of a component, made once."""
    key = rtlil.convert(component, name=name, emit_src=False) + library.name + Path(mapping.__file__).read_text() + metadata.version("pyosys")
    path = folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        errors.print(f"synthesising {name} ...")
        module = mapping.map_to_cells(component, name, library)
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(module))
        part.replace(path)
    return Netlist(json.loads(path.read_text()), library)


def layers_of(config, core, seed, count):
    """Traffic of one PE: ``(stimulus, expected outputs, layers)``; a layer is its cycles, levels, slice and chunks."""
    traffic, found = Layers(config, core, seed, 0, single=True), []
    rng = np.random.default_rng([seed, 1])
    for number in range(count):
        columns = int(rng.choice([1, 2, 4, 8, config.columns_per_pe]))
        top = int(rng.choice([1, 2, 4, config.snn_levels]))
        begin, slices, chunks = traffic.layer(
            rows=int(rng.integers(2, 9)), windows=1, chunks=int(rng.integers(1, 6)), density=float(rng.choice([0.05, 0.2, 0.4, 0.8])),
            weight_density=float(rng.choice([0.02, 0.1, 0.3, 0.6])), columns=[columns] + [0] * 31, slow=number % 4 == 3, groups_log2=0, top=top)
        found.append((begin, traffic.cycle, top, slices[0], chunks))
    stimulus, _ = traffic.arrays()
    cycles = traffic.cycle
    stimulus["y_bank"] = stimulus["y_index"] = np.zeros(cycles, np.int64)
    outputs = traffic.model.outputs(cycles, stimulus["y_bank"], stimulus["y_index"])
    del stimulus["groups_log2"]
    stimulus["group"], stimulus["load_here"] = np.zeros((2, cycles), np.int64)
    for cycle, of, pe, *_ in traffic.timeline.loads:
        stimulus["load_here"][cycle] = of == core and pe == 0
    names = ("slot_free", "row_free", "enabled", "columns", "done", "y", "matching", "busy")
    return stimulus, {name: np.asarray(outputs[name][0]) for name in names}, found


def _added(block, levels, top):
    """How often a PE adds the weights of matches of these levels, beyond once, by event."""
    lacking = top - levels
    return {"correction": np.bitwise_count(lacking) if block == "BinaryPe" else lacking,
            "addition": np.bitwise_count(levels) if block == "RadixPe" else levels}


def _events(block, config, layer):
    """Counts of a layer's events by name."""
    begin, end, top, slice_, chunks = layer
    counts = dict.fromkeys(EVENTS, 0)
    for chunk in chunks:
        met = (slice_.weights[chunk.index] != 0) & chunk.mask
        counts["match"] += int(met.sum())
        counts["scan"] += 0 if chunk.empty else slice_.pairs
        for event, added in _added(block, chunk.levels, top).items():
            counts[event] += int((met * added).sum())
    rows = sum(chunk.last_chunk for chunk in chunks)
    counts |= {"cycle": end - begin, "chunk": len(chunks), "output": rows * slice_.columns,
               "qcfs_step": rows * sum(int(level).bit_length() for level in slice_.levels), "weigh_step": rows * slice_.columns * bit_count(top),
               "pascif_step": rows * int(neuron_steps(first_steps(config, top), slice_.levels).sum())}
    if top > 1:
        counts |= {"speculation": counts["match"], "laggy_chunk": len(chunks)}
    return {event: counts[event] for event in EXPLAINED_BY[block]}


def fit(counts, energy, names):
    """Weighted least squares of energies on counts of events, relative errors alike; none below 0.

    Returns
    -------
    dict
        ``pj`` and ``error`` (one standard error) by event, ``residual`` (root mean square of the relative ones).
    """
    table, energy = np.array([[one[name] for name in names] for one in counts], float), np.asarray(energy, float)
    weight = 1 / np.maximum(energy, 0.05 * energy.mean() or 1.0)       # tiny layers count less: theirs is noise
    kept = np.arange(len(names))
    while True:
        design = table[:, kept] * weight[:, None]
        best = np.linalg.lstsq(design, energy * weight, rcond=None)[0]
        if (best >= 0).all() or len(kept) == 1:
            break
        kept = np.delete(kept, int(np.argmin(best)))
    rest = energy * weight - design @ best
    spread = np.sqrt(np.diag(np.linalg.pinv(design.T @ design)) * (rest @ rest) / max(len(energy) - len(kept), 1))
    pj, error = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for place, value, one in zip(kept, best, spread):
        pj[names[place]], error[names[place]] = float(value), float(one)
    return {"pj": pj, "error": error, "residual": float(np.sqrt(np.mean(rest ** 2)))}


def _bits(values, width):
    """A port's values as bits, bool (cycles, width)."""
    words = np.ascontiguousarray(np.asarray(values).astype(np.uint64).reshape(len(values), -1))
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little", count=width).astype(bool)


def _differs(got, want):
    """Cycles in which an output differs."""
    return got != want if got.ndim == 1 else (got != _bits(want, got.shape[1])).any(axis=1)


def _of_banks(name):
    """The banks of a memory count as one part: ``banks.lines`` of ``bank_3.lines``."""
    return re.sub(r"^bank_\d+", "banks", name)


def measured(name, netlist, stimulus, expected, where, runs, counts, names, *, apart=(), reads=None):
    """Run a netlist on traffic, hold its outputs against the model's, and fit.

    Parameters
    ----------
    name : str
    netlist : Netlist
    stimulus, expected, where : dict
        As for `neuroflex.tb.bench.Bench`.
    runs, counts : list
        Stretches of the traffic, (first, last cycle), and how often each has which event.
    names : list of str
        Events that explain its energy.
    apart : list of str
        Memories that are not in the fit but listed by themselves.
    reads : dict
        Reads per cycle of memories that the circuit reads in every cycle: those whose word is used.

    Returns
    -------
    dict
        As in the JSON file.
    """
    cycles = len(next(iter(expected.values())))
    errors.print(f"{name}: {sum(netlist.counts.values())} cells, running {cycles} cycles ...")
    started = time.process_time()
    activity = simulate(netlist, stimulus)
    seconds = time.process_time() - started
    for port, want in expected.items():
        wrong = np.flatnonzero(_differs(activity.outputs[port], want) & np.broadcast_to(where.get(port, True), cycles))
        if len(wrong):
            raise SystemExit(f"{name}: the netlist gives another {port} than the model in cycle {wrong[0]}")
    ports = [memory for memory in netlist.memories for _ in range(memory.reads)], [memory for memory in netlist.memories for _ in range(memory.writes)]
    # The read port of a PE's outputs faces the compressor: its address stands still here.
    sizes = {_of_banks(memory.name): memory for memory in netlist.memories}
    of_memory = {one: np.zeros(cycles) for one in sizes}
    for accesses, owners, counted in zip((activity.reads, activity.writes), ports, (reads or {}, {})):
        for column, memory in enumerate(owners):
            if _of_banks(memory.name) not in counted:
                of_memory[_of_banks(memory.name)] += accesses[:, column] * access_energy(memory.words, memory.width)
    for one, values in (reads or {}).items():
        of_memory[one] += values * access_energy(sizes[one].words, sizes[one].width)
    kinds = {"settled": activity.settled, "glitches": activity.glitches, "clock": activity.clock}

    def of_runs(per_cycle):
        return [per_cycle[begin:end].sum() for begin, end in runs]

    logic = sum(kinds.values())
    memory = sum(values for one, values in of_memory.items() if one not in apart) + np.zeros(cycles)
    parts = {}
    for place, part in enumerate(netlist.parts):
        parts.setdefault(_of_banks(part) or "rest", []).append(place)
    return {
        "cells": sum(netlist.counts.values()), "area_um2": netlist.area, "flipflops": netlist.flipflops, "clock_gated": netlist.gated,
        "longest_path_ns": netlist.delay, "leakage_nw": netlist.leakage, "cycles": cycles, "differences": 0,
        "layers": len(runs), "events": {event: sum(one[event] for one in counts) for event in names}, "seconds": seconds,
        "memories": {name: {"words": one.words, "bits": one.width, "access_pj": access_energy(one.words, one.width)} for name, one in sizes.items()},
        "logic": fit(counts, of_runs(logic.sum(axis=1)), names), "memory": fit(counts, of_runs(memory), names),
        "logic_without_glitches": fit(counts, of_runs((logic - kinds["glitches"]).sum(axis=1)), names),
        "shares": {kind: float(sum(of_runs(one.sum(axis=1)))) for kind, one in kinds.items()}
        | {f"memory {one}": float(sum(of_runs(values))) for one, values in of_memory.items()},
        "parts": {part: {"area_um2": float(netlist.part_area[places].sum()), "logic": fit(counts, of_runs(logic[:, places].sum(axis=1)), names)}
                  for part, places in parts.items()},
        "memory_parts": {one: fit(counts, of_runs(values), names) for one, values in of_memory.items() if values.any() and one not in apart},
    }


def measure_pe(block, config, library, folder, *, seed, layers):
    """Area, delay and energy per event of a PE, as it goes into the JSON file."""
    name = {"AnnPe": "ann_pe", "SnnPe": "snn_pe"}.get(block, f"{KINDS.get(block)}_pe")
    config = config.replace(snn_pe=KINDS.get(block, config.snn_pe))
    netlist = netlist_of(PES[block](config), name, library, folder)
    stimulus, expected, runs = layers_of(config, Core.ANN if block == "AnnPe" else Core.SNN, seed, layers)
    counts = [_events(block, config, run) for run in runs]
    result = measured(name, netlist, stimulus, expected, {}, [run[:2] for run in runs], counts, EXPLAINED_BY[block])
    return result | {"matches": result.pop("events")["match"]}


def measure_block(block, library, folder, *, seed):
    """The same of FiberCache or compressor."""
    component, traffic, stretches = energy_blocks.BLOCKS[block]
    netlist = netlist_of(component(energy_blocks.CONFIG), block.lower(), library, folder)
    stimulus, expected, where, runs, counts, reads = traffic(energy_blocks.CONFIG, seed, stretches)
    return measured(block, netlist, stimulus, expected, where, runs, counts, list(energy_blocks.EVENTS[block]), apart=list(reads), reads=reads)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def coefficients(results):
    """The set ``measured-sky130`` of `neuroflex.sim.energy`: name → (pJ, standard error), from what a run of this script wrote.

    What works on masks is scaled from the measured width to the 128 bits of the table; reads of weights, levels and masks are those counted,
    at the price of the preset ``paper``'s memories. Names with a dot are those of kinds of SNN PE other than ``dual_prefix``.
    """
    ann, snn = (results["blocks"][name] for name in ("AnnPe", "SnnPe"))

    def total(block, event):
        return np.array([block["logic"][key][event] + sign * block["memory"][key][event] for key, sign in (("pj", 1), ("error", 1))])

    def part(block, name, event="match"):
        one = block["parts"].get(name, {}).get("logic") or block["memory_parts"][name]
        return np.array([one["pj"][event], one["error"][event]])

    def difference(whole, *known):
        return np.array([max(whole[0] - sum(one[0] for one in known), 0.0), whole[1]])

    join = part(ann, "front_end") + part(ann, "front_end.encoder") + part(ann, "front_end.queue")
    fast, weight, level = part(ann, "front_end.weight_prefix"), part(ann, "front_end.weights"), part(ann, "front_end.levels")
    wide, paper, masks = 128 / results["chunk_bits"], PRESETS["paper"], part(ann, "front_end.pairs", "scan")
    weights = access_energy(paper.value_lines, paper.chunk_bits)
    weight_128 = weight * weights / ann["memories"]["front_end.weights"]["access_pj"]
    level_128 = level * access_energy(8 * paper.slots, LEVEL_BITS * paper.line_bytes) / ann["memories"]["front_end.levels"]["access_pj"]
    found = {
        "join": wide * join, "fast_prefix": wide * fast, "weight_line": weight_128, "level_line": level_128,
        "mac": difference(total(ann, "match"), join, fast, fast, weight, level),
        "dense_mac": difference(total(ann, "match"), join, fast, fast, weight, level, part(ann, "sums")),
        "pseudo": difference(total(snn, "match"), join, fast, weight),
        "speculation": difference(total(snn, "speculation"), level), "correction": total(snn, "correction"),
        "laggy_chunk": wide * total(snn, "laggy_chunk"), "chunk": wide * total(ann, "chunk"), 
        "mask_line": masks * access_energy(paper.mask_pairs, pair_bits(paper)) / ann["memories"]["front_end.pairs"]["access_pj"],
        "scan": wide * difference(total(ann, "scan"), masks),
        "ann_output": total(ann, "output"), "qcfs_step": total(ann, "qcfs_step"),
        "snn_output": total(snn, "output"), "pascif_step": total(snn, "pascif_step"),
        "ann_cycle": total(ann, "cycle"), "snn_cycle": total(snn, "cycle"),
        "value_read": np.array([weights / paper.line_bytes, 0.0]),
    } | energy_blocks.block_coefficients(results["others"])
    for name, block in results["blocks"].items():
        if name in ("AnnPe", "SnnPe"):
            continue
        match, several = difference(total(block, "match"), join, fast, weight), total(block, "speculation")
        own = {"snn_output": total(block, "output"), "pascif_step": total(block, "pascif_step"), "snn_cycle": total(block, "cycle")}
        if "addition" in EXPLAINED_BY[name]:
            own |= {"pseudo": total(block, "addition"), "match_rest": match, "speculation": difference(several, fast, level)}
        else:
            own |= {"pseudo": match, "speculation": difference(several, level), "correction": total(block, "correction"),
                    "laggy_chunk": wide * total(block, "laggy_chunk")}
        if "weigh_step" in EXPLAINED_BY[name]:
            own["weigh_step"] = total(block, "weigh_step")
        found |= {f"{KINDS[name]}.{event}": value for event, value in own.items()}
    return {name: tuple(float(round(one, 3)) for one in value) for name, value in found.items()}


def column_energy(results, name, *, matches, levels, chunks, columns, kinds=("logic", "memory")):
    """pJ of one column's row: ``levels`` in and out, nonzero levels q as likely as 0.6^q, ``columns`` on the PE, which is never idle."""
    several, each = levels > 1, np.arange(1, levels + 1)
    likely = 0.6 ** each / (0.6 ** each).sum()
    added = {event: float(likely @ one) for event, one in _added(name, each, levels).items()}
    serial = name == "SerialPe"
    counts = {"cycle": max(matches * (added["addition"] if serial else 1) + 1, chunks / 2), "match": matches, "chunk": chunks / columns, "scan": chunks / 2,
              "output": 1, "qcfs_step": int(levels).bit_length(), "weigh_step": int(levels).bit_length(), "speculation": several * matches,
              "correction": matches * added["correction"], "addition": matches * added["addition"], "laggy_chunk": several * chunks / columns,
              "pascif_step": int(neuron_steps(levels if name == "SnnPe" else 1, levels))}
    block = results["blocks"][name]
    return sum(counts[event] * value for kind in kinds for event, value in block[kind]["pj"].items())


def _blocks_markdown(blocks):
    """What was run and what came out, of some blocks: lines, and a function that adds one."""
    lines = ["| | " + " | ".join(f"`{name}`" for name in blocks) + " |", "| --- |" + " ---: |" * len(blocks)]

    def row(text, value):
        lines.append(f"| {text} | " + " | ".join(value(block) for block in blocks.values()) + " |")

    row("cells", lambda b: f"{b['cells']:,}")
    row("area without memories, µm²", lambda b: f"{b['area_um2']:,.0f}")
    row("flip-flops, of them behind a clock gate", lambda b: f"{b['flipflops']:,}, {b['clock_gated']:,}")
    row("longest path, ns", lambda b: f"{b['longest_path_ns']:.1f}")
    row("leakage, nW", lambda b: f"{b['leakage_nw']:.0f}")
    row("cycles run, outputs that differ from the model", lambda b: f"{b['cycles']:,}, {b['differences']}")
    if all("matches" in block for block in blocks.values()):
        row("matches", lambda b: f"{b['matches']:,}")
    row("residual of the fits, logic, memories (root mean square)", lambda b: f"{b['logic']['residual']:.1%}, {b['memory']['residual']:.1%}")
    for kind, text in (("settled", "transitions without glitches"), ("glitches", "glitches"), ("clock", "clock pins and gates")):
        row(f"share of energy: {text}", lambda b, kind=kind: f"{b['shares'][kind] / sum(b['shares'].values()):.1%}")
    row("share of energy: memories (model)", lambda b: f"{sum(v for k, v in b['shares'].items() if k.startswith('memory')) / sum(b['shares'].values()):.1%}")
    return lines, row


def markdown(results):
    """The results as they stand in docs/energy.md."""
    blocks = results["blocks"]
    lines, row = _blocks_markdown(blocks)
    lines += ["", "pJ per event, logic and clock (measured) + memories (model):", "", "| event | " + " | ".join(f"`{name}`" for name in blocks) + " |",
              "| --- |" + " ---: |" * len(blocks)]
    for event, text in EVENTS.items():
        row(text, lambda b, event=event: f"{b['logic']['pj'][event]:.3g} ± {b['logic']['error'][event]:.1g} + {b['memory']['pj'][event]:.3g}" if event in b["logic"]["pj"] else "")
    lines += ["", "Energy of an SNN column ÷ that of the same ANN column, nine chunks, eight columns per PE, levels q as likely as 0.6^q; "
              "measured logic and clock alone (with memories by the model):"]
    for name in list(blocks)[1:]:
        lines += ["", f"| `{name}`, matches per row | L = 1 | L = 2 | L = 4 | L = 8 |", "| ---: |" + " ---: |" * 4]
        for matches in (1, 4, 12, 50, 104, 216):
            cells = []
            for levels in (1, 2, 4, 8):
                options = dict(matches=matches, levels=levels, chunks=9, columns=8)
                ratios = [column_energy(results, name, kinds=kinds, **options) / column_energy(results, "AnnPe", kinds=kinds, **options)
                          for kinds in (("logic",), ("logic", "memory"))]
                cells.append(f"{ratios[0]:.2f} ({ratios[1]:.2f})")
            lines.append(f"| {matches} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def blocks_markdown(results):
    """FiberCache and compressor as they stand in docs/energy.md."""
    lines, _ = _blocks_markdown(results["others"])
    lines += ["", "pJ per event, logic and clock (measured) + memories (model), without the memory of the lines, whose accesses are priced by the model alone:", "",
              "| block | event | times | pJ |", "| --- | --- | ---: | ---: |"]
    for name, block in results["others"].items():
        for event, text in energy_blocks.EVENTS[name].items():
            logic, memory = block["logic"], block["memory"]
            lines.append(f"| `{name}` | {text} | {block['events'][event]:,} | {logic['pj'][event]:.3g} ± {logic['error'][event]:.2g}"
                         + (f" + {memory['pj'][event]:.3g} ± {memory['error'][event]:.2g} |" if any(memory["pj"].values()) else " |"))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--liberty", default=os.environ.get("NEUROFLEX_LIBERTY"), help="Liberty file, gzipped or not (default: NEUROFLEX_LIBERTY)")
    parser.add_argument("--config", default="tiny", choices=PRESETS, help="preset whose PEs are measured (default: %(default)s); FiberCache and compressor are those of paper")
    parser.add_argument("--block", action="append", choices=[*PES, *energy_blocks.BLOCKS], help="only this block (repeatable); the others' results stay as they are in the output file")
    parser.add_argument("--layers", type=int, default=60, help="layers of traffic per PE (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "energy", help="where netlists are kept")
    parser.add_argument("-o", "--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    if not arguments.liberty or not Path(arguments.liberty).is_file():
        sys.exit("measure_energy: give a Liberty file with --liberty or NEUROFLEX_LIBERTY; the one used is sky130_fd_sc_hd__tt_025C_1v80.lib of SkyWater's open PDK")
    library = Library.load(arguments.liberty)
    config = PRESETS[arguments.config].replace(ann_pes=2, snn_pes=2)       # a PE is the same in any array
    results = {"library": library.name, "voltage": library.voltage, "preset": arguments.config, "chunk_bits": config.chunk_bits, "seed": arguments.seed, "memory_model": SOURCE, "blocks": {}, "others_preset": energy_blocks.CONFIG.name, "others": {}}
    earlier = json.loads(arguments.output.read_text()) if arguments.block and arguments.output and arguments.output.exists() else {}
    for kind, names in (("blocks", PES), ("others", energy_blocks.BLOCKS)):
        for block in names:
            if arguments.block and block not in arguments.block:
                if block in earlier.get(kind, {}):
                    results[kind][block] = earlier[kind][block]
            elif kind == "blocks":
                results[kind][block] = measure_pe(block, config, library, arguments.folder, seed=arguments.seed, layers=arguments.layers)
            else:
                results[kind][block] = measure_block(block, library, arguments.folder, seed=arguments.seed)
    results["coefficients"] = coefficients(results)
    text = json.dumps(_rounded(results), indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    print(markdown(results), blocks_markdown(results), sep="\n")


if __name__ == "__main__":
    main()
