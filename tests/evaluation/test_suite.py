"""Names of evaluation attacks: every one in the list can be had, any other is refused with the list."""

from functools import partial

import pytest

from fedrobust.errors import ConfigError
from fedrobust.evaluation import Threat, make_chain, parse_attack
from fedrobust.evaluation.suite import CERTIFIED, SUITE

EXAMPLES = [name.replace("K", "4").replace("xR", "x2") for name in SUITE] + ["pgd-4-decay", "square-50"]
EXAMPLES.remove(CERTIFIED)  # in one norm only


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_name_of_the_list_can_be_had(name, norm):
    attack = make_chain(name, Threat(0.1, norm), num_classes=10)
    assert attack.name == name
    assert attack.stages


@pytest.mark.parametrize("name", ["pgd", "pgd-0", "pgd-20x", "pgd-20x0", "PGD-20", "autoattack-plus", "square-", ""])
def test_any_other_is_refused_with_the_list(name):
    with pytest.raises(ConfigError, match=r"unknown attack .*known: fgsm, pgd-K, .*autoattack"):
        parse_attack(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pgd20", "pgd-20"),
        ("PGD_40", "pgd-40"),
        ("pgd", "pgd-20"),
        ("pgd-20-3", "pgd-20x3"),
        ("bim7", "bim-7"),
        ("square500", "square-500"),
        ("AutoAttack", "autoattack"),
        ("apgdce", "apgd-ce"),
    ],
)
def test_what_is_meant_is_said_as_it_can_be_typed(name, meant):
    with pytest.raises(ConfigError, match=f"unknown attack {name!r}; did you mean {meant!r}\\?"):
        parse_attack(name)
    assert parse_attack(meant)


def test_autoattack_is_its_four_members_one_stage_per_target():
    stages = [stage.name for stage in make_chain("autoattack", Threat(0.1), num_classes=10).stages]
    assert stages == [
        "apgd",
        *(f"apgd-target-{rank}" for rank in range(1, 10)),
        *(f"fab-target-{rank}" for rank in range(1, 10)),
        "square",
    ]
    few = make_chain("autoattack", Threat(0.1), num_classes=4).stages
    assert len(few) == 1 + 3 + 3 + 1


def test_the_certificate_is_in_l2_and_autoattack_for_four_classes_or_more():
    assert make_chain(CERTIFIED, Threat(0.1, "l2"), num_classes=2).stages[0].name == CERTIFIED
    with pytest.raises(ConfigError, match="certified: allowed only for norm l2, not linf"):
        make_chain(CERTIFIED, Threat(0.1), num_classes=2)
    with pytest.raises(ConfigError, match=r"autoattack: .* needs 4 classes or more, not 2; use apgd-ce, fab-t"):
        make_chain("autoattack", Threat(0.1), num_classes=2)


def test_step_sizes():
    def step(name, step_size=None):
        attack = make_chain(name, Threat(0.1), num_classes=10, step_size=step_size)
        run = attack.stages[0].run
        assert isinstance(run, partial)
        return run.keywords["step_size"]

    assert step("pgd-20") == pytest.approx(0.025)
    assert step("pgd-20", 0.01) == 0.01
    assert step("fgsm", 0.01) == 0.1
