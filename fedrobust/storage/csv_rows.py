"""Rows of metrics as CSV and back, without loss: a number stays the number that it was, a text the text.

A cell is a JSON value, or a text as it stands if that is no JSON value by itself. A key that a row lacks is an empty
cell.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from fedrobust.errors import RunFailed

Row = dict[str, Any]


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header; columns keep the order of the rows' keys."""
    rows = list(rows)
    columns = _columns(rows)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[key]) if key in row else "" for key in columns] for row in rows)
    return text.getvalue()


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a CSV file.

    Damage stays in its row: bytes that are no UTF-8 are replaced, a missing cell is a missing key, and a cell beyond
    the header has the key "".

    Raises:
        RunFailed: the file is not there, cannot be read, or is no CSV.
    """
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            lines = csv.reader(file)
            columns = [*next(lines, ()), ""]
            return [{key: _value(cell) for key, cell in zip(columns, cells, strict=False) if cell} for cells in lines]
    except OSError as error:
        raise RunFailed(f"{path}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise RunFailed(f"{path}: damaged ({error})") from error


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all rows; a new key comes after the one that it follows in its row."""
    columns: list[str] = []
    for row in rows:
        if row.keys() <= set(columns):
            continue
        place = 0
        for key in row:
            if key not in columns:
                columns.insert(place, key)
            place = columns.index(key) + 1
    return columns


def _cell(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and value and _value(value) == value:
        return value
    return json.dumps(value)


def _value(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
