"""The report as one self-contained page: sortable tables, all figures, and the source of each number."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedrobust.config import toml
from fedrobust.reports import labels
from fedrobust.reports.evaluation import COLUMNS, flag_lines, rows, title
from fedrobust.reports.figures import Drawn, draw_figures
from fedrobust.reports.groups import describe
from fedrobust.reports.results import Overview
from fedrobust.reports.runs import Run
from fedrobust.reports.style import DPI
from fedrobust.reports.tables import (
    POOL_WARNING,
    has_pool,
    outcome,
    summary_body,
    summary_head,
    summary_latex,
    summary_markdown,
)
from fedrobust.storage.files import write_atomically

PLACES = ("run-dir", "data.dir", "init", "resume")  # of a machine, not of a run

OVER_SEEDS = (
    "Accuracy on the test set in percent, mean ± standard deviation over n seeds. The best round was chosen on the "
    "validation slice; without one it is the last. Worst client: on its own held-out images, if clients were asked "
    "in that model's round."
)

# columns of results.csv that the page has no room for
LEFT_OUT = ("emd_before", "emd_after", "pool_images", "pool_bytes", "started", "commit", "test_images")


def run_details(run: Run, anchor: str) -> str:
    """Return a closed <details>: provenance, evaluations, the config as TOML."""
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


HERE = Path(__file__).parent


def page(overview: Overview, figures: Sequence[Drawn]) -> str:
    """Return the page as HTML; it loads nothing from a network."""
    title = escape(f"fedrobust report: {overview.title}")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}</style>",
        f"</head><body><main><h1>{title}</h1>",
        *_facts(overview),
        *_unfinished(overview),
        *_warnings(overview),
        "<h2>Over seeds</h2>",
        f"<p>{escape(OVER_SEEDS)}</p>",
        *_summary(overview),
        "<h2>Figures</h2>",
        '<div class="figures">',
        *(line for figure in figures for line in _figure(figure)),
        "</div>",
        "<h2>Runs</h2>",
        *_results(overview),
        "<h2>Sources of the numbers</h2>",
        *(run_details(run, f"run-{number}") for number, run in enumerate(overview.runs, 1)),
        f"</main><script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _facts(overview: Overview) -> Iterator[str]:
    """Yield time, runs, and the images that a pool shares."""
    runs = overview.runs
    states = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in runs).items())
    seeds = sorted({run.config.seed for run in runs if run.config})
    described = [describe(run) for run in runs if run.config]
    common = [
        labels.phrase(column, value)
        for column, value in (described[0] if described else {}).items()
        if value != "" and all(row[column] == value for row in described)
    ]
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    facts = {
        "Made": f"{made}, fedrobust {version('fedrobust')}",
        "Runs": f"{len(runs)} ({states})",
        "Settings": str(len(overview.groups)),
        "Seeds": ", ".join(map(str, seeds)),
        "Alike in all": ", ".join(common),
    }
    yield "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items()) + "</dl>"
    if has_pool(runs):
        yield f'<p class="warning">{escape(" ".join([POOL_WARNING, "; ".join(_pools(runs))]))}</p>'


def _pools(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the size of the pool and the bytes it moves in one run, for each fraction the most."""
    found: dict[float, list[tuple[int, int]]] = {}
    for run in runs:
        if run.config and (pool := run.record.get("pool", {})).get("images"):
            found.setdefault(run.config.pool.fraction, []).append((pool["images"], pool["bytes_moved"]))
    for fraction, sizes in sorted(found.items()):
        images, moved = map(max, zip(*sizes, strict=True))
        yield f"{labels.phrase('pool', fraction)}: {images:,} images, {moved / 2**20:.3g} MiB to the clients of a run"


def _unfinished(overview: Overview) -> Iterator[str]:
    entries = [
        f'<li><a href="#run-{number}">{escape(run.name)}</a>: {escape(outcome(run))}</li>'
        for number, run in enumerate(overview.runs, 1)
        if run.state != "completed"
    ]
    if entries:
        yield f'<h2>Not complete</h2><ul class="unfinished">{"".join(entries)}</ul>'


