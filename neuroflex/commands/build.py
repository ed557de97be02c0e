"""``neuroflex build``"""
from contextlib import ExitStack
from pathlib import Path

import click

from neuroflex.commands.common import CheckFailed, display, emit, json_option, table

__all__ = ["command"]

STEPS = 5       # of `build_ulx3s`


@click.command("build")
@click.option("--board", required=True, type=click.Choice(("ulx3s",)), help="The board to build for.")
@click.option("--config", "config_name", metavar="NAME|FILE", help="A preset or a TOML file; the board's own by default.")
@click.option("-o", "--output", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder to write; build/BOARD by default.")
@click.option("--clock", "clock_mhz", type=click.IntRange(25, 200), help="MHz of the board's clock; the board's usual one by default.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the placer.")
@json_option
def command(board, config_name, folder, clock_mhz, seed, as_json):
    """Build a bitstream by open tools alone (extra `fpga`); takes some ten minutes."""
    show = display(STEPS)
    from neuroflex.config import load_config
    from neuroflex.fpga.boards import BOARDS
    from neuroflex.fpga.build import TimingMissed, build_ulx3s

    folder = folder or Path("build") / board
    config = load_config(config_name or BOARDS[board].config)
    with ExitStack() as current:
        def begin(step):
            current.close()
            current.enter_context(show.step(step))

        try:
            report = build_ulx3s(config, folder, clock_mhz=clock_mhz, seed=seed, progress=begin)
        except TimingMissed as error:
            raise CheckFailed(str(error)) from None
    rows = [("part", report["part"]), ("configuration", report["config"]["name"]), ("LUT", report["lut"]), ("FF", report["ff"]), ("multipliers", report["dsp"]),
            ("block RAMs", report["bram"]), ("clock, placed and routed", f"{report['clock_mhz']} MHz"), ("board's clock", f"{report['board_clock_mhz']} MHz"),
            ("bitstream", folder / report["bitstream"])]
    emit(as_json, {**report, "folder": folder}, table(board, ("what", "value"), rows))
