"""Tables of a report against the runs' own files, read again with pandas alone."""

import json
import re
import tomllib
from html import escape

import pandas as pd
import pytest
from rich.console import Console

from fedrobust.cli import main
from fedrobust.cli.launch import summarise as closing_table
from fedrobust.reports.groups import group, settings
from fedrobust.reports.labels import method, skew
from fedrobust.reports.page import page
from fedrobust.reports.results import Overview, mean_and_std, summarise
from fedrobust.reports.runs import Run, find_runs
from fedrobust.reports.tables import markdown_table, summary_latex, summary_markdown
from fedrobust.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def overview(swept):
    return Overview.of([swept], target=0.05)


@pytest.fixture(scope="module")
def again(swept):
    """Strategy, pool, seed and what the test set said of each model, by pandas and TOML alone."""
    rows = []
    for path in swept.iterdir():
        config = tomllib.loads((path / "config.toml").read_text())
        record = json.loads((path / "record.json").read_text())
        facts = {"strategy": config["strategy"]["name"], "pool": config["pool"]["fraction"], "seed": config["seed"]}
        rows += [{"run": path.name, **facts, "model": model, **record[model]} for model in ("best", "last")]
    return pd.DataFrame(rows)


def test_a_row_per_run_and_model(overview, again):
    results = overview.results.set_index(["run", "model"]).sort_index()
    expected = again.set_index(["run", "model"]).sort_index()
    assert list(results.index) == list(expected.index)
    names = ["natural_accuracy", "robust_accuracy.fgsm", "robust_accuracy.pgd-2", "robust_accuracy.worst-case"]
    pd.testing.assert_frame_equal(results[names], expected[names])
    assert not [column for column in results if "per_class" in column]


def test_an_evaluation_adds_what_the_run_has_not_measured_under_its_own_threat(study):
    results = Overview.of([study]).results.set_index(["run", "model"])
    column = "robust_accuracy.square (60 images)"
    assert results.loc[("fedavg-0-0", "best"), column] == 0.3
    assert {run for run, _ in results.index[results[column].notna()]} == {"fedavg-0-0"}
    assert not [name for name in results if "pgd-2 (" in str(name) or str(name).endswith("square")]
    # of two seeds one was evaluated: there is no mean yet, and no column for it
    assert "square" not in summary_markdown(Overview.of([study]).summary, [])
    source = study / "fedavg-0-0" / "evaluations" / "best-linf"
    record = json.loads((source / "evaluation.json").read_text())
    target = RunFolder(study / "fedavg-0-1")
    record["subject"]["round"] = target.record()["best"]["round"]
    record["accuracy"]["square"]["accuracy"] = 0.4
    (target.path / "evaluation").mkdir()
    (target.path / "evaluation" / "evaluation.json").write_text(json.dumps(record))
    markdown = summary_markdown(Overview.of([study]).summary, [])
    assert "| square (60 images) |" in markdown
    assert "| 35.0 ± 7.1 |" in next(line for line in markdown.splitlines() if line.startswith("| fedavg | 0"))


def test_costs_are_sums_over_the_rounds(overview, swept):
    results = overview.results.drop_duplicates("run").set_index("run")
    for path in swept.iterdir():
        rounds = pd.read_json(path / "rounds.jsonl", lines=True)
        row = results.loc[path.name]
        assert row["images"] == rounds["images"].sum()
        assert row["bytes"] == rounds["bytes"].sum()
        assert row["drift_norm"] == pytest.approx(rounds["drift.update_norm"].mean())
        assert row["drift_cosine"] == pytest.approx(rounds["drift.cosine"].mean())
        assert row["pool_images"] == json.loads((path / "record.json").read_text())["pool"]["images"]
        reached = rounds[rounds["validation.robust_accuracy.pgd-2"] >= 0.05]["round"]
        assert row["rounds_to_0.05"] == reached.min() if len(reached) else pd.isna(row["rounds_to_0.05"])


