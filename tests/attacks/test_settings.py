"""Attacks by name: what is bound, and which settings are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import ATTACKS, EVALUATION_ATTACKS, fgsm, make_attack, make_evaluation_attack, pgd
from fedrobust.attacks.contract import _log_fresh_generator
from fedrobust.errors import ConfigError

Problem = tuple[nn.Module, Tensor, Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_make_attack_keeps_what_the_attack_takes(trained: Problem) -> None:
    model, x, y = trained
    settings: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.02, "steps": 3, "norm": "linf", "restarts": 1}
    attack = make_attack("fgsm", **settings, random_start="zero")
    assert torch.equal(attack(model, x, y), fgsm(model, x, y, epsilon=0.1))
    attack = make_attack("pgd", **settings, relative_step=None)
    expected = pgd(model, x, y, **settings, generator=seeded())
    assert torch.equal(attack(model, x, y, generator=seeded()), expected)


def test_make_attack_errors() -> None:
    with pytest.raises(ConfigError, match="unknown attack 'pdg'; did you mean 'pgd'"):
        make_attack("pdg", epsilon=0.1)
    with pytest.raises(ValueError, match="unknown attack setting 'epsilom'; did you mean 'epsilon'"):
        make_attack("pgd", epsilom=0.1)
    with pytest.raises(ValueError, match="attack 'pgd' needs steps"):
        make_attack("pgd", epsilon=0.1, step_size=0.01)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fgsm", {"norm": "l2"}, "fgsm is for norm linf"),
        ("fgsm", {"random_start": "best"}, "must be one of zero"),
        ("fgsm", {"relative_step": 0.0}, "must be above 0"),
        ("fgsm", {"epsilon": -1.0}, "epsilon ≥ 0"),
        ("pgd", {"norm": "l1"}, "must be one of linf, l2"),
        ("pgd", {"steps": 0}, "steps and restarts ≥ 1"),
        ("pgd", {"step_size": 0.0}, "step_size > 0"),
        ("pgd", {"restarts": 2, "random_start": "zero"}, "all restarts equal"),
        ("pgd", {"random_start": "n-fgsm"}, "must be zero, uniform or gaussian"),
        ("pgd", {"decay": "fast"}, "must be one of none, linear, cosine"),
        ("mim", {"momentum": -1.0}, "momentum ≥ 0"),
        ("apgd", {"steps": 0}, "steps ≥ 1"),
        ("apgd", {"target_rank": 5, "generator": torch.Generator()}, "rank 5: must be at least 0 and below"),
        ("fab", {"target_rank": 5}, "rank 5: must be at least 0 and below"),
        ("fab", {"eta": 0.9}, "eta ≥ 1"),
        ("square", {"p_init": 0.0}, "p_init in"),
        ("carlini-wagner", {"search_steps": 0}, "search_steps ≥ 1"),
        ("deepfool", {"num_candidates": 1}, "num_candidates ≥ 2"),
        ("gaussian-noise", {"draws": 0}, "at least 1"),
        ("fab", {"norm": "l1"}, "must be one of linf, l2"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, Any], message: str) -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 1])
    y = model(x).argmax(1)
    allowed: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.02, "steps": 3}
    generator = settings.pop("generator", None)
    with pytest.raises(ValueError, match=message):
        make_evaluation_attack(name, **{**allowed, **settings})(model, x, y, generator=generator)


def test_an_attack_for_evaluation_is_none_for_training() -> None:
    with pytest.raises(ConfigError, match="unknown attack 'apgd'"):
        make_attack("apgd", epsilon=0.1)
    with pytest.raises(ConfigError, match="unknown attack 'squere'; did you mean 'square'"):
        make_evaluation_attack("squere", epsilon=0.1)


@pytest.mark.parametrize("name", sorted(set(ATTACKS | EVALUATION_ATTACKS) - {"deepfool", "fab", "mim"}))
def test_without_a_generator_noise_is_that_of_seed_0_and_the_log_says_so(name, caplog) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.full((2, 3, 4, 4), 0.5)
    allowed = {"epsilon": 0.5, "step_size": 0.1, "steps": 3, "random_start": "uniform", "norm": "linf"}
    attack = make_evaluation_attack(name, **allowed)
    y = model(x).argmax(1)
    _log_fresh_generator.cache_clear()
    first, second = attack(model, x, y), attack(model, x, y)
    assert torch.equal(first, attack(model, x, y, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(first, second)
    (line,) = [record.getMessage() for record in caplog.records]
    function = (ATTACKS | EVALUATION_ATTACKS)[name].__name__
    assert line == f"{function}: no generator is given; noise is drawn from a new one with seed 0"


def test_nothing_is_said_where_nothing_is_drawn(caplog) -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 1])
    _log_fresh_generator.cache_clear()
    make_attack("fgsm", epsilon=0.1, random_start="zero")(model, x, y)
    make_attack("fgsm", epsilon=0.1, random_start="uniform")(model, x, y, generator=torch.Generator())
    assert not caplog.records
