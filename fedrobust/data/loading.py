"""From a description to a `Dataset`: choose the source, check what it gives, order it, cache it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fedrobust.data import cache
from fedrobust.data.canonical import canonical, check_count, check_piece, content_digest
from fedrobust.data.spec import Dataset, DatasetSpec, Split, SplitName, one_line
from fedrobust.errors import DataError

DIGITS_TEST_FRACTION = 0.2


def locate(name: str, data_dir: Path) -> Path:
    """Return the folder with the parquet files of `name`: `<data_dir>/<name>`, else `data_dir` itself.

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
    """Return the files `<split>-00000-of-00005.parquet`, … of one split, in order, all present.

    Raises:
        DataError: no file, files of two different sets of shards, or a missing file, which is named.
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
    """Return 12 hex digits from the names, sizes and modification times of `files`, which change if the content may
    have changed.
    """
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(json.dumps(sorted(stats)).encode(), digest_size=6).hexdigest()


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


def _digits_table() -> np.ndarray:
    """Return scikit-learn's digits, [1797, 65]: 64 pixels and the label.

    The file is read where scikit-learn has it: importing that package takes over a second in every process.
    """
    spec = find_spec("sklearn")
    folder = Path(((spec and spec.submodule_search_locations) or ["."])[0])
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():  # it has been elsewhere in old versions, and may be again
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return np.column_stack([np.asarray(pixels), np.asarray(labels)])
    with gzip.open(file, "rt") as lines:
        return np.loadtxt(lines, delimiter=",")


def read_digits(split: SplitName) -> Iterator[tuple[str, Split]]:
    """Yield 1,438 training or 359 test images, uint8 `[N, 8, 8, 1]`; value v of 0..16 becomes round(v * 255 / 16).

    scikit-learn has no split, so one is fixed here: in each class, the first fifth in canonical order is
    the test split. The pixels' digest is the seed: no version of NumPy or scikit-learn can change the split.
    """
    pixels, labels = np.split(_digits_table(), [64], axis=1)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    whole = canonical(Split(images, labels[:, 0].astype(np.int64)))
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
        return _parquet(name, spec, locate(name, data_dir), splits)
    shared = os.environ.get("FEDROBUST_DATA")
    if shared:
        if not Path(shared).is_dir():
            raise DataError(f"FEDROBUST_DATA={shared} is not a folder; set it to one that holds {name}/*.parquet")
        if Path(shared, name).is_dir():
            return _parquet(name, spec, locate(name, Path(shared, name)), splits)
    return _torchvision(name, spec)


def _parquet(name: str, spec: DatasetSpec, folder: Path, splits: Sequence[SplitName]) -> Source:
    files = {split: shards(folder, split) for split in splits}

    def read(split: SplitName) -> Iterable[tuple[str, Split]]:
        from fedrobust.data.parquet import read_shards

        return read_shards(files[split], spec, title=f"{name} {split}", total=spec.size(split))

    return Source(str(folder), fingerprint(list(chain.from_iterable(files.values()))), read)


def _torchvision(name: str, spec: DatasetSpec) -> Source:
    def read(split: SplitName) -> Iterable[tuple[str, Split]]:

        yield (
            f"torchvision's {spec.torchvision} {split}",
            download(name, spec, split, cache.root() / "downloads" / name),
        )

    return Source(f"torchvision's {spec.torchvision}", "torchvision", read)
