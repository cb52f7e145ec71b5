"""Models that can be evaluated: a run's folder, a file, a module; and the lines on anything else."""

import copy
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedrobust.config import RunConfig
from fedrobust.data import load
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.evaluation.evaluated_model import load_evaluated_model, load_weights
from fedrobust.evaluation.weights import fitted
from fedrobust.models import MODELS, ModelSpec, build_model
from fedrobust.models.layers import constants_of
from fedrobust.storage.checkpoint import load_model, save_model, weights_digest
from fedrobust.storage.run_folder import model_facts


@pytest.fixture(scope="module")
def run(quick, federate):
    return federate(quick())


def test_a_runs_folder_has_a_best_and_a_last_model(run):
    best, last = (load_evaluated_model(str(run.path), which=which) for which in ("best", "last"))
    assert best.facts["model"] == "small-cnn"
    assert best.facts["which"] == "best"
    assert last.facts["round"] == 2
    assert best.cfg is not None
    assert not any(module.training for module in best.model.modules())
    assert load_evaluated_model(str(run.last)).digest == last.digest


def test_a_file_says_which_activations_its_model_has(tmp_path):
    cfg = RunConfig.from_flat({"model.activation": "elu", "model.activation-alpha": 2.0})
    digits = load(cfg.data.name)
    model = build_model(ModelSpec.of(cfg.model, digits), generator_seed=1).eval()
    arrays = {key: value.numpy() for key, value in model.state_dict().items()}
    save_model(tmp_path / "elu.safetensors", arrays, **model_facts(cfg), round=1)
    found = load_evaluated_model(str(tmp_path / "elu.safetensors")).model
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(found(x), model(x))


def test_an_unfinished_run_is_read_from_its_checkpoint(run, tmp_path):
    for name in ("config.toml", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    assert (
        load_evaluated_model(str(tmp_path), which="last").digest
        == load_evaluated_model(str(run.path), which="last").digest
    )
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(RunFailed, match="no model in it yet"):
        load_evaluated_model(str(tmp_path))


def test_a_module_by_its_import_path(tmp_path, monkeypatch, run):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()\n"
        "\nready = net()\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    evaluated = load_evaluated_model("mine:ready", data_name="digits")
    assert isinstance(evaluated.model, torch.nn.Sequential)
    assert load_evaluated_model("mine:net", data_name="digits").dataset.name == "digits"
    assert sys.path == before
    for name, problem in {
        "mine:nothing": "cannot be imported (AttributeError",
        "theirs:net": "cannot be imported (ModuleNotFoundError",
        "mine:number": "cannot be imported (TypeError",
        "mine:nn": "cannot be imported",
    }.items():
        with pytest.raises(ConfigError, match=problem.replace("(", r"\(")):
            load_evaluated_model(name, data_name="digits")
    with pytest.raises(ConfigError, match=r"name it with --data$"):
        load_evaluated_model("mine:net")


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"neither a run's folder, nor a .safetensors, .pt or .pth file, nor package.module:object"
    ):
        load_evaluated_model("nowhere/at/all")
    with pytest.raises(RunFailed, match="no such file"):
        load_evaluated_model(str(tmp_path / "gone.safetensors"))


def test_a_pickle_or_a_broken_file_is_never_loaded(tmp_path, run):
    bad = tmp_path / "model.safetensors"
    bad.write_bytes(pickle.dumps(exit))
    with pytest.raises(RunFailed, match="corrupt or not a safetensors file"):
        load_evaluated_model(str(bad))
    whole = run.last.read_bytes()
    bad.write_bytes(whole[:-8] + bytes(byte ^ 1 for byte in whole[-8:]))
    with pytest.raises(RunFailed, match="digest does not match"):
        load_evaluated_model(str(bad))


def test_weights_of_another_model_are_refused(tmp_path):
    save_model(tmp_path / "other.safetensors", {"w": np.zeros(3)}, model="small-cnn", data="digits")
    with pytest.raises(ConfigError, match=r"not the weights of a small-cnn for digits"):
        load_evaluated_model(str(tmp_path / "other.safetensors"))


def test_a_file_that_others_wrote_needs_names(run, tmp_path):
    weights = load_evaluated_model(str(run.path)).model.state_dict()
    path = str(tmp_path / "theirs.safetensors")
    save_file(weights, path)
    with pytest.raises(ConfigError, match="name it with --data and --model"):
        load_evaluated_model(path)
    evaluated = load_evaluated_model(path, model_name="small-cnn", data_name="digits")
    assert evaluated.digest == load_evaluated_model(str(run.path)).digest


