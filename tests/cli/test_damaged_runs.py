"""One damaged run among good ones: it is called unreadable with its reason, the others are as usual."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedrobust.cli import main
from fedrobust.errors import RunFailed
from fedrobust.reports.runs import find_runs
from fedrobust.storage.run_folder import RunFolder
from fedrobust.studies.plan import PlannedRun
from fedrobust.studies.sweep import Slots, Sweep

FEW = ["--attacks", "fgsm", "--num-images", "20", "--no-checks", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def run(quick, federate):
    """A run that was evaluated."""
    folder = federate(quick(num_rounds=1))
    assert main(["evaluate", str(folder.path), *FEW]) == 0
    return folder


def evaluation(name):
    return f"evaluations/best-linf-0.1/{name}.json"


DAMAGED = {
    "an empty record": ("record.json", lambda text: "", r"record\.json: damaged \(empty\)"),
    "half a record": ("record.json", lambda text: text[: len(text) // 2], r"record\.json: damaged \(.+line"),
    "a record that is a list": ("record.json", lambda text: "[]", r"record\.json: damaged \(no JSON object\)"),
    "an empty config": ("config.toml", lambda text: "", r"config\.toml: damaged \(empty\)"),
    "half a config": (
        "config.toml",
        lambda text: text[: text.index("[local]")],
        r"config\.toml: damaged \(broken off\)",
    ),
    "a config that is no TOML": ("config.toml", lambda text: "seed = [", r"damaged: config\.toml: not valid TOML"),
    "a broken row": ("rounds.jsonl", lambda text: "{\n" + text, r"rounds\.jsonl: damaged"),
    "an empty evaluation": (evaluation("evaluation"), lambda text: "", r"evaluation\.json: damaged \(empty\)"),
    "an evaluation of nothing": (
        evaluation("evaluation"),
        lambda text: "{}",
        r"evaluation\.json: damaged \(it has no subject\)",
    ),
}


TO_GO_ON = [kind for kind, (name, *_) in DAMAGED.items() if name in ("record.json", "config.toml")]


@pytest.fixture(params=DAMAGED)
def damaged(request, run, tmp_path):
    """A folder with a good run and one that is damaged, and how that is said."""
    name, change, said = DAMAGED[request.param]
    for label in ("bad", "good"):
        shutil.copytree(run.path, tmp_path / label)
    path = tmp_path / "bad" / name
    path.write_text(change(path.read_text()))
    return SimpleNamespace(folder=tmp_path, said=said)


def test_runs_and_report_show_it_and_the_others(damaged, tmp_path_factory, capsys):
    bad, good = sorted(find_runs([damaged.folder]), key=lambda run: run.name)
    assert (bad.state, good.state) == ("unreadable", "completed")
    assert main(["runs", str(damaged.folder)]) == 0
    out = capsys.readouterr().out
    assert "completed" in out
    (line,) = (line for line in out.splitlines() if line.startswith(f"{damaged.folder / 'bad'}: "))
    assert re.search(damaged.said, line)
    page = tmp_path_factory.mktemp("report")
    assert main(["report", str(damaged.folder), "--out", str(page)]) == 0
    out = capsys.readouterr().out
    assert re.search(f"- bad: unreadable: .*{damaged.said}", out)
    assert "natural" in out
    assert "unreadable" in (page / "report.html").read_text()


def test_evaluate_leaves_it_out(damaged, capsys):
    assert main(["evaluate", str(damaged.folder), *FEW]) == 0
    out = capsys.readouterr().out
    assert "bad: unreadable, left out: " in out
    assert f"{damaged.folder / 'good'}: 20 test images" in out


@pytest.mark.parametrize("damaged", TO_GO_ON, indirect=True)
def test_resume_leaves_it_out(damaged, capsys):
    assert main(["run", "--resume", str(damaged.folder), "--engine", "local"]) == 0
    out, err = capsys.readouterr()
    assert "bad: unreadable, left out: " in err
    assert "good: complete" in out
    shutil.rmtree(damaged.folder / "good")
    assert main(["run", "--resume", str(damaged.folder)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def closed(monkeypatch):
    """Folders that this user may not look into."""
    folders, scandir = set(), os.scandir

    def look(path="."):
        if str(path) in folders:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", look)
    return folders


def test_a_folder_that_is_closed_is_unreadable_with_its_reason(run, tmp_path, closed, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bad", "good"):
        shutil.copytree(run.path, tmp_path / name)
    closed.add(str(tmp_path / "bad"))
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"good +completed", out)
    assert re.search(r"bad +unreadable", out)
    assert "bad: cannot be read (Permission denied)" in out
    assert main(["report", str(tmp_path)]) == 0
    assert "bad: unreadable: cannot be read (Permission denied)" in capsys.readouterr().out
    for command in ("runs", "report"):
        assert main([command, str(tmp_path / "bad")]) == 2
        assert capsys.readouterr().err == f"error: {tmp_path / 'bad'}: cannot be read (Permission denied)\n"


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch, capsys):
    def refuse(self, **keywords):
        if self.is_relative_to(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return stat(self, **keywords)

    stat = Path.stat
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.stat", refuse)
        assert main(["run", "--resume", str(tmp_path / "mine")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'mine' / 'config.toml'}: Permission denied\n"


@pytest.mark.parametrize("damaged", TO_GO_ON, indirect=True)
def test_a_sweep_leaves_it_as_it_is(damaged, run):
    cfg = run.read_config()
    planned = [
        PlannedRun(name, {}, cfg.replace(run_dir=str(damaged.folder / name)), 16, 1.0) for name in ("bad", "good")
    ]
    before = {path: path.read_bytes() for path in damaged.folder.rglob("*") if path.is_file()}
    (outcome,) = Sweep(planned, damaged.folder, Slots(1, "local"), claim=0)
    assert (outcome.run.label, outcome.state) == ("bad", "unreadable")
    assert re.search(damaged.said.removeprefix("damaged: "), outcome.error)
    assert before == {path: path.read_bytes() for path in damaged.folder.rglob("*") if path.is_file()}


def test_damaged_settings_of_an_evaluation_are_one_line(run, tmp_path, capsys):
    for label in ("bad", "good"):
        shutil.copytree(run.path, tmp_path / label)
    (tmp_path / "bad" / evaluation("settings")).write_text('{"model": ')
    assert main(["evaluate", str(tmp_path), *FEW]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "bad/evaluations/best-linf-0.1/settings.json: damaged (" in err
    assert f"{tmp_path / 'good'}: 20 test images" in out


def test_an_empty_config_is_not_a_run_with_all_defaults(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "r")
    (tmp_path / "r" / "config.toml").write_text("# nothing\n")
    with pytest.raises(RunFailed, match=r"config.toml: damaged \(empty\)"):
        RunFolder(tmp_path / "r").read_config()
    assert json.loads((tmp_path / "r" / "record.json").read_text())["state"] == "completed"
