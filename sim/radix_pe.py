"""Event model of an SNN PE that reads levels before it adds: chunks by the join front end's recurrence alone, as in the ANN core.

With ``retired`` from ``sim/join.py``::

    slot_free = retired + 2                 first cycle in which the slot counts as free
    drained   = retired + 6                 of a row's last chunk

Rows go through the neuron as in ``sim/binary_pe.py``.
"""
__all__ = ["DRAIN_LATENCY", "SLOT_RELEASE"]

SLOT_RELEASE = 2    # from retirement to the first cycle in which the slot counts as free
DRAIN_LATENCY = 6   # from retirement to `drained`
