"""`fedrobust deploy`: a preset's runs on real SuperNodes, one after another, each displayed live and recorded."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedrobust.cli.arguments import add_settings, given_settings
from fedrobust.cli.console import new_console, styled
from fedrobust.cli.launch import begin, chosen_runs, is_complete, summarise, watched
from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from fedrobust.presets import preset_names
from fedrobust.reports import labels
from fedrobust.running.launch import RESUMABLE
from fedrobust.running.preflight import check_engine, check_folder, check_settings

if TYPE_CHECKING:  # help is there before the engines are
    from fedrobust.deploy.submit import SuperLink


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust deploy`."""
    parser.usage = (
        "fedrobust deploy PRESET [--superlink HOST:PORT] [--ca FILE | --insecure] [--register FOLDER] "
        "[--SETTING VALUE ...]\n       fedrobust deploy --resume FOLDER\n       fedrobust deploy --register FOLDER"
    )
    add = parser.add_argument
    add("preset", nargs="?", help=f"{', '.join(preset_names('federated'))}, or a TOML file")
    add("--variant", default="", help="run only this variant of the preset")
    add(
        "--resume",
        metavar="FOLDER",
        help=f"resume the run (or the runs) in a folder; settings that may change: {', '.join(RESUMABLE)}",
    )
    add(
        "--superlink",
        metavar="HOST:PORT",
        default="127.0.0.1:8000",
        help="address of the SuperLink's Control API [%(default)s]",
    )
    add(
        "--ca",
        metavar="FILE",
        type=Path,
        default=Path("certs/ca.crt"),
        help="root certificate to trust there [%(default)s]",
    )
    add("--insecure", action="store_true", help="no TLS: only on a network that nobody else can read")
    add(
        "--register",
        metavar="FOLDER",
        type=Path,
        help="first register the SuperNodes whose public keys lie in this folder",
    )
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Register the nodes, run, and end with a short table and the folder's path."""
    from fedrobust.deploy.submit import SuperLink, register

    settings = given_settings(arguments)
    superlink = SuperLink(arguments.superlink, None if arguments.insecure else arguments.ca)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = arguments.preset or arguments.resume or not arguments.register
    runs = chosen_runs(arguments, settings, _check) if asked else {}
    console = new_console()
    if arguments.register:
        for line in register(arguments.register, superlink):
            console.print(line)
    for label, cfg in runs.items():
        if code := _deploy(label, cfg, superlink, console):
            return code
    if runs:
        summarise(console, runs)
    return 0


def _check(cfg: RunConfig) -> None:
    """Raise ConfigError for a run that cannot be deployed; the data are on the SuperNodes' machines and not checked
    here.
    """
    check_settings(cfg)
    check_folder(cfg)
    if cfg.kind != "federated":
        raise ConfigError(f"kind = {cfg.kind!r}: this is a {cfg.kind} run; use fedrobust {cfg.kind}")
    if cfg.data.dir:
        raise ConfigError(f"data.dir = {cfg.data.dir!r}: each machine has its own folder; set FEDROBUST_DATA on each")
    check_engine(cfg, "flwr")


def _deploy(label: str, cfg: RunConfig, superlink: SuperLink, console: Console) -> int:
    """Carry out one run; return its exit code."""
    from fedrobust.deploy.submit import launch
    from fedrobust.storage.provenance import provenance

    if is_complete(label, cfg, [], console):
        return 0
    clients = f"{cfg.strategy.name} on {labels.data(cfg)}, {cfg.num_clients} clients"
    console.print(styled((label, "bold"), f": {clients}"))
    console.print(f"SuperNodes of {superlink.address}")
    cfg = begin(label, cfg, engine="deployment", **provenance())
    return watched("deploy", label, cfg, lambda: launch(cfg, superlink), [], console)
