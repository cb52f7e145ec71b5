"""The partitions that runs trained on, drawn from what they recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fedrobust.config import Data
from fedrobust.data import DATASETS, class_numbers
from fedrobust.reports import labels
from fedrobust.reports.groups import Group
from fedrobust.reports.partition_figure import LABELLED_CLIENTS, draw_partition

FILES = tuple(f"partition-{number}.png" for number in range(1, 7))


def draw_partitions(groups: Sequence[Group], folder: Path) -> list[tuple[Path, str]]:
    """Write FILES, one per distinct partition as far as they go; each with what it shows.

    The first run of every group goes before the second of any, so that settings are seen before seeds.
    """
    runs = [(place, run) for group in groups for place, run in enumerate(group.runs)]
    drawn: dict[bytes, tuple[Path, str]] = {}
    for _, run in sorted(runs, key=lambda entry: entry[0]):
        if run.config is None or not run.folder.partition.exists() or len(drawn) == len(FILES):
            continue
        table = run.folder.partition.read_bytes()
        if table not in drawn:
            path, title = folder / FILES[len(drawn)], labels.partition(run.config)
            _draw(pd.read_csv(run.folder.partition), run.config.data, title, path)
            drawn[table] = path, title
    return list(drawn.values())


def _draw(table: pd.DataFrame, data: Data, title: str, path: Path) -> None:
    counts = table[[column for column in table if str(column).startswith("class_")]].to_numpy()
    names = [str(number) for number in range(counts.shape[1])]
    if data.name in DATASETS:
        known = DATASETS[data.name].class_names
        names = [known[number] for number in class_numbers(data.classes, known)]
    style = "bars" if len(counts) <= LABELLED_CLIENTS else "bubbles"
    draw_partition(counts, table["emd"].to_numpy(), names, path, style=style, title=title)