def test_the_worst_client_is_that_of_the_models_own_round(overview, swept):
    for _, row in overview.results.iterrows():
        clients = pd.read_json(swept / row["run"] / "clients.jsonl", lines=True)
        asked = clients[(clients["phase"] == "evaluate") & (clients["round"] == row["round"])]
        assert row["worst_client.natural_accuracy"] == pytest.approx(asked["natural_accuracy"].min())


def test_mean_and_spread_over_seeds(overview, again):
    summary = overview.summary.set_index(["strategy", "pool", "model"])
    grouped = again.groupby(["strategy", "pool", "model"])["robust_accuracy.pgd-2"]
    assert (summary["n"] == 2).all()
    pd.testing.assert_series_equal(summary["robust_accuracy.pgd-2.mean"], grouped.mean(), check_names=False)
    pd.testing.assert_series_equal(summary["robust_accuracy.pgd-2.std"], grouped.std(), check_names=False)


def test_one_seed_has_no_spread_and_a_repeated_seed_is_no_evidence():
    rows = [{"strategy": "a", "seed": 0, "model": "best", "natural_accuracy": value} for value in (0.5, 0.7)]
    summary = summarise(pd.DataFrame(rows), ["strategy"])
    assert list(summary["n"]) == [1]
    assert mean_and_std(summary.iloc[0], "natural_accuracy") == "60.0"


def test_a_mean_needs_every_seed():
    rows = [{"strategy": "a", "seed": s, "model": "best", "natural_accuracy": v} for s, v in ((0, 0.5), (1, None))]
    summary = summarise(pd.DataFrame(rows), ["strategy"])
    assert mean_and_std(summary.iloc[0], "natural_accuracy") == "–"


def test_groups_are_told_apart_by_the_fewest_settings(overview):
    assert [group.values for group in overview.groups] == [
        {"strategy": strategy, "pool": pool} for strategy in ("calfat", "fedavg") for pool in (0.0, 0.2)
    ]  # not by learning rate and random start, which go with the strategy
    assert [len(group.runs) for group in overview.groups] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ([{}, {"pool__mode": "replace"}], ["strategy"]),
        ([{}, {"pool__fraction": 0.1}, {"pool__fraction": 0.1, "pool__mode": "replace"}], ["pool", "mode"]),
        ([{}, {"pool__fraction": 0.1}], ["pool"]),
        ([{}, {"seed": 1, "device": "auto", "workers__num": 3, "evaluation__every": 2}], ["strategy"]),
        ([{}, {"local__learning_rate": 0.2}], ["local.learning-rate"]),
        ([{}, {"partition__scheme": "iid"}, {"partition__concentration": 0.1}], ["skew"]),
        ([{}, {"kind": "central"}], ["strategy"]),
        ([{}, {"init": "runs/warm", "num_rounds": 3}], ["start"]),
        ([{}, {"num_clients": 4}, {"kind": "central"}], ["strategy", "clients"]),
        ([{}, {"model__name": "resnet18"}, {"model__name": "resnet18", "model__width": 0.5}], ["network"]),
        ([{}, {"attack__name": "fgsm"}, {"attack__epsilon": "8/255"}], ["attack", "attack.epsilon"]),
    ],
)
def test_what_tells_runs_apart(quick, tmp_path, changes, columns):
    runs = [
        Run(str(i), RunFolder(tmp_path / str(i)), {"objective": "at", "last": {}}, quick(**change), "")
        for i, change in enumerate(changes)
    ]
    groups = group(runs)
    assert list(groups[0].values) == columns
    assert len(groups) == len({tuple(settings(run).items()) for run in runs})


def test_the_pool_alone_is_told_from_a_federation_with_it(quick):
    federation, central = quick(pool__fraction=0.2), quick(kind="central")
    alone = federation.replace(kind="central", central__images="pool")
    assert [method(cfg) for cfg in (federation, alone, central)] == ["fedavg", "pool alone", "central"]


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        ("iid", "IID"),
        ("dirichlet", "Dir(0.5)"),
        ("dirichlet-balanced", "balanced Dir(0.5)"),
        ("shards", "shards(2)"),
        ("dominant", "dominant(92 %, 2)"),
    ],
)
def test_skew_in_words(quick, scheme, label):
    assert skew(quick(partition__scheme=scheme)) == label


