"""The commands of ``neuroflex``, one module each."""
