"""A client's own images in a folder, and the shared pool as a file, for clients that hold no public data set.

    <folder>/<class>/.../<any name>.png     a class by its name in the run's data set, or by its number

Images have the size and channels of the run's data set, in any format that Pillow reads. Only the weights trained on
them, their number, and accuracies leave the machine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fedrobust.config import RunConfig
from fedrobust.data import DATASETS
from fedrobust.data.canonical import canonical, check_piece, content_digest
from fedrobust.data.parquet import decode_image
from fedrobust.data.spec import Dataset, DatasetSpec, Split
from fedrobust.errors import DataError
from fedrobust.storage.checkpoint import load_model, save_model

FOLDER, POOL = "FEDROBUST_OWN", "FEDROBUST_POOL"  # each machine's own, hence not settings of the run
NO_IMAGES = ("BUFR", "GRIB", "HDF5", "MPEG")  # which Pillow recognises, but does not read
HIDDEN = (".", "__MACOSX")  # how names begin of what systems and programs leave in a folder
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnData:
    """A client's images, followed by the pool's, as the training split of a data set; indices of both."""

    dataset: Dataset
    own: np.ndarray
    pool: np.ndarray


def load_own(cfg: RunConfig) -> OwnData:
    """Load the folder that FEDROBUST_OWN names and, if the run has a pool, the file that FEDROBUST_POOL names.

    Raises:
        DataError: one of them is not set, an unreadable image or one of another size or mode, a pool of another run.
    """
    spec = DATASETS[cfg.data.name]
    own = read_folder(_named(FOLDER, "your folder of labelled images"), spec)
    pool = own if not cfg.pool.fraction else load_pool(_named(POOL, "the pool's file, from `fedrobust pool`"), cfg)
    count = len(own)
    if cfg.pool.fraction:
        own = Split(np.concatenate([own.images, pool.images]), np.concatenate([own.labels, pool.labels]))
    none = Split(own.images[:0], own.labels[:0])
    digest = content_digest(own, none)
    dataset = Dataset(cfg.data.name, own, none, spec.class_names, spec.mean, spec.std, spec.augmentation, digest)
    return OwnData(dataset, np.arange(count), np.arange(count, len(own)))


def read_folder(folder: Path, spec: DatasetSpec, say: Callable[[str], object] = logger.warning) -> Split:
    """Return all images at any depth in a folder per class, in canonical order.

    say: called with a line on files that were skipped: their number and the first names.

    Raises:
        DataError: no folder, a folder of no class, an unreadable image or one of another size or mode, no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one folder per class in it")
    images, labels = [], []
    passed: dict[str, list[str]] = {"hidden": [], "outside the classes' folders": [], "in no known format": []}
    suffixes = _suffixes()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = path.relative_to(folder)
        if any(part.startswith(HIDDEN) for part in inside.parts):
            passed["hidden"].append(str(inside))
        elif len(inside.parts) == 1:
            passed["outside the classes' folders"].append(str(inside))
        elif path.suffix.lower() not in suffixes:
            passed["in no known format"].append(str(inside))
        else:
            labels.append(_label(folder / inside.parts[0], spec))
            images.append(_read(path, spec))
    if any(passed.values()):
        say(f"{folder}: skipped {_counted(passed)}")
    if not images:
        raise DataError(f"{folder}: no images; expected <class>/<name>.png, .jpg or another format that Pillow reads")
    return canonical(Split(np.stack(images), np.array(labels, dtype=np.int64)))


def _suffixes() -> set[str]:
    """Return the file suffixes of the formats that Pillow reads."""
    known = Image.registered_extensions()
    return {suffix for suffix, name in known.items() if name in Image.OPEN and name not in NO_IMAGES}


def _read(path: Path, spec: DatasetSpec) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, spec, str(path), formats=None)


def _counted(passed: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in passed.items()
        if names
    )


def save_pool(path: Path, cfg: RunConfig, pool: Split) -> None:
    """Write the pool of a run as a file with a digest over its content; `load_pool` reads it."""
    save_model(path, {"images": pool.images, "labels": pool.labels}, **_identity(cfg))


def load_pool(path: Path, cfg: RunConfig) -> Split:
    """Return the pool of this run.

    Raises:
        RunFailed: the file is missing, or its digest does not match.
        DataError: it is the pool of other settings.
    """
    arrays, facts = load_model(path)
    for key, value in _identity(cfg).items():
        if facts.get(key) != value:
            raise DataError(f"{path}: made for {key} = {facts.get(key)}, the run has {value}; use the pool of this run")
    pool = Split(arrays["images"], arrays["labels"])
    check_piece(DATASETS[cfg.data.name], str(path), pool)
    return pool


def _identity(cfg: RunConfig) -> dict[str, str | int | float]:
    """Return the settings that decide which images are in the pool."""
    keys = ("data.name", "data.train-images", "data.validation-fraction", "pool.fraction", "seed")
    flat = cfg.to_flat()
    # files from before the fraction counted the validation slice, too, lack this key: theirs is another pool
    return {key: flat[key] for key in keys} | {"pool.fraction is of": "all training images"}


def _named(variable: str, what: str) -> Path:
    if not os.environ.get(variable):
        raise DataError(f"{variable} is not set: data.own needs {what} on each client's machine")
    return Path(os.environ[variable])


def _label(folder: Path, spec: DatasetSpec) -> int:
    if folder.name in spec.class_names:
        return spec.class_names.index(folder.name)
    if folder.name.isdecimal() and int(folder.name) < len(spec.class_names):
        return int(folder.name)
    raise DataError(
        f"{folder}: is not a class; allowed: {', '.join(spec.class_names)}, or 0 to {len(spec.class_names) - 1}"
    )
