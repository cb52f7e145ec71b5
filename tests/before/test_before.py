"""Runs, sweeps and checkpoints of an earlier version: reported, evaluated, resumed and swept further.

made.zip holds, as version 0.1.0 of commit 0375c45 left them: a run of two rounds of CalFAT on a ResNet-18 of a few
channels, with an evaluation, and a sweep of which one run is complete and the other has not begun.
"""

import json
import zipfile
from pathlib import Path

import pytest

import fedrobust as fr
from fedrobust.cli import main
from fedrobust.storage.checkpoint import load_checkpoint


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the run, the sweep and the sweep's study lie."""
    with zipfile.ZipFile(Path(__file__).with_name("made.zip")) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_tables_and_its_report(made):
    run = fr.load_run("run")
    assert run.rounds["round"].tolist() == [1, 2]
    assert run.record["best"]["natural_accuracy"] == pytest.approx(0.22)
    report = fr.report(["run", "sweep"], out="report")
    assert report.results["run"].nunique() == 2
    assert report.results.loc[report.results["run"] == "run", "natural_accuracy"].tolist() == pytest.approx([0.22] * 2)
    assert report.page is not None
    assert "best-linf-0.1" in report.page.read_text()


def test_its_models_are_evaluated_to_the_same_verdicts(made):
    record = fr.evaluate("run", attacks="fgsm", num_images=20, checks=False).record
    before = json.loads(Path("run/evaluations/best-linf-0.1/evaluation.json").read_text())
    for name in ("natural", "fgsm"):
        assert record["accuracy"][name]["accuracy"] == before["accuracy"][name]["accuracy"]
    assert record["subject"]["weights"] == before["subject"]["weights"]


def test_its_checkpoint_is_read_and_the_run_resumes(made):
    checkpoint = load_checkpoint(made / "run" / "checkpoint.safetensors")
    assert checkpoint.progress.server_round == 2
    run = fr.run(resume="run", num_rounds=3, engine="local")
    assert run.rounds["round"].tolist() == [1, 2, 3]
    assert run.record["state"] == "completed"


def test_its_sweep_does_what_is_left(made, capsys):
    assert main(["sweep", "mine.toml", "--out", "sweep", "--engine", "local", "--dry-run"]) == 0
    assert "2 runs, 1 of them complete" in capsys.readouterr().out
    runs = fr.sweep("mine.toml", out="sweep", engine="local")
    assert [run.record["state"] for run in runs] == ["completed", "completed"]
