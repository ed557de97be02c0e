"""What long runs say: plain lines in a log, a spinner or a bar on a terminal, and nothing from a silent one."""
import io
import re
import time

import pytest
from rich.console import Console

from neuroflex import progress
from neuroflex.progress import Display, Silent, preparation


@pytest.fixture
def log():
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def _text(console):
    """What was printed, with ``T`` for times."""
    return re.sub(r"\d+(\.\d)? s\b", "T s", console.file.getvalue())


def test_a_log_gets_plain_lines(log):
    show = Display(3, log)
    with show.step("compile [a/b.toml] for a configuration with a name longer than the line"):
        pass
    assert list(show.track("abc", "run")) == ["a", "b", "c"]
    with show.count("write", 2) as done:
        done()
    lines = _text(log).splitlines()
    assert lines[0] == "[1/3] compile [a/b.toml] for a configuration with a name longer than the line ..."
    assert lines[1:] == ["      done, T s", "[2/3] run ...", "      3 of 3, T s", "[3/3] write ...", "      1 of 2, T s"]
    assert "\x1b" not in _text(log)


def test_a_log_shows_that_a_long_step_is_alive(log, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    show = Display(console=log)
    with show.step("build"):
        time.sleep(0.2)
    for _ in show.track([1, 2], "run"):
        time.sleep(0.2)
    text = _text(log)
    assert text.startswith("[1] build ...\n      at it for T s\n") and "      1 of 2, T s\n" in text and text.endswith("2 of 2, T s\n")


def test_a_failed_step_is_not_done(log, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    show = Display(1, log)
    with pytest.raises(ValueError, match="no"), show.step("build"):
        raise ValueError("no")
    said = _text(log)
    time.sleep(0.05)
    assert "done" not in said and _text(log) == said        # and nobody goes on telling


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    show = Display(2, console)
    with show.step("compile"):
        pass
    assert list(show.track(iter("ab"), "run", total=2)) == ["a", "b"]
    assert "━" in _text(console) and "2/2" in _text(console) and "done, T s" in _text(console)


def test_silent_passes_everything_on():
    show = Silent()
    with show.step("compile"), show.count("write", 2) as done:
        done()
    assert list(show.track("ab", "run")) == ["a", "b"]


@pytest.mark.parametrize("model, rtl, says", [(True, False, "compile the golden model ("), (False, True, "build the simulator ("),
                                              (True, True, "build the simulator and compile the golden model (")])
def test_preparation(model, rtl, says):
    assert preparation(model=model, rtl=rtl).startswith(says)