@pytest.fixture
def state(run):
    """The state dict of the run's best model under the names that its layers have by themselves: conv1.weight ..."""
    named = load_evaluated_model(str(run.path)).model.state_dict()
    return {name.removeprefix("network."): value.clone() for name, value in named.items()}


THEIRS = {
    "bare": lambda state: state,
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled in DataParallel": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "AveragedModel": lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{n}": v for n, v in state.items()},
    "RoCL": lambda state: {"net": {f"module.{n}": v for n, v in state.items()}, "acc": 91.2, "epoch": 3},
    "Lightning": lambda state: {"state_dict": {f"model.{n}": v for n, v in state.items()}, "epoch": 3},
    "nested twice": lambda state: {"model": {"state_dict": state}, "optimizer": {"state": {}}},
    "half": lambda state: {name: value.half() for name, value in state.items()},
    "bfloat16": lambda state: {name: value.bfloat16() for name, value in state.items()},
}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("suffix", ["pt", "pth", "pth.tar"])
def test_files_of_torch_save_are_loaded_whatever_is_around_the_names(kind, suffix, state, tmp_path):
    path = tmp_path / f"theirs.{suffix}"
    torch.save(THEIRS[kind](state), path)
    evaluated = load_evaluated_model(str(path), model_name="small-cnn", data_name="digits")
    for name, value in evaluated.model.state_dict().items():
        expected = state[name.removeprefix("network.")]
        if kind in ("half", "bfloat16"):
            expected = expected.to(getattr(torch, kind.replace("half", "float16"))).float()
        assert torch.equal(value, expected)
    assert evaluated.notes == (f"{path}: has no mean and std; images are normalised by those of digits",)


@pytest.mark.parametrize("kind", ["bare", "DataParallel", "AveragedModel", "bfloat16"])
def test_their_safetensors_files_too(kind, state, run, tmp_path):
    save_file(THEIRS[kind](state), tmp_path / "theirs.safetensors")
    evaluated = load_evaluated_model(str(tmp_path / "theirs.safetensors"), model_name="small-cnn", data_name="digits")
    assert kind == "bfloat16" or evaluated.digest == load_evaluated_model(str(run.path)).digest


def test_a_run_begins_with_weights_of_torch_save(state, quick, federate, tmp_path):
    torch.save(THEIRS["RoCL"](state), tmp_path / "theirs.pt")
    cfg = quick(num_rounds=1, local__learning_rate=1e-12, init=str(tmp_path / "theirs.pt"))
    found = load_evaluated_model(str(federate(cfg).last)).model.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(found[f"network.{name}"], value)


class Harmful:
    """Executes something where it is unpickled."""

    def __reduce__(self):
        return exit, ()


@pytest.mark.parametrize(
    ("content", "error", "problem"),
    [
        (torch.nn.Linear(2, 2), ConfigError, r"holds more than weights \(torch.nn.modules.linear.Linear\).*state_dict"),
        ({"net": Harmful()}, ConfigError, r"holds more than weights \(_sitebuiltins.Quitter\)"),
        ({"epoch": 3, "optimizer": {"lr": 0.1}}, ConfigError, "no state dict in it, but epoch, optimizer; save"),
        ([1, 2], ConfigError, "no state dict in it, but a list"),
    ],
)
def test_other_content_of_torch_save_is_refused(content, error, problem, tmp_path):
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(error, match=problem):
        load_evaluated_model(str(tmp_path / "theirs.pt"), model_name="small-cnn", data_name="digits")


def test_broken_files_of_torch_save_are_named(state, tmp_path):
    path = tmp_path / "theirs.pt"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(RunFailed, match=r"theirs.pt: corrupt or not a file of torch.save"):
        load_evaluated_model(str(path), model_name="small-cnn", data_name="digits")
    with pytest.raises(RunFailed, match=r"gone.pth: no such file"):
        load_evaluated_model(str(tmp_path / "gone.pth"), model_name="small-cnn", data_name="digits")


