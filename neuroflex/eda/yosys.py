"""Yosys, run through its native Python package in a process of its own."""

import subprocess
import sys

__all__ = ["ToolError", "flattened", "run_yosys"]

# Yosys calls exit() on an error and keeps global state (its counters of
# automatic names), so each script gets a fresh interpreter: a failure becomes
# an exception here, and equal input gives equal output.
_RUNNER = """
import sys
from pyosys import libyosys as ys
design = ys.Design()
for line in sys.stdin.read().splitlines():
    ys.run_pass(line, design)
"""


class ToolError(RuntimeError):
    """An external tool failed; the message ends with what it printed last."""


def flattened(top):
    """Yosys commands that come before synthesis.

    Without them, ABC's names of what is left over between modules are ambiguous in large designs, and Yosys fails.
    """
    return [f"hierarchy -top {top}", "proc", "flatten", "opt_clean -purge"]


def run_yosys(commands, *, cwd):
    """Run Yosys commands in order.

    Parameters
    ----------
    commands : iterable of str
        One Yosys command each.
    cwd : path
        The folder that relative file names in the commands start from.

    Returns
    -------
    str
        Everything that Yosys printed.

    Raises
    ------
    ToolError
        If Yosys ends with an error.
    """
    done = subprocess.run([sys.executable, "-c", _RUNNER], input="\n".join(commands), cwd=cwd,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise ToolError("Yosys failed; it printed last:\n" + done.stdout[-2000:])
    return done.stdout
