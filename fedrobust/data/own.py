"""A client's own images in a folder, and the shared pool as a file: what a client has that holds no public data set.

    <folder>/<class>/<any name>.png     a class by its name in the run's data set, or by its number

Images are of the run's data set in kind: its size and channels, lossless (PNG, WebP). Nothing about them leaves the
machine but the weights trained on them, how many there are, and accuracies.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrobust.checkpoint import load_model, save_model
from fedrobust.config import RunConfig
from fedrobust.data import DATASETS
from fedrobust.data.canonical import canonical, check_piece, content_digest
from fedrobust.data.decode import decode_image
from fedrobust.data.spec import DataError, Dataset, DatasetSpec, Split

FOLDER, POOL = "FEDROBUST_OWN", "FEDROBUST_POOL"  # each machine's own, hence not settings of the run
SUFFIXES = (".png", ".webp")


@dataclass(frozen=True)
class OwnData:
    """A client's images and after them the pool's, as the training split of a data set; indices of both."""

    dataset: Dataset
    own: np.ndarray
    pool: np.ndarray


def load_own(cfg: RunConfig) -> OwnData:
    """What FEDROBUST_OWN and, where the run has a pool, FEDROBUST_POOL name.

    Raises:
        DataError: one of them is not set, an image that cannot be read or is of another kind, a pool of another run.
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


def read_folder(folder: Path, spec: DatasetSpec) -> Split:
    """All images below a folder per class, in canonical order.

    Raises:
        DataError: no folder, a folder of no class, an image that cannot be read or is of another kind, no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one folder per class in it")
    images, labels = [], []
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        label = _label(below, spec)
        for path in sorted(path for path in below.iterdir() if path.suffix.lower() in SUFFIXES):
            images.append(decode_image(path.read_bytes(), spec, str(path)))
            labels.append(label)
    if not images:
        raise DataError(f"{folder}: no images; expected <class>/<name>.png or .webp")
    return canonical(Split(np.stack(images), np.array(labels, dtype=np.int64)))


def save_pool(path: Path, cfg: RunConfig, pool: Split) -> None:
    """The pool of a run as a file with a digest over all that it holds; read back by `load_pool`."""
    save_model(path, {"images": pool.images, "labels": pool.labels}, **_identity(cfg))


def load_pool(path: Path, cfg: RunConfig) -> Split:
    """The pool of this run.

    Raises:
        RunFailed: the file is missing, or its digest does not match.
        DataError: it is the pool of other settings.
    """
    arrays, facts = load_model(path)
    for key, value in _identity(cfg).items():
        if facts.get(key) != value:
            raise DataError(f"{path}: made for {key} = {facts.get(key)}, the run has {value}; take its own pool")
    pool = Split(arrays["images"], arrays["labels"])
    check_piece(DATASETS[cfg.data.name], str(path), pool)
    return pool


def _identity(cfg: RunConfig) -> dict[str, str | int | float]:
    """What decides which images are in the pool."""
    keys = ("data.name", "data.train-images", "data.validation-fraction", "pool.fraction", "seed")
    flat = cfg.to_flat()
    return {key: flat[key] for key in keys}


def _named(variable: str, what: str) -> Path:
    if not os.environ.get(variable):
        raise DataError(f"{variable} is not set: data.own wants {what} on each client's machine")
    return Path(os.environ[variable])


def _label(folder: Path, spec: DatasetSpec) -> int:
    if folder.name in spec.class_names:
        return spec.class_names.index(folder.name)
    if folder.name.isdecimal() and int(folder.name) < len(spec.class_names):
        return int(folder.name)
    raise DataError(
        f"{folder}: is no class; allowed: {', '.join(spec.class_names)}, or 0 to {len(spec.class_names) - 1}"
    )
