"""One run on the page: where its numbers come from, and what evaluations said of them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from fedrobust.config import toml
from fedrobust.reports.evaluation_table import COLUMNS, flag_lines, rows, title
from fedrobust.reports.runs import Run
from fedrobust.reports.tables import outcome

PLACES = ("run-dir", "data.dir", "init", "resume")  # of a machine, not of a run


def run_details(run: Run, anchor: str) -> str:
    """A closed <details>: provenance, evaluations, the config as TOML."""
    evaluations = run.evaluations
    flags = sum(len(record["flags"]) for record in evaluations.values())
    seed = f", seed {run.config.seed}" if run.config else ""
    flagged = f" · {flags} flag{'s' if flags != 1 else ''} in {len(evaluations)} evaluation(s)" if evaluations else ""
    parts = [
        f'<details id="{anchor}"><summary><strong>{escape(run.name)}</strong> '
        f"{escape(outcome(run) + seed + flagged)}</summary>",
        "<dl>",
        *(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in _provenance(run.record) if value),
        "</dl>",
        *(part for name, record in evaluations.items() for part in _evaluation(name, record)),
    ]
    if run.config:
        flat = {key: value for key, value in run.config.to_flat().items() if key not in PLACES}
        parts.append(f"<pre>{escape(toml.dumps(flat))}</pre>")
    return "\n".join([*parts, "</details>"])


def _provenance(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    hardware = record.get("hardware", {})
    machine = [hardware.get("processor"), hardware.get("system")]
    if "cores" in hardware:
        machine.append(f"{hardware['cores']} cores, {hardware.get('memory_gib', '?')} GiB")
    yield "command", record.get("command", "")
    yield "commit", record.get("commit", "")
    yield "hardware", ", ".join(filter(None, [*machine, *hardware.get("gpus", [])]))
    yield "versions", ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items() if version)
    yield "engine", ", ".join(filter(None, (record.get(key, "") for key in ("engine", "device", "precision"))))
    yield "started", record.get("started", "")
    yield "ended", record.get("ended", "")
    yield "seconds", f"{record['seconds']:.0f}" if "seconds" in record else ""
    yield "peak memory", f"{record['peak_memory_bytes'] / 2**20:.0f} MiB" if "peak_memory_bytes" in record else ""
    yield "data digest", record.get("data_digest", "")


def _evaluation(name: str, record: dict[str, Any]) -> Iterator[str]:
    yield f"<h3>{escape(name)}: {escape(record['subject'].get('which', 'model'))} model, {escape(title(record))}</h3>"
    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f'<th scope="col">{escape(column)}</th>' for column in COLUMNS) + "</tr></thead><tbody>"
    for row in rows(record):
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"
    yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in flag_lines(record)) + "</ul>"
