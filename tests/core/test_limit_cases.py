"""What is said of values that turn off what a run is named after."""

import pytest

from fedrobust.config import RunConfig
from fedrobust.config.effects import limit_cases


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attack.epsilon": "0"}, "attack.epsilon = 0: nothing is attacked"),
        ({"kind": "central", "attack.epsilon": "0.0"}, "attack.epsilon = 0.0: nothing is attacked"),
        ({"objective.name": "mixed", "objective.adversarial-fraction": 0}, "nothing is attacked in training"),
        ({"objective.name": "mixed", "objective.adversarial-fraction": 1}, "mixed is at"),
        ({"objective.name": "trades", "objective.trades-beta": 0}, "trades is natural"),
        ({"strategy.name": "fedprox", "strategy.proximal-mu": 0}, "fedprox is fedavg"),
        ({"strategy.name": "trimmed-mean", "strategy.trim-fraction": 0}, "trimmed-mean is the plain mean"),
    ],
)
def test_a_value_at_its_limit_is_a_line(settings, said):
    (line,) = limit_cases(RunConfig.from_flat(settings))
    assert said in line


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective.name": "trades"},
        {"objective.name": "mixed"},
        {"strategy.name": "fedprox"},
        {"strategy.name": "trimmed-mean"},
        {"kind": "central"},
        {"strategy.proximal-mu": 0, "objective.trades-beta": 0, "objective.adversarial-fraction": 0},
    ],
)
def test_what_is_not_used_or_above_its_limit_is_none(settings):
    assert limit_cases(RunConfig.from_flat(settings)) == []
