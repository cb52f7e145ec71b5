"""Settings compared, on made-up records; curves of one point are no figure."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from fedrobust.config import RunConfig, toml
from fedrobust.reports.comparisons import draw_ranking
from fedrobust.reports.curves import draw_curves
from fedrobust.reports.results import Overview

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


@pytest.fixture
def saved(monkeypatch):
    """The figures that were saved, as matplotlib holds them."""
    figures, save = [], Figure.savefig

    def keep(self, *args, **settings):
        figures.append(self)
        save(self, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_the_most_robust_is_at_the_top(written, saved, tmp_path):
    overview = written(ROBUST)
    assert draw_ranking(overview.groups, "pgd-20", tmp_path / "ranking.png")
    (figure,) = saved
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["gelu", "relu", "silu"]  # from below
    robust = figure.axes[1]
    means = [container.lines[0].get_xdata()[0] for container in robust.containers]
    expected = [100 * np.mean(ROBUST[name]) for name in ("gelu", "relu", "silu")]
    assert means == pytest.approx(expected)
    assert plt.imread(tmp_path / "ranking.png").std() > 0.01


def test_two_settings_are_no_ranking(written, tmp_path):
    assert not draw_ranking(written({"relu": (0.2,), "silu": (0.3,)}).groups, "pgd-20", tmp_path / "ranking.png")
    assert not (tmp_path / "ranking.png").exists()


@pytest.mark.parametrize(("rounds", "drawn"), [(1, False), (2, True)])
def test_a_single_point_is_no_curve(written, tmp_path, rounds, drawn):
    assert draw_curves(written(ROBUST, rounds).groups, tmp_path / "curves.png") == drawn


def test_a_setting_of_which_one_seed_was_not_measured_has_no_line_and_no_name(written, saved, tmp_path):
    written(ROBUST, 2)
    (tmp_path / "relu-1" / "rounds.jsonl").write_text('{"round": 1}\n{"round": 2}\n')
    assert draw_curves(Overview.of([tmp_path]).groups, tmp_path / "curves.png")
    (figure,) = saved
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["gelu", "silu"]
    assert {sum(len(line.get_xdata()) > 1 for line in panel.lines) for panel in figure.axes} == {2}


def test_a_central_run_is_called_so_and_has_no_clients(written):
    results = written(ROBUST).results
    assert set(results["strategy"]) == {"central"}
    assert set(results["clients"]) == {1}
