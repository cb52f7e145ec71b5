"""The page and the files of a report, as a browser and as a reader of files meet them."""

import html.parser
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from fedrobust.cli import main
from fedrobust.reports.runs import find_runs
from fedrobust.storage.run_folder import RunFolder

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """What is on a page: links and sources, rows of tables by id, text; and that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.tables, self.words = [], [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag == "img":
            self.images.append(given["alt"])
        if tag == "table":
            self.rows = self.tables.setdefault(given.get("id", ""), [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def reported(study_in, tmp_path_factory):
    """A study and its report, which no test changes."""
    folder = tmp_path_factory.mktemp("reported")
    with study_in(folder / "study") as study:
        assert main(["report", str(study), "--out", str(folder / "out"), "--target-robust", "0.05"]) == 0
        yield study, folder / "out"


@pytest.fixture
def out(reported):
    return reported[1]


def test_every_file_is_there(out):
    names = {path.name for path in out.iterdir()}
    tables = {"results.csv", "results.parquet", "summary.csv", "summary.md", "summary.tex"}
    figures = {"sharing.png", "curves.png", "scatter.png", "ranking.png", "clients.png", "drift.png", "partition-1.png"}
    assert names >= tables | figures | {"report.html"}
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    written, parquet = pd.read_csv(out / "results.csv"), pd.read_parquet(out / "results.parquet")
    assert list(written) == list(parquet)
    assert written["natural_accuracy"].sum() == pytest.approx(parquet["natural_accuracy"].sum())


def test_figures_of_an_earlier_report_go(reported, tmp_path, capsys):
    study, before = reported
    out = Path(shutil.copytree(before, tmp_path / "out"))
    (out / "mine.png").write_bytes(b"")
    assert main(["report", str(study / "early"), "--out", str(out)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert [path.name for path in out.glob("*.png")] == ["mine.png"]


def test_the_page_holds_every_run_and_asks_nothing_of_a_network(reported):
    study, out = reported
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert [link for link in page.links if not link.startswith(("#", "data:image/png"))] == []
    assert "url(" not in text
    assert "@import" not in text
    assert all(page.images)
    assert len(page.images) == len(list(out.glob("*.png")))
    runs = [row[0] for row in page.tables["runs"][1:]]
    assert set(runs) == {run.name for run in find_runs([study])}
    assert len(page.tables["summary"]) == 1 + 8


def test_what_runs_say_is_text_on_the_page(out):
    text = (out / "report.html").read_text()
    words = "".join(Page(text).words)
    for said in ("disk <full> & gone", "flag zero-gradients: 31 of 100 <gradients> are 0", "no config.toml"):
        assert said in words
    assert "<full>" not in text
    assert "<gradients>" not in text
    assert "A pool gives raw images to every client" in words
    assert 'epsilon = "0.1"' in words
    assert str(out.parent) not in text  # where a run lay says nothing about it


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_column_sorts_in_a_browser_and_what_is_missing_comes_last(out, tmp_path, sign, slowness):
    head, *before = Page((out / "report.html").read_text()).tables["runs"]
    place = head.index("natural")
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    address = f"{(out / 'report.html').as_uri()}#runs={sign}{place + 1}"
    limit = 120 * slowness()
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=limit, check=True)
    after = [row[place] for row in Page(done.stdout).tables["runs"][1:]]
    expected = sorted((float(row[place]) for row in before if row[place] != "–"), reverse=bool(sign))
    assert after == [f"{value:.1f}" for value in expected] + ["–"] * 3
    assert after != [row[place] for row in before]


def test_a_folder_that_cannot_be_written_is_one_line(study, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(study), "--out", str(tmp_path / "file" / "below")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_target_that_is_no_share_is_one_line(study, capsys):
    assert main(["report", str(study), "--target-robust", "20"]) == 2
    assert "--target-robust: must be above 0 and at most 1, not '20'" in capsys.readouterr().err


def test_runs_that_all_failed_still_make_a_page(study, tmp_path, capsys):
    assert main(["report", str(study / "failed"), str(study / "early"), "--out", str(tmp_path / "none")]) == 0
    assert "no finished run" in capsys.readouterr().out
    assert "disk &lt;full&gt;" in (tmp_path / "none" / "report.html").read_text()


def test_runs_over_several_pools_none_of_which_has_ended_make_a_page_too(swept, tmp_path, capsys):
    for name in ("fedavg-0-0", "fedavg-0.2-0", "calfat-0.2-0"):
        begun = RunFolder(shutil.copytree(swept / name, tmp_path / "begun" / name))
        record = {key: value for key, value in begun.record().items() if key not in ("best", "last")}
        (begun.path / "record.json").write_text(json.dumps(record | {"state": "interrupted"}))
    assert main(["report", str(tmp_path / "begun"), "--out", str(tmp_path / "none")]) == 0
    assert "no finished run" in capsys.readouterr().out
    assert (tmp_path / "none" / "curves.png").stat().st_size > 10_000


def test_runs_are_listed_newest_first(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parent)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["runs", "study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0].removeprefix("study/") for line in lines if line.startswith("study/")]
    started = {run.name: run.record.get("started", "") for run in find_runs([study])}
    assert sorted(names) == sorted(started)
    assert [started[name] for name in names] == sorted(started.values(), reverse=True)
    assert next(line for line in lines if "study/failed" in line).split()[1:3] == ["failed", "2/2"]
    assert "~" in next(line for line in lines if "study/running" in line)


def test_failed_runs_with_their_error(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parent)
    assert main(["runs", "study", "--failed"]) == 0
    out = capsys.readouterr().out
    assert "study/failed: disk <full> & gone" in out
    assert "2 of 11 runs failed" in out


def test_no_folder_of_runs_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 2
    assert "no folder runs or sweeps here" in capsys.readouterr().err
