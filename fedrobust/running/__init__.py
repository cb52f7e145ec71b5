"""Running: the round loop (`rounds`), a run's own evaluation (`evaluator`), the checks before the first round
(`preflight`), the start of runs and sweeps, and trackers.

`api`, `cli` and the two apps may import it.
"""
