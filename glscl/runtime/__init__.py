"""The machine, its processes, its files: what knows nothing of the model."""
