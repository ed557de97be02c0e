"""Cycle model of the spike generator."""
__all__ = ["LATENCY"]

LATENCY = 1  # cycles from the level to its spike word
