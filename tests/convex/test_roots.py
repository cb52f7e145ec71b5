"""Networks whose state dict is (Z, Z′): it averages, it comes back, and no choice of root shows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedrobust.convex.factors import RootNetwork, root_of
from fedrobust.convex.network import Lifted, values
from strategies.fedavg import WeightedMean

X = torch.randn(9, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def network(functions: int = 1, seed: int = 0) -> RootNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RootNetwork(functions, 5)


def functions(model: RootNetwork) -> Tensor:
    with torch.no_grad():
        logits = model(X)
    return logits.diff(dim=1) if model.positive.shape[0] == 1 else logits


@pytest.mark.parametrize("count", [1, 3])
def test_the_state_dict_comes_back_as_the_same_function(count: int) -> None:
    model, other = network(count), network(count, seed=1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(functions(other), functions(model), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(other.positive, model.positive)  # another root
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-9, atol=1e-10)


def test_it_holds_a_networks_lifted_variables() -> None:
    model = network(3)
    held = Lifted(*model.state_dict().values())
    assert held.residual() < 1e-12
    torch.testing.assert_close(values(held.forms, X), functions(model))
    assert not any(value.requires_grad for value in model.state_dict().values())


def test_the_mean_of_state_dicts_is_a_network_whose_function_is_the_mean() -> None:
    one, two, mean = network(seed=0), network(seed=1), network(seed=2)
    states = [{k: v.numpy() for k, v in model.state_dict().items()} for model in (one, two)]
    average = WeightedMean(states[0])
    for state, weight in zip(states, (1, 3), strict=True):
        average.add(state, weight)
    mean.load_state_dict({key: torch.from_numpy(value) for key, value in average.result().items()})
    expected = 0.25 * functions(one) + 0.75 * functions(two)
    torch.testing.assert_close(functions(mean), expected, rtol=1e-9, atol=1e-10)
    norms = [model.lifted().path_norm.item() for model in (one, two, mean)]
    assert norms[2] == pytest.approx(0.25 * norms[0] + 0.75 * norms[1])
    roots = network(seed=3)
    with torch.no_grad():
        for name, root in roots.named_parameters():
            root.copy_(0.25 * one.get_parameter(name) + 0.75 * two.get_parameter(name))
    assert not torch.allclose(functions(roots), expected, rtol=0.1)


def test_weight_decay_on_the_roots_is_the_path_norm() -> None:
    model = network(2)
    half_square = sum(root.square().sum() for root in model.parameters()).item() / 2
    assert half_square > 1.01 * model.lifted().path_norm.item()
    model.load_state_dict(model.state_dict())
    half_square = sum(root.square().sum() for root in model.parameters()).item() / 2
    assert half_square == pytest.approx(model.lifted().path_norm.item(), rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_which_root_stands_for_z_changes_nothing(momentum: float) -> None:
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    models = network(), network()
    with torch.no_grad():
        models[1].positive.copy_(turn @ models[0].positive)
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            model(X).logsumexp(1).mean().backward()
            optimizer.step()
    torch.testing.assert_close(functions(models[1]), functions(models[0]), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(functions(models[0]), functions(network()))


def test_what_is_no_networks_is_projected_and_nothing_is_a_root_of_zero() -> None:
    model, state = network(), network().state_dict()
    bent = {key: value - 0.2 * torch.eye(6, dtype=torch.float64) for key, value in state.items()}
    assert torch.linalg.eigvalsh(bent["positive"]).min() < -0.01
    model.load_state_dict(bent)
    assert Lifted(*model.state_dict().values()).residual() < 1e-12
    model.load_state_dict({key: 0 * value for key, value in state.items()})
    assert functions(model).abs().max() < 1e-9
    model(X)[:, 1].mean().backward()
    assert all(root.grad is not None and root.grad.abs().max() > 0 for root in model.parameters())
    assert root_of(torch.full((1, 6, 6), torch.nan)).isnan().all()


def test_another_shape_is_refused_as_by_any_module() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for positive"):
        network(1).load_state_dict(network(3).state_dict())


def test_it_is_the_network_of_the_solvers(random_network: Callable[..., Lifted]) -> None:
    lifted, model = random_network(5, 3), network(3)
    model.load_state_dict({"positive": lifted.positive, "negative": lifted.negative})
    torch.testing.assert_close(functions(model), values(lifted.forms, X), rtol=1e-9, atol=1e-9)
