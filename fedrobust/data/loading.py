"""From a description to a `Dataset`: choose the source, check what it gives, order it, cache it."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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


def assemble(name: str, spec: DatasetSpec, data_dir: Path | None) -> Dataset:
    """The data set that `spec` describes; see `fedrobust.data.load` for the sources and the errors."""
    if spec.torchvision is None:
        # A few kilobytes inside an installed package: building it costs less than opening a cache.
        from fedrobust.data import digits

        source = Source("scikit-learn", "sklearn", digits.read)
        train, test = build(source, spec)
        digest = content_digest(train, test)
    else:
        source = choose(name, spec, data_dir)
        train, test, digest = cache.open_or_build(name, source.fingerprint, lambda: build(source, spec))
    return Dataset(name, train, test, spec.class_names, spec.mean, spec.std, spec.augmentation, digest)


def build(source: Source, spec: DatasetSpec) -> tuple[Split, Split]:
    """Both splits in memory, checked and in canonical order."""
    return build_split(source, spec, "train"), build_split(source, spec, "test")


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


def choose(name: str, spec: DatasetSpec, data_dir: Path | None) -> Source:
    """The source that `fedrobust.data.load` documents.

    Raises:
        DataError: `data_dir` has no parquet files of the set, or `FEDROBUST_DATA` is not a folder.
    """
    if data_dir is not None:
        return _parquet(name, spec, hub.locate(name, data_dir))
    shared = os.environ.get("FEDROBUST_DATA")
    if shared:
        if not Path(shared).is_dir():
            raise DataError(f"FEDROBUST_DATA={shared} is not a folder; set it to one that holds {name}/*.parquet")
        if Path(shared, name).is_dir():
            return _parquet(name, spec, hub.locate(name, Path(shared, name)))
    return _torchvision(name, spec)


def _parquet(name: str, spec: DatasetSpec, folder: Path) -> Source:
    files: dict[SplitName, list[Path]] = {
        "train": hub.shards(folder, "train"),
        "test": hub.shards(folder, "test"),
    }

    def read(split: SplitName) -> Iterable[tuple[str, Split]]:
        from fedrobust.data.decode import read_shards

        return read_shards(files[split], spec, title=f"{name} {split}", total=spec.size(split))

    return Source(str(folder), hub.fingerprint(files["train"] + files["test"]), read)


def _torchvision(name: str, spec: DatasetSpec) -> Source:
    def read(split: SplitName) -> Iterable[tuple[str, Split]]:
        from fedrobust.data.download import download

        yield (
            f"torchvision's {spec.torchvision} {split}",
            download(name, spec, split, cache.root() / "downloads" / name),
        )

    return Source(f"torchvision's {spec.torchvision}", "torchvision", read)
