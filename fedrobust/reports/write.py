"""Everything a report leaves in its folder: tables, figures, the page."""

from __future__ import annotations

from pathlib import Path

from fedrobust.reports.figures import draw_figures
from fedrobust.reports.overview import Overview
from fedrobust.reports.page import page
from fedrobust.reports.tables import summary_latex, summary_markdown
from fedrobust.storage.files import write_atomically


def write_report(overview: Overview, folder: Path) -> Path:
    """Write results.csv and .parquet, summary.csv, .md and .tex, the figures and report.html; the page's path.

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
