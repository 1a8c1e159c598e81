"""Training: the loop, its checkpoints, its run directory."""
