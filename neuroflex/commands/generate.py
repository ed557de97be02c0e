"""``neuroflex generate``"""
from pathlib import Path

import click

from neuroflex.commands.common import CheckFailed, config_option, display, emit, json_option, table

__all__ = ["command"]


@click.command("generate")
@config_option
@click.option("-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write.")
@click.option("--lint", is_flag=True, help="Check the Verilog with `verilator --lint-only -Wall`; exit 1 if it warns.")
@click.option("--shell", type=click.Choice(["none", "axi"]), default="none", show_default=True, help="What to put around the accelerator.")
@click.option("--axi-data-bits", type=click.Choice(["64", "128"]), default="64", show_default=True, help="With --shell axi: width of the AXI4 data bus.")
@click.option("--axi-burst-beats", type=int, default=16, show_default=True, help="With --shell axi: most beats of an AXI4 burst.")
@json_option
def command(config_name, folder, lint, shell, axi_data_bits, axi_burst_beats, as_json):
    """Write an accelerator's Verilog (one file per module), register map (C header, JSON, Markdown), file list and configuration."""
    show = display(1 + lint)
    from neuroflex.axi import AxiConfig
    from neuroflex.config import load_config
    from neuroflex.generate import generate

    config = load_config(config_name)
    try:
        axi = AxiConfig(data_bits=int(axi_data_bits), burst_beats=axi_burst_beats) if shell == "axi" else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    done = generate(config, folder, lint=lint, axi=axi, show=show)
    result = {"folder": folder, "top": done.top, "files": done.files, "warnings": None if done.warnings is None else list(done.warnings)}
    rows = [("top module", done.top), ("Verilog modules", sum(path.endswith(".v") for path in done.files)),
            ("file list", f"{folder / done.top}.f"), ("registers", ", ".join(p for p in done.files if p.startswith("registers")))]
    if lint:
        rows.append(("lint", "clean" if not done.warnings else f"{len(done.warnings)} warnings"))
    emit(as_json, result, table(f"{folder}", ("what", "value"), rows))
    if done.warnings:
        raise CheckFailed("Verilator warns:\n" + "\n".join(done.warnings))
