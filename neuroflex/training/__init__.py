"""Training of networks for the accelerator: ReLU, pruning, QCFS, integers. Needs the ``torch`` extra."""
