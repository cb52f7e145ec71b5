"""`fedrobust doctor`: check whether this machine can be a client, and print what to change if not."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedrobust.cli.console import new_console, styled
from fedrobust.config.names import unknown
from fedrobust.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust doctor`."""
    add = parser.add_argument
    add("--server", metavar="HOST:PORT", required=True, help="address of the server as this client reaches it")
    add(
        "--certs",
        metavar="FOLDER",
        type=Path,
        default=Path("certs"),
        help="folder with this client's bundle [%(default)s]",
    )
    add("--insecure", action="store_true", help="the server has no TLS")
    add("--data", metavar="NAME", default="digits", help="data set that it trains on [%(default)s]")
    add(
        "--own",
        metavar="FOLDER",
        type=Path,
        help="folder with its own images of that kind, if it trains on them (data.own)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Print a line per check; return 1 if a check failed."""
    from fedrobust.data import DATASETS
    from fedrobust.deploy.doctor import Client, examine

    if arguments.data not in DATASETS:
        raise ConfigError(f"--data: {unknown('data set', arguments.data, DATASETS)}")
    host, _, port = arguments.server.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--server {arguments.server!r}: must be HOST:PORT, such as fl.example.org:8443")
    console, healthy = new_console(), True
    bundle = None if arguments.insecure else arguments.certs
    client = Client(host.strip("[]"), int(port), bundle, arguments.data, arguments.own)
    for finding in examine(client):
        mark = ("✗", "red") if finding.remedy else ("✓", "green")
        remedy = f" → {finding.remedy}" if finding.remedy else ""
        console.print(styled(mark, f" {finding.check:8}{finding.seen}{remedy}"))
        healthy &= not finding.remedy
    return 0 if healthy else 1
