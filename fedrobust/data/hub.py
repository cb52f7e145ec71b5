"""The Hub's parquet layout on disk: which folder, which files, and have they changed."""

import hashlib
import json
import re
from pathlib import Path

from fedrobust.data.spec import DataError, SplitName


def locate(name: str, data_dir: Path) -> Path:
    """The folder with the parquet files of `name`: `<data_dir>/<name>`, else `data_dir` itself.

    Raises:
        DataError: neither has a parquet file.
    """
    for folder in (data_dir / name, data_dir):
        if any(folder.glob("*.parquet")):
            return folder
    raise DataError(
        f"no {name} in {data_dir}; expected train-*-of-*.parquet and test-*-of-*.parquet there or in {name}/"
    )


def shards(folder: Path, split: SplitName) -> list[Path]:
    """The files `<split>-00000-of-00005.parquet`, … of one split, in order, all present.

    Raises:
        DataError: no file, files of two different sets of shards, or the name of the missing file.
    """
    pattern = re.compile(rf"{split}-(\d{{5}})-of-(\d{{5}})\.parquet")
    found = sorted(file.name for file in folder.iterdir() if pattern.fullmatch(file.name))
    totals = {name[-len("00000.parquet") : -len(".parquet")] for name in found}
    if not found:
        raise DataError(f"{folder}: no {split} files; expected {split}-00000-of-00001.parquet or more shards")
    if len(totals) > 1:
        raise DataError(f"{folder}: {split} files of {' and of '.join(sorted(totals))} are mixed; keep one set")
    total = totals.pop()
    expected = [f"{split}-{i:05d}-of-{total}.parquet" for i in range(int(total))]
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(f"{folder}: missing {', '.join(missing)}; found {len(found)} of {len(expected)} {split} files")
    return [folder / name for name in expected]


def fingerprint(files: list[Path]) -> str:
    """12 hex digits from the names, sizes and modification times of `files`: changes when they may have."""
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(json.dumps(sorted(stats)).encode(), digest_size=6).hexdigest()
