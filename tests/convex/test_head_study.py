"""`fedrobust convex RUN`: heads on the features of a trained run, judged through the whole network."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fedrobust.cli import main
from fedrobust.config import RunConfig
from fedrobust.convex_study.head_study import trained_on
from fedrobust.data import load
from fedrobust.data.split import make_split
from fedrobust.errors import ConfigError
from fedrobust.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(quick: Callable[..., RunConfig], federate: Callable[..., RunFolder]) -> RunFolder:
    return federate(quick())


def test_heads_from_end_to_end(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--radii", "0,1", "--num-images", "100", "--test-images", "100", "--patterns", "4"]
    arguments += ["--test-radii", "0.5,1", "--attacks", "fgsm", "--out", str(out)]
    assert main(["convex", str(run.path), *arguments]) == 0
    rows = pd.read_csv(out / "results.csv")
    assert list(rows["method"]) == ["own", "sam", "polynomial", "polynomial", "relu", "relu"]
    own = rows.iloc[0]
    evaluated = run.record()["best"]
    # the own head's are the run's accuracies on the same test images
    assert own["natural_accuracy"] == pytest.approx(evaluated["natural_accuracy"])
    assert own["robust_accuracy.fgsm"] == pytest.approx(evaluated["robust_accuracy.fgsm"])
    assert (rows["robust_accuracy.fgsm"] <= rows["natural_accuracy"]).all()
    assert (rows["certified.features@1"] <= rows["certified.features@0.5"]).all()
    assert (rows["certified.features@0.5"] <= rows["natural_accuracy"] + 1e-9).all()
    convex = rows[rows["method"] == "polynomial"]
    # the own head's rows are within its reach, so that it is no worse on clean images
    assert convex["natural_accuracy"].iloc[0] >= own["natural_accuracy"] - 0.05
    # and an adversary in feature space makes it more robust there
    assert convex["certified.features@1"].iloc[1] > convex["certified.features@1"].iloc[0]
    assert (convex["lower_bound"] > 0).all()
    printed = capsys.readouterr().out
    assert "features 0.5" in printed
    assert "…" not in printed
    assert "features: certified there, not in pixels" in printed
    assert (out / "heads.png").stat().st_size > 10_000
    assert "certified in feature space, which does not hold for pixels" in (out / "summary.md").read_text()


def test_heads_see_the_images_that_the_run_trained_on(quick: Callable[..., RunConfig]) -> None:
    cfg, labels = quick(), load("digits").train.labels
    split = make_split(cfg, labels)
    found = trained_on(cfg, labels)
    assert len(found) == sum(len(shard.train) for shard in split.clients)
    assert not set(found) & set(split.validation)
    with pytest.raises(ConfigError, match="train on their own images"):
        trained_on(cfg.replace(**{"data.own": True}), labels)


def test_what_a_run_does_not_take_is_refused(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in (["--classes", "1,2"], ["--solver", "sdp"], ["--components", "5000"], ["--attacks", "pdg-3"]):
        assert main(["convex", str(run.path), *flag, "--num-images", "100", "--test-images", "50"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
