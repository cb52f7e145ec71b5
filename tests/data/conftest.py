"""Synthetic parquet folders for faults, and the real CIFAR-10, decoded once per test session."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedrobust.data import DATASETS, Dataset, DatasetSpec, load

TINY = DatasetSpec(
    class_names=("cat", "dog", "owl"),
    shape=(6, 5, 3),
    train_size=20,
    test_size=8,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    augmentation="none",
    torchvision="CIFAR10",
    image_column="img",
)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def rows(count: int, seed: int) -> list[tuple[bytes, int]]:
    rng = np.random.default_rng(seed)
    return [(png(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)), int(rng.integers(3))) for _ in range(count)]


def write_file(file: Path, content: list[tuple[bytes, int]]) -> None:
    images = [{"bytes": data, "path": None} for data, _ in content]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"img": pa.array(images, kind), "label": pa.array([label for _, label in content], pa.int64())}
    pq.write_table(pa.table(columns), file)


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own, and no FEDROBUST_DATA."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDROBUST_CACHE", str(folder))
    monkeypatch.delenv("FEDROBUST_DATA", raising=False)
    return folder


WriteTiny = Callable[..., Path]


@pytest.fixture
def write_tiny(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> WriteTiny:
    """Registers the data set "tiny"; the function writes its two training shards and its test file."""
    monkeypatch.setitem(DATASETS, "tiny", TINY)

    def write(
        folder: str = "hub",
        train: list[tuple[bytes, int]] | None = None,
        test: list[tuple[bytes, int]] | None = None,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir()
        train = rows(20, 0) if train is None else train
        write_file(path / "train-00000-of-00002.parquet", train[:12])
        write_file(path / "train-00001-of-00002.parquet", train[12:])
        write_file(path / "test-00000-of-00001.parquet", rows(8, 1) if test is None else test)
        return path

    return write


@pytest.fixture
def tiny_rows() -> list[tuple[bytes, int]]:
    """The training rows that `write_tiny` writes by default."""
    return rows(20, 0)


@pytest.fixture(scope="session")
def cifar10() -> Dataset:
    """All of CIFAR-10 from FEDROBUST_DATA, decoded into the cache of the session."""
    if not os.environ.get("FEDROBUST_DATA"):
        pytest.skip("FEDROBUST_DATA is unset: no CIFAR-10 in parquet files here")
    return load("cifar10")
