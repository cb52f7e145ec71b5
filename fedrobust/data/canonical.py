"""One order for all sources, and checks that refuse a wrong source.

The Hub's files, a shuffled copy of them and the original batches hold the same images in different orders,
and a partition is a list of indices: only with one order do equal seeds give equal shards. So each split is
sorted by (BLAKE2b digest of the pixels, label): as good as a random order, and it needs no reference file.
"""

import hashlib

import numpy as np

from fedrobust.data.spec import DatasetSpec, Split, SplitName
from fedrobust.errors import DataError


def canonical(split: Split) -> Split:
    """Return `split` sorted by (16-byte BLAKE2b digest of each image's `[H, W, C]` bytes, label).

    Images that are equal in pixels and label cannot be told apart, so the result is unique.
    """
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in split.images]
    labels = split.labels.tolist()
    order = sorted(range(len(labels)), key=lambda i: (digests[i], labels[i]))
    return Split(split.images[order], split.labels[order])


def content_digest(train: Split, test: Split) -> str:
    """Return 32 hex digits over all pixels and labels, in order; equal for equal data on any machine."""
    digest = hashlib.blake2b(digest_size=16)
    for split in (train, test):
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return digest.hexdigest()


def check_piece(spec: DatasetSpec, where: str, piece: Split) -> None:
    """Check dtypes, image shape and label range of the data from `where` (a file).

    Raises:
        DataError: naming `where`, and the row for a label.
    """
    if piece.images.dtype != np.uint8 or piece.images.shape[1:] != spec.shape:
        found = f"{piece.images.dtype} {list(piece.images.shape[1:])}"
        raise DataError(f"{where}: images are {found}; expected uint8 [H, W, C] = {list(spec.shape)}")
    if piece.labels.dtype != np.int64 or piece.labels.shape != piece.images.shape[:1]:
        found = f"{piece.labels.dtype} {list(piece.labels.shape)}"
        raise DataError(f"{where}: labels are {found}; expected int64 [{len(piece.images)}]")
    num_classes = len(spec.class_names)
    wrong = np.flatnonzero((piece.labels < 0) | (piece.labels >= num_classes))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(f"{where} row {row}: label {piece.labels[row]}; allowed: 0..{num_classes - 1}")


def check_count(spec: DatasetSpec, where: str, split: SplitName, found: int) -> None:
    """Raise `DataError` if a split has another number of images than the known set."""
    if found != spec.size(split):
        raise DataError(f"{where}: {found:,} {split} images found; expected {spec.size(split):,}")
