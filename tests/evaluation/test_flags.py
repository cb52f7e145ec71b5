"""Each flag: raised by what it is for, and by nothing less; explained in the docs."""

import re
from pathlib import Path

import pytest

from fedrobust.evaluation import flags
from fedrobust.evaluation.probes import Probes

SOUND = {"fgsm": 0.6, "pgd-10": 0.5, "pgd-20": 0.499, "pgd-40": 0.498, "pgd-20x5": 0.497, "square-200": 0.56}
CLEAN = Probes(random=False, probabilities=False, optimises=False, zero_gradients=0.0)


def names(raised):
    return [flag.name for flag in raised]


def test_a_sound_evaluation_raises_none():
    assert not names(flags.strength_flags(SOUND))
    assert not names(flags.model_flags(CLEAN))
    assert not names(flags.curve_flags([(0.0, 0.8), (0.01, 0.5), (0.1, 0.0)]))
    assert not names(flags.square_flags(0.002))
    assert not names(flags.rescoring_flags(0, 100))
    assert not names(flags.planted_flags(1.0, 100))


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"fgsm": 0.49}, "weaker-attack-wins"),
        ({"pgd-10": 0.49, "fgsm": 0.495}, "weaker-attack-wins"),
        ({"pgd-40": 0.494}, "steps-not-converged"),
        ({"pgd-20x5": 0.494}, "restarts-not-converged"),
        ({"square-200": 0.49}, "gradient-free-wins"),
        ({"gaussian-noise": 0.49}, "gradient-free-wins"),
        ({"cw": 0.45, "autoattack": 0.37}, "cross-entropy-overstates"),
    ],
)
def test_e4_e5_attacks_in_the_wrong_order(changed, flag):
    assert flag in names(flags.strength_flags(SOUND | changed))


def test_pgd_may_leave_a_quarter_to_the_attacks_on_the_margin():
    assert not names(flags.strength_flags(SOUND | {"autoattack": 0.38, "apgd-t": 0.39}))
    broken = {"fgsm": 0.03, "pgd-10": 0.011, "pgd-20": 0.011, "pgd-40": 0.009, "pgd-20x5": 0.01, "square-200": 0.03}
    assert not names(flags.strength_flags(broken | {"cw": 0.0}))


def test_e4_differences_within_the_allowance_are_none():
    assert not names(flags.strength_flags(SOUND | {"fgsm": 0.499, "square-200": 0.496}))


def test_e3_the_curve():
    assert names(flags.curve_flags([(0.0, 0.8), (0.01, 0.5), (0.02, 0.51), (0.1, 0.0)])) == ["rises-with-epsilon"]
    assert names(flags.curve_flags([(0.0, 0.8), (0.1, 0.011)])) == ["stands-at-large-epsilon"]


def test_e5_transfer_and_square():
    assert names(flags.transfer_flags({"pgd-20": 0.3}, {"pgd-20": 0.31})) == ["transfer-wins"]
    assert not names(flags.transfer_flags({"pgd-20": 0.3}, {"fgsm": 0.31}))
    assert names(flags.square_flags(0.003)) == ["gradient-free-wins"]


@pytest.mark.parametrize(
    ("probes", "flag"),
    [
        (Probes(True, False, False, 0.0), "random-output"),
        (Probes(False, True, False, 0.0), "probabilities"),
        (Probes(False, False, True, 0.0), "optimises-in-forward"),
        (Probes(False, False, False, 0.02), "zero-gradients"),
    ],
)
def test_e9_what_a_model_does(probes, flag):
    assert names(flags.model_flags(probes)) == [flag]


def test_e6_e10():
    assert names(flags.rescoring_flags(1, 100)) == ["unstable-verdicts"]
    assert names(flags.planted_flags(0.98, 100)) == ["planted-missed"]
    assert not names(flags.planted_flags(0.0, 0))


def test_every_flag_is_explained_and_every_explained_flag_exists():
    page = (Path(__file__).parents[2] / "docs" / "evaluation-flags.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == list(flags.FLAGS)
