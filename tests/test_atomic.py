"""Folders to work in: gone at the end, and gone with the next one when their maker was killed."""
import os
import subprocess
import sys

import pytest

from neuroflex import atomic
from neuroflex.atomic import work_folder

_KILLED = """
import os, signal, sys
from neuroflex.atomic import work_folder
with work_folder(sys.argv[1], "x") as folder:
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_folder_is_gone_with_the_block(tmp_path):
    with work_folder(tmp_path / "new", "x") as folder:
        (folder / "a").write_text("a")
    with pytest.raises(KeyError), work_folder(tmp_path / "new", "x"):
        raise KeyError
    with work_folder(tmp_path / "new", "x") as folder:
        os.rename(folder, tmp_path / "made")
    assert not list((tmp_path / "new").iterdir()) and (tmp_path / "made").is_dir()


def test_what_killed_processes_left_is_removed(tmp_path, monkeypatch):
    """But neither what others are at work on, nor what may be about to be locked, nor other names."""
    subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
    left, = tmp_path.iterdir()
    others = [tmp_path / "y.12345678.part", tmp_path / "x.12345678"]
    for other in others:
        other.mkdir()
    with work_folder(tmp_path, "x"):
        assert left.exists()            # it is young
    monkeypatch.setattr(atomic, "_YOUNG_SECONDS", -1)
    with work_folder(tmp_path, "x") as at_work, work_folder(tmp_path, "x"):
        assert at_work.exists() and not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)
