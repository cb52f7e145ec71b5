"""What a run measures: with which attacks, on which images, in which mode."""

import pytest
import torch
from torch import nn

import clients.local
import fedrobust as fr
import fedrobust.running.evaluator
from clients.local import LocalClient
from fedrobust.evaluation import Threat, make_chain
from fedrobust.evaluation.suite import make_suite
from fedrobust.running.evaluator import RunEvaluator


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("fgsm", [1]),
        *((name, [count]) for count in (1, 7, 20) for name in (f"pgd-{count}", f"bim-{count}", f"mim-{count}")),
        ("pgd-7-decay", [7]),
        ("pgd-4x3", [4, 4, 4]),
    ],
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_makes_as_many_gradient_passes_as_its_name_says(name, passes, norm):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).requires_grad_(False)
    seen = []
    model.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].requires_grad))
    x, y = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3
    stages = make_chain(name, Threat(0.1, norm), num_classes=3).stages
    for stage, expected in zip(stages, passes, strict=True):
        seen.clear()
        stage.run(model, x, y, generator=torch.Generator().manual_seed(0))
        assert seen == [True] * expected


def test_bim_starts_at_the_image():
    """Where nothing is random, no generator is needed."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).requires_grad_(False)
    x = torch.full((2, 3, 2, 2), 0.5)
    x_adv = make_chain("bim-2", Threat(0.1), num_classes=3).stages[0].run(model, x, torch.tensor([0, 1]))
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, 0.05))


@pytest.mark.parametrize("name", ["pgd-3", "pgd-3-decay", "pgd-3x2", "bim-3", "mim-3"])
def test_a_run_attacks_with_evaluations_step_size_and_its_own_epsilon_and_norm(quick, name):
    cfg = quick(
        evaluation__attacks=name,
        evaluation__step_size="0.03",
        attack__step_size="0.07",
        attack__epsilon="0.2",
        attack__norm="l2",
    )
    for stage in make_suite(cfg, 10)[0].stages:
        settings = stage.run.keywords  # type: ignore[attr-defined]
        assert (settings["step_size"], settings["epsilon"], settings["norm"], settings["steps"]) == (
            pytest.approx(0.03),
            pytest.approx(0.2),
            "l2",
            3,
        )


def test_every_pass_is_in_eval_mode_and_the_mode_is_as_before(quick):
    cfg, modes = quick(evaluation__attacks="fgsm,pgd-2", partition__held_out=0.2), []
    measure, client = RunEvaluator(cfg), LocalClient(cfg, 0)
    weights, arrays = measure.context.weights(), measure.context.arrays()
    for module in measure.context.model.modules():
        module.register_forward_hook(lambda module, *_: modes.append(module.training))
    measure.context.model.train()
    assert client.context is measure.context
    for evaluate in (
        lambda: measure.validation(arrays),
        lambda: measure.test(arrays),
        lambda: client.evaluate(weights, 1),
    ):
        modes.clear()
        evaluate()
        assert set(modes) == {False}
        assert measure.context.model.training


def test_products_are_exact_during_an_evaluation(quick):
    """TF32, which cuDNN's convolutions take by default, is off in every pass, and on again afterwards."""
    cfg, seen = quick(evaluation__attacks="fgsm"), []
    run = RunEvaluator(cfg)
    model = run.context.model
    handle = model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    run.test(run.context.arrays())
    fr.evaluate(model.eval(), data="digits", num_images=20, attacks="fgsm", checks=False, device="cpu")
    handle.remove()
    assert len(seen) > 4
    assert not any(seen)
    assert torch.backends.cudnn.allow_tf32


@pytest.fixture
def asked(monkeypatch):
    """(images, numbers of them) of every evaluation by a run and its clients."""
    seen = []

    def noting(real):
        def evaluate(model, data, index, *rest, **settings):
            seen.append((data, index.tolist()))
            return real(model, data, index, *rest, **settings)

        return evaluate

    for module in (clients.local, fedrobust.running.evaluator):
        monkeypatch.setattr(module, "evaluate", noting(module.evaluate))
    return seen


def test_images_that_are_evaluated_were_held_out(quick, asked):
    cfg = quick(pool__fraction=0.2, evaluation__test_images=20)
    measure = RunEvaluator(cfg)
    context, split = measure.context, measure.split
    for number, client in enumerate(split.clients):
        LocalClient(cfg, number).evaluate(context.weights(), 1)
        assert asked.pop() == (context.images("train"), client.held_out.tolist())
    for of_test in (measure.test, measure.test_of_round):
        of_test(context.arrays())
        assert asked[-1][0] is context.images("test")
    measure.validation(context.arrays())
    data, validation = asked[-1]
    assert data is context.images("train")
    assert validation == split.validation.tolist()
    trained_on = {index for client in split.clients for index in client.train.tolist()}
    held_out = {index for client in split.clients for index in client.held_out.tolist()}
    assert not trained_on & (held_out | set(validation))
