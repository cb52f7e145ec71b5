"""Settings without an effect: refused if typed, a line if a preset brings them, never in a resumed run."""

import pytest

from fedrobust import engines
from fedrobust.cli import main
from fedrobust.cli.launch import chosen_runs
from fedrobust.config import FIELDS, RunConfig, toml
from fedrobust.config.effects import refuse_unused, unused
from fedrobust.errors import ConfigError
from fedrobust.running import central
from fedrobust.storage.run_folder import RunFolder

TINY = """--num-rounds 1 --num-clients 2 --data.train-images 200 --data.test-images 50 --local.epochs 1 --attack.steps 1
--evaluation.attacks fgsm --evaluation.select-by fgsm --partition.scheme iid"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--central.average ema",
            "central.average = 'ema': has no effect: only a central run uses it (fedrobust central)",
        ),
        ("--central.schedule cosine", "central.schedule = 'cosine': has no effect: only a central run"),
        ("--central.patience 3", "central.patience = 3: has no effect"),
        ("--strategy.proximal-mu 1", "strategy fedavg does not take it, fedprox would"),
        ("--strategy.name krum --strategy.trim-fraction 0.1", "strategy krum does not take it, trimmed-mean would"),
        ("--strategy.num-malicious 2", "strategy fedavg does not take it, krum would"),
        ("--objective.trades-beta 3", "objective at does not take it, trades would"),
        ("--objective.name trades --objective.scale 3", "objective trades does not take it, calfat would"),
        ("--objective.name natural --attack.steps 3", "objective natural makes no adversarial examples, at, mixed"),
        (
            "--objective.name natural --objective.attack-mode train",
            "natural does not take it, at, mixed, trades or calfat",
        ),
        ("--attack.name fgsm --attack.step-size 1/255", "attack fgsm does not take it, pgd or mim would"),
        ("--attack.name mim --attack.restarts 2", "attack mim does not take it, pgd would"),
        ("--partition.scheme iid --partition.concentration 1", "partition scheme iid does not take it, dirichlet"),
        ("--partition.dominant-share 0.5", "partition scheme dirichlet does not take it, dominant would"),
        ("--pool.mode replace", "only a pool uses it: set pool.fraction above 0"),
        ("--pool.share 0.5", "only a pool uses it"),
        ("--local.steps 3 --local.epochs 2", "local.epochs = 2: has no effect: local.steps = 3 is used instead"),
        ("--model.backward-phase attack", "only model.backward-activation uses it, which is unset"),
        ("--data-dir x", "digits comes with scikit-learn and is not read from a folder"),
        ("--data.validation-fraction 0 --evaluation.select-by fgsm", "only validation images use it"),
        ("--evaluation.attacks fgsm --evaluation.select-by fgsm --evaluation.step-size 1/255", "only pgd-K, bim-K and"),
        ("--engine local --workers.num 2", "only engines ray and flwr use it"),
    ],
)
def test_what_a_run_does_not_use_is_refused_by_name_with_what_would(here, flags, message, capsys):
    assert main(["run", "quickstart", "--variant", "fedavg", *flags.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num-clients 3", "num-clients = 3: has no effect: only a federation uses it"),
        ("--partition.scheme iid", "only a federation uses it"),
        ("--strategy.timeout 3", "only a federation uses it"),
        ("--workers.num 2", "only a federation uses it"),
        ("--central.decay 0.5", "only central.schedule piecewise uses it"),
        ("--central.peak 0.5", "only central.schedule cyclic uses it"),
        ("--central.average swa --central.average-decay 0.5", "only central.average ema uses it"),
        ("--central.average-start 0.5", "only central.average ema and swa use it"),
        ("--central.awp-start 0.5", "only objective.awp-gamma above 0 uses it"),
    ],
)
def test_so_it_is_in_a_central_run(here, flags, message, capsys):
    assert main(["central", "quickstart", "--variant", "fedavg", *flags.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["partition"], ["pool", "--out", "p.safetensors", "--pool.fraction", "0.1"]])
def test_so_it_is_where_nothing_is_trained(here, command, capsys):
    assert main([*command, "--partition.dominant-share", "0.5"]) == 2
    assert "partition scheme dirichlet does not take it, dominant would" in capsys.readouterr().err


def test_a_setting_that_one_variant_uses_is_taken_and_a_line_says_which_does_not(capsys):
    arguments = type("Arguments", (), {"resume": None, "preset": "cifar10-smoke", "variant": ""})
    runs = chosen_runs(arguments, {"attack.steps": "3", "run-dir": "nowhere"}, lambda _: None)
    assert {label: cfg.attack.steps for label, cfg in runs.items()} == dict.fromkeys(runs, 3)
    assert capsys.readouterr().out == (
        "fedavg-fgsm: cifar10-smoke sets settings that this run does not use: attack.step-size, attack.steps\n"
    )


def test_a_file_of_ones_own_is_typed_and_what_its_preset_brings_is_not(here, capsys):
    (here / "mine.toml").write_text('strategy.name = "fedavg"\nstrategy.trim-fraction = 0.3\n')
    assert main(["run", "mine.toml"]) == 2
    assert "strategy.trim-fraction = 0.3: has no effect" in capsys.readouterr().err
    study = (
        'preset = "quickstart"\nseeds = [0]\n[settings]\nattack.name = "fgsm"\n[axes]\nlocal.batch-size = [16, 32]\n'
    )
    (here / "study.toml").write_text(study)
    assert main(["sweep", "study.toml", "--dry-run"]) == 0
    (here / "study.toml").write_text(study + "objective.trades-beta = [1, 6]\n")
    assert main(["sweep", "study.toml", "--dry-run"]) == 2
    assert "objective at does not take it, trades would" in capsys.readouterr().err


def test_a_runs_own_complete_config_never_refuses(here, capsys):
    assert main(["run", "quickstart", "--variant", "fedavg", "--engine", "local", *TINY.split(), "--run-dir", "a"]) == 0
    config = RunFolder("a/fedavg" if (here / "a/fedavg").exists() else "a").path / "config.toml"
    assert toml.flatten(toml.read(config)).keys() == FIELDS.keys()
    assert main(["run", "--resume", str(config.parent), "--num-rounds", "2", "--engine", "local"]) == 0
    assert main(["run", str(config), "--engine", "local", "--run-dir", "b"]) == 0


def test_what_python_gives_is_refused_and_a_complete_config_is_not(tmp_path):
    given = {"central.average": "ema", "run-dir": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match=r"central\.average = 'ema': has no effect: only a central run uses it"):
        engines.run(RunConfig.from_flat(given), "local")
    with pytest.raises(ConfigError, match=r"num-clients = 3: has no effect: only a federation uses it"):
        central.run(RunConfig.from_flat({"kind": "central", "num-clients": 3, "run-dir": str(tmp_path / "run")}))
    assert not list(tmp_path.iterdir())
    assert RunConfig.from_flat(given).given == given.keys()
    assert RunConfig().given == RunConfig.from_flat(RunConfig.from_flat(given).to_flat()).given == set()


def test_every_reason_is_of_a_setting_that_exists():
    configs = [RunConfig(), RunConfig().replace(kind="central"), RunConfig().replace(data__validation_fraction=0)]
    for cfg in configs:
        assert unused(cfg, "local").keys() <= FIELDS.keys()
        assert refuse_unused({"": cfg}, set(), engine="local")[""] == unused(cfg, "local")
    with pytest.raises(ConfigError) as caught:
        refuse_unused({"": RunConfig()}, ["central.peak", "pool.share"])
    assert len(str(caught.value).splitlines()) == 2
