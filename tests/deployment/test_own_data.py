"""Clients with folders of their own: what is read and refused, what of it leaves the machine, the pool as a file."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from PIL import Image

from clients.app import app
from clients.local import LocalClient
from fedrobust.cli import main
from fedrobust.config.effects import unused
from fedrobust.data import DATASETS, load
from fedrobust.data.own import load_own, load_pool, read_folder
from fedrobust.data.split import split_of
from fedrobust.engines import flower
from fedrobust.errors import RunFailed, UserError
from fedrobust.running.evaluator import RunEvaluator
from fedrobust.storage.checkpoint import load_model, save_model
from fedrobust.training.context import run_context


def write_folder(folder, counts):
    test = load("digits").test
    for label, count in counts.items():
        (folder / str(label)).mkdir(parents=True)
        for number, image in enumerate(test.images[test.labels == label][:count]):
            Image.fromarray(image[..., 0], "L").save(folder / str(label) / f"{number}.png")
    return folder


@pytest.fixture
def own(quick, tmp_path, monkeypatch):
    """The config of a run in which this process is client 1, with images of two classes."""
    write_folder(tmp_path / "mine", {3: 12, 8: 30})
    monkeypatch.setenv("FEDROBUST_OWN", str(tmp_path / "mine"))
    run_context.cache_clear()
    yield quick(data__own=True, strategy__name="calfat", local__steps=1)
    run_context.cache_clear()


def test_the_folder_is_read_as_it_was_written(own, tmp_path):
    split = read_folder(tmp_path / "mine", DATASETS["digits"])
    assert np.bincount(split.labels, minlength=10).tolist() == [0, 0, 0, 12, 0, 0, 0, 0, 30, 0]
    known = {image.tobytes() for image in load("digits").test.images}
    assert all(image.tobytes() in known for image in split.images)


def test_it_trains_on_its_own_images_and_holds_some_out(own):
    client = LocalClient(own, 1)
    shard = client.shard
    assert sorted([*shard.train, *shard.held_out]) == list(range(42))
    assert len(shard.held_out) == 4
    assert len(shard.train) == 38


def test_nothing_but_weights_a_number_and_means_leaves_the_machine(own):
    flower.take_identity(1)
    weights = {key: Array(value.numpy()) for key, value in run_context(own).weights().items()}
    config = {"server-round": 1, "learning-rate": 0.01, "objective": "calfat", "proximal-mu": 0.0}
    content = RecordDict({"arrays": ArrayRecord(weights), "config": ConfigRecord(config)})
    context = Context(1, 2, {"partition-id": 1, "num-partitions": 3}, RecordDict(), dict(own.to_flat()))
    sent = app(Message(content, 2, "train"), context).content
    assert set(sent) == {"arrays", "metrics"}
    expected = {"num-examples", "loss", "natural_accuracy", "adversarial_accuracy", "seconds", "images", "steps"}
    assert set(sent["metrics"]) == expected
    assert all(isinstance(value, int | float) for value in sent["metrics"].values())
    assert {key: array.shape for key, array in sent["arrays"].items()} == {k: a.shape for k, a in weights.items()}
    asked = app(Message(RecordDict({"config": ConfigRecord()}), 2, "query"), context).content
    assert set(asked["metrics"]) == {"partition-id", "num-partitions"}
    assert not context.state


def test_the_server_knows_validation_and_pool_but_no_clients(own):
    cfg = own.replace(pool__fraction=0.1)
    split = RunEvaluator(cfg).split
    assert split.clients == ()
    with_clients = split_of(cfg.replace(data__own=False))
    np.testing.assert_array_equal(split.pool, with_clients.pool)
    np.testing.assert_array_equal(split.validation, with_clients.validation)


def test_a_federation_whose_clients_own_their_data_writes_no_partition(own, federate):
    folder = federate(own.replace(num_rounds=1))
    (row,) = folder.read("rounds.jsonl")
    assert row["ok"] == 3
    assert folder.record()["state"] == "completed"
    assert not folder.partition.exists()
    assert not {"emd", "pool"} & set(folder.record())


@pytest.fixture
def pool(own, tmp_path, monkeypatch):
    """The pool of the run, as a file."""
    cfg, path = own.replace(pool__fraction=0.2), tmp_path / "pool.safetensors"
    typed = cfg.to_flat().keys() - unused(cfg) - {"resume"}
    flags = [word for key, value in cfg.to_flat().items() for word in (f"--{key}", str(value)) if key in typed]
    assert main(["pool", "--out", str(path), *flags]) == 0
    monkeypatch.setenv("FEDROBUST_POOL", str(path))
    return cfg, path


def test_the_pool_that_comes_as_a_file_is_the_servers(pool):
    cfg, _ = pool
    data, train = load_own(cfg), load("digits").train
    expected = split_of(cfg.replace(data__own=False)).pool
    np.testing.assert_array_equal(data.dataset.train.images[data.pool], train.images[expected])
    np.testing.assert_array_equal(data.dataset.train.labels[data.pool], train.labels[expected])
    shard = LocalClient(cfg, 1).shard
    assert np.isin(data.pool, shard.train).all()
    assert not np.isin(data.pool, shard.held_out).any()


def test_a_pool_that_is_damaged_or_anothers_is_refused(pool):
    cfg, path = pool
    with pytest.raises(UserError, match=r"made for seed = 0, the run has 1"):
        load_own(cfg.replace(seed=1))
    arrays, facts = load_model(path)
    del facts["pool.fraction is of"]  # as files were when 0.2 was 18 % of all images
    save_model(path.with_name("old.safetensors"), arrays, **facts)
    with pytest.raises(UserError, match=r"made for pool\.fraction is of = None, the run has all training images"):
        load_pool(path.with_name("old.safetensors"), cfg)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunFailed, match=r"corrupt .*not loaded"):
        load_own(cfg)


def test_what_is_missing_or_of_another_kind_is_named(own, tmp_path, monkeypatch):
    folder, spec = tmp_path / "mine", DATASETS["digits"]
    (folder / "3" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"mine/3/0\.png: image cannot be decoded"):
        read_folder(folder, spec)
    Image.new("RGB", (8, 8)).save(folder / "3" / "0.png")
    with pytest.raises(UserError, match=r"0\.png: image is 8x8 RGB; expected 8x8 L"):
        read_folder(folder, spec)
    (folder / "3").rename(folder / "cats")
    with pytest.raises(UserError, match=r"mine/cats: is not a class; allowed: .* or 0 to 9"):
        read_folder(folder, spec)
    (tmp_path / "empty" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match="no images"):
        read_folder(tmp_path / "empty", spec)
    monkeypatch.delenv("FEDROBUST_OWN")
    with pytest.raises(UserError, match="FEDROBUST_OWN is not set"):
        load_own(own)


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "a.JPEG", "a.bmp", "a.tif", "a.gif", "a.pgm", "a.tga", "a.P.png", "a.RGBA.png", "a.LA.png", "b/c/a.png"],
)
def test_every_format_and_depth_is_read(name, tmp_path):
    """As the suffix says, in the mode between two dots if there is one."""
    said, path = [], write_folder(tmp_path, {3: 2}) / "8" / name
    image, mode = Image.open(tmp_path / "3" / "0.png"), name.split(".")[1:-1]
    path.parent.mkdir(parents=True)
    (image.convert(mode[0]) if mode else image).save(path)
    split = read_folder(tmp_path, DATASETS["digits"], said.append)
    assert split.labels.tolist().count(8) == 1
    (found,) = split.images[split.labels == 8]
    difference = np.abs(found[..., 0].astype(int) - np.asarray(image))
    assert difference.max() <= (40 if name.lower().endswith(("jpg", "jpeg")) else 0)
    assert not said


def test_what_is_passed_over_is_counted_and_named(tmp_path, caplog):
    write_folder(tmp_path, {3: 2, 8: 3})
    for name in ("3/._0.png", ".ipynb_checkpoints/0.png", "__MACOSX/3/0.png", ".DS_Store", "8/.thumbs/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\26\7Mac OS X")
    for name in ("readme.txt", "3/labels.csv", "3/scan.dcm", "8/deeper/Thumbs.db", "8/a.h5", "8/none"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    split = read_folder(tmp_path, DATASETS["digits"])
    assert np.bincount(split.labels).tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 3]
    assert caplog.messages == [
        f"{tmp_path}: skipped 5 hidden (.DS_Store, .ipynb_checkpoints/0.png, 3/._0.png, ...), "
        "1 outside the classes' folders (readme.txt), "
        "5 in no known format (3/labels.csv, 3/scan.dcm, 8/a.h5, ...)"
    ]


def test_an_image_that_would_lose_something_is_refused(tmp_path):
    (tmp_path / "3").mkdir()
    for mode, colour in {"RGBA": (9, 9, 9, 100), "RGB": (9, 0, 0), "I;16": 9}.items():
        Image.new(mode, (8, 8), colour).save(tmp_path / "3" / "0.png")
        with pytest.raises(UserError, match=f"image is 8x8 {mode}; expected 8x8 L"):
            read_folder(tmp_path, DATASETS["digits"])


def test_without_a_pool_there_is_no_file(tmp_path, capsys):
    assert main(["pool", "--out", str(tmp_path / "pool.safetensors")]) == 2
    assert "pool.fraction = 0: there is no pool" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [("pool.zip", "must end in .safetensors"), ("nowhere/pool.safetensors", "cannot be written (No such file")],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path, capsys, out, message):
    assert main(["pool", "--pool.fraction", "0.1", "--out", str(tmp_path / out)]) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) == 1
