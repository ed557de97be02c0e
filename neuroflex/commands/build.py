"""``neuroflex build``"""
from contextlib import ExitStack
from pathlib import Path

import click

from neuroflex.commands.common import CheckFailed, display, emit, json_option, table

__all__ = ["command"]

BOARDS = {"ulx3s": 5, "pynq_z2": 3, "arty_z7_20": 3}       # steps of each board's build


@click.command("build")
@click.option("--board", required=True, type=click.Choice(tuple(BOARDS)), help="The board to build for.")
@click.option("--config", "config_name", metavar="NAME|FILE", help="A preset (tiny, small, pynq_z2, paper) or a TOML file; the board's own by default.")
@click.option("-o", "--output", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder to write; build/BOARD by default.")
@click.option("--clock", "clock_mhz", type=click.IntRange(25, 200), help="MHz of the board's clock; the board's usual one by default.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the placer.")
@json_option
def command(board, config_name, folder, clock_mhz, seed, as_json):
    """Build for a board: a bitstream by open tools alone (ulx3s, extra `fpga`), or an archive for Vivado and PYNQ with what Yosys counts (pynq_z2, arty_z7_20).

    Takes from ten minutes to an hour.
    """
    show = display(BOARDS[board])
    from neuroflex.config import load_config
    from neuroflex.fpga import boards

    folder = folder or Path("build") / board
    config = load_config(config_name or boards.BOARDS[board].config)
    with ExitStack() as current:
        def begin(step):
            current.close()
            current.enter_context(show.step(step))

        if board == "ulx3s":
            from neuroflex.fpga.build import TimingMissed, build_ulx3s

            try:
                report = build_ulx3s(config, folder, clock_mhz=clock_mhz, seed=seed, progress=begin)
            except TimingMissed as error:
                raise CheckFailed(str(error)) from None
        else:
            from neuroflex.fpga.zynq_build import ClockError, build_zynq

            try:
                report = build_zynq(board, config, folder, clock_mhz=clock_mhz, progress=begin)
            except ClockError as error:
                raise click.UsageError(str(error)) from None
    rows = [("part", report["part"]), ("configuration", report["config"]["name"]), ("LUT", report["lut"]), ("FF", report["ff"]), ("multipliers", report["dsp"]),
            ("block RAMs", report["bram"])]
    if report["stage"] == "placed_and_routed":
        rows += [("clock, placed and routed", f"{report['clock_mhz']} MHz"), ("board's clock", f"{report['board_clock_mhz']} MHz"),
                 ("bitstream", folder / report["bitstream"])]
    else:
        rows += [("clock asked for", f"{report['board_clock_mhz']} MHz"), ("state", report["note"]), ("archive", folder / report["archive"])]
    emit(as_json, {**report, "folder": folder}, table(board, ("what", "value"), rows))
