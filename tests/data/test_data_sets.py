"""The real sets: CIFAR-10 from parquet files, scikit-learn's digits, torchvision's three conventions."""

import re
import subprocess
import sys
import warnings
from importlib import import_module
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from fedrobust.config import Data
from fedrobust.data import DATASETS, Dataset, known_labels, load, loading
from fedrobust.data.loading import to_split
from fedrobust.errors import DataError


def statistics(dataset: Dataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, from histograms: exact, and no float copy of every pixel."""
    images, value = dataset.train.images, np.arange(256) / 255
    shares = [np.bincount(images[..., c].ravel(), minlength=256) / images[..., c].size for c in range(images.shape[3])]
    means = [float(share @ value) for share in shares]
    return means, [float(share @ (value - mean) ** 2) ** 0.5 for share, mean in zip(shares, means, strict=True)]


def test_import_is_cheap():
    script = (
        "import sys, fedrobust.data\n"
        "print(*{'torch', 'torchvision', 'sklearn', 'pyarrow', 'PIL', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_is_consistent(name):
    spec = DATASETS[name]
    assert len(set(spec.class_names)) == len(spec.class_names) >= 10
    assert len(spec.mean) == len(spec.std) == spec.shape[2]
    assert spec.torchvision is None or hasattr(import_module("torchvision.datasets"), spec.torchvision)


@pytest.mark.parametrize(("classes", "sizes"), [("", DATASETS["digits"].class_sizes), ("8,3", (146, 139))])
def test_the_labels_of_digits_are_known_unread(classes, sizes):
    known = known_labels(Data(name="digits", classes=classes))
    assert np.bincount(known).tolist() == list(sizes)
    assert (known == np.sort(load("digits", classes=classes).train.labels)).all()


@pytest.mark.parametrize("name", DATASETS)
def test_the_known_labels_are_as_many_as_the_images(name):
    known = np.bincount(known_labels(Data(name=name)))
    assert len(known) == len(DATASETS[name].class_names)
    assert known.sum() == DATASETS[name].train_size


def test_the_labels_of_cifar10_are_known_unread(cifar10):
    assert (known_labels(Data(name="cifar10")) == np.sort(cifar10.train.labels)).all()


def test_unknown_name_suggests():
    with pytest.raises(DataError, match="unknown data set 'cifar1'; did you mean 'cifar10'"):
        load("cifar1")


def test_cifar10_is_whole(cifar10):
    assert cifar10.image_shape == (3, 32, 32)
    assert cifar10.num_classes == 10
    assert cifar10.train.images.shape == (50_000, 32, 32, 3)
    assert cifar10.test.images.shape == (10_000, 32, 32, 3)
    assert cifar10.train.images.dtype == np.uint8
    assert cifar10.train.labels.dtype == np.int64
    assert np.bincount(cifar10.train.labels).tolist() == [5_000] * 10
    assert np.bincount(cifar10.test.labels).tolist() == [1_000] * 10


def test_cifar10_has_its_published_statistics(cifar10):
    mean, std = statistics(cifar10)
    assert mean == pytest.approx(cifar10.mean, abs=1e-4)
    assert std == pytest.approx(cifar10.std, abs=1e-4)


def test_arrays_are_memory_maps_that_torch_takes_without_a_warning(cifar10):
    assert isinstance(cifar10.train.images, np.memmap)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(cifar10.train.images)


def test_digits_are_scikit_learns_wherever_its_file_lies(monkeypatch):
    from sklearn.datasets import load_digits

    found = loading._digits_table()
    assert np.array_equal(found, np.column_stack(load_digits(return_X_y=True)))
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    assert np.array_equal(loading._digits_table(), found)


def test_digits_are_real_and_split_by_class():
    digits = load("digits")
    assert digits.image_shape == (1, 8, 8)
    assert (len(digits.train), len(digits.test)) == (1_438, 359)
    assert digits.train.images.max() == 255
    assert len(np.unique(digits.train.images)) == 17
    fraction = np.bincount(digits.test.labels) / np.bincount(np.concatenate([digits.train.labels, digits.test.labels]))
    assert fraction == pytest.approx([0.2] * 10, abs=0.005)
    mean, std = statistics(digits)
    assert mean == pytest.approx(digits.mean, abs=1e-4)
    assert std == pytest.approx(digits.std, abs=1e-4)
    # a 1-nearest-neighbour classifier reads them: images and labels belong together
    train, test = (split.images.reshape(len(split), -1).astype(float) for split in (digits.train, digits.test))
    nearest = (((test[:, None] - train[None]) ** 2).sum(-1)).argmin(1)
    assert (digits.train.labels[nearest] == digits.test.labels).mean() > 0.97


def test_digits_are_the_same_every_time():
    assert load("digits").digest == load("digits").digest == "d5f68511f234b14634f3275e5b9e4492"


def test_torchvision_conventions():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    cifar = to_split(SimpleNamespace(data=pixels, targets=[0, 1, 2, 0]))
    svhn = to_split(SimpleNamespace(data=pixels.transpose(0, 3, 1, 2), labels=np.array([0, 1, 2, 0])))
    mnist = to_split(SimpleNamespace(data=torch.from_numpy(pixels[..., 0]), targets=torch.tensor([0, 1, 2, 0])))
    for split in (cifar, svhn):
        assert np.array_equal(split.images, pixels)
    assert np.array_equal(mnist.images, pixels[..., :1])
    for split in (cifar, svhn, mnist):
        assert split.labels.dtype == np.int64
        assert split.labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.torchvision])
def test_failed_download_says_what_to_do(name, cache_dir, monkeypatch):
    seen = {}

    def fail(root, *, download, **which):
        seen.update(which)
        raise URLError("no route\nto host")

    monkeypatch.setattr(f"torchvision.datasets.{DATASETS[name].torchvision}", fail)
    with pytest.raises(DataError, match=r"could not be downloaded .*no route to host.*--data-dir.*digits") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert seen == ({"split": "train"} if name == "svhn" else {"train": True})


def test_data_dir_without_the_set_is_an_error(cache_dir, tmp_path):
    with pytest.raises(DataError, match=re.escape(f"no cifar10 in {tmp_path}")):
        load("cifar10", data_dir=tmp_path)


def test_environment_must_name_a_folder(cache_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDROBUST_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"FEDROBUST_DATA=.*nowhere is not a folder"):
        load("cifar10")
