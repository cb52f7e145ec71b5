"""The cache on disk: hit, damage, two builders at once, a folder that cannot be written."""

import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fedrobust.data import cache, load, parquet
from fedrobust.errors import DataError


def refuse(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("decoded again")


def cached_folder(cache_dir):
    (folder,) = (path for path in cache_dir.iterdir() if path.is_dir())
    return folder


def test_hit_does_not_decode_again(write_tiny, monkeypatch):
    folder = write_tiny()
    first = load("tiny", data_dir=folder)
    monkeypatch.setattr(parquet, "read_shards", refuse)
    again = load("tiny", data_dir=folder)
    assert again.digest == first.digest
    assert np.array_equal(again.train.images, first.train.images)


def test_hit_needs_neither_lock_nor_write(write_tiny, monkeypatch):
    folder = write_tiny()
    load("tiny", data_dir=folder)
    monkeypatch.setattr(cache, "lock", refuse)
    load("tiny", data_dir=folder)


def test_changed_source_is_decoded_again(write_tiny, tiny_rows, cache_dir):
    folder = write_tiny()
    before = load("tiny", data_dir=folder)
    write_tiny("new", train=[*tiny_rows[:-1], tiny_rows[0]])
    (folder / "train-00001-of-00002.parquet").write_bytes(
        (folder.parent / "new" / "train-00001-of-00002.parquet").read_bytes()
    )
    assert load("tiny", data_dir=folder).digest != before.digest


@pytest.mark.parametrize("damage", ["truncated", "gone", "no meta", "broken meta", "old meta"])
def test_damaged_cache_is_built_again(write_tiny, cache_dir, caplog, damage):
    folder = write_tiny()
    first = load("tiny", data_dir=folder)
    built = cached_folder(cache_dir)
    images, meta = built / "train_images.npy", built / "meta.json"
    if damage == "truncated":
        content = images.read_bytes()[:-1]
        images.unlink()  # the first load still maps the old file
        images.write_bytes(content)
    elif damage == "gone":
        images.unlink()
    elif damage == "no meta":
        meta.unlink()
    else:
        meta.write_text("{" if damage == "broken meta" else "{}")
    with caplog.at_level(logging.WARNING):
        again = load("tiny", data_dir=folder)
    assert "is damaged" in caplog.text
    assert again.digest == first.digest
    assert np.array_equal(again.train.images, first.train.images)


def test_leftovers_of_a_killed_build_do_not_matter(write_tiny, cache_dir):
    folder = write_tiny()
    load("tiny", data_dir=folder)
    built = cached_folder(cache_dir)
    leftover = built.rename(built.with_name(built.name + ".building"))
    (leftover / "test_labels.npy").unlink()
    load("tiny", data_dir=folder)
    assert cached_folder(cache_dir) == built


def test_two_processes_build_once_and_both_end_well(write_tiny, cache_dir, tmp_path, output_at_end):
    folder = write_tiny()
    log = tmp_path / "log"
    script = textwrap.dedent(
        f"""
        import time
        from fedrobust.data import DATASETS, DatasetSpec, load, parquet

        read = parquet.read_shards

        def slow(*args, **kwargs):
            with open({str(log)!r}, "a") as file:
                file.write("x")
            time.sleep(0.3)
            return read(*args, **kwargs)

        parquet.read_shards = slow
        DATASETS["tiny"] = DatasetSpec(
            ("cat", "dog", "owl"), (6, 5, 3), 20, 8, (0.5,) * 3, (0.25,) * 3, "none", "CIFAR10", "img"
        )
        print(load("tiny", data_dir={str(folder)!r}).digest)
        """
    )
    command = [sys.executable, "-W", "error", "-c", script]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    digests = {output_at_end(process).strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert digests == {load("tiny", data_dir=folder).digest}
    assert log.read_text() == "xx"  # one builder: train and test


def test_unwritable_cache_is_one_line(write_tiny, tmp_path, monkeypatch):
    folder = write_tiny()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("FEDROBUST_CACHE", str(path))
        with pytest.raises(DataError, match=r"cache folder .* cannot be written .*set FEDROBUST_CACHE") as caught:
            load("tiny", data_dir=folder)
        assert "\n" not in str(caught.value)


def test_full_disk_is_one_line(write_tiny, monkeypatch):
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="No space left on device"):
        load("tiny", data_dir=write_tiny())


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FEDROBUST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.root() == tmp_path / ".cache" / "fedrobust"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "fedrobust"
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "mine"))
    assert cache.root() == tmp_path / "mine"
