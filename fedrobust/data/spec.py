"""A data set's description in the registry (`DatasetSpec`) and its loaded form (`Dataset`)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

SplitName = Literal["train", "test"]
AugmentationName = Literal["crop-flip", "crop", "none"]


@dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of one split, in canonical order (see `fedrobust.data.canonical`).

    Attributes:
        images: uint8 `[N, H, W, C]`, 0..255; memory-mapped copy-on-write for sets with a cache on disk.
        labels: int64 `[N]`, 0..num_classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set.

    Attributes:
        name: its key in `fedrobust.data.DATASETS`.
        train, test: the two splits.
        class_names: one per class, in label order.
        mean, std: per-channel pixel statistics of the training split, in [0, 1] units.
        augmentation: name of the augmentation that suits these images: a flipped 2 is not a 2.
        digest: hex digest of every pixel and label; the same from each source of the same data, for records.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: AugmentationName
    digest: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image as a model sees it, (C, H, W)."""
        height, width, channels = self.train.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class DatasetSpec:
    """An entry of the registry: facts about a data set that are known before it is read.

    Attributes:
        class_names: one per class, in label order.
        shape: one image's shape in memory, (H, W, C).
        train_size, test_size: images in each split; a source with another number is refused.
        mean, std: per-channel pixel statistics of the training split, in [0, 1] units.
        augmentation: see `Dataset`.
        torchvision: the class in `torchvision.datasets`; None for the set that comes inside scikit-learn.
        image_column, label_column: the columns of the Hub's parquet files.
        class_sizes: training images of each class; empty if all classes have equally many.
    """

    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: AugmentationName
    torchvision: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    class_sizes: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image as a model sees it, (C, H, W)."""
        height, width, channels = self.shape
        return channels, height, width

    @property
    def description(self) -> str:
        """A line of description for `fedrobust list`."""
        height, width, channels = self.shape
        return (
            f"{self.num_classes} classes, {self.train_size:,} training and {self.test_size:,} test images "
            f"of {height}×{width}×{channels}{', no download' if self.torchvision is None else ''}"
        )

    def size(self, split: SplitName) -> int:
        """Return the number of images that `split` must have."""
        return self.train_size if split == "train" else self.test_size


def one_line(error: BaseException) -> str:
    """Return an error's text with its line breaks folded, shortened to fit a terminal line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
