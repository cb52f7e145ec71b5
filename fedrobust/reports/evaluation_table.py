"""An evaluation as a table: every accuracy with its interval, its flags beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedrobust.config import WORST_CASE
from fedrobust.reports.labels import heading
from fedrobust.reports.tables import markdown_table

COLUMNS = ("", "accuracy", "95 %", "seconds", "flags")


def title(record: dict[str, Any]) -> str:
    """What was evaluated, against what."""
    source = f", made on {record['source']['name']}" if record["source"] else ""
    return (
        f"{record['subject']['name']}: {record['num_images']} test images, {record['norm']}, "
        f"epsilon {record['epsilon']}, seed {record['seed']}{source}"
    )


def rows(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row per attack with the flags about it; natural accuracy first, last the worst case over the suite with all."""
    for name, share in record["accuracy"].items():
        interval = f"{100 * share['low']:.1f} to {100 * share['high']:.1f}"
        seconds = f"{share['seconds']:.0f}" if "seconds" in share else ""
        about = [flag["name"] for flag in record["flags"] if name == WORST_CASE or name.startswith(flag["about"])]
        flags = "" if name == "natural" else ", ".join(dict.fromkeys(about))
        yield heading(name), f"{100 * share['accuracy']:.1f}", interval, seconds, flags


def clients_line(record: dict[str, Any]) -> Iterator[str]:
    """The worst client, where there are clients."""
    for client in record["per_client"]:
        if client["client"] == record["worst_client"]:
            shares = f"natural {client['natural']:.1%}, worst case {client[WORST_CASE]:.1%}"
            yield f"worst client {client['client']}: {shares} (test images weighted by its labels)"


def flag_lines(record: dict[str, Any]) -> Iterator[str]:
    """A line per flag with what was seen."""
    for flag in record["flags"]:
        yield f"flag {flag['name']}: {flag['seen']}"
    if record["flags"]:
        yield "what they mean: docs/evaluation-flags.md"


def markdown(record: dict[str, Any]) -> str:
    """The whole page: overall, by class, by client, flags."""
    lines = [f"# {title(record)}", ""]
    lines += markdown_table(COLUMNS, rows(record))
    lines += ["", *(f"{line}  " for line in [*clients_line(record), *flag_lines(record)])]
    for key, first in (("per_class", ("class", "images")), ("per_client", ("client", "images"))):
        entries = record[key]
        if entries:
            names = [name for name in entries[0] if name not in (*first, "label")]
            body = ((*(str(row[k]) for k in first), *(f"{100 * row[name]:.1f}" for name in names)) for row in entries)
            lines += ["", *markdown_table((*first, *names), body)]
    return "\n".join(lines) + "\n"
