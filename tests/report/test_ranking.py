"""Settings compared, on made-up records; curves of one point are no figure."""

import json

import pytest

from fedrobust.config import RunConfig, toml
from fedrobust.reports.comparisons import draw_ranking
from fedrobust.reports.curves import draw_curves
from fedrobust.reports.results import Overview
from fedrobust.reports.style import figure

ROBUST = {"relu": (0.21, 0.25), "silu": (0.30, 0.28), "gelu": (0.10,)}


@pytest.fixture
def written(tmp_path):
    """Central runs of these activations and accuracies, evaluated in so many rounds."""

    def write(robust, rounds=1) -> Overview:
        for activation, values in robust.items():
            for seed, value in enumerate(values):
                folder = tmp_path / f"{activation}-{seed}"
                folder.mkdir()
                flat = {"kind": "central", "seed": seed, "model.activation": activation}
                (folder / "config.toml").write_text(toml.dumps(RunConfig.from_flat(flat).to_flat()))
                best = {"round": 1, "natural_accuracy": 2 * value, "robust_accuracy.pgd-20": value}
                (folder / "record.json").write_text(json.dumps({"state": "completed", "best": best, "last": best}))
                rows = [{"round": n + 1, "validation.natural_accuracy": value} for n in range(rounds)]
                (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Overview.of([tmp_path])

    return write


def drawn_rows(monkeypatch, overview, path):
    """Labels from below, and whether there was a figure."""
    seen = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_yticks", lambda self, places, names, **_: seen.extend(names))
    return seen, draw_ranking(overview.groups, "pgd-20", path)


def test_the_most_robust_is_at_the_top(written, monkeypatch, tmp_path):
    rows, drawn = drawn_rows(monkeypatch, written(ROBUST), tmp_path / "ranking.png")
    assert drawn
    assert rows == ["gelu", "relu", "silu"]
    assert (tmp_path / "ranking.png").stat().st_size > 5_000


def test_two_settings_are_no_ranking(written, tmp_path):
    assert not draw_ranking(written({"relu": (0.2,), "silu": (0.3,)}).groups, "pgd-20", tmp_path / "ranking.png")
    assert not (tmp_path / "ranking.png").exists()


@pytest.mark.parametrize(("rounds", "drawn"), [(1, False), (2, True)])
def test_a_single_point_is_no_curve(written, tmp_path, rounds, drawn):
    assert draw_curves(written(ROBUST, rounds).groups, tmp_path / "curves.png") == drawn


def test_a_setting_of_which_one_seed_was_not_measured_has_no_line_and_no_name(written, monkeypatch, tmp_path):
    written(ROBUST, 2)
    (tmp_path / "relu-1" / "rounds.jsonl").write_text('{"round": 1}\n{"round": 2}\n')
    named = []
    monkeypatch.setattr("fedrobust.reports.style.figure", lambda *args: named.extend(args[-1]) or figure(*args))
    assert draw_curves(Overview.of([tmp_path]).groups, tmp_path / "curves.png")
    assert sorted(named) == ["gelu", "silu"]


def test_a_central_run_is_called_so_and_has_no_clients(written):
    results = written(ROBUST).results
    assert set(results["strategy"]) == {"central"}
    assert set(results["clients"]) == {1}
