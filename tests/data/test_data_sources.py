"""Parquet folders: one order from every source, and faults that are named."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedrobust.data import DATASETS, load
from fedrobust.errors import DataError


def fails(folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load("tiny", data_dir=folder)
    assert "\n" not in str(caught.value)


def test_canonical_order_is_independent_of_file_order(write_tiny, tiny_rows):
    one = load("tiny", data_dir=write_tiny("one"))
    other = load("tiny", data_dir=write_tiny("other", train=tiny_rows[::-1]))
    assert np.array_equal(one.train.images, other.train.images)
    assert np.array_equal(one.train.labels, other.train.labels)
    assert one.digest == other.digest


def test_pixels_keep_their_labels(write_tiny, tiny_rows):
    split = load("tiny", data_dir=write_tiny()).train
    written = {np.asarray(Image.open(io.BytesIO(data))).tobytes(): label for data, label in tiny_rows}
    assert {image.tobytes(): label for image, label in zip(split.images, split.labels, strict=True)} == written


def test_torchvision_and_parquet_give_the_same_arrays(write_tiny, tiny_rows, monkeypatch):
    parquet = load("tiny", data_dir=write_tiny())

    class Fake:
        def __init__(self, root, *, train, download):
            split = parquet.train if train else parquet.test
            self.data, self.targets = split.images[::-1], split.labels[::-1].tolist()

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    assert load("tiny").digest == parquet.digest


def test_folder_named_after_the_set_is_found(write_tiny, tmp_path, monkeypatch):
    flat = load("tiny", data_dir=write_tiny("tiny"))
    assert load("tiny", data_dir=tmp_path).digest == flat.digest
    monkeypatch.setenv("FEDROBUST_DATA", str(tmp_path))
    assert load("tiny").digest == flat.digest


def test_image_and_label_columns_have_other_names_in_some_sets(write_tiny, monkeypatch):
    folder = write_tiny()
    for file in folder.iterdir():
        pq.write_table(pq.read_table(file).rename_columns(["image", "fine_label"]), file)
    fails(folder, r"columns are image.bytes, image.path, fine_label; needed: img.bytes and label")
    spec = replace(DATASETS["tiny"], image_column="image", label_column="fine_label")
    monkeypatch.setitem(DATASETS, "tiny", spec)
    assert len(load("tiny", data_dir=folder).train) == 20


def test_missing_shard_is_named(write_tiny):
    folder = write_tiny()
    (folder / "train-00001-of-00002.parquet").unlink()
    fails(folder, r"missing train-00001-of-00002.parquet; found 1 of 2 train files")


def test_missing_split_is_named(write_tiny):
    folder = write_tiny()
    (folder / "test-00000-of-00001.parquet").unlink()
    fails(folder, r"no test files")


def test_mixed_shards_are_refused(write_tiny):
    folder = write_tiny()
    (folder / "train-00000-of-00005.parquet").write_bytes(b"")
    fails(folder, r"train files of 00002 and of 00005 are mixed")


def test_truncated_parquet_is_named(write_tiny):
    folder = write_tiny()
    file = folder / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    fails(folder, r"train-00001-of-00002.parquet: not readable as parquet")


@pytest.mark.parametrize("broken", [b"", b"not an image", "truncated", "JPEG"])
def test_undecodable_image_is_named_with_its_row(write_tiny, tiny_rows, broken):
    data, label = tiny_rows[15]
    if broken == "truncated":
        broken = data[: len(data) // 2]
    elif broken == "JPEG":
        out = io.BytesIO()
        Image.open(io.BytesIO(data)).save(out, "JPEG")
        broken = out.getvalue()
    tiny_rows[15] = (broken, label)
    fails(
        write_tiny(train=tiny_rows),
        r"train-00001-of-00002.parquet row 3: image cannot be decoded .*PNG, WebP",
    )


def test_null_image_is_named_with_its_row(write_tiny):
    folder = write_tiny()
    file = folder / "test-00000-of-00001.parquet"
    table = pq.read_table(file)
    images = table["img"].to_pylist()
    images[2] = None
    pq.write_table(table.set_column(0, "img", pa.array(images, table["img"].type)), file)
    fails(folder, r"test-00000-of-00001.parquet row 2: image cannot be decoded")


@pytest.mark.parametrize(("size", "mode", "found"), [((6, 6), "RGB", "6x6 RGB"), ((5, 6), "L", "5x6 L")])
def test_wrong_size_or_mode_is_named(write_tiny, tiny_rows, size, mode, found):
    out = io.BytesIO()
    Image.new(mode, size).save(out, "PNG")
    tiny_rows[0] = (out.getvalue(), 0)
    fails(
        write_tiny(train=tiny_rows),
        rf"train-00000-of-00002.parquet row 0: image is {found}; expected 5x6 RGB",
    )


@pytest.mark.parametrize("label", [3, -1])
def test_label_out_of_range_is_named(write_tiny, tiny_rows, label):
    tiny_rows[13] = (tiny_rows[13][0], label)
    fails(write_tiny(train=tiny_rows), rf"train-00001-of-00002.parquet row 1: label {label}; allowed: 0..2")


def test_wrong_count_is_named(write_tiny, tiny_rows):
    fails(write_tiny(train=tiny_rows[:19]), r"hub: 19 train images found; expected 20")


def test_no_cache_is_left_by_a_failure(write_tiny, tiny_rows, cache_dir):
    fails(write_tiny(train=tiny_rows[:19]), "19 train images")
    assert not list(cache_dir.glob("**/*.npy"))