def _warnings(overview: Overview) -> Iterator[str]:
    """Yield the page's section of warnings, those of complete runs among them."""
    entries = [
        f'<li><a href="#run-{number}">{escape(run.name)}</a>: {escape(warning)}</li>'
        for number, run in enumerate(overview.runs, 1)
        for warning in run.warnings
    ]
    if entries:
        yield f'<h2>Warnings</h2><ul class="unfinished">{"".join(entries)}</ul>'


def _summary(overview: Overview) -> Iterator[str]:
    summary = overview.compact(overview.summary)
    if summary.empty:
        yield "<p>No finished run.</p>"
        return
    settings = list(summary).index("n")
    values = [column for column in summary if not str(column).endswith(".std")]
    body = (
        [(escape(text), row[column]) for text, column in zip(cells, values, strict=True)]
        for (_, row), cells in zip(summary.iterrows(), summary_body(summary), strict=True)
    )
    yield _table("summary", summary_head(summary), body, words=settings)


def _results(overview: Overview) -> Iterator[str]:
    results = overview.compact(overview.results)
    groups = list(overview.groups[0].values) if overview.groups else []
    alike = {column for run in overview.runs for column in describe(run)}.difference(groups)
    shown = results.drop(columns=[column for column in results if column in alike or column in LEFT_OUT])
    number = {run.name: place for place, run in enumerate(overview.runs, 1)}
    body = (
        [
            (f'<a href="#run-{number[value]}">{escape(value)}</a>', value)
            if column == "run"
            else (escape(labels.cell(column, value)), value)
            for column, value in zip(shown, row, strict=True)
        ]
        for row in shown.itertuples(index=False)
    )
    yield _table("runs", [labels.heading(column) for column in shown], body, words=4 + len(groups))


def _table(name: str, head: Sequence[str], body: Iterator[list[tuple[str, Any]]], words: int) -> str:
    """Return a sortable table; the first `words` columns are text, aligned left."""
    lines = [f'<div class="scroll"><table id="{name}" class="sortable"><thead><tr>']
    lines += [
        f'<th scope="col"{_side(place, words)}><button type="button">{escape(text)}</button></th>'
        for place, text in enumerate(head)
    ]
    lines.append("</tr></thead><tbody>")
    for row in body:
        cells = (
            f'<td{_side(place, words)} data-value="{_key(value)}">{text}</td>'
            for place, (text, value) in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _side(place: int, words: int) -> str:
    return "" if place < words else ' class="number"'


def _key(value: Any) -> str:
    return "" if labels.missing(value) else escape(str(value))


def _figure(figure: Drawn) -> Iterator[str]:
    data = figure.path.read_bytes()
    width = int.from_bytes(data[16:20], "big") * 96 // DPI  # a PNG says its pixels there; CSS has 96 to the inch
    alt, encoded = escape(f"{figure.title}. {figure.text}"), b64encode(data).decode()
    yield f'<figure style="max-width: {width}px"><img alt="{alt}" src="data:image/png;base64,{encoded}">'
    yield f"<figcaption><strong>{escape(figure.title)}.</strong> {escape(figure.text)}</figcaption></figure>"


def write_report(overview: Overview, folder: Path) -> Path:
    """Write results.csv and .parquet, summary.csv, .md and .tex, the figures and report.html; return the page's path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overview.results.to_csv(folder / "results.csv", index=False)
    overview.results.to_parquet(folder / "results.parquet", index=False)
    overview.summary.to_csv(folder / "summary.csv", index=False)
    short = overview.compact(overview.summary)
    (folder / "summary.md").write_text(summary_markdown(short, overview.runs), encoding="utf-8")
    (folder / "summary.tex").write_text(summary_latex(short, overview.runs), encoding="utf-8")
    html = page(overview, draw_figures(overview, folder))
    write_atomically(folder / "report.html", html.encode())
    return folder / "report.html"
