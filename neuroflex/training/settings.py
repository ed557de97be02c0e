"""How a network is trained."""

__all__ = ["Settings"]

from dataclasses import dataclass

_MOST_AUTO = 8      # what the SNN core takes by default


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the result, besides the module and the data.

    Attributes
    ----------
    epochs, tune_epochs : int
        Of the ReLU network; of each fine-tuning.
    small_epochs : int
        The first ones of ``epochs``, on images of half the size.
    rate, tune_rate : float
        Highest rates of AdamW.
    levels : int or "auto"
        L of every activation; "auto" takes for each the fewest, at most 8, that lose at most 3 % of its squared values.
    density : float
        Share of the weights that pruning leaves, 1 for no pruning. The last layer keeps all.
    input_levels : int
        Of the image: 127 keeps all of it that a level holds, up to 15 let SNN columns read it.
    host_levels : int
        Of what the cores hand to the host between layers, in networks with steps of the host: 127 keep most, up to 15 let SNN columns give it.
    augment : bool
        Shift training images by up to 4 pixels and mirror every other one.
    batch, seed : int
    """

    epochs: int = 10
    tune_epochs: int = 2
    small_epochs: int = 0
    rate: float = 2e-3
    tune_rate: float = 1e-3
    levels: int | str = 8
    density: float = 1.0
    input_levels: int = 127
    host_levels: int = 127
    augment: bool = False
    batch: int = 128
    seed: int = 1

    @property
    def most_levels(self):
        """The largest number of levels that an activation can get."""
        return _MOST_AUTO if self.levels == "auto" else self.levels
