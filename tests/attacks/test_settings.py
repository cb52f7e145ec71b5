"""Attacks by name: what is bound, and which settings are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import fgsm, make_attack, make_evaluation_attack, pgd
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
        ("fgsm", {"random_start": "n-fgsm"}, "pass a generator"),
        ("pgd", {"norm": "l1"}, "must be one of linf, l2"),
        ("pgd", {"steps": 0}, "steps and restarts ≥ 1"),
        ("pgd", {"step_size": 0.0}, "step_size > 0"),
        ("pgd", {"restarts": 2, "random_start": "zero"}, "all restarts the same"),
        ("pgd", {"random_start": "n-fgsm"}, "must be zero, uniform or gaussian"),
        ("pgd", {}, "pass a generator"),
        ("pgd", {"decay": "fast"}, "must be one of none, linear, cosine"),
        ("mim", {"momentum": -1.0}, "momentum ≥ 0"),
        ("apgd", {}, "pass a generator"),
        ("apgd", {"steps": 0}, "steps ≥ 1"),
        ("apgd", {"target_rank": 5, "generator": torch.Generator()}, "rank 5: must be at least 0 and below"),
        ("fab", {"target_rank": 5}, "rank 5: must be at least 0 and below"),
        ("fab", {"eta": 0.9}, "eta ≥ 1"),
        ("square", {}, "pass a generator"),
        ("square", {"p_init": 0.0}, "p_init in"),
        ("carlini-wagner", {"search_steps": 0}, "search_steps ≥ 1"),
        ("deepfool", {"num_candidates": 1}, "num_candidates ≥ 2"),
        ("gaussian-noise", {"draws": 0}, "at least 1"),
        ("uniform-noise", {}, "pass a generator"),
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
