"""A model in a closed loop with an environment, recorded as stimulus and expectation of a bench."""
import numpy as np

from neuroflex.tb.bits import words_of

__all__ = ["Offer", "Take", "closed_loop"]


class Offer:
    """A stream's sender: offers entries of a queue after random gaps, holds each until it was taken.

    Parameters
    ----------
    rng : numpy.random.Generator
    chance : float
        Of beginning to offer the next entry, in a cycle.
    """

    def __init__(self, rng, chance):
        self.rng, self.chance, self.entries, self.shown = rng, chance, [], False

    def __call__(self):
        """(valid, entry) of this cycle; entry is None while there is nothing on offer."""
        self.shown = bool(self.entries) and (self.shown or self.rng.random() < self.chance)
        return int(self.shown), self.entries[0] if self.shown else None

    def step(self, ready):
        """End of the cycle: the entry that moved, or None."""
        if self.shown and ready:
            self.shown = False
            return self.entries.pop(0)
        return None


class Take:
    """A stream's receiver: ready at random, with stretches in which it never is.

    Parameters
    ----------
    rng : numpy.random.Generator
    chance : float
        Of being ready outside of these stretches.
    """

    def __init__(self, rng, chance):
        self.rng, self.chance, self.pause = rng, chance, 0

    def __call__(self):
        if self.pause:
            self.pause -= 1
        elif self.rng.random() < 0.005:
            self.pause = int(self.rng.integers(1, 60))
        return int(not self.pause and self.rng.random() < self.chance)


def closed_loop(bench, model, environment, cycles, payloads, pack=None):
    """Run model and environment against each other; both show what depends on their state only, then step.

    Parameters
    ----------
    bench : Bench
        For the widths of its ports.
    model
        With ``outputs()`` and ``step(inputs)``.
    environment
        With ``drive() -> dict`` of the block's inputs and ``step(outputs, inputs)``.
    cycles : int
    payloads : dict of str to str
        Output → the valid that says when it counts.

    pack : dict of str to callable, optional
        Input that the model takes as an object → its integer.

    Returns
    -------
    stimulus, expected, where
        As :meth:`neuroflex.tb.bench.Bench.run` takes them.
    """
    pack = pack or {}
    stimulus, expected = {name: [] for name in bench.inputs}, {name: [] for name in bench.outputs}
    for _ in range(cycles):
        out, inputs = model.outputs(), environment.drive()
        for name, values in stimulus.items():
            values.append(pack[name](inputs[name]) if name in pack else inputs[name])
        for name, values in expected.items():
            values.append(out[name])
        environment.step(out, inputs)
        model.step(inputs)
    stimulus = {name: _array(values, bench.inputs[name]) for name, values in stimulus.items()}
    expected = {name: _array(values, bench.outputs[name]) for name, values in expected.items()}
    return stimulus, expected, {name: expected[valid] == 1 for name, valid in payloads.items()}


def _array(values, width):
    """Integers as the bench wants a port of that width."""
    if width <= 64:
        return np.array(values, np.uint64)
    size = words_of(width)
    return np.frombuffer(b"".join(int(v).to_bytes(8 * size, "little") for v in values), np.uint64).reshape(-1, size)
