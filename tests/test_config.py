"""RunConfig: flat and back, one line per mistake, and the table in pyproject.toml."""

import pickle
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrobust.config import DEFAULTS, FIELDS, RunConfig, toml
from fedrobust.config.flat import Ratio
from fedrobust.config.names import split_list
from fedrobust.config.table import rewritten
from fedrobust.errors import ConfigError
from fedrobust.running.preflight import check_names

ROOT = Path(__file__).parents[1]

settings = st.fixed_dictionaries(
    {},
    optional={
        "num-clients": st.integers(1, 1000),
        "num-rounds": st.integers(1, 10_000),
        "seed": st.integers(0, 2**63 - 1),
        "data.dir": st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
        "partition.concentration": st.floats(1e-3, 1e3),
        "pool.fraction": st.floats(0, 0.4),
        "pool.mode": st.sampled_from(["add", "replace", "control"]),
        "attack.epsilon": st.integers(0, 255).map(lambda n: f"{n}/255"),
        "local.augment": st.booleans(),
        "local.learning-rate": st.floats(1e-6, 10),
        "objective.name": st.sampled_from(["", "at", "natural"]),
    },
)


@given(settings)
def test_to_flat_and_from_flat_are_inverse(flat):
    cfg = RunConfig.from_flat(flat)
    assert RunConfig.from_flat(cfg.to_flat()) == cfg
    assert {key: cfg.to_flat()[key] for key in flat} == flat


@given(settings)
def test_a_config_survives_a_file(flat):
    cfg = RunConfig.from_flat(flat)
    assert RunConfig.from_flat(toml.flatten(tomllib.loads(toml.dumps(cfg.to_flat())))) == cfg


def test_flat_values_are_what_flower_takes():
    assert {type(value) for value in DEFAULTS.to_flat().values()} <= {bool, int, float, str}


def test_a_config_can_be_pickled_and_hashed():
    copy = pickle.loads(pickle.dumps(DEFAULTS))
    assert copy == DEFAULTS
    assert hash(copy) == hash(DEFAULTS)
    assert str(copy.attack.epsilon) == "8/255"


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"local.epoch": 1}, "unknown setting 'local.epoch'; did you mean 'local.epochs'?"),
        ({"local.epochs": 0}, "local.epochs = 0: must be greater than or equal to 1"),
        ({"local.epochs": "many"}, "local.epochs = 'many': must be a whole number"),
        ({"local.epochs": True}, "local.epochs = True: must be a number"),
        ({"local.learning-rate": "nan"}, "local.learning-rate = nan: must be a finite number"),
        ({"local.augment": "yes"}, "local.augment = 'yes': must be true or false"),
        ({"pool.fraction": 40}, "pool.fraction = 40: must be less than or equal to 0.4 (for 40 % write 0.4)"),
        ({"evaluation.attacks": "pgd20"}, "evaluation.attacks: unknown attack 'pgd20'; did you mean 'pgd-20'?"),
        ({"pool.fraction": 0.41}, "pool.fraction = 0.41: must be less than or equal to 0.4"),
        ({"pool.fraction": -0.01}, "pool.fraction = -0.01: must be greater than or equal to 0"),
        ({"pool.mode": "mix"}, "pool.mode = 'mix': must be 'add', 'replace' or 'control'"),
        ({"attack.epsilon": "8"}, "attack.epsilon = 8: must be at most 1 for linf"),
        ({"attack.epsilon": "8/0"}, "attack.epsilon = '8/0': must be a number or a fraction such as 8/255"),
        ({"evaluation.select-by": "pgd"}, "must be natural, worst-case or one of evaluation.attacks (fgsm, pgd-20)"),
        (
            {"evaluation.select-by": "worst-case", "evaluation.attacks": "fgsm,fgsm"},
            "must be natural or one of evaluation.attacks (fgsm, fgsm)",
        ),
        ({"attack.random-start": "n-fgsm"}, "allowed only with attack.name fgsm"),
        ({"device": "tpu"}, "device = 'tpu'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_and_what_is_allowed(flat, message):
    with pytest.raises(ConfigError) as caught:
        check_names(RunConfig.from_flat(flat))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_mistake_gets_its_own_line():
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat({"local.epochs": 0, "pool.fraction": 0.5})
    assert len(str(caught.value).splitlines()) == 2


def test_every_setting_says_what_it_is():
    assert [key for key, field in FIELDS.items() if not field.description] == []


def test_pyproject_holds_the_defaults():
    """`make config` after adding a setting."""
    text = (ROOT / "pyproject.toml").read_text()
    table = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    assert toml.flatten(table) == DEFAULTS.to_flat()
    assert rewritten(text) == text


@given(st.fractions(0, 1000))
def test_a_ratio_is_its_fraction_and_remembers_how_it_was_written(fraction):
    ratio = Ratio(f"{fraction.numerator}/{fraction.denominator}")
    assert ratio == float(fraction)
    assert str(ratio) == f"{fraction.numerator}/{fraction.denominator}"


def test_a_list_is_comma_separated():
    assert split_list("fgsm, pgd-20,") == ["fgsm", "pgd-20"]
