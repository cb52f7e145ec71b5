"""`fedrobust convex`: rows, a table, a figure; bad data is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from fedrobust.cli import main
from fedrobust.convex.problem import Problem
from fedrobust.convex_study.baselines import attacked, train_the_usual_way
from fedrobust.convex_study.radii import Plan, run_plan
from fedrobust.convex_study.samples import Samples, load_samples
from fedrobust.errors import DataError
from fedrobust.reports.convex import summarise, table


def write_csv(path: Path, x: np.ndarray, labels: list[str]) -> Path:
    frame = pd.DataFrame(x, columns=[f"c{number}" for number in range(x.shape[1])])
    frame.assign(label=labels).to_csv(path, index=False)
    return path


@pytest.fixture
def table_of(tmp_path: Path, blobs: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Path]:
    def make(change: Callable[[np.ndarray], None] = lambda x: None, samples: int = 60) -> Path:
        x, y = blobs(samples, 3)
        values = x.numpy().copy()
        change(values)
        return write_csv(tmp_path / "mine.csv", values, ["no" if label else "yes" for label in y.tolist()])

    return make


def test_a_csv_from_end_to_end(
    table_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--radii", "0.4", "--test-radii", "0.2,0.4", "--linf-radii", "0.1", "--seeds", "0,1"]
    arguments += ["--initialisations", "1", "--betas", "0.02"]
    assert main(["convex", str(table_of()), *arguments, "--out", str(out)]) == 0
    rows = pd.read_csv(out / "results.csv")
    assert len(rows) == 2 * 3
    convex = rows[rows["method"] == "convex"]
    assert (convex["gap"] < 0.03).all()
    for method in ("pgd", "fgsm"):
        usual = rows[rows["method"] == method]
        # the convex programme's lower bound is below whatever else is trained
        assert (usual["objective"].to_numpy() >= convex["lower_bound"].to_numpy()).all()
    for radius in ("l2@0.2", "l2@0.4", "linf@0.1"):
        assert (rows[f"certified.{radius}"] <= rows[f"attacked.{radius}"]).all()
        assert (rows[f"attacked.{radius}"] <= rows["clean"]).all()
    assert "convex programme" in (out / "summary.md").read_text()
    assert (out / "accuracy.png").stat().st_size > 10_000
    record = json.loads((out / "record.json").read_text())
    assert record["samples"].endswith("mine.csv")
    assert {"cvxpy-base", "clarabel", "scs"} <= set(record["versions"])
    printed = capsys.readouterr().out
    assert "certified accuracy on test samples" in printed
    assert "convex 0.4" in printed
    assert "…" not in printed


def test_relu_networks_from_end_to_end(
    table_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--activation", "relu", "--norm", "linf", "--loss", "logistic", "--radii", "0.1", "--patterns", "6"]
    arguments += ["--solver", "socp", "--test-radii", "0.2", "--linf-radii", "0.1", "--initialisations", "1"]
    assert main(["convex", str(table_of(samples=40)), *arguments, "--out", str(out)]) == 0
    rows = pd.read_csv(out / "results.csv").set_index("method")
    assert rows.loc["convex", "gap"] < 1e-3
    assert rows.loc["convex", "violation"] < 1e-6
    # the usual ones have no lower bound, and say so
    assert (rows.loc[["pgd", "fgsm"], "lower_bound"] == 0).all()
    for radius in ("l2@0.2", "linf@0.1"):
        assert (rows[f"certified.{radius}"] <= rows[f"attacked.{radius}"]).all()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("convex", "PGD", "FGSM"))]
    assert [line.split()[-1] for line in lines] == ["0.0%", "–", "–"]
    assert (out / "accuracy.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.__setitem__((5, 1), np.nan), "column 1 holds NaN or Inf (row 5)"),
        (lambda x: x.__setitem__((slice(None), 2), 1.0), "column 2 is constant"),
    ],
)
def test_bad_columns_are_one_line(
    change: Callable[[np.ndarray], None],
    message: str,
    table_of: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["convex", str(table_of(change))]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_one_class_and_too_few_samples(tmp_path: Path, table_of: Callable[..., Path]) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(DataError, match="one class only"):
        load_samples(str(write_csv(tmp_path / "one.csv", x, ["a"] * 20)), seed=0)
    with pytest.raises(DataError, match="2 samples in 3 dimensions"):
        load_samples(str(table_of(samples=2)), seed=0)
    last = next(seed for seed in range(99) if np.random.default_rng(seed).permutation(20)[-1] == 19)
    with pytest.raises(DataError, match="training part: no sample of class 1"):
        load_samples(str(write_csv(tmp_path / "rare.csv", x, ["a"] * 19 + ["b"])), seed=last)


def test_files_and_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_samples(str(tmp_path / "none.csv"), seed=0)
    with pytest.raises(DataError, match="did you mean 'breast-cancer'"):
        load_samples("brest-cancer", seed=0)
    (tmp_path / "words.csv").write_text("a,b\nx,1\ny,0\n")
    with pytest.raises(DataError, match="column 'a' does not hold numbers"):
        load_samples(str(tmp_path / "words.csv"), seed=0)
    with pytest.raises(DataError, match="unknown class 'elephant'"):
        load_samples("digits", seed=0, classes="elephant,1")
    with pytest.raises(DataError, match="two classes or more"):
        load_samples("digits", seed=0, classes="1")


@pytest.mark.parametrize(
    "flag",
    [
        ["--betas", "0"],
        ["--radii", "-1"],
        ["--seeds", "0.5"],
        ["--radii", "a"],
        ["--device", "tpu"],
        ["--norm", "linf"],
        ["--loss", "squared"],
        ["--solver", "socp"],
        ["--loss", "logistic", "--solver", "sdp"],
        ["--activation", "relu", "--solver", "sdp"],
        ["--which", "last"],
        ["--num-images", "50"],
        ["digits", "--label", "a"],
        ["--components", "5", "--linf-radii", "0.1"],
        ["--components", "5", "--activation", "relu", "--norm", "linf"],
    ],
)
def test_bad_arguments_are_one_line(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convex", *flag]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_cannot_be_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["convex", "--out", str(tmp_path / "file")]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "cannot be written" in captured.err
    assert captured.out == ""


def test_breast_cancer_is_the_known_split() -> None:
    samples = load_samples("breast-cancer", seed=0)
    assert samples.x.shape == (455, 30)
    assert samples.test_x.shape == (114, 30)
    assert torch.allclose(samples.x.std(0, correction=0), torch.ones(30, dtype=torch.float64))


def test_components_move_no_points_apart_and_images_have_pixel_units() -> None:
    samples = load_samples("digits", seed=0, classes="3,8", images=120)
    assert samples.class_names == ("3", "8")
    assert len(samples.x) == len(samples.test_x) * 120 // len(samples.test_x) == 120
    assert set(samples.y.tolist()) == {0, 1}
    few = samples.projected(10)
    assert few.x.shape == (120, 10)
    before, after = (torch.cdist(x, x) for x in (samples.test_x, few.test_x))
    assert (after <= before + 1e-6).all()
    with pytest.raises(DataError, match="200 components"):
        samples.projected(200)


def test_usual_training_is_worse_than_the_optimum_but_close(small: Problem) -> None:
    from fedrobust.convex.solvers.first_order import solve_first_order

    optimum = solve_first_order(small)
    for method in ("pgd", "fgsm"):
        found = train_the_usual_way(small, method, epochs=100)
        assert optimum.lower_bound <= found.objective <= 1.2 * optimum.objective
        assert found.lower_bound == 0
        assert len(found.network.directions) <= 2 * 4


def test_attack_stays_in_its_ball_without_clipping(small: Problem) -> None:
    network = train_the_usual_way(small, "fgsm", epochs=2).network
    generator = torch.Generator().manual_seed(0)
    settings = {"steps": 5, "restarts": 2, "generator": generator}
    for norm, order in (("l2", 2), ("linf", torch.inf)):
        moved = attacked(network, small.x, small.y, radius=0.7, norm=norm, **settings)
        assert (torch.linalg.vector_norm(moved - small.x, ord=order, dim=1) <= 0.7 + 1e-9).all()
        assert (moved - small.x).abs().max() > 0.1
    assert attacked(network, small.x, small.y, radius=0.0, norm="l2", **settings) is small.x


def test_spread_over_initialisations_is_within_a_seed(blobs: Callable[..., tuple[Tensor, Tensor]]) -> None:
    x, y = blobs(40, 2)
    samples = Samples("blobs", x, y, x, y, ("a", "b"), "1")
    plan = Plan(radii=(0.2,), betas=(0.05,), test_radii=(0.2,), linf_radii=(), initialisations=2)
    rows = [row for seed in (0, 1) for row in run_plan(plan, samples, seed)]
    assert len(rows) == 2 * plan.count
    convex, pgd, _ = summarise(rows)
    objectives = [row["objective"] for row in rows if row["method"] == "pgd"]
    assert pgd["objective.mean"] == pytest.approx(sum(objectives) / 4)
    spreads = [abs(a - b) / 2**0.5 for a, b in (objectives[:2], objectives[2:])]
    assert pgd["objective.initialisations"] == pytest.approx(sum(spreads) / 2)
    assert np.isnan(convex["objective.initialisations"])
    head, body = table([convex, pgd], brief=False)
    assert all(len(cells) == len(head) for cells in body)
