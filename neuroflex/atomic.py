"""Files that are written whole or not at all."""
import os
import tempfile
from pathlib import Path

__all__ = ["write_atomically"]


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
