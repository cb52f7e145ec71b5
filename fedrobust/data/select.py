"""Selection of images: class-stratified slices of a split, and some classes as a data set of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedrobust.config.names import split_list, unknown
from fedrobust.data.canonical import content_digest
from fedrobust.data.spec import Dataset, Split
from fedrobust.errors import DataError


def hold_out(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split 0..N-1 into training indices and a class-stratified validation slice.

    Args:
        labels: integers `[N]`; N may be 0, and need not hold every class.
        fraction: share of the N images that is held out, in [0, 1); their number is rounded.
        rng: draws the images of a class that are held out.

    Returns:
        (train_index, validation_index): int64, sorted, disjoint, together 0..N-1. A class's share of the
        validation slice is within one image of proportional.

    Raises:
        ValueError: a fraction out of range.
    """
    size = len(labels)
    if not 0 <= fraction < 1:
        raise ValueError(f"validation fraction {fraction}; allowed: 0 <= fraction < 1")
    validation = _stratified(labels, round(float(fraction) * size), rng)
    return np.setdiff1d(np.arange(size, dtype=np.int64), validation, assume_unique=True), validation


def subset(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a class-stratified random subset: `count` indices into `labels` `[N]`, int64, sorted, distinct.

    Raises:
        ValueError: `count` is not in 1..N.
    """
    if not 1 <= count <= len(labels):
        raise ValueError(f"subset of {count} of {len(labels)} images; allowed: 1..{len(labels)}")
    return _stratified(labels, count, rng)


def some(index: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a class-balanced part of `index`, ascending indices into `labels` [N]; all of it if `count` is 0 or more
    than there are.
    """
    return index[subset(labels[index], count, rng)] if 0 < count < len(index) else index


def _stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` sorted indices, per class in proportion (largest remainders; the lower label wins a tie)."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes.astype(np.int64)  # in units of 1/N images: integers, so that nothing is rounded
    quotas, remainders = np.divmod(exact, max(len(labels), 1))
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:quota] for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))


def class_numbers(classes: str, names: Sequence[str]) -> list[int]:
    """Return the classes of a setting such as "3,8" or "cat, dog", by name or number, as ascending numbers; all if it
    is empty.

    Raises:
        DataError: an unknown class, one that is named twice, or fewer than two.
    """
    words = split_list(classes)
    numbers = sorted(_number(word, names) for word in words)
    if words and (len(numbers) < 2 or len(set(numbers)) < len(numbers)):
        raise DataError(f"classes {classes!r}: name two classes or more, each once")
    return numbers or list(range(len(names)))


def restricted(dataset: Dataset, classes: str) -> Dataset:
    """Return the images of these classes (`class_numbers`) in the same order, their labels 0.. in the order of the
    numbers.

    Mean, std and augmentation stay those of the whole set; the digest is computed over the remaining images. Limit
    case: empty, or all classes, is the set itself.
    """
    numbers = class_numbers(classes, dataset.class_names)
    if len(numbers) == dataset.num_classes:
        return dataset
    train, test = (_members(split, numbers) for split in (dataset.train, dataset.test))
    names = tuple(dataset.class_names[number] for number in numbers)
    return replace(dataset, train=train, test=test, class_names=names, digest=content_digest(train, test))


def _number(word: str, names: Sequence[str]) -> int:
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise DataError(unknown("class", word, names))


def _members(split: Split, numbers: list[int]) -> Split:
    index = np.flatnonzero(np.isin(split.labels, numbers))
    return Split(split.images[index], np.searchsorted(numbers, split.labels[index]))
