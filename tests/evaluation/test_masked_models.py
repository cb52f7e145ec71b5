"""A model that hides its gradients, or answers at random, is flagged every time."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fedrobust.evaluation import Threat
from fedrobust.evaluation.assessment import assess
from fedrobust.evaluation.attack_run import AttackRun, Request
from fedrobust.evaluation.evaluated_model import EvaluatedModel
from fedrobust.evaluation.evaluation_folder import EvaluationFolder
from fedrobust.storage.checkpoint import weights_digest


class Quantised(nn.Module):
    """Pixels are rounded to four levels first."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 3).round() / 3)


class Saturated(Quantised):
    """Logits are so large that softmax is 0 or 1 in float32."""

    def forward(self, x):
        return 1e4 * self.model(x)


class Noisy(Quantised):
    """The logits of a draw."""

    def forward(self, x):
        logits = self.model(x)
        return logits + torch.rand(logits.shape)


class WithSoftmax(Quantised):
    """Probabilities for logits."""

    def forward(self, x):
        return self.model(x).softmax(1)


class Adapting(Quantised):
    """Takes a step against its own gradient before it answers."""

    def forward(self, x):
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.model(moved).amax(1).sum(), moved)
        return self.model(x + 0.01 * gradient.sign())


MASKS = {
    Quantised: {"zero-gradients"},
    Saturated: {"zero-gradients"},
    Noisy: {"random-output"},
    WithSoftmax: {"probabilities"},
    Adapting: {"optimises-in-forward"},
}


@pytest.fixture(autouse=True)
def _few_planted(monkeypatch):
    monkeypatch.setattr("fedrobust.evaluation.assessment.PLANTED_IMAGES", 10)


def raised(model, digits, folder: Path) -> set[str]:
    evaluated = EvaluatedModel("test", model, digits, weights_digest(model.state_dict()))
    request = Request(("fgsm", "pgd-10"), Threat(0.1), num_images=60, seed=0, batch_size=64)
    opened = lambda *arguments: EvaluationFolder(folder, *arguments)  # noqa: E731
    result = assess(AttackRun(evaluated, request, opened, device=torch.device("cpu")))
    return {flag.name for flag in result.flags}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_flagged(mask, model, digits, tmp_path):
    assert raised(mask(model).eval(), digits, tmp_path) >= MASKS[mask]


def test_the_model_itself_hides_nothing(model, digits, tmp_path):
    hiding = {name for flags in MASKS.values() for name in flags}
    hiding |= {"gradient-free-wins", "planted-missed", "weaker-attack-wins"}
    hiding |= {"rises-with-epsilon", "stands-at-large-epsilon"}
    assert not raised(model, digits, tmp_path) & hiding
