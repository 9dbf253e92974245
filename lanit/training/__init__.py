"""What every method shares: the loop, processes, checkpoints, averaging, logging."""
