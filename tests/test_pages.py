"""Pages, and files that pages name, exist."""
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("neuroflex", "hdl", "sim", "compiler", "fpga", "tb", "tests", "examples", "scripts", "docs")


def test_every_page_that_is_named_exists():
    files = [ROOT / "README.md", ROOT / "Makefile", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".c", ".h", ".toml"))]
    named = {(name, path.relative_to(ROOT).as_posix()) for path in files for name in re.findall(r"\bdocs/\w+\.md\b", path.read_text())}
    named |= {(f"docs/{name}", path.relative_to(ROOT).as_posix()) for path in (ROOT / "docs").glob("*.md")
              for name in re.findall(r"\]\((\w+\.md)[#)]", path.read_text())}
    assert len(named) > 50
    assert not sorted((name, where) for name, where in named if not (ROOT / name).is_file())


def test_every_file_that_a_page_names_exists():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {(name, page.name) for page in pages for name in re.findall(r"(?<![\w/])(?:hdl|sim|tb|tests|compiler|fpga|scripts|examples)/\w+\.(?:py|toml|ipynb)\b", page.read_text())}
    assert len(named) > 100
    stand_for_all = {"hdl/x.py", "sim/x.py", "tb/test_x.py"}
    assert not sorted((name, page) for name, page in named if name not in stand_for_all and not (ROOT / name).is_file())
