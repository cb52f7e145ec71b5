"""The decoded arrays on disk, built once per machine and shared by all its processes as memory maps.

A cache is a folder with four `.npy` files and `meta.json`. It is written under another name and then renamed, so it is
complete or absent; a lock lets one process build while the others wait.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedrobust.data.canonical import content_digest
from fedrobust.data.spec import Split
from fedrobust.errors import DataError
from fedrobust.storage.files import lock, writing

FORMAT = 1  # raise it when the files or their canonical order change
META = "meta.json"
logger = logging.getLogger(__name__)

Cached = tuple[Split, Split, str]  # train, test, content digest


def root() -> Path:
    """Return the cache folder: `FEDROBUST_CACHE`, else `$XDG_CACHE_HOME/fedrobust`, else `~/.cache/fedrobust`."""
    if chosen := os.environ.get("FEDROBUST_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedrobust"


def open_or_build(name: str, fingerprint: str, build: Callable[[], tuple[Split, Split]]) -> Cached:
    """Return the cached arrays of `name`; build them first if there are none or if they are damaged.

    A complete cache is opened without the lock and without writing, so it may be on a read-only disk.

    Raises:
        DataError: the cache folder cannot be written (a full disk included); and the errors that `build` raises.
    """
    folder = root() / f"{name}-{fingerprint}-v{FORMAT}"
    if cached := _open(folder):
        return cached
    with _writing():
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = lock(Path(f"{folder}.lock"), wait=True)
    with file:
        if cached := _open(folder):  # another process built it while this one waited
            return cached
        train, test = build()
        with _writing():
            _write(folder, train, test)
    with _writing():
        if cached := _open(folder):
            return cached
        raise OSError("the written data cannot be read back")


def _open(folder: Path) -> Cached | None:
    """Return the arrays, or None if absent or damaged. Cheap: checks file sizes and headers, not the content."""
    try:
        meta = json.loads((folder / META).read_text())
        arrays = {}
        for stem, expected in meta["arrays"].items():
            file = folder / f"{stem}.npy"
            if file.stat().st_size != expected["bytes"]:
                raise ValueError(f"{file.name} has {file.stat().st_size} bytes, not {expected['bytes']}")
            # Copy-on-write: writable, hence no warning from torch.from_numpy, and the pages are still shared.
            arrays[stem] = np.load(file, mmap_mode="c")
            if [str(arrays[stem].dtype), list(arrays[stem].shape)] != [expected["dtype"], expected["shape"]]:
                raise ValueError(f"{file.name} is {arrays[stem].dtype} {arrays[stem].shape}")
        train = Split(arrays["train_images"], arrays["train_labels"])
        return train, Split(arrays["test_images"], arrays["test_labels"]), meta["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if folder.is_dir():
            logger.warning("cache %s is damaged (%s); building it again", folder, error)
        return None


def _write(folder: Path, train: Split, test: Split) -> None:
    """Write a complete cache beside `folder`, read its content back, and rename it into place."""
    staging = folder.with_name(folder.name + ".building")
    shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed: the lock is ours now
    staging.mkdir()
    arrays = {
        "train_images": train.images,
        "train_labels": train.labels,
        "test_images": test.images,
        "test_labels": test.labels,
    }
    described: dict[str, dict[str, object]] = {}
    for stem, array in arrays.items():
        with open(staging / f"{stem}.npy", "wb") as file:
            np.save(file, array)
            _flush(file)
            described[stem] = {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": file.tell()}
    digest = content_digest(train, test)
    with open(staging / META, "wb") as file:
        file.write(json.dumps({"format": FORMAT, "digest": digest, "arrays": described}, indent=1).encode())
        _flush(file)
    written = _open(staging)
    if written is None or content_digest(*written[:2]) != digest:
        raise OSError("the written data cannot be read back")
    if folder.exists():  # damaged; the memory maps that others hold of it stay valid
        shutil.rmtree(folder)
    staging.rename(folder)


def _flush(file: BinaryIO) -> None:
    """Flush the file to the disk, before a rename makes it valid."""
    file.flush()
    os.fsync(file.fileno())


def _writing() -> AbstractContextManager[None]:
    return writing(f"cache folder {root()}", "set FEDROBUST_CACHE to one that can", DataError)
