"""How far the updates of a round are from the global model and from each other: closed forms, and a plain reference."""

import numpy as np
import pytest

from strategies import STRATEGIES
from strategies.base import FederatedStrategy
from strategies.drift import BLOCK, Drift


def moved(table, client, step, **reply):
    """The reply of a client that sends w + step."""
    return table.answer(client, w=table.strategy.reference["w"] + np.float32(step), **reply)


def drift_of(table, steps, num_examples=None):
    """The columns of a round in which client k sends w + steps[k]."""
    images = num_examples or [10] * len(steps)
    after = table.close([moved(table, k, step, num_examples=images[k]) for k, step in enumerate(steps)])
    return table.strategy.drift.of_round(after, averaged=table.strategy.averages)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "calfat"])
@pytest.mark.parametrize(
    ("steps", "cosine"),
    [
        ([[0, 4, 0], [0, 4, 0]], 1.0),
        ([[4, 0, 0], [0, 4, 0]], 0.5**0.5),
        ([[4, 0, 0], [-4, 0, 0]], 0.0),
        ([[3, 0, 4]], 1.0),
    ],
    ids=["equal", "orthogonal", "opposite", "one client"],
)
def test_the_cosine_is_one_where_clients_agree_and_zero_where_they_cancel(open_round, name, steps, cosine):
    drift = drift_of(open_round(name), steps)
    norm = np.linalg.norm(steps[0])
    assert drift == pytest.approx({"update_norm": norm, "step_norm": norm * cosine, "cosine": cosine})
    assert drift["cosine"] <= 1


@pytest.mark.parametrize(("name", "weights"), [("fedavg", [30, 10]), ("calfat", [1, 1])])
def test_weights_are_those_of_the_mean(open_round, name, weights):
    steps = np.float64([[2, 0, 0], [0, 6, 0]])
    drift = drift_of(open_round(name), steps, num_examples=[30, 10])
    norms, mean = np.linalg.norm(steps, axis=1), np.average(steps, axis=0, weights=weights)
    cosines = steps @ mean / (norms * np.linalg.norm(mean))
    assert drift["update_norm"] == pytest.approx(np.average(norms, weights=weights))
    assert drift["step_norm"] == pytest.approx(np.linalg.norm(mean))
    assert drift["cosine"] == pytest.approx(np.average(cosines, weights=weights * norms))


def test_without_a_mean_there_is_no_cosine_and_weights_are_equal(each_strategy):
    table = each_strategy()
    steps = [[k + 1, 0, 0] for k in range(5)]
    drift = drift_of(table, steps)
    assert ("cosine" in drift) == isinstance(table.strategy, STRATEGIES["fedavg"])
    assert drift["update_norm"] == pytest.approx(3)
    if not table.strategy.averages:
        table = each_strategy()
        assert drift_of(table, steps, num_examples=[1, 1, 1, 1, 1000])["update_norm"] == pytest.approx(3)


def test_the_ledger_has_the_norm_of_each_admitted_update_and_integers_do_not_count(each_strategy):
    table = each_strategy(strategy__num_malicious=0)
    replies = [moved(table, k, [0, 3 * k, 4 * k], seen=900, update_norm=-1.0) for k in range(4)]
    table.close([*replies, table.answer(4, w=(np.nan, 1, 1))])
    assert [row.get("update_norm") for row in table.strategy.client_rows] == [0, 5, 10, 15, None]


def test_a_round_in_which_nobody_moved_has_no_cosine(open_round):
    assert drift_of(open_round("fedavg"), np.zeros((3, 3))) == {"update_norm": 0, "step_norm": 0}


def test_a_rejected_update_is_not_in_the_drift(open_round):
    table = open_round("fedavg")
    after = table.close([moved(table, 0, [1, 1, 1]), moved(table, 1, [1e30, 0, 0])])
    drift = table.strategy.drift.of_round(after, averaged=True)
    assert drift == pytest.approx({"update_norm": 3**0.5, "step_norm": 3**0.5, "cosine": 1})


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_many_blocks_and_kinds_of_floats_against_numpy(kind):
    rng = np.random.default_rng(0)
    shapes = {"a": (3, BLOCK), "b": (BLOCK + 1,), "c": (), "d": (0,)}
    before, after = ({k: np.asarray(rng.normal(size=s)).astype(kind) for k, s in shapes.items()} for _ in range(2))
    after["b"] = np.asfortranarray(after["b"])
    expected = sum(np.square(after[k].astype(np.float64) - before[k]).sum() for k in shapes) ** 0.5
    assert Drift(before).add(after, 1.0) == pytest.approx(expected, rel=1e-6)


def test_a_strategy_that_says_nothing_of_its_rule_has_no_cosine():
    assert not FederatedStrategy.averages
    assert {name for name, strategy in STRATEGIES.items() if strategy.averages} == {"fedavg", "fedprox", "calfat"}


def test_running_statistics_of_batch_norm_do_not_count():
    before = {"bn.weight": np.zeros(2, np.float32), "bn.running_mean": np.zeros(2), "bn.running_var": np.ones(2)}
    after = {"bn.weight": np.float32([3, 4]), "bn.running_mean": np.full(2, 100.0), "bn.running_var": np.full(2, 1e4)}
    drift = Drift(before)
    assert drift.add(after, 1.0) == 5
    assert drift.of_round(after, averaged=True) == {"update_norm": 5, "step_norm": 5, "cosine": 1}
