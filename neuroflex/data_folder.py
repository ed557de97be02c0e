"""The folder of data sets that ``NEUROFLEX_DATA`` names, and what is said where something in it is missing or broken."""

__all__ = ["VARIABLE", "DataError", "data_file"]

import os
from pathlib import Path

VARIABLE = "NEUROFLEX_DATA"


class DataError(ValueError):
    """Data that are missing or not what they should be; the message says which file, what is wrong, and what would be right."""


def data_file(name, content):
    """Path of a file in the folder that ``NEUROFLEX_DATA`` names.

    Parameters
    ----------
    name : str
        Of the file.
    content : str
        What the file holds, for the message.

    Raises
    ------
    DataError
        When the variable is not set, names no folder, or the file is not in it.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise DataError(f"{content} are read from {name} in the folder that {VARIABLE} names, and {VARIABLE} is not set")
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{VARIABLE} is {folder!r}, which is no folder; it should be the one that holds {name}")
    if not (path / name).is_file():
        raise DataError(f"{path / name} is not there: it should hold {content}")
    return path / name
