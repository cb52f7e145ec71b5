"""Centralised adversarial training: the objectives, attacks and training loop of a client, on all the data.

A central run has the settings, the folder and the rounds of a federated one; a round is `local.epochs` passes over the
training set. With a constant rate, no momentum and no averaging of weights it is a federation of one client to the last
bit: a client's optimiser starts afresh in each round, this one goes on.
"""

from __future__ import annotations

from fedrobust.central.run import Central
from fedrobust.config import RunConfig
from fedrobust.process import threads
from fedrobust.records import new_run_dir
from fedrobust.unused import refuse_unused

__all__ = ["Central", "run"]


def run(cfg: RunConfig) -> None:
    """Train as `cfg` says, with `workers.threads` CPU threads; results lie in `run-dir`, or a new folder below runs/.

    Raises:
        RunFailed: the run could not go on; what it had reached lies in its folder.
        ConfigError: a name is in no registry, the settings do not fit the data, or one that was given has no effect.
    """
    refuse_unused({"": cfg}, cfg.given)
    if not cfg.run_dir:
        cfg = cfg.replace(run_dir=str(new_run_dir("central").absolute()))
    with threads(cfg.workers.threads):
        Central(cfg).run()
