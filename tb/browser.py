"""A page as a browser draws it: headless Chromium, where there is one."""
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["drawn", "needs_browser"]

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium on the PATH (chromium, chromium-browser or google-chrome); no Python package brings one")


def drawn(path, profile):
    """HTML of a page after its scripts have run.

    Parameters
    ----------
    path : Path
        The page's file.
    profile : path
        An empty folder for the browser's own files.
    """
    done = subprocess.run([_CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=8000", "--dump-dom",
                           Path(path).as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout
