"""Measure how each block's resources depend on each field of the configuration; write ``docs/resource_model.json``.

The estimate before synthesis (``neuroflex/fpga/boards.py``) starts from the figures of the nearest preset and goes from there to a configuration field by field.
What a field does to a block is measured here: Yosys synthesises the block as the preset ``tiny`` has it, with that one field changed, wherever that changes the Verilog.
``--check FILE`` synthesises the blocks of a configuration and prints the estimate beside them. Results are kept in ``build/resources``, as those of ``resources.py``.
"""
import argparse
import json
import sys

from resources import BLOCKS, FAMILIES, KINDS, ROOT, Cache, Measurement, _module, verilog_hash
from rich.console import Console
from rich.progress import track
from rich.table import Table

from neuroflex import eda
from neuroflex.config import PRESETS, load_config
from neuroflex.fpga.boards import estimate, parts

BASE = "tiny"
CHANGED = {"snn_levels": 4, "neuron_steps": 1, "cache_banks": 2, "fetch_ahead": 4, "pending_lines": 16, "slots": 8, "columns_per_pe": 8, "row_buffers": 2,
           "value_lines": 512, "mask_pairs": 256, "snn_acc_bits": 16, "laggy_adders": 16, "ann_pes": 4, "snn_pes": 4, "cache_ways": 8, "cache_sets": 64,
           "weight_banks": 2}


def measure(measurement, console):
    """Block → field → the changed value, the hash of the Verilog, and the counts by family."""
    base = PRESETS[BASE]
    blocks = {}
    names = {**parts(base), **parts(base.replace(snn_pe="dual_prefix"))}      # SNN PEs of the two kinds that are recorded for every preset
    del names["RegisterFile"]       # every field changes its fingerprint, and with it some gates, but none its size
    jobs = [(name, field, value) for field, value in CHANGED.items() for name in names]
    for name, field, value in track(jobs, "blocks, one field changed", console=console):
        config = base.replace(**{field: value})
        before, after = (verilog_hash(eda.to_verilog(BLOCKS[name].make(c), _module(name))) for c in (base, config))
        if after != before:
            row = measurement._block(name, config)
            blocks.setdefault(name, {})[field] = {"to": value, "verilog": row["verilog"], **{family: row[family] for family in FAMILIES}}
    return {"base": BASE, "tools": measurement._tools, "blocks": blocks}


def compare(measurement, console, config):
    """Print the estimate of the blocks' sum beside what they take; returns the largest share that it is off in LUTs and flip-flops."""
    counts = parts(config)
    rows = {name: measurement._block(name, config) for name in track(counts, config.name, console=console)}
    table = Table("configuration", "family", *KINDS)
    worst = 0
    for family in FAMILIES:
        real = {kind: sum(times * rows[name][family][kind] for name, times in counts.items()) for kind in KINDS}
        guess, _ = estimate(config, family)
        worst = max(worst, *(abs(guess[kind] / real[kind] - 1) for kind in ("lut", "ff")))
        table.add_row(config.name, family, *(f"{guess[kind]:,.0f} for {real[kind]:,.0f}" for kind in KINDS))
    console.print(table)
    return worst


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="append", metavar="FILE", help="a configuration to hold the estimate against, instead of measuring (repeatable)")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    measurement = Measurement(console, Cache(ROOT / "build" / "resources"))
    if options.check:
        worst = max(compare(measurement, console, load_config(name)) for name in options.check)
        console.print(f"look-up tables and flip-flops: at most {worst:.1%} off")
        return worst > 0.15
    path = ROOT / "docs" / "resource_model.json"
    path.write_text(json.dumps(measure(measurement, console), indent=1) + "\n")
    console.print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
