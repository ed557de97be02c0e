"""Program images and their networks: an image that is opened is what it says, or refused."""
import dataclasses

import numpy as np
import pytest

from neuroflex import flow
from neuroflex.compiler.image import ImageError
from neuroflex.config import PRESETS
from neuroflex.flow import MEASURED, compile_network
from neuroflex.program import open_image, program_image


@pytest.fixture(scope="module")
def candidates(digits):
    """What ``measured`` chooses from."""
    return {policy: compile_network(digits, PRESETS["tiny"], policy=policy) for policy in MEASURED}


@pytest.fixture(scope="module")
def measured(digits):
    return program_image(compile_network(digits, PRESETS["tiny"], policy="measured"), policy="measured", seed=0)


@pytest.fixture
def reopen(tmp_path, monkeypatch):
    """Saves an image with changes in ``about`` (None: without that entry) and opens it; gives the job and how many programs were compiled for it."""
    lower, compiled = flow.lower, []
    monkeypatch.setattr(flow, "lower", lambda *a, **k: compiled.append(a) or lower(*a, **k))

    def run(image, **changes):
        compiled.clear()
        about = {key: value for key, value in {**image.about, **changes}.items() if value is not None}
        dataclasses.replace(image, about=about).save(tmp_path / "a.nfx")
        return open_image(tmp_path / "a.nfx")[0], len(compiled)
    return run


def test_measured_is_not_measured_again(measured, candidates, reopen):
    """The image says which policy was chosen; one of an earlier version, which does not, opens as it did."""
    chosen = measured.about["chosen"]
    assert np.array_equal(measured.memory, candidates[chosen].memory)
    for changes, compilations in ({}, 1), ({"chosen": None}, len(MEASURED)):
        job, compiled = reopen(measured, **changes)
        assert compiled == compilations and np.array_equal(job.memory, measured.memory) and job.policy == chosen


def test_a_changed_record_is_refused(measured, candidates, reopen):
    others = [policy for policy, job in candidates.items() if not np.array_equal(job.memory, measured.memory)]
    assert len(others) >= 2
    for policy in others:
        with pytest.raises(ImageError, match="a.nfx: compiled by a version of NeuroFlex that compiles differently"):
            reopen(measured, chosen=policy)
    for wrong in ("random", "measured", "best", "", 3, ["hybrid"], {}):
        with pytest.raises(ImageError, match=r"a.nfx: says that policy 'measured' chose .*; 'measured' chooses from hybrid, balanced, all_ann, all_snn"):
            reopen(measured, chosen=wrong)


def test_a_policy_that_chooses_nothing(digits_program, reopen):
    assert "chosen" not in digits_program.about and reopen(digits_program)[1] == 1
    with pytest.raises(ImageError, match="says that policy 'hybrid' chose 'hybrid'"):
        reopen(digits_program, chosen="hybrid")


@pytest.mark.parametrize("changes, says", [({"policy": "all_ann"}, "compiles differently"), ({"policy": "best"}, "policy 'best' and seed 0, which this version does not know"),
                                           ({"policy": ["hybrid"]}, "does not know"), ({"seed": "0"}, "does not know"), ({"seed": -1}, "does not know"),
                                           ({"policy": None}, "holds no policy"), ({"seed": None}, "holds no seed")], ids=str)
def test_other_changed_fields(digits_program, reopen, changes, says):
    with pytest.raises(ImageError, match=says):
        reopen(digits_program, **changes)
