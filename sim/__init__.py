"""Golden model: integer numerics and cycle-exact models. Never imports Amaranth.

Recurrences are compiled by Numba. Its cache notices a change of a function's own file only, not of the functions that it
calls in other files, so the cache folder is named by the contents of all of them.
"""
import hashlib
from pathlib import Path

import numba


def _cache_folder():
    here = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for folder in (here, here.parent / "neuroflex", here.parent / "compiler"):
        for source in sorted(folder.glob("*.py")):
            digest.update(source.read_bytes())
    return here / "__pycache__" / f"numba-{digest.hexdigest()[:12]}"


numba.config.CACHE_DIR = str(_cache_folder())
