"""What a long run is doing, step by step: told to people on standard error, or to nobody.

Everything that takes a while has a parameter ``show`` with three methods: `Silent.step`, `Silent.track` and `Silent.count`. On a terminal steps turn
a spinner and counts draw a bar; elsewhere, as in a log, both are plain lines.
"""
import threading
import time
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = ["Display", "Silent", "preparation"]

LINE_SECONDS = 15       # a log gets a line at least this often


def preparation(*, model, rtl):
    """What `neuroflex.flow.prepare` does, as the text of a step."""
    parts = ["build the simulator"] * rtl + ["compile the golden model"] * model
    return f"{' and '.join(parts)} (a minute or more the first time, then kept)"


class Silent:
    """Tells nobody; a `Display` has the same methods."""

    @contextmanager
    def step(self, text):
        """A step begins; it ends with the block."""
        yield

    def track(self, items, text, total=None):
        """A step of passing items on, one after another; ``total`` is needed where they have no length."""
        yield from items

    @contextmanager
    def count(self, text, total):
        """A step of ``total`` parts; yields a function to call when one is done."""
        yield lambda: None


class Display:
    """Numbered steps with their times.

    Parameters
    ----------
    steps : int, optional
        How many there will be, when that is known.
    console : rich.console.Console, optional
        Standard error by default.
    """

    def __init__(self, steps=None, console=None):
        self.steps, self.number = steps, 0
        self._console = console or Console(stderr=True)

    def _line(self, text):
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def _begin(self, text):
        self.number += 1
        of = "" if self.steps is None or self.number > self.steps else f"/{self.steps}"     # some have to be taken again
        self._console.print(f"[bold]\\[{self.number}{of}][/bold] {escape(text)} ...", highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, text):
        """A step begins; it ends with the block."""
        self._begin(text)
        started = time.monotonic()
        if self._console.is_terminal:
            with Progress(TextColumn("    "), SpinnerColumn(), TimeElapsedColumn(), console=self._console, transient=True) as bar:
                bar.add_task("")
                yield
        else:
            with self._log(lambda: f"      at it for {time.monotonic() - started:.0f} s"):
                yield
        self._line(f"      done, {time.monotonic() - started:.1f} s")

    @contextmanager
    def _log(self, text):
        """A line of ``text()`` every now and then until the block ends."""
        ended = threading.Event()

        def lines():
            while not ended.wait(LINE_SECONDS):
                self._line(text())

        thread = threading.Thread(target=lines, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def track(self, items, text, total=None):
        """A step of passing items on, one after another; ``total`` is needed where they have no length."""
        with self.count(text, len(items) if total is None else total) as done:
            for item in items:
                yield item
                done()

    @contextmanager
    def count(self, text, total):
        """A step of ``total`` parts; yields a function to call when one is done."""
        self._begin(text)
        if self._console.is_terminal:
            with Progress(TextColumn("    "), SpinnerColumn(), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
                          console=self._console) as bar:
                task = bar.add_task("", total=total)
                yield lambda: bar.advance(task)
            return
        started, parts = time.monotonic(), 0

        def text():
            return f"      {parts} of {total}, {time.monotonic() - started:.1f} s"

        def done():
            nonlocal parts
            parts += 1

        with self._log(text):
            yield done
        self._line(text())
