"""Runs whose data lie elsewhere than when they began: `evaluate` and `run --resume` with --data-dir."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedrobust.cli import main
from fedrobust.data import DATASETS, load
from fedrobust.data.split import split_of
from fedrobust.storage.run_folder import RunFolder

SETTINGS = {
    "engine": "local",
    "data.name": "moved",
    "num-clients": 2,
    "num-rounds": 1,
    "partition.scheme": "dirichlet",
    "attack.steps": 1,
    "evaluation.attacks": "fgsm",
    "evaluation.select-by": "fgsm",
    "local.epochs": 1,
    "workers.threads": 1,
    "device": "cpu",
}
FEW = ["--attacks", "fgsm", "--num-images", "20", "--no-checks", "--device", "cpu", "--threads", "1"]


def write(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    encoded = []
    for image in images:
        Image.fromarray(image[..., 0], "L").save(data := io.BytesIO(), "PNG")
        encoded.append({"bytes": data.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(encoded, kind), "label": pa.array(labels)}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run that began with --data-dir data, a relative path; its data have moved to where `elsewhere` says."""
    here = tmp_path_factory.mktemp("moved")
    digits = load("digits")
    sizes = {"train": 300, "test": 60}
    for split, size in sizes.items():
        part = getattr(digits, split)
        write(here / "data", split, part.images[:size], part.labels[:size])
    spec = replace(DATASETS["digits"], torchvision="none", train_size=sizes["train"], test_size=sizes["test"])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FEDROBUST_DATA", raising=False)
        patch.setitem(DATASETS, "moved", spec)
        patch.chdir(here)
        flags = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
        assert main(["run", "quickstart", "--variant", "fedavg", "--data-dir", "data", "--run-dir", "r", *flags]) == 0
        began = RunFolder(here / "r").read_config()
        rows = split_of(began).clients
        (here / "data").rename(here / "elsewhere")
        split_of.cache_clear()
        (here / "below").mkdir()
        patch.chdir(here / "below")
        yield RunFolder(here / "r"), here / "elsewhere", rows


def evaluate(run, data, out):
    code = main(["evaluate", str(run.path), "--data-dir", str(data), "--out", str(out), *FEW])
    return code, json.loads((out / "evaluation.json").read_text()) if code == 0 else {}


def test_stored_paths_are_absolute(moved):
    run, elsewhere, _ = moved
    cfg = run.read_config()
    assert cfg.data.dir == str(elsewhere.with_name("data"))
    assert cfg.run_dir == str(run.path)


def test_a_run_is_evaluated_on_the_data_where_they_are_now(moved, tmp_path):
    run, elsewhere, clients = moved
    code, record = evaluate(run, elsewhere, tmp_path)
    assert code == 0
    assert record["accuracy"]["fgsm"]["accuracy"] <= record["accuracy"]["natural"]["accuracy"]
    assert [row["images"] for row in record["per_client"]] == [len(client.own) for client in clients]
    assert record["notes"] == []


def test_without_the_training_images_only_the_clients_are_missing(moved, tmp_path, capsys):
    run, elsewhere, _ = moved
    _, whole = evaluate(run, elsewhere, tmp_path / "whole")
    shutil.copytree(elsewhere, tmp_path / "test-only", ignore=shutil.ignore_patterns("train-*"))
    capsys.readouterr()
    code, record = evaluate(run, tmp_path / "test-only", tmp_path / "out")
    assert code == 0
    assert "no accuracy per client, since the training images are missing" in capsys.readouterr().out
    assert record["per_client"] == []
    assert record["per_class"] == whole["per_class"]


def test_on_other_data_the_clients_are_missing_too(moved, tmp_path, capsys):
    run, *_ = moved
    command = ["evaluate", str(run.path), "--data", "digits", "--out", str(tmp_path), *FEW]
    assert main(command) == 0
    assert "since these are not the data that the run was trained on" in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluation.json").read_text())["per_client"] == []


def test_where_there_are_no_data_nothing_is_attacked(moved, tmp_path, capsys):
    run, *_ = moved
    assert evaluate(run, tmp_path / "nowhere", tmp_path / "out")[0] == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: no moved in ")
    assert "fgsm" not in out
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_the_data_where_they_are_now(moved, tmp_path):
    run, elsewhere, _ = moved
    shutil.copytree(run.path, tmp_path / "r", ignore=shutil.ignore_patterns("evaluations"))
    relative = Path("..") / "elsewhere"
    assert main(["run", "--resume", str(tmp_path / "r"), "--num-rounds", "2", "--data-dir", str(relative)]) == 0
    copy = RunFolder(tmp_path / "r")
    assert copy.record()["rounds"] == 2
    assert Path(copy.read_config().data.dir).is_absolute()
    assert Path(copy.read_config().data.dir).resolve() == elsewhere


def test_a_run_does_not_go_on_with_other_data(moved, tmp_path, capsys):
    run, elsewhere, _ = moved
    shutil.copytree(run.path, tmp_path / "r", ignore=shutil.ignore_patterns("evaluations"))
    train = load("digits").train
    shutil.copytree(elsewhere, tmp_path / "other")
    write(tmp_path / "other", "train", train.images[-300:], train.labels[-300:])
    command = ["run", "--resume", str(tmp_path / "r"), "--num-rounds", "2", "--data-dir", str(tmp_path / "other")]
    assert main(command) == 2
    assert "these are not the data with which the run began" in capsys.readouterr().err
