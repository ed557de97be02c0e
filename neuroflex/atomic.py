"""Files that are written whole or not at all, and folders to work in that nobody finds later."""
import fcntl
import glob
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

__all__ = ["work_folder", "write_atomically"]

_YOUNG_SECONDS = 60     # a folder that was made just now may not be locked yet


def write_atomically(path, data):
    """Write bytes to ``path`` in one step: a reader never sees half a file, and a failure leaves what was there."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def work_folder(parent, name):
    """A new folder ``parent/NAME.XXXXXXXX.part``, gone with the block unless it was renamed.

    Its maker holds a lock on it, which ends with the process: whoever next asks for one of that name removes those that killed processes have left.

    Parameters
    ----------
    parent : path
        Made when it is missing.
    name : str
        What its name begins with.

    Yields
    ------
    Path
    """
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{glob.escape(name)}.????????.part"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".part", dir=parent))
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_if_left(folder):
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:         # somebody else was faster
        return
    try:
        if time.time() - os.fstat(handle).st_mtime > _YOUNG_SECONDS:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:     # its maker is at work
        pass
    finally:
        os.close(handle)
