"""`fedrobust certs`: make the keys of a deployment."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedrobust.cli.arguments import positive
from fedrobust.config.names import split_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust certs`."""
    add = parser.add_argument
    add(
        "--server",
        metavar="NAMES",
        required=True,
        help="DNS names and IP addresses under which clients reach the server, comma-separated",
    )
    add("--clients", metavar="N", type=positive, required=True, help="bundles to make: client-0 to client-(N-1)")
    add("--out", metavar="FOLDER", type=Path, default=Path("certs"), help="folder of the keys [%(default)s]")


def main(arguments: argparse.Namespace) -> int:
    """Make, renew or keep the keys; print what was done."""
    from fedrobust.deploy.certificates import make_certificates

    changes = make_certificates(arguments.out, split_list(arguments.server), arguments.clients)
    for line in changes:
        print(line)
    if not changes:
        print(f"{arguments.out}: complete, nothing to renew")
    return 0