def test_latex_is_balanced_and_escaped(overview):
    tex = summary_latex(overview.compact(overview.summary), overview.runs)
    assert re.findall(r"\\begin{(\w+)}", tex) == re.findall(r"\\end{(\w+)}", tex) == ["tabular"]
    assert tex.count("{") == tex.count("}")
    body = [line for line in tex.splitlines()[1:] if line.endswith(r"\\")]
    columns = len(re.search(r"{tabular}{([lr]+)}", tex)[1])
    assert {line.count("&") for line in body} == {columns - 1}
    assert r"20 \%" in tex
    assert not re.search(r"(?<!\\)[%±–]", "\n".join(tex.splitlines()[1:]))
    assert all(line.count("$") % 2 == 0 for line in body)


def test_markdown_says_what_did_not_end_well(study):
    overview = Overview.of([study])
    text = summary_markdown(overview.summary, overview.runs)
    assert "- failed: failed after round 2: disk <full> & gone" in text
    assert "- running: running after round 2" in text
    assert "- early: not started: no config.toml" in text
    assert "A pool gives raw images to every client" in text
    assert markdown_table(["a"], [["x|y"]])[-1] == "| x\\|y |"


def test_a_run_without_a_model_has_a_row_and_no_part_in_a_mean(study, swept):
    results = Overview.of([study]).results.set_index("run")
    for name in ("failed", "early", "running"):
        assert results.loc[name, "model"] == ""
        assert pd.isna(results.loc[name, "natural_accuracy"])
    expected = Overview.of([swept]).summary
    pd.testing.assert_frame_equal(Overview.of([study]).summary[expected.columns], expected)


def test_records_of_earlier_versions(study):
    """Neither the worst case, classes and drift, nor peak memory, pool and EMD."""
    for folder in find_runs([study]):
        record = {key: value for key, value in folder.record.items() if key not in ("pool", "emd", "hardware")}
        for model in folder.models:
            record[model] = {k: v for k, v in record[model].items() if k not in ("per_class", "robust_accuracy.fgsm")}
        (folder.folder.path / "record.json").write_text(json.dumps(record))
        rows = [{k: v for k, v in row.items() if not k.startswith(("drift", "clients."))} for row in folder.rounds]
        (folder.folder.path / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overview = Overview.of([study])
    assert len(overview.summary) == 8
    assert "drift_norm" not in overview.results


def test_a_client_that_fails_again_and_again_is_named_wherever_the_run_is(study, capsys):
    said = "client 1: no usable update in 2 of the 2 rounds it was asked in (failed: ValueError: <one> image)"
    RunFolder(study / "fedavg-0-1").update_record(warnings=[said, said])
    overview = Overview.of([study])
    assert summary_markdown(overview.summary, overview.runs).count(f"- fedavg-0-1: {said}\n") == 1
    assert page(overview, {}).count(f"</a>: {escape(said)}</li>") == 1
    assert main(["runs", str(study)]) == 0
    assert capsys.readouterr().out.count(f"fedavg-0-1: {said}\n") == 1
    cfg = RunFolder(study / "fedavg-0-1").read_config().replace(run_dir=str(study / "fedavg-0-1"))
    closing_table(Console(soft_wrap=True), {"x": cfg})
    assert capsys.readouterr().out.count(f"  {said}\n") == 1


def test_an_evaluation_written_under_the_former_key_is_read(tmp_path):
    share = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    row = {"natural": 0.5, "worst case": 0.25}
    record = {"subject": {}, "num_images": 4, "epsilon": "0.1", "norm": "linf", "flags": []}
    record |= {"accuracy": {"natural": share, "worst case": share}, "per_class": [row], "per_client": [row]}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps(record))
    found = Run("old", RunFolder(tmp_path), {}, None, "").evaluations["evaluation"]
    assert list(found["accuracy"]) == ["natural", "worst-case"]
    assert found["per_class"] == found["per_client"] == [{"natural": 0.5, "worst-case": 0.25}]
