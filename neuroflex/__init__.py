"""NeuroFlex: trained networks to verified sparse ANN-SNN accelerators."""
