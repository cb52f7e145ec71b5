"""Samples for convex networks: a table, or the images of some classes, as vectors; unusable data are refused here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedrobust.config.names import unknown
from fedrobust.convex.checked import checked_labels
from fedrobust.data import DATASETS, load, some
from fedrobust.errors import DataError
from fedrobust.seeding import numpy_stream
from partitions import class_counts

BREAST_CANCER = "breast-cancer"
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
TRAIN_SHARE = 455  # of breast cancer's 569


@dataclass(frozen=True, eq=False)
class Samples:
    """Vectors and labels, float64 [n, d] and int64 [n], for training and for testing.

    `unit` describes an l2 radius of 1: the space in which the certificates hold.
    """

    name: str
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    unit: str

    @property
    def num_classes(self) -> int:
        """The number K of classes."""
        return len(self.class_names)

    def to(self, device: torch.device) -> Samples:
        """Return the samples on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("x", "y", "test_x", "test_y")}
        return replace(self, **parts)

    def projected(self, components: int) -> Samples:
        """Project onto the first principal components of the training samples, orthogonally.

        The projection moves no two points apart, so a certificate in l2 also holds for the original vectors; one in l∞
        does not.

        Raises:
            DataError: more components than dimensions or samples.
        """
        if not components:
            return self
        if components > min(self.x.shape):
            raise DataError(
                f"{self.name}: {components} components of {len(self.x)} samples in {self.x.shape[1]} dimensions"
            )
        centre = self.x.mean(0)
        basis = torch.linalg.svd(self.x - centre, full_matrices=False)[2][:components].T
        return replace(self, x=(self.x - centre) @ basis, test_x=(self.test_x - centre) @ basis)


def load_samples(
    name: str, *, seed: int, classes: str = "", images: int = 2000, label: str = "", data_dir: str = ""
) -> Samples:
    """Return the samples called `name`, split by `seed`, checked.

    Args:
        name: "breast-cancer"; a CSV file with a header, whose columns but `label` are numbers; or a data set of images.
        classes: classes of a data set, by name or number; empty takes all.
        images: class-balanced number of training images of a data set, and of test images at most; 0 takes all.
        label: the column of labels of a CSV file; empty takes its last.

    Raises:
        DataError: an unknown name or class, or data that cannot be trained on: one line.
    """
    if name == BREAST_CANCER:
        from sklearn.datasets import load_breast_cancer

        x, y = load_breast_cancer(return_X_y=True)
        return from_table(name, np.asarray(x), np.asarray(y), ("malignant", "benign"), seed, TRAIN_SHARE)
    if name.endswith(".csv"):
        return _read_csv(name, label, seed)
    if name not in DATASETS:
        raise DataError(unknown("samples", name, [BREAST_CANCER, *DATASETS]) + "; or a .csv file")
    return _of_images(name, classes, images, seed, data_dir)


def from_table(
    name: str, x: np.ndarray, y: np.ndarray, class_names: tuple[str, ...], seed: int, train: int | None = None
) -> Samples:
    """Return samples from rows [n, d] and labels 0.. (or −1 and 1) [n], standardised; a permutation of `seed` splits
    them into training (four fifths) and test.

    Raises:
        DataError: as for `check` and `checked_labels`.
    """
    check_table(name, x)
    y = checked_labels(torch.from_numpy(x), torch.from_numpy(y), len(class_names), name).numpy()
    check(name, x, y, len(class_names))
    order = np.random.default_rng(seed).permutation(len(x))
    first, rest = np.split(order, [train or round(0.8 * len(x))])
    check(f"{name}'s training part", x[first], y[first], len(class_names))
    centre, spread = x[first].mean(0), x[first].std(0)
    parts = (torch.from_numpy((x[part] - centre) / spread) for part in (first, rest))
    labels = (torch.from_numpy(y[part].astype(np.int64)) for part in (first, rest))
    (train_x, test_x), (train_y, test_y) = parts, labels
    return Samples(name, train_x, train_y, test_x, test_y, class_names, "standard deviations of the columns")


def check_table(name: str, x: np.ndarray) -> None:
    """Raise DataError, one line, for NaN: the column and its first row."""
    bad = np.flatnonzero(~np.isfinite(x).all(0))
    if len(bad):
        rows = np.flatnonzero(~np.isfinite(x[:, bad[0]]))
        raise DataError(f"{name}: column {bad[0]} holds NaN or Inf (row {rows[0]}); numbers only")


def check(name: str, x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
    """Raise DataError, one line: a constant column, a class without samples, fewer samples than dimensions."""
    if len(x) < x.shape[1]:
        raise DataError(f"{name}: {len(x)} samples in {x.shape[1]} dimensions; take more samples, or fewer columns")
    constant = np.flatnonzero(x.max(0) == x.min(0))
    if len(constant):
        raise DataError(f"{name}: column {constant[0]} is constant; leave it out")
    (counts,) = class_counts(y, [np.arange(len(y))], num_classes)
    if num_classes < 2:
        raise DataError(f"{name}: one class only; two or more are needed")
    if not counts.all():
        raise DataError(f"{name}: no sample of class {np.flatnonzero(counts == 0)[0]}; every class needs some")


def _read_csv(name: str, label: str, seed: int) -> Samples:
    import pandas as pd

    try:
        with open(name, encoding="utf-8-sig") as file:
            _check_separator(name, file.readline())
        table = pd.read_csv(Path(name))
    except DataError:
        raise
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{name}: cannot be read ({str(error).splitlines()[0]})") from error
    if not len(table.columns):
        raise DataError(f"{name}: has no column")
    label = label or str(table.columns[-1])
    if label not in table:
        raise DataError(unknown("column", label, table.columns))
    values = table.drop(columns=label)
    for column in values:
        if not pd.api.types.is_numeric_dtype(values[column]):
            raise DataError(f"{name}: column {column!r} does not hold numbers; name the labels' with --label")
    labels = np.array(table[label], dtype=object)
    unlabelled = np.flatnonzero(pd.isna(labels))
    if len(unlabelled):
        raise DataError(f"{name}: column {label!r} has a row without a label (row {unlabelled[0]})")
    names, y = np.unique(labels.astype(str), return_inverse=True)
    return from_table(Path(name).stem, values.to_numpy(np.float64), y, tuple(map(str, names)), seed)


def _check_separator(name: str, header: str) -> None:
    """Raise DataError for a header without a comma that contains another program's separator."""
    for separator, shown in SEPARATORS.items():
        if separator in header and "," not in header:
            raise DataError(f"{name}: its columns are separated by {shown}; save it with commas, and points in numbers")


def _of_images(name: str, classes: str, images: int, seed: int, data_dir: str) -> Samples:
    dataset = load(name, data_dir=data_dir or None, classes=classes)
    parts = []
    for split, kind in ((dataset.train, "train"), (dataset.test, "test")):
        members = some(np.arange(len(split)), split.labels, images, numpy_stream(seed, "convex", kind))
        pixels = split.images[members].reshape(len(members), -1) / 255
        parts += [torch.from_numpy(pixels), torch.from_numpy(split.labels[members])]
    centre = parts[0].mean(0)
    return Samples(
        name,
        parts[0] - centre,
        parts[1],
        parts[2] - centre,
        parts[3],
        dataset.class_names,
        "1 with pixels in [0, 1]",
    )
