"""Packed runs: the report made of them is that of the folders, and damage costs no more than it hits."""

import csv
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from fedrobust.cli import main
from fedrobust.reports.results import Overview
from fedrobust.reports.runs import find_runs
from fedrobust.reports.tables import summary_markdown
from fedrobust.storage.csv_rows import read_csv, to_csv
from fedrobust.storage.run_folder import RunFolder

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TEXTS = ["train", "5", "1e3", "null", "NaN", "true", "a,b", 'say "no"', "two\nlines", "", " 5", "ä", '"quoted"', "[1"]
NUMBERS = [0, -3, 10**20, 1.0, 0.1, 1.4000000000000001, 1e-300, float("inf"), True, None, [1, 2.5], {"a": None}]


@pytest.fixture
def made(study, tmp_path, capsys):
    """The packed form of the study, which has a failed run, one that did not begin and a damaged one beside others.

    The study's run at work is taken away here; the damaged run's clients.jsonl is broken off.
    """
    shutil.rmtree(study / "running")
    images = study / "fedavg-0-0" / "evaluations" / "best-linf" / "images.csv"
    images.write_text("image,label,natural,pgd-2\n7,3,True,False\n8,1,False,False\n")
    damaged = shutil.copytree(study / "calfat-0-1", study / "damaged")
    (damaged / "clients.jsonl").write_text("{\n")
    out = tmp_path / "packed" / "study"
    assert main(["pack", str(study), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^damaged: left out: .*clients\.jsonl: damaged \(", printed, re.MULTILINE)
    assert "packed 10 of 11 runs" in printed
    shutil.rmtree(damaged)
    return out


def report(folder, out):
    assert main(["report", str(folder), "--out", str(out), "--target-robust", "0.05"]) == 0
    return out


def test_the_report_of_packed_runs_is_that_of_their_folders(made, study, tmp_path, capsys):
    ours, theirs = report(made, tmp_path / "ours"), report(study, tmp_path / "theirs")
    names = sorted(path.name for path in theirs.iterdir())
    assert {"results.csv", "summary.md", "clients.png", "partition-1.png", "curves.png", "sharing.png"} <= set(names)
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in set(names) - {"report.html", "results.parquet"}:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    pd.testing.assert_frame_equal(*(pd.read_parquet(out / "results.parquet") for out in (ours, theirs)))
    pages = [re.sub("<dt>Made</dt><dd>.*?</dd>", "", (out / "report.html").read_text()) for out in (ours, theirs)]
    assert pages[0] == pages[1]
    assert "disk &lt;full&gt; &amp; gone" in pages[0]


def test_nothing_that_was_measured_is_lost(made, study):
    rounds = {name: list(rows) for name, rows in pd.read_csv(made / "rounds.csv").groupby("run")["round"]}
    for run in find_runs([made]):
        folder, packed = RunFolder(study / run.name), run.folder
        assert packed.record() == folder.record()
        assert packed.read_flat_config() == folder.read_flat_config()
        assert packed.read_evaluations() == folder.read_evaluations()
        assert packed.read_images() == folder.read_images()
        assert packed.read_partition() == folder.read_partition()
        for log in ("rounds.jsonl", "clients.jsonl"):
            assert packed.read(log) == folder.read(log)
            kinds = [[{k: type(v) for k, v in row.items()} for row in source.read(log)] for source in (packed, folder)]
            assert kinds[0] == kinds[1]
        assert rounds.get(run.name, []) == [row["round"] for row in folder.read("rounds.jsonl")]


def test_packed_runs_are_found_by_their_paths(made, tmp_path, capsys):
    assert [run.name for run in find_runs([made / "fedavg-0-0"])] == ["fedavg-0-0"]
    assert [run.name for run in find_runs([made / "fedavg-0-0", made / "failed"])] == ["failed", "fedavg-0-0"]
    assert [run.name for run in find_runs([made / "runs.jsonl"])] == [run.name for run in find_runs([made])]
    assert main(["report", str(made / "fedavg-0")]) == 2
    assert f"{made / 'fedavg-0'}: no such file or folder" in capsys.readouterr().err


def test_packed_runs_are_listed_beside_folders_and_packed_again(made, study, tmp_path, monkeypatch, capsys):
    shutil.copytree(study / "fedavg-0-0", made.parent / "more" / "fedavg-0-0")
    mixed = find_runs([made.parent])
    assert {run.name for run in mixed} >= {"study/fedavg-0-0", "more/fedavg-0-0"}
    assert main(["pack", str(made.parent), "--out", str(tmp_path / "again")]) == 0
    again = {run.name: run for run in find_runs([tmp_path / "again"])}
    assert again.keys() == {run.name for run in mixed}
    for run in mixed:
        packed = again[run.name]
        assert (packed.record, packed.rounds, packed.clients) == (run.record, run.rounds, run.clients)
        assert packed.folder.read_images() == run.folder.read_images()
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["runs", str(made.parent)]) == 0
    folders = [line.split()[0] for line in capsys.readouterr().out.splitlines() if " completed " in line]
    assert {str(made / "fedavg-0-0"), str(made.parent / "more" / "fedavg-0-0")} <= set(folders)


def test_a_run_at_work_is_left_out(study, tmp_path, capsys):
    assert main(["pack", str(study), "--out", str(tmp_path / "packed")]) == 0
    assert "running: left out: is running" in capsys.readouterr().out
    assert "running" not in {run.name for run in find_runs([tmp_path / "packed"])}


def test_the_sweeps_record_goes_with_each_run(swept, tmp_path):
    study = shutil.copytree(swept, tmp_path / "study")
    (study / "sweep.json").write_text('{"study": "mine"}')
    assert main(["pack", str(study), "--out", str(tmp_path / "packed")]) == 0
    assert {run.folder.read_sweep()["study"] for run in find_runs([tmp_path / "packed"])} == {"mine"}


def summary_of(folder):
    """What summary.md says of packed runs."""
    overview = Overview.of([folder])
    return summary_markdown(overview.compact(overview.summary), overview.runs)


def lines_of(path, change):
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(lines))


def cut_line(lines):
    lines[1] = lines[1][: len(lines[1]) // 2] + "\n"


def last_number(lines):
    lines[1] = re.sub(r"[0-9]\n$", "x\n", lines[1])


DAMAGE = {
    "half a line": ("runs.jsonl", lambda path: lines_of(path, cut_line), (r"runs\.jsonl:2", r"damaged \(.+\)"), 1),
    "a line without a record": (
        "runs.jsonl",
        lambda path: lines_of(path, lambda lines: lines.__setitem__(1, '{"run": "x"}\n')),
        (r"runs\.jsonl:2", r"damaged \(no record of x\)"),
        1,
    ),
    "a row is gone": (
        "rounds.csv",
        lambda path: lines_of(path, lambda lines: lines.pop(1)),
        ("calfat-0-0", r"rounds\.csv: damaged \(the run's 1 rows are not those that were packed\)"),
        1,
    ),
    "a number is none": (
        "rounds.csv",
        lambda path: lines_of(path, last_number),
        ("calfat-0-0", r"rounds\.csv: damaged"),
        1,
    ),
    "a byte is no text": (
        "clients.csv",
        lambda path: path.write_bytes(
            path.read_bytes().replace(b"\ncalfat-0-0,1,train", b"\ncalfat-0-0,1,tr\xff\xfe", 1)
        ),
        ("calfat-0-0", r"clients\.csv: damaged"),
        1,
    ),
    "a table is gone": ("clients.csv", Path.unlink, (r"clients\.csv", r"cannot be read \(No such file"), 9),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_and_costs_the_runs_it_hits(kind, made, tmp_path, capsys):
    name, damage, said, lost = DAMAGE[kind]
    sound = {run.name for run in find_runs([made]) if not run.unreadable}
    damage(made / name)
    assert main(["runs", str(made)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "damaged (" in line or "cannot be read" in line]
    assert len(lines) == 1
    assert re.search(": ".join(said), lines[0])
    assert len([run for run in find_runs([made]) if not run.unreadable]) == len(sound) - lost
    assert re.search(": unreadable: ".join(said), summary_of(made))
    if kind == "a row is gone":  # one run of many, whichever way it was lost
        report(made, tmp_path / "out")
        assert (tmp_path / "out" / "summary.md").read_text() == summary_of(made)


@pytest.mark.parametrize("command", [["evaluate"], ["run", "--resume"]])
def test_what_needs_a_model_is_refused_in_a_line(command, made, capsys):
    for path in (made, made / "fedavg-0-0"):
        assert main([*command, str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{made}: holds packed runs, without models and checkpoints" in line


def test_evaluate_names_packed_runs_among_others(made, capsys):
    assert main(["evaluate", str(made.parent)]) == 2
    printed = capsys.readouterr()
    assert f"{made / 'fedavg-0-0'}: packed, without its models, left out" in printed.out
    assert "no completed run" in printed.err


@pytest.mark.parametrize("out", ["study", "study/packed"])
def test_runs_are_never_there_twice(out, study, tmp_path, capsys):
    assert main(["pack", str(study), "--out", str(tmp_path / out)]) == 2
    assert "would have each run twice" in capsys.readouterr().err


def test_packed_runs_are_never_overwritten(made, study, capsys):
    before = (made / "runs.jsonl").read_bytes()
    assert main(["pack", str(study / "fedavg-0-0"), "--out", str(made)]) == 2
    assert "holds packed runs already" in capsys.readouterr().err
    assert (made / "runs.jsonl").read_bytes() == before


def test_a_study_of_which_nothing_is_readable_is_refused(tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("")
    assert main(["pack", str(tmp_path / "bad"), "--out", str(tmp_path / "packed")]) == 2
    assert "none of 1 runs is readable" in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_cells_are_read_as_they_were_written(tmp_path):
    rows = [{"value": value, "place": place} for place, value in enumerate([*TEXTS, *NUMBERS])]
    path = tmp_path / "rows.csv"
    path.write_text(to_csv([{"place": -1}, *rows]))
    assert read_csv(path) == [{"place": -1}, *rows]
    assert [type(row["value"]) for row in read_csv(path)[1:]] == [type(row["value"]) for row in rows]
    with open(path, newline="") as file:
        assert next(csv.reader(file)) == ["value", "place"]  # a key that comes later stands where its row has it
    assert len(path.read_text().splitlines()) == len(rows) + 2  # a row is a line


@pytest.mark.parametrize("name", ["sharing-smoke", "dang-smoke", "sat-smoke", "activations-smoke"])
def test_the_summaries_of_experiments_come_from_their_packed_runs(name):
    assert not [run.problem for run in Overview.of([EXPERIMENTS / name]).runs if run.unreadable]
    assert summary_of(EXPERIMENTS / name) == (EXPERIMENTS / name / "summary.md").read_text(encoding="utf-8")
