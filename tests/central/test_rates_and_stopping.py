"""Rates against torch's own schedulers; stopping rules on made-up rounds."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, LambdaLR, MultiStepLR

from fedrobust.config import Central
from fedrobust.training.central import PROBE, fallen, rate_factor, why_over

STEPS = 40
TORCH = {
    "constant": lambda o: LambdaLR(o, lambda _: 1.0),
    "piecewise": lambda o: MultiStepLR(o, [20, 30], gamma=0.1),
    "cosine": lambda o: CosineAnnealingLR(o, STEPS),
    "cyclic": lambda o: CyclicLR(o, 0.0, 0.3, step_size_up=16, step_size_down=24, cycle_momentum=False),
}


def settings(**changes) -> Central:
    return Central.model_validate(changes)


@pytest.mark.parametrize("name", TORCH)
def test_rates_are_those_of_torchs_schedulers(name):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, factor = TORCH[name](optimizer), rate_factor(settings(schedule=name))
    for step in range(STEPS + 1):
        assert 0.3 * factor(step / STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step
        optimizer.step()
        scheduler.step()


def rows(*scores):
    return [{"round": number, PROBE: score} for number, score in enumerate(scores, 1)]


@pytest.mark.parametrize(
    ("scores", "found"),
    [((), False), ((0.1,), False), ((0.5, 0.31), False), ((0.5, 0.29), True), ((0.5, 0.4, 0.25), True)],
)
def test_a_fall_of_more_than_20_points_below_the_highest(scores, found):
    assert bool(fallen(rows(*scores))) == found


def test_what_ends_a_run():
    stop, patient = settings(overfitting="stop"), settings(patience=3)
    assert why_over(stop, rows(0.5, 0.1), 1).startswith("catastrophic overfitting in round 2")
    assert why_over(settings(), rows(0.5, 0.1), 1) == ""
    assert why_over(patient, rows(0.1, 0.1, 0.1), 1) == ""
    assert why_over(patient, rows(0.1, 0.1, 0.1, 0.1), 1) == "no better score since round 1, 3 rounds ago"
    assert why_over(patient, [], 0) == ""
