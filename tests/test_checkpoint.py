"""A checkpoint is whole or it is named as corrupt."""

import math
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from fedrobust.errors import RunFailed
from fedrobust.storage.checkpoint import (
    Checkpoint,
    Progress,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
)
from fedrobust.storage.files import write_atomically

CRASHES = 100
FLIPS = 400


def weights(seed):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "norm.num_batches_tracked": np.array(seed),
        "empty": np.empty((0, 2), np.float32),
        "turned": rng.normal(size=(3, 5)).T,
    }


def checkpoint(server_round):
    return Checkpoint(
        Progress(server_round, 7, 1, 0.125, {"rounds.jsonl": 300}),
        last=weights(server_round),
        best=weights(99),
        state={"momentum": np.arange(3.0)},
        clients={0: b"\x00\x01", 11: b""},
    )


def equal(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[k], other[k]) and (one[k].dtype, one[k].shape) == (other[k].dtype, other[k].shape)
        for k in one
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


def test_everything_comes_back(path):
    saved = checkpoint(3)
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert loaded.progress == saved.progress
    assert loaded.clients == saved.clients
    for name in ("last", "best", "state"):
        assert equal(getattr(loaded, name), getattr(saved, name))


def test_equal_models_have_equal_bytes(tmp_path):
    """safetensors orders its metadata anew each time: of ten files no two would be sure to be alike."""
    files = [tmp_path / f"{number}.safetensors" for number in range(10)]
    for file in files:
        save_model(file, weights(1), model="small-cnn", mean=[0.5])
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "np") as opened:
        assert set(opened.metadata()) == {"fedrobust", "digest"}
        assert equal({name: opened.get_tensor(name) for name in opened.keys()}, weights(1))  # noqa: SIM118
    begin = 8 + int.from_bytes(files[0].read_bytes()[:8], "little")
    assert begin % 8 == 0


def test_a_best_model_that_is_the_last_is_stored_once(path):
    last = weights(1)
    save_checkpoint(path, Checkpoint(Progress(1, 0, 1, 0.5), last, weights(1)))
    twice = path.stat().st_size
    save_checkpoint(path, Checkpoint(Progress(1, 0, 1, 0.5), last, last))
    assert path.stat().st_size < twice
    loaded = load_checkpoint(path)
    assert loaded.best is loaded.last
    assert equal(loaded.last, last)


def test_no_score_yet_survives(path):
    save_checkpoint(path, Checkpoint(Progress(0, 0, 0, -math.inf), weights(1), weights(1)))
    assert load_checkpoint(path).progress.best_score == -math.inf


def test_a_model_keeps_its_facts(path):
    save_model(path, weights(1), model="small-cnn", round=4)
    loaded, facts = load_model(path)
    assert equal(loaded, weights(1))
    assert facts == {"model": "small-cnn", "round": 4}


def refused(path):
    """The reason for which a checkpoint is not loaded."""
    with pytest.raises(RunFailed, match=r"checkpoint\.safetensors: ") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_named(path):
    assert "no such file" in refused(path)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_corrupt(path, part):
    save_checkpoint(path, checkpoint(3))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    assert "corrupt" in refused(path)


def test_any_bit_flipped_is_corrupt(path):
    save_checkpoint(path, checkpoint(3))
    data, rng = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [rng.randrange(8 * len(data)) for _ in range(FLIPS)] + [rng.randrange(8 * header) for _ in range(FLIPS)]
    for bit in places:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert "not loaded" in refused(path), f"bit {bit}"
    path.write_bytes(data)
    assert load_checkpoint(path).progress.server_round == 3


def test_any_byte_replaced_is_corrupt(path):
    save_checkpoint(path, checkpoint(3))
    data, rng = path.read_bytes(), random.Random(1)
    for _ in range(FLIPS):
        changed = bytearray(data)
        for place in rng.sample(range(len(data)), rng.randint(1, 8)):
            changed[place] ^= rng.randint(1, 255)
        path.write_bytes(changed)
        assert "not loaded" in refused(path)


@pytest.mark.parametrize(("right", "wrong"), [(b'server_round\\": 3', b'server_round\\": 2'), (b": 0.125", b": 0.925")])
def test_a_changed_scalar_is_corrupt(path, right, wrong):
    save_checkpoint(path, checkpoint(3))
    data = path.read_bytes()
    assert data.count(right) == 1
    path.write_bytes(data.replace(right, wrong))
    assert "its digest does not match" in refused(path)


def test_a_pickle_is_refused_and_not_executed(path, tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    path.write_bytes(pickle.dumps(Bomb()))
    assert "corrupt or not a safetensors file" in refused(path)
    assert not (tmp_path / "executed").exists()


def test_a_safetensors_file_of_someone_else_is_refused(path):
    from safetensors.numpy import save_file

    save_file({"last/w": np.zeros(3)}, path)
    assert "not a file of fedrobust's" in refused(path)


def test_a_model_is_no_checkpoint(path):
    save_model(path, weights(1), model="small-cnn", round=4)
    assert "not a checkpoint of format 1" in refused(path)


def test_another_format_is_named(path):
    save_checkpoint(path, Checkpoint(Progress(1, 0, 1, 0.5, format=2), weights(1), weights(1)))
    assert "its format: 2" in refused(path)


class PowerCut(BaseException):
    """Nothing below it in the process runs on."""


def cut_at(stage, monkeypatch, rng):
    """Make the next `write_atomically` break off in this stage: half written, not renamed, or hardly finished."""
    fsync, replace, calls = os.fsync, os.replace, []

    def broken_fsync(fd):
        calls.append(fd)
        if stage == "written" and len(calls) == 1:
            os.ftruncate(fd, rng.randrange(os.fstat(fd).st_size))
            raise PowerCut
        if stage == "renamed" and len(calls) == 2:
            raise PowerCut
        fsync(fd)

    def broken_replace(*paths):
        if stage == "synced":
            raise PowerCut
        replace(*paths)

    monkeypatch.setattr(os, "fsync", broken_fsync)
    monkeypatch.setattr(os, "replace", broken_replace)


def test_a_crash_while_writing_leaves_the_old_checkpoint_or_the_new(path, monkeypatch):
    save_checkpoint(path, checkpoint(0))
    rng, there = random.Random(0), 0
    for server_round in range(1, CRASHES + 1):
        stage = rng.choice(["written", "synced", "renamed"])
        with monkeypatch.context() as patch:
            cut_at(stage, patch, rng)
            with pytest.raises(PowerCut):
                save_checkpoint(path, checkpoint(server_round))
        there = server_round if stage == "renamed" else there
        loaded = load_checkpoint(path)
        assert loaded.progress.server_round == there
        assert equal(loaded.last, weights(there))
    save_checkpoint(path, checkpoint(CRASHES + 1))  # what the crashes left lying about is in nobody's way
    assert load_checkpoint(path).progress.server_round == CRASHES + 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_write_is_on_the_disk_before_its_name_is_and_the_name_before_the_end(path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, call=call: (order.append(name), call(*a)))
    write_atomically(path, b"data")
    assert order == ["fsync", "replace", "fsync"]
    assert path.read_bytes() == b"data"
