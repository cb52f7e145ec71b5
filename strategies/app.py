"""The ServerApp: one federation from a run config to a run's folder."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrobust.config import RunConfig
from fedrobust.running.preflight import check_names
from fedrobust.storage.run_folder import new_run_dir
from strategies.federation import Federation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config describes; every engine and Flower's own runtime call this function."""
    cfg = RunConfig.from_flat(context.run_config)
    check_names(cfg)
    if not cfg.run_dir:  # a plain `flwr run .`: below the folder in which Flower's local SuperLink was started
        cfg = cfg.replace(run_dir=str(new_run_dir(cfg.strategy.name).absolute()))
    Federation(cfg, grid).run()
