"""Running: the round loop, the run's own evaluation, and the checks before the first round."""
