"""torchvision's downloads → arrays."""

from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from fedrobust.data.spec import DataError, DatasetSpec, Split, SplitName, one_line


def download(name: str, spec: DatasetSpec, split: SplitName, folder: Path) -> Split:
    """One split by way of torchvision, which downloads into `folder` what is not there and checks its sums.

    Raises:
        DataError: the download failed; says what to do instead.
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
    """A torchvision data set's whole content; knows its three ways to hold it.

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
