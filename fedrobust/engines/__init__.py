"""Engines: they transport the messages and never change the result.

One ServerApp and one ClientApp run under each. Both are loaded by the names Flower itself uses
(`[tool.flwr.app.components]` in pyproject.toml; a test holds them equal), so that no import runs upwards.

Only this package imports Flower and Ray, besides the two apps. `convex` and the packages above may import it.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, RecordDict

from fedrobust.config import RunConfig
from fedrobust.config.effects import refuse_unused
from fedrobust.config.registry import load_path
from fedrobust.engines.grid import RUN_ID, SimulationGrid
from fedrobust.engines.plan import pick_engine, plan_workers

__all__ = ["CLIENT_APP", "ENGINES", "SERVER_APP", "SimulationGrid", "check", "pick_engine", "plan_workers", "run"]

SERVER_APP = "strategies.app:app"
CLIENT_APP = "clients.app:app"


def _run_local(cfg: RunConfig) -> None:
    """Run clients one after another in this process; a debugger works as usual."""
    from fedrobust.engines.local import LocalGrid

    _serve(LocalGrid(cfg, load_path(CLIENT_APP)), cfg)


def _run_processes(cfg: RunConfig) -> None:
    """Run clients in a pool of processes on this machine."""
    from fedrobust.engines.process_pool import ProcessGrid

    _serve(ProcessGrid(cfg, CLIENT_APP), cfg)


def _run_ray(cfg: RunConfig) -> None:
    """Run clients in a pool of Ray actors, on this machine or a cluster."""
    from fedrobust.engines.ray_pool import RayGrid

    _serve(RayGrid(cfg, CLIENT_APP), cfg)


def _run_flwr(cfg: RunConfig) -> None:
    """Run under Flower's own runtime and simulation engine, started by a launcher."""
    from fedrobust.engines.flwr_runtime import launch

    launch(cfg)


def check(cfg: RunConfig, engine: str) -> None:
    """Check that an engine can start, before the run writes anything.

    Raises:
        ConfigError: the engine cannot start; the message says why.
    """
    if engine == "processes":
        from fedrobust.engines.process_pool import check_processes

        check_processes()
    if engine == "ray":
        from fedrobust.engines.ray_cluster import check_ray

        check_ray(cfg)
    if engine == "flwr":
        from fedrobust.engines.flwr_runtime import check_flwr

        check_flwr(cfg)


ENGINES: dict[str, Callable[[RunConfig], None]] = {
    "local": _run_local,
    "processes": _run_processes,
    "ray": _run_ray,
    "flwr": _run_flwr,
}


def run(cfg: RunConfig, engine: str) -> None:
    """Run the federation `cfg` (its workers planned, its `run-dir` set) under an engine; results lie in `run-dir`.

    Raises:
        RunFailed: the run ended early; its folder holds the results up to then.
        ConfigError: the settings do not fit the data, or one that was given for this config has no effect.
    """
    refuse_unused({"": cfg}, cfg.given, engine=engine)
    ENGINES[engine](cfg)


def _serve(grid: SimulationGrid, cfg: RunConfig) -> None:
    """Run the ServerApp over one of our grids, in this process."""
    context = Context(run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(cfg.to_flat()))
    try:
        load_path(SERVER_APP)(grid, context)
    finally:
        grid.close()
