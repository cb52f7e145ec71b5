"""From a description to a `Dataset`: choose the source, check what it gives, order it, cache it."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from fedrobust.data import cache, hub
from fedrobust.data.canonical import canonical, check_count, check_piece, content_digest
from fedrobust.data.spec import DataError, Dataset, DatasetSpec, Split, SplitName


@dataclass(frozen=True)
class Source:
    """Somewhere a data set can be read from.

    Attributes:
        where: for messages, a folder or the name of a package.
        fingerprint: changes when the data may have changed; names the cache.
        read: gives a split as pieces, each with the place it came from (a file) for messages.
    """

    where: str
    fingerprint: str
    read: Callable[[SplitName], Iterable[tuple[str, Split]]]


def assemble(name: str, spec: DatasetSpec, data_dir: Path | None, *, test_only: bool = False) -> Dataset:
    """The data set that `spec` describes; see `fedrobust.data.load` for the sources, `test_only` and the errors."""
    splits: tuple[SplitName, ...] = ("test",) if test_only else ("train", "test")
    if spec.torchvision is None:
        # A few kilobytes inside an installed package: building it costs less than opening a cache.
        from fedrobust.data import digits

        source = Source("scikit-learn", "sklearn", digits.read)
        train, test = build(source, spec, splits)
        digest = content_digest(train, test)
    else:
        source = choose(name, spec, data_dir, splits)
        cached = f"{name}-test" if test_only else name
        train, test, digest = cache.open_or_build(cached, source.fingerprint, lambda: build(source, spec, splits))
    return Dataset(name, train, test, spec.class_names, spec.mean, spec.std, spec.augmentation, digest)


def build(source: Source, spec: DatasetSpec, splits: Sequence[SplitName]) -> tuple[Split, Split]:
    """Both splits in memory, checked and in canonical order; one that is not asked for has no image."""
    none = Split(np.empty((0, *spec.shape), np.uint8), np.empty(0, np.int64))
    train, test = (build_split(source, spec, split) if split in splits else none for split in ("train", "test"))
    return train, test


def build_split(source: Source, spec: DatasetSpec, split: SplitName) -> Split:
    """One split in memory, checked and in canonical order.

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
    """The source that `fedrobust.data.load` documents, of these splits.

    Raises:
        DataError: `data_dir` has no parquet files of the set, or `FEDROBUST_DATA` is not a folder.
    """
    if data_dir is not None:
        return _parquet(name, spec, hub.locate(name, data_dir), splits)
    shared = os.environ.get("FEDROBUST_DATA")
    if shared:
        if not Path(shared).is_dir():
            raise DataError(f"FEDROBUST_DATA={shared} is not a folder; set it to one that holds {name}/*.parquet")
        if Path(shared, name).is_dir():
            return _parquet(name, spec, hub.locate(name, Path(shared, name)), splits)
    return _torchvision(name, spec)


def _parquet(name: str, spec: DatasetSpec, folder: Path, splits: Sequence[SplitName]) -> Source:
    files = {split: hub.shards(folder, split) for split in splits}

    def read(split: SplitName) -> Iterable[tuple[str, Split]]:
        from fedrobust.data.parquet import read_shards

        return read_shards(files[split], spec, title=f"{name} {split}", total=spec.size(split))

    return Source(str(folder), hub.fingerprint(list(chain.from_iterable(files.values()))), read)


def _torchvision(name: str, spec: DatasetSpec) -> Source:
    def read(split: SplitName) -> Iterable[tuple[str, Split]]:
        from fedrobust.data.download import download

        yield (
            f"torchvision's {spec.torchvision} {split}",
            download(name, spec, split, cache.root() / "downloads" / name),
        )

    return Source(f"torchvision's {spec.torchvision}", "torchvision", read)