def test_torchvisions_names_are_found_and_counters_may_be_missing(tmp_path):
    from torchvision.models import resnet18  # brings PyTorch's compiler, which not every process that collects needs

    theirs = resnet18(num_classes=10).eval()
    state = {n: v for n, v in theirs.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "theirs.pt")
    shape = {"num_classes": 10, "image_shape": (3, 32, 32), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    ours = build_model(ModelSpec("resnet18-imagenet", **shape), generator_seed=0).eval()
    weights = fitted(load_weights(tmp_path / "theirs.pt")[0], ours.state_dict())
    ours.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_of_names_that_differ_the_first_three_are_said_and_how_many(tmp_path):
    from torchvision.models import resnet18

    theirs = resnet18().state_dict()
    own = build_model(
        ModelSpec("resnet18", num_classes=10, image_shape=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3),
        generator_seed=0,
    ).state_dict()
    arrays = {name.replace("downsample", "shortcut"): value.numpy() for name, value in theirs.items()}
    with pytest.raises(ConfigError) as raised:
        fitted(arrays, own)
    assert str(raised.value) == (
        "of its 122 tensors and the model's 122, "
        "15 missing (layer2.0.downsample.0.weight, layer2.0.downsample.1.weight, layer2.0.downsample.1.bias, ...); "
        "18 unknown (layer2.0.shortcut.0.weight, layer2.0.shortcut.1.weight, layer2.0.shortcut.1.bias, ...); "
        "3 of another shape (conv1.weight 64×3×7×7 for 64×3×3×3, fc.weight 1000×512 for 10×512, fc.bias 1000 for 10)"
    )


def test_images_too_small_for_the_named_model_are_a_line(state, tmp_path):
    torch.save(state, tmp_path / "theirs.pt")
    with pytest.raises(ConfigError, match=r"not the weights of a resnet18-imagenet for digits: .*at least 32×32"):
        load_evaluated_model(str(tmp_path / "theirs.pt"), model_name="resnet18-imagenet", data_name="digits")


def test_mean_and_std_are_the_files_own(run, tmp_path):
    arrays, facts = load_model(run.best)
    assert {key: np.float32(facts[key]) for key in ("mean", "std")} == {
        "mean": np.float32(load("digits").mean),
        "std": np.float32(load("digits").std),
    }
    save_model(tmp_path / "other.safetensors", arrays, **{**facts, "mean": [0.2], "std": [0.5]})
    evaluated = load_evaluated_model(str(tmp_path / "other.safetensors"))
    assert constants_of(evaluated.model, 1) == {"mean": [pytest.approx(0.2)], "std": [0.5]}
    assert not evaluated.notes


@pytest.mark.parametrize("name", MODELS)
def test_every_model_says_its_mean_and_std(name):
    """CalFAT's network is on raw pixels, with 0 and 1: x normalised by them is x."""
    model = build_model(
        ModelSpec(
            name,
            num_classes=10,
            image_shape=(3, 8, 8) if name == "polynomial" else (3, 32, 32),
            mean=(0.2, 0.3, 0.4),
            std=(0.5, 0.6, 0.7),
            activation="polynomial" if name == "polynomial" else "relu",
        ),
        generator_seed=0,
    )
    mean, std = {
        "calfat-cnn": ((0, 0, 0), (1, 1, 1)),
        "polynomial": ((0.2, 0.3, 0.4), (1, 1, 1)),  # balls keep their shape
    }.get(name, ((0.2, 0.3, 0.4), (0.5, 0.6, 0.7)))
    assert constants_of(model, 3) == {"mean": pytest.approx(mean), "std": pytest.approx(std)}


def test_the_documented_lines_load_a_runs_weights_in_plain_pytorch(run):
    """The code in docs/metrics.md, with the run's file and a network of the same layers for those it names."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (code,) = re.findall(r"```python\n(from safetensors.*?)```", page, re.DOTALL)
    layers = load_evaluated_model(str(run.best)).model.get_submodule("network")
    network = copy.deepcopy(layers)
    for parameter in network.parameters():
        parameter.data.zero_()
    x = torch.rand(5, 1, 8, 8)
    names = {"network": network, "x": x}
    exec(code.replace("best.safetensors", str(run.best)), names)
    assert torch.equal(names["logits"], load_evaluated_model(str(run.best)).model(x))


def test_the_digest_is_of_names_shapes_and_values():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    assert weights_digest(a.state_dict()) == weights_digest(b.state_dict())
    b.weight.data[0, 0] += 1
    assert weights_digest(a.state_dict()) != weights_digest(b.state_dict())
