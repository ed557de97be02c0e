"""Whole networks on the golden model, beside the baselines (``docs/comparison.md``)."""
