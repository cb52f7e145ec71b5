"""Runs that begin with another's weights."""

import numpy as np
import pytest

from fedrobust.cli import main
from fedrobust.errors import ConfigError
from fedrobust.running.central import Central
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder
from fedrobust.training.context import run_context


@pytest.fixture(scope="module")
def warm(quick) -> RunFolder:
    cfg = quick(kind="central", central__overfitting="ignore", model__activation="silu")
    Central(cfg).run()
    return RunFolder(cfg.run_dir)


@pytest.mark.parametrize("which", ["folder", "file"])
def test_a_federation_begins_with_a_centrally_trained_model(quick, federate, warm, which):
    """At a rate that moves nothing the model that ends it is the one it began with."""
    settings = {"num_rounds": 1, "local__learning_rate": 1e-12, "model__activation": "silu"}
    init = str(warm.path if which == "folder" else warm.best)
    folder = federate(quick(**settings, init=init))
    start, found = load_model(warm.best)[0], load_model(folder.last)[0]
    for key, value in found.items():
        np.testing.assert_allclose(value, start[key], atol=1e-6)
    cold = run_context(quick(**settings)).arrays()
    assert any(not np.allclose(cold[key], value, atol=1e-3) for key, value in found.items())
    record = folder.record()
    assert record["init"].items() >= {"model": "small-cnn", "activation": "silu"}.items()
    assert record["last"]["natural_accuracy"] == pytest.approx(warm.record()["best"]["natural_accuracy"])


def test_a_central_run_begins_with_it_too_and_goes_on_from_its_own_checkpoint(quick, warm):
    settings = {"kind": "central", "central__overfitting": "ignore", "model__activation": "silu"}
    whole, parts = (quick(**settings, init=str(warm.path)) for _ in range(2))
    Central(whole).run()
    Central(parts.replace(num_rounds=1)).run()
    Central(parts.replace(resume=True, num_rounds=2)).run()
    ends = [load_model(RunFolder(cfg.run_dir).last)[0] for cfg in (whole, parts)]
    assert all(np.array_equal(ends[0][key], value) for key, value in ends[1].items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "has activation 'silu', the run 'relu'"),
        ({"model__name": "resnet18", "model__activation": "silu"}, "has model 'small-cnn', the run 'resnet18'"),
    ],
)
def test_weights_of_another_model_are_refused(quick, federate, warm, settings, said):
    with pytest.raises(ConfigError, match=said):
        federate(quick(**settings, init=str(warm.path)))


def test_a_file_that_is_not_there_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "quickstart", "--init", "gone.safetensors", "--run-dir", "mine"]) == 2
    assert "gone.safetensors: no such file" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
