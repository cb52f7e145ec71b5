"""What can be refused before a run starts is refused then: nothing of several runs begins when one of them cannot."""

from __future__ import annotations

from fedrobust.config import RunConfig


def check_run(cfg: RunConfig) -> None:
    """Names, combinations of settings, device and workers.

    Raises:
        ConfigError: a name, a combination of settings, or more than this machine has.
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
