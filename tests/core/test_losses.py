"""Losses: definitions, limit cases, per example."""

import math

import pytest
import torch
import torch.nn.functional as F

from fedrobust import losses

K = 5


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(7, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def reference(logits: torch.Tensor) -> torch.Tensor:
    return logits.flip(0) / 2


y = torch.tensor([0, 1, 2, 3, 4, 0, 1])
counts = torch.tensor([100, 7, 0, 1, 3])


def test_every_loss_is_per_example(logits: torch.Tensor, reference: torch.Tensor) -> None:
    log_counts = losses.log_class_counts(counts)
    for value in (
        losses.cross_entropy(logits, y),
        losses.margin(logits, y),
        losses.targeted_dlr(logits, y, (y + 1) % K),
        losses.kl_divergence(logits, reference),
        losses.calibrated_cross_entropy(logits, y, log_counts=log_counts),
        losses.calibrated_kl_divergence(logits, reference, log_counts=log_counts),
    ):
        assert value.shape == (7,)


def test_cross_entropy_of_equal_logits_is_log_k() -> None:
    torch.testing.assert_close(
        losses.cross_entropy(torch.ones(2, K), torch.tensor([0, 3])), torch.full((2,), math.log(K))
    )


def test_cross_entropy_takes_probabilities(logits: torch.Tensor) -> None:
    one_hot = F.one_hot(y, K).to(logits.dtype)
    torch.testing.assert_close(losses.cross_entropy(logits, one_hot), losses.cross_entropy(logits, y))


def test_margin_is_positive_exactly_where_the_prediction_is_wrong(logits: torch.Tensor) -> None:
    assert torch.equal(losses.margin(logits, y) > 0, logits.argmax(1) != y)


def test_margin_of_two_classes_is_the_difference(logits: torch.Tensor) -> None:
    two, label = logits[:, :2], y % 2
    expected = torch.where(label == 0, two[:, 1] - two[:, 0], two[:, 0] - two[:, 1])
    torch.testing.assert_close(losses.margin(two, label), expected)


def test_dlr_in_closed_form() -> None:
    z = torch.tensor([[5.0, 1.0, 3.0, 2.0]])
    value = losses.targeted_dlr(z, torch.tensor([0]), torch.tensor([3]))
    torch.testing.assert_close(value, torch.tensor([-3 / 3.5]))  # −(5 − 2) / (5 − (2 + 1) / 2)
    assert losses.targeted_dlr(z, torch.tensor([0]), torch.tensor([0])).item() == 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_dlr_sees_neither_shift_nor_scale(logits: torch.Tensor, scale: float) -> None:
    moved, target = scale * logits + 7, (y + 2) % K
    torch.testing.assert_close(losses.targeted_dlr(moved, y, target), losses.targeted_dlr(logits, y, target))


def test_dlr_needs_enough_classes() -> None:
    with pytest.raises(ValueError, match="4 classes or more, not 3"):
        losses.targeted_dlr(torch.ones(1, 3), y[:1], y[:1])


def test_kl_divergence_by_its_definition(logits: torch.Tensor, reference: torch.Tensor) -> None:
    p, q = reference.softmax(1), logits.softmax(1)
    torch.testing.assert_close(losses.kl_divergence(logits, reference), (p * (p / q).log()).sum(1))


def test_kl_divergence_of_equal_predictions_is_zero_with_zero_gradient(logits: torch.Tensor) -> None:
    moved = (logits + 2).requires_grad_()
    value = losses.kl_divergence(moved, logits)
    value.sum().backward()
    torch.testing.assert_close(value, torch.zeros_like(value))
    assert moved.grad is not None
    torch.testing.assert_close(moved.grad, torch.zeros_like(logits))


def test_log_class_counts_takes_absent_classes_as_one() -> None:
    expected = torch.log(torch.tensor([100.0, 7.0, 1.0, 1.0, 3.0]) + 1e-7)
    assert torch.equal(losses.log_class_counts(counts), expected)


def test_calibrated_cross_entropy_is_the_logit_adjustment_of_10_z(logits: torch.Tensor) -> None:
    log_counts = losses.log_class_counts(counts).double()
    value = losses.calibrated_cross_entropy(logits, y, log_counts=log_counts)
    torch.testing.assert_close(value, losses.cross_entropy(10 * logits + log_counts, y))


def test_calibrated_losses_see_shares_as_they_see_counts(logits: torch.Tensor, reference: torch.Tensor) -> None:
    log_counts = losses.log_class_counts(counts).double()
    shares = log_counts - math.log(111)
    torch.testing.assert_close(
        losses.calibrated_cross_entropy(logits, y, log_counts=shares),
        losses.calibrated_cross_entropy(logits, y, log_counts=log_counts),
    )
    torch.testing.assert_close(
        losses.calibrated_kl_divergence(logits, reference, log_counts=shares),
        losses.calibrated_kl_divergence(logits, reference, log_counts=log_counts),
    )


def test_calibrated_losses_with_a_uniform_prior_are_plain(logits: torch.Tensor, reference: torch.Tensor) -> None:
    uniform = losses.log_class_counts(torch.full((K,), 20)).double()
    torch.testing.assert_close(
        losses.calibrated_cross_entropy(logits, y, log_counts=uniform), losses.cross_entropy(10 * logits, y)
    )
    torch.testing.assert_close(
        losses.calibrated_kl_divergence(logits, reference, log_counts=uniform),
        losses.kl_divergence(logits, reference),
    )


def test_a_rare_class_has_to_win_by_more() -> None:
    """At equal logits the calibrated loss is larger for the rare label: training pushes it further."""
    log_counts = losses.log_class_counts(torch.tensor([90, 10]))
    value = losses.calibrated_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), log_counts=log_counts)
    torch.testing.assert_close(value, -torch.log(torch.tensor([0.9, 0.1])), rtol=1e-5, atol=1e-6)
