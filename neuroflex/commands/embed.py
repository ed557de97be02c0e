"""``neuroflex embed``"""
from pathlib import Path

import click

from neuroflex.commands.common import emit, json_option

__all__ = ["command"]


@click.command("embed")
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="C file to write; its name is that of the program.")
@json_option
def command(image, output, as_json):
    """Write IMAGE, a program image (.nfx), as C source for the C driver that `neuroflex generate --shell axi` writes."""
    from neuroflex.atomic import write_atomically
    from neuroflex.compiler.image import ProgramImage
    from neuroflex.fpga.c_driver import c_program

    try:
        text = c_program(ProgramImage.load(image), output.stem)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, text.encode())
    emit(as_json, {"source": output, "program": output.stem, "bytes": len(text)}, f"{output}: const struct neuroflex_program {output.stem}")
