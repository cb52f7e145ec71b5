"""The summary over seeds as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from fedrobust.reports import labels
from fedrobust.reports.results import mean_and_std
from fedrobust.reports.runs import Run

POOL_WARNING = "A pool gives raw images to every client by construction: its runs are not private in that part."
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_TEX |= {character: "\\" + character for character in "&%$#_{}"}


def markdown_table(columns: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in body),
    ]


def summary_markdown(summary: pd.DataFrame, runs: Sequence[Run]) -> str:
    """Return mean ± standard deviation over n seeds in percent, the images that a pool shares, unfinished runs,
    warnings.
    """
    lines = ["no finished run"]
    if not summary.empty:
        lines = markdown_table(summary_head(summary), summary_body(summary))
    if has_pool(runs):
        lines += ["", POOL_WARNING]
    if unfinished := [run for run in runs if run.state != "completed"]:
        lines += ["", *(f"- {run.name}: {outcome(run)}" for run in unfinished)]
    if warnings := [f"- {run.name}: {warning}" for run in runs for warning in run.warnings]:
        lines += ["", *warnings]
    return "\n".join(lines) + "\n"


def summary_latex(summary: pd.DataFrame, runs: Sequence[Run]) -> str:
    """Return the table for LaTeX with the booktabs package: a tabular, to be put into a table environment."""
    values = len(_names(summary))
    head = summary_head(summary)
    lines = [
        "% accuracy in percent on the test set: mean and standard deviation over n seeds; needs the booktabs package",
        rf"\begin{{tabular}}{{{'l' * (len(head) - values - 1)}{'r' * (values + 1)}}}",
        r"\toprule",
        _tex_row(head),
        r"\midrule",
        *(_tex_row(row) for row in summary_body(summary)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if has_pool(runs):
        lines.append(rf"\par\smallskip{{\footnotesize {_tex(POOL_WARNING)}}}")
    return "\n".join(lines) + "\n"


def summary_head(summary: pd.DataFrame) -> list[str]:
    """Return the summary's columns for a reader: settings, model, n, one accuracy each."""
    return [labels.heading(name) for name in (*_keys(summary), "n", *_names(summary))]


def summary_body(summary: pd.DataFrame) -> Iterable[list[str]]:
    """Return the summary's rows as text."""
    for _, row in summary.iterrows():
        accuracies = (mean_and_std(row, name) for name in _names(summary))
        yield [*(labels.cell(key, row[key]) for key in _keys(summary)), str(row["n"]), *accuracies]


def outcome(run: Run) -> str:
    """Return a run's state in a line, with its error."""
    reached = f" after round {run.rounds[-1]['round']}" if run.rounds else ""
    return f"{run.state}{reached}" + (f": {run.problem}" if run.problem else "")


def has_pool(runs: Iterable[Run]) -> bool:
    """Return whether any of the runs shares raw images."""
    return any(run.config and run.config.pool.fraction and run.config.kind == "federated" for run in runs)


def _keys(summary: pd.DataFrame) -> list[str]:
    return list(summary.columns[: list(summary).index("n")])


def _names(summary: pd.DataFrame) -> list[str]:
    return [str(column).removesuffix(".mean") for column in summary if str(column).endswith(".mean")]


def _tex_row(cells: Iterable[str]) -> str:
    return " & ".join(_tex(cell) for cell in cells) + r" \\"


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text).replace("±", r"$\pm$")
