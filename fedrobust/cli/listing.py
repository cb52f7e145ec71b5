"""`fedrobust list`: print the entries of the registries."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from rich.table import Table

from fedrobust.cli.console import new_console
from fedrobust.config import DEFAULTS
from fedrobust.config.flat import walk
from fedrobust.config.registry import REGISTRIES, registry
from fedrobust.presets import load_preset, preset_names
from fedrobust.studies import load_study, study_names

KINDS = ("presets", "studies", "settings", *REGISTRIES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust list`."""
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only this kind [all except settings]")


def main(arguments: argparse.Namespace) -> int:
    """Print one table per kind."""
    console = new_console(soft_wrap=False)
    for kind in [arguments.kind] if arguments.kind else [kind for kind in KINDS if kind != "settings"]:
        table = Table(kind, "", title_justify="left", show_edge=False)
        for name, text in entries(kind).items():
            table.add_row(name, text)
        console.print(table)
        console.print()
    return 0


def entries(kind: str) -> dict[str, str]:
    """Return name → one line of text, for a kind."""
    if kind == "presets":
        return {name: load_preset(name).description for name in preset_names()}
    if kind == "studies":
        return {name: load_study(name).description for name in study_names()}
    if kind == "settings":
        return {
            key: f"{field.description} [{'unset' if value == '' else value}]" for key, field, value in walk(DEFAULTS)
        }
    return {name: _first_line(entry) for name, entry in registry(kind).items()}


def _first_line(entry: Any) -> str:
    """Return an entry's own text: its description, or the first paragraph of its docstring."""
    if isinstance(entry, str):
        return entry
    if description := getattr(entry, "description", ""):
        return description
    return (inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")
