"""From a description to a `Dataset`: choose the source, check what it gives, order it, cache it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fedrobust.data import cache, parquet
from fedrobust.data.canonical import canonical, check_count, check_piece, content_digest
from fedrobust.data.spec import Dataset, DatasetSpec, Split, SplitName, one_line
from fedrobust.errors import DataError

DIGITS_TEST_FRACTION = 0.2


def download(name: str, spec: DatasetSpec, split: SplitName, folder: Path) -> Split:
    """Return one split through torchvision, which downloads missing files into `folder` and checks their sums.

    Raises:
        DataError: the download failed; the message says what to do instead.
    """
    import torchvision.datasets

    assert spec.torchvision is not None
    dataset_class = getattr(torchvision.datasets, spec.torchvision)
    which = {"split": split} if spec.torchvision == "SVHN" else {"train": split == "train"}
    try:
        source: Any = dataset_class(folder, download=True, **which)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name} could not be downloaded ({one_line(error)}); give its parquet files with --data-dir or "
            "FEDROBUST_DATA, or use the dataset digits, which needs no download"
        ) from error
    return to_split(source)


def to_split(source: Any) -> Split:
    """Return a torchvision data set's whole content, from any of its three forms.

    CIFAR: uint8 `[N, H, W, C]` and a list; MNIST: tensors `[N, H, W]`, `[N]`; SVHN: `[N, C, H, W]`, `labels`.
    """
    images = np.asarray(source.data)
    if hasattr(source, "labels"):  # SVHN
        images = images.transpose(0, 2, 3, 1)
        labels = np.asarray(source.labels)
    else:
        labels = np.asarray(source.targets)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    return Split(np.ascontiguousarray(images), labels.astype(np.int64))


def read_digits(split: SplitName) -> Iterator[tuple[str, Split]]:
    """Yield 1,438 training or 359 test images, uint8 `[N, 8, 8, 1]`; value v of 0..16 becomes round(v * 255 / 16).

    scikit-learn has no split, so one is fixed here: in each class, the first fifth in canonical order is
    the test split. The pixels' digest is the seed: no version of NumPy or scikit-learn can change the split.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    whole = canonical(Split(images, np.asarray(labels).astype(np.int64)))
    is_test = np.zeros(len(whole), dtype=bool)
    for label in range(10):
        members = np.flatnonzero(whole.labels == label)
        is_test[members[: round(DIGITS_TEST_FRACTION * len(members))]] = True
    chosen = is_test if split == "test" else ~is_test
    yield f"scikit-learn's digits {split}", Split(whole.images[chosen], whole.labels[chosen])


@dataclass(frozen=True)
class Source:
    """A place from which a data set can be read.

    Attributes:
        where: folder or name of a package, for messages.
        fingerprint: text that changes if the data may have changed; names the cache.
        read: returns a split as pieces, each with its file for messages.
    """

    where: str
    fingerprint: str
    read: Callable[[SplitName], Iterable[tuple[str, Split]]]


def assemble(name: str, spec: DatasetSpec, data_dir: Path | None, *, test_only: bool = False) -> Dataset:
    """Return the data set that `spec` describes; `fedrobust.data.load` explains sources, `test_only` and errors."""
    splits: tuple[SplitName, ...] = ("test",) if test_only else ("train", "test")
    if spec.torchvision is None:
        # A few kilobytes inside an installed package: building it costs less than opening a cache.

        source = Source("scikit-learn", "sklearn", read_digits)
        train, test = build(source, spec, splits)
        digest = content_digest(train, test)
    else:
        source = choose(name, spec, data_dir, splits)
        cached = f"{name}-test" if test_only else name
        train, test, digest = cache.open_or_build(cached, source.fingerprint, lambda: build(source, spec, splits))
    return Dataset(name, train, test, spec.class_names, spec.mean, spec.std, spec.augmentation, digest)


def build(source: Source, spec: DatasetSpec, splits: Sequence[SplitName]) -> tuple[Split, Split]:
    """Return both splits in memory, checked and in canonical order; a split that is not needed has no image."""
    none = Split(np.empty((0, *spec.shape), np.uint8), np.empty(0, np.int64))
    train, test = (build_split(source, spec, split) if split in splits else none for split in ("train", "test"))
    return train, test


def build_split(source: Source, spec: DatasetSpec, split: SplitName) -> Split:
    """Return one split in memory, checked and in canonical order.

    Raises:
        DataError: an image of another shape, a label out of range, a wrong number of images.
    """
    pieces: list[Split] = []
    for where, piece in source.read(split):
        check_piece(spec, where, piece)
        pieces.append(piece)
    images = np.concatenate([piece.images for piece in pieces])
    labels = np.concatenate([piece.labels for piece in pieces])
    check_count(spec, source.where, split, len(labels))
    return canonical(Split(images, labels))


def choose(name: str, spec: DatasetSpec, data_dir: Path | None, splits: Sequence[SplitName]) -> Source:
    """Return the source of these splits, as `fedrobust.data.load` documents.

    Raises:
        DataError: `data_dir` has no parquet files of the set, or `FEDROBUST_DATA` is not a folder.
    """
    if data_dir is not None:
        return _parquet(name, spec, parquet.locate(name, data_dir), splits)
    shared = os.environ.get("FEDROBUST_DATA")
    if shared:
        if not Path(shared).is_dir():
            raise DataError(f"FEDROBUST_DATA={shared} is not a folder; set it to one that holds {name}/*.parquet")
        if Path(shared, name).is_dir():
            return _parquet(name, spec, parquet.locate(name, Path(shared, name)), splits)
    return _torchvision(name, spec)


def _parquet(name: str, spec: DatasetSpec, folder: Path, splits: Sequence[SplitName]) -> Source:
    files = {split: parquet.shards(folder, split) for split in splits}

    def read(split: SplitName) -> Iterable[tuple[str, Split]]:
        from fedrobust.data.parquet import read_shards

        return read_shards(files[split], spec, title=f"{name} {split}", total=spec.size(split))

    return Source(str(folder), parquet.fingerprint(list(chain.from_iterable(files.values()))), read)


def _torchvision(name: str, spec: DatasetSpec) -> Source:
    def read(split: SplitName) -> Iterable[tuple[str, Split]]:

        yield (
            f"torchvision's {spec.torchvision} {split}",
            download(name, spec, split, cache.root() / "downloads" / name),
        )

    return Source(f"torchvision's {spec.torchvision}", "torchvision", read)
