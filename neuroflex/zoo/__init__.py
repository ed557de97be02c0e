"""Trained integer networks that come with NeuroFlex."""

__all__ = ["load", "names"]

from importlib import resources

from neuroflex.compiler.network import Network


def names():
    """Names of the networks in the zoo, sorted."""
    return sorted(entry.name.removesuffix(".npz") for entry in resources.files(__name__).iterdir()
                  if entry.name.endswith(".npz"))


def load(name):
    """A network of the zoo by name, with its real test and calibration images.

    Raises
    ------
    KeyError
        When there is no such network; the message lists those there are.
    """
    if name not in names():
        raise KeyError(f"no network {name!r} in the zoo; there are {', '.join(names())}")
    return Network.from_bytes(resources.files(__name__).joinpath(f"{name}.npz").read_bytes(), origin=f"zoo network {name!r}")
