"""What can be evaluated: a run's folder, a file, a module; and what is said of anything else (B5, B6)."""

import pickle
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedrobust.checkpoint import save_model
from fedrobust.config import RunConfig
from fedrobust.data import load
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.evaluation.subjects import load_subject, weights_digest
from fedrobust.models import build_model
from fedrobust.records import model_facts


@pytest.fixture(scope="module")
def run(quick, federate):
    return federate(quick())


def test_a_runs_folder_has_a_best_and_a_last_model(run):
    best, last = (load_subject(str(run.path), which=which) for which in ("best", "last"))
    assert best.facts["model"] == "small-cnn"
    assert best.facts["which"] == "best"
    assert last.facts["round"] == 2
    assert best.cfg is not None
    assert not any(module.training for module in best.model.modules())
    assert load_subject(str(run.last)).digest == last.digest


def test_a_file_says_which_activations_its_model_has(tmp_path):
    cfg = RunConfig.from_flat({"model.activation": "elu", "model.activation-alpha": 2.0})
    digits = load(cfg.data.name)
    shape = {"num_classes": 10, "image_shape": digits.image_shape, "mean": digits.mean, "std": digits.std}
    model = build_model(cfg.model.name, generator_seed=1, **shape, **cfg.model.activations()).eval()
    arrays = {key: value.numpy() for key, value in model.state_dict().items()}
    save_model(tmp_path / "elu.safetensors", arrays, **model_facts(cfg), round=1)
    found = load_subject(str(tmp_path / "elu.safetensors")).model
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(found(x), model(x))


def test_an_unfinished_run_is_read_from_its_checkpoint(run, tmp_path):
    for name in ("config.toml", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    assert load_subject(str(tmp_path), which="last").digest == load_subject(str(run.path), which="last").digest
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(RunFailed, match="no model in it yet"):
        load_subject(str(tmp_path))


def test_a_module_by_its_import_path(tmp_path, monkeypatch, run):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()\n"
        "\nready = net()\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    subject = load_subject("mine:ready", data_name="digits")
    assert isinstance(subject.model, torch.nn.Sequential)
    assert load_subject("mine:net", data_name="digits").dataset.name == "digits"
    assert sys.path == before
    for name, problem in {
        "mine:nothing": "cannot be imported (AttributeError",
        "theirs:net": "cannot be imported (ModuleNotFoundError",
        "mine:number": "cannot be imported (TypeError",
        "mine:nn": "cannot be imported",
    }.items():
        with pytest.raises(ConfigError, match=problem.replace("(", r"\(")):
            load_subject(name, data_name="digits")
    with pytest.raises(ConfigError, match=r"name it with --data$"):
        load_subject("mine:net")


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"neither a run's folder, nor a .safetensors file, nor package.module:object"
    ):
        load_subject("nowhere/at/all")
    with pytest.raises(RunFailed, match="no such file"):
        load_subject(str(tmp_path / "gone.safetensors"))


def test_b5_b6_a_pickle_or_a_broken_file_is_never_loaded(tmp_path, run):
    bad = tmp_path / "model.safetensors"
    bad.write_bytes(pickle.dumps(exit))
    with pytest.raises(RunFailed, match="corrupt or not a safetensors file"):
        load_subject(str(bad))
    whole = run.last.read_bytes()
    bad.write_bytes(whole[:-8] + bytes(byte ^ 1 for byte in whole[-8:]))
    with pytest.raises(RunFailed, match="digest does not match"):
        load_subject(str(bad))


def test_weights_of_another_model_are_refused(tmp_path):
    save_model(tmp_path / "other.safetensors", {"w": np.zeros(3)}, model="small-cnn", data="digits")
    with pytest.raises(ConfigError, match=r"not the weights of a small-cnn for digits"):
        load_subject(str(tmp_path / "other.safetensors"))


def test_a_file_that_others_wrote_needs_names(run, tmp_path):
    weights = load_subject(str(run.path)).model.state_dict()
    path = str(tmp_path / "theirs.safetensors")
    save_file(weights, path)
    with pytest.raises(ConfigError, match="name it with --data and --model"):
        load_subject(path)
    subject = load_subject(path, model_name="small-cnn", data_name="digits")
    assert subject.digest == load_subject(str(run.path)).digest


def test_the_digest_is_of_names_shapes_and_values():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    assert weights_digest(a) == weights_digest(b)
    b.weight.data[0, 0] += 1
    assert weights_digest(a) != weights_digest(b)
