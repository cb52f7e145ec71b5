"""Some classes of a data set as a data set of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedrobust.config.names import split_list, unknown
from fedrobust.data.canonical import content_digest
from fedrobust.data.spec import DataError, Dataset, Split


def class_numbers(classes: str, names: Sequence[str]) -> list[int]:
    """The classes of a setting such as "3,8" or "cat, dog", by name or number, as ascending numbers; all where empty.

    Raises:
        DataError: an unknown class, one that is named twice, or fewer than two.
    """
    words = split_list(classes)
    numbers = sorted(_number(word, names) for word in words)
    if words and (len(numbers) < 2 or len(set(numbers)) < len(numbers)):
        raise DataError(f"classes {classes!r}: name two classes or more, each once")
    return numbers or list(range(len(names)))


def restricted(dataset: Dataset, classes: str) -> Dataset:
    """The images of these classes (`class_numbers`) in the same order, their labels 0.. in the order of the numbers.

    Mean, std and augmentation stay those of the whole set; the digest is of what is left. Limit case: empty, or all
    classes, is the set itself.
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
