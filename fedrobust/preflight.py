"""What can be refused before a run starts is refused then: nothing of several runs begins when one of them cannot."""

from __future__ import annotations

from fedrobust.config import RunConfig
from fedrobust.records import RunFolder


def check_run(cfg: RunConfig) -> None:
    """Names, combinations of settings, device and workers; for a run that is to go on, that nobody is at work on it.

    Raises:
        ConfigError: a name, a combination of settings, more than this machine has, or a folder that is in use.
    """
    from fedrobust.engines import plan_workers
    from fedrobust.models.activations import activation_maker
    from fedrobust.objectives import check_start
    from fedrobust.process import pick_device
    from fedrobust.registry import check_names, resolve

    check_names(cfg)
    activation_maker(**cfg.model.activations())
    pick_device(cfg.device)
    if cfg.kind == "central":
        check_start(cfg.objective.name, cfg.attack.random_start)
        plan_workers(cfg, "local")
    else:
        resolve("strategies", cfg.strategy.name)(cfg)
        plan_workers(cfg, "ray")
    if cfg.resume:
        with RunFolder(cfg.run_dir).held():
            pass
