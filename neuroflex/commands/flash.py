"""``neuroflex flash``"""
from pathlib import Path

import click

from neuroflex.commands.common import CheckFailed, display, emit, json_option

__all__ = ["command"]


@click.command("flash")
@click.option("--board", required=True, type=click.Choice(("ulx3s", "pynq_z2", "arty_z7_20")), help="The board that is connected.")
@click.argument("bitstream", required=False, type=click.Path(dir_okay=False, path_type=Path))
@json_option
def command(board, bitstream, as_json):
    """Load BITSTREAM (build/BOARD/neuroflex.bit by default) into a connected board's FPGA, with openFPGALoader."""
    show = display(1)
    from neuroflex.fpga.flash import FlashError, WrongBitstream, flash

    path = bitstream or Path("build") / board / "neuroflex.bit"
    with show.step(f"load {path} into {board} with openFPGALoader"):
        try:
            printed = flash(board, path)
        except WrongBitstream as error:
            raise click.UsageError(str(error)) from None
        except FlashError as error:
            raise CheckFailed(str(error)) from None
    emit(as_json, {"board": board, "bitstream": path, "printed": printed}, f"{path} is in the FPGA of {board}")
