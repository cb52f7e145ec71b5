"""`fedrobust evaluate` as a user meets it: what it prints and leaves, how it goes on, what it refuses."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from fedrobust.cli import main
from fedrobust.storage.run_folder import RunFolder

FEW = ["--attacks", "fgsm,pgd-5", "--epsilon", "0.1", "--num-images", "60", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def run(quick, federate):
    return federate(quick(num_rounds=3))


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def test_a_run_is_evaluated_and_everything_is_left_in_its_folder(run, capsys):
    assert evaluate(run.path, *FEW) == 0
    out = capsys.readouterr().out
    for name in ("natural", "fgsm", "pgd-5", "worst case"):
        assert re.search(rf"{name} .*\d+\.\d .*\d+\.\d to \d+\.\d", out)
    assert re.search(r"worst client \d: natural", out)
    folder = run.path / "evaluations" / "best-linf-0.1"
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["num_images"] == 60
    assert record["subject"]["which"] == "best"
    assert record["accuracy"]["worst-case"]["accuracy"] <= record["accuracy"]["fgsm"]["accuracy"]
    assert len(record["per_client"]) == 3
    assert record["checks"]["curve"][0][1] == record["accuracy"]["natural"]["accuracy"]
    images = pd.read_csv(folder / "images.csv")
    assert images["worst-case"].mean() == pytest.approx(record["accuracy"]["worst-case"]["accuracy"])
    assert np.load(folder / "examples.npy").shape == (60, 1, 8, 8)
    for name in ("curve.png", "classes.png", "examples.png", "evaluation.md"):
        assert (folder / name).stat().st_size > 500
    for flag in record["flags"]:
        assert flag["name"] in out
        assert flag["name"] in (folder / "evaluation.md").read_text()


def test_the_same_command_again_does_nothing_twice(run, capsys, tmp_path):
    for _ in range(2):
        assert evaluate(run.path, *FEW, "--no-checks", "--out", tmp_path) == 0
    first, second = capsys.readouterr().out.split(str(tmp_path))[:2]
    assert first.splitlines()[:2] == ["fgsm", "pgd-5"]
    assert second.strip().splitlines()[0] not in ("fgsm", "pgd-5")
    assert evaluate(run.path, *FEW, "--no-checks", "--out", tmp_path, "--epsilon", "0.2") == 2
    assert "epsilon = 0.1, not 0.2; name another folder with --out" in capsys.readouterr().err


def test_of_a_folder_every_completed_run_below_it_is_evaluated(run, capsys, tmp_path):
    for name in ("first", "second", "stopped", "broken"):
        shutil.copytree(run.path, tmp_path / name, ignore=shutil.ignore_patterns("evaluations"))
    RunFolder(tmp_path / "stopped").update_record(state="interrupted")
    (tmp_path / "broken" / "best.safetensors").write_bytes(b"no model")
    assert evaluate(tmp_path, "--no-checks", *FEW) == 1
    out, err = capsys.readouterr()
    assert "stopped: interrupted, left out" in out
    assert re.search(r"^3 of 3: .*", out, re.M)
    assert "best.safetensors" in err
    evaluated = sorted(path.parts[-4] for path in tmp_path.rglob("evaluation.json"))
    assert evaluated == ["first", "second"]
    assert evaluate(tmp_path, "--no-checks", *FEW, "--out", tmp_path / "all") == 2
    assert "is the folder of one evaluation; 3 models" in capsys.readouterr().err
    for name in ("first", "second", "broken"):
        RunFolder(tmp_path / name).update_record(state="failed")
    assert evaluate(tmp_path, *FEW) == 2
    assert "no completed run" in capsys.readouterr().err


def test_transfer_from_another_model(run, capsys):
    assert evaluate(run.path, "--source", run.last, *FEW) == 0
    assert "made on" in capsys.readouterr().out
    (folder,) = (run.path / "evaluations").glob("*-from-last")
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["source"]["round"] == 3
    assert set(record["checks"]["white_box"]) == {"fgsm"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere"], "nowhere: neither a run's folder"),
        (["RUN", "--attacks", "pgd20"], "unknown attack 'pgd20'; did you mean 'pgd-20'? known: fgsm, pgd-K"),
        (["RUN", "--attacks", ","], "--attacks: no attack is given"),
        (["RUN", "--epsilon", "8"], "epsilon = 8: must be above 0, and at most 1 for linf"),
        (["RUN", "--epsilon", "0"], "epsilon = 0: must be above 0"),
        (["RUN", "--num-image", "3"], "unknown setting 'num-image'; did you mean 'num-images'?"),
        (["RUN", "--device", "cuda:7"], "device = 'cuda:7': not on this machine"),
        (["RUN", "--source", "gone.safetensors"], "gone.safetensors: no such file"),
        (["RUN", "--epsilon", "much"], "--epsilon: must be a number or a fraction such as 8/255, not 'much'"),
        (["RUN", "--num-images", "-3"], "--num-images: must be a whole number of at least 0, not '-3'"),
        (["RUN", "--norm", "l1"], "--norm: unknown choice 'l1'"),
    ],
)
def test_mistakes_end_in_one_line(arguments, problem, run, capsys):
    assert evaluate(*(run.path if word == "RUN" else word for word in arguments)) in (1, 2)
    err = capsys.readouterr().err
    assert problem in err
    assert len(err.splitlines()) == 1
