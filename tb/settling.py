"""The registers of an accelerator whose memory still settles after a watchdog, for the drivers' tests."""
from neuroflex import registers
from neuroflex.axi import AxiConfig
from neuroflex.formats import Status

__all__ = ["SettlingRegisters"]


class SettlingRegisters:
    """``busy`` is read as 1 a number of times, and a start is ignored until it is 0; then a job is done at once.

    Attributes
    ----------
    polls : int
        How often the status will still say busy. A reset sets it to 0.
    early : list of str
        What a driver did before busy went.
    finished : bool
    """

    def __init__(self, config, polls=0):
        self.polls, self.early, self.finished = polls, [], False
        self._words = {"identity": registers.IDENTITY, "version": registers.VERSION, **registers.config_words(config), **registers.shell_words(AxiConfig())}
        self._names = {register.offset: register.name for register in registers.REGISTERS + registers.SHELL_REGISTERS}

    def read(self, offset):
        """A register's value."""
        if self._names[offset] != "status":
            return self._words.get(self._names[offset], 0)
        self.polls = max(self.polls - 1, 0)
        return int(self.polls > 0) | self.finished << 1 | Status.DONE << 8

    def write(self, offset, value):
        """Only the control register does anything."""
        if self._names[offset] == "control" and value & 2:
            self.polls = 0
        if self._names[offset] == "control" and value & 1:
            self.early += ["start"] * bool(self.polls)
            self.finished = not self.polls
