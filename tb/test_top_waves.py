"""What a difference between the whole accelerator and its model leaves behind.

Plan: one bit of what the model expects is turned over in one cycle. The comparison must name that cycle and signal and both values, and hand
every input of every cycle to the writer of waves; in the long run the waves are written.
"""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.tb import compare
from neuroflex.tb.accelerator import RtlAccelerator
from neuroflex.tb.networks import random_job

TINY = PRESETS["tiny"]
CYCLE, SIGNAL = 700, "phase"


@pytest.fixture
def tampered(monkeypatch):
    """The model's record is wrong in one cycle; what the comparison should call its value."""
    expected, values = compare._expected, []

    def wrong(*arguments):
        out = expected(*arguments)
        out[CYCLE, compare._COLUMNS.index(SIGNAL)] ^= 1
        values.append(int(out[CYCLE, compare._COLUMNS.index(SIGNAL)]))
        return out

    monkeypatch.setattr(compare, "_expected", wrong)
    return values


def test_difference_is_named_and_waves_asked_for(tampered, tmp_path, monkeypatch):
    accelerator, asked = RtlAccelerator(TINY), []
    waves = tmp_path / "waves.vcd"
    monkeypatch.setattr(accelerator.bench, "write_waves", lambda *arguments: asked.append(arguments) or waves)
    done = compare.compare_job(accelerator, *random_job(1, TINY, policy="hybrid", layers=2, size=4, channels=12))
    want = tampered[0]
    assert done.cycle_mismatches == 1 and done.waves == waves
    assert done.first == f"cycle {CYCLE}: {SIGNAL} is {want ^ 1:#x}, the model says {want:#x}; waves: {waves}"
    [(stim, cycle)] = asked
    assert cycle == CYCLE and np.array_equal(stim, done.run.stim) and len(stim) == done.cycles


@pytest.mark.long
def test_waves_are_written(tampered):
    """A VCD of the cycles around the difference, of signals inside too."""
    done = compare.compare_job(RtlAccelerator(TINY, quick=True), *random_job(1, TINY, policy="hybrid", layers=2, size=4, channels=12))
    text = done.waves.read_text()
    assert str(done.waves) in done.first and "sequencer" in text
    assert f"#{2 * CYCLE}\n" in text and f"#{2 * (CYCLE - 200)}\n" in text and f"#{2 * (CYCLE - 201)}\n" not in text
