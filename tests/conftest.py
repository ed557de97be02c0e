"""What several tests run on: the digits network, and its job on the smallest preset."""
import pytest

from neuroflex import zoo
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network
from neuroflex.program import program_image

__all__ = ["digits", "digits_job", "digits_program"]


@pytest.fixture(scope="session")
def digits():
    """The trained network; tests do not change it."""
    return zoo.load("digits")


@pytest.fixture(scope="session")
def digits_job(digits):
    """`digits` compiled for the preset ``tiny`` with the default policy."""
    return compile_network(digits, PRESETS["tiny"])


@pytest.fixture(scope="session")
def digits_program(digits_job):
    """The same as a program image."""
    return program_image(digits_job, policy="hybrid", seed=0)
