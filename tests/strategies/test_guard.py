"""Replies that a client may send, and what becomes of the rest, under every strategy."""

import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord

from fedrobust.errors import RunFailed
from strategies.guard import MAX_VALUE, MAX_WEIGHT

GOOD = {"w": np.float32([1, 1, 1]), "seen": np.array(7)}
BAD = 2  # the client that misbehaves


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one
    )


def others(table):
    return [table.answer(k, w=(k, 1 / (k + 1), -k), seen=7 + k) for k in range(5) if k != BAD]


def assert_rejected(each_strategy, make_reply, reason):
    """The bad reply is named, and the next model is the one without it."""
    table, without = each_strategy(), each_strategy()
    after = table.close([*others(table), make_reply(table)])
    status, why = table.became(BAD)
    assert (status, reason in why) == ("rejected", True), why
    assert same(after, without.close(others(without)))
    assert np.isfinite(after["w"]).all()
    assert [row["status"] for row in table.strategy.client_rows].count("ok") == 4


@pytest.mark.parametrize(
    "w", [[np.nan, 1, 1], [1, np.inf, 1], [1, 1, -np.inf], [np.inf, -np.inf, np.nan], [3e38, 3e38, 3e38]]
)
def test_values_that_are_not_finite_or_overflow_are_rejected(each_strategy, w):
    assert_rejected(each_strategy, lambda table: table.answer(BAD, w=w), "array 'w' holds NaN, Inf or a value beyond")


@pytest.mark.parametrize("seen", [2**63 - 1, -(2**63)])
def test_integers_that_overflow_are_rejected(each_strategy, seen):
    assert_rejected(each_strategy, lambda table: table.answer(BAD, seen=seen), "array 'seen' holds")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "num-examples = 0: must be a number in (0, 1e+09]"),
        (0.0, "num-examples = 0.0"),
        (-1, "num-examples = -1"),
        (float("nan"), "num-examples = nan"),
        (float("inf"), "num-examples = inf"),
        (1e15, "num-examples = 1000000000000000.0"),
        (10**400, "must be a number in"),
        ([10, 10], "'num-examples' is missing"),
        (None, "'num-examples' is missing"),
    ],
)
def test_weights_that_cannot_be_numbers_of_images_are_rejected(each_strategy, value, reason):
    assert_rejected(each_strategy, lambda table: table.answer(BAD, num_examples=value), reason)


def test_no_usable_weight_at_all_ends_the_run_with_the_reason(each_strategy):
    table = each_strategy()
    with pytest.raises(RunFailed, match=r"0 usable updates of 5 clients.*client 0 rejected: num-examples = 0") as error:
        table.close([table.answer(k, num_examples=0) for k in range(5)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (GOOD | {"w": np.float32([1])}, "array 'w' has shape (1,), expected (3,)"),
        (GOOD | {"w": np.array(1, np.float32)}, "array 'w' has shape (), expected (3,)"),
        (GOOD | {"w": np.ones((3, 1), np.float32)}, "array 'w' has shape (3, 1), expected (3,)"),
        (GOOD | {"w": np.ones(3)}, "array 'w' has dtype float64, expected float32"),
        (GOOD | {"seen": np.array(7.0)}, "array 'seen' has dtype float64, expected int64"),
        ({"w": GOOD["w"]}, "array 'seen' is missing"),
        (GOOD | {"more": np.ones(1)}, "unexpected array 'more'"),
        ({}, "is missing"),
    ],
)
def test_arrays_unlike_the_models_are_rejected_and_never_broadcast(each_strategy, arrays, reason):
    assert_rejected(each_strategy, lambda table: table.answer(BAD, arrays=arrays), reason)


@pytest.mark.parametrize("how_many", [0, 2])
def test_one_array_record_is_expected(each_strategy, how_many):
    def reply(table):
        records = {f"arrays-{n}": ArrayRecord({k: Array(a) for k, a in GOOD.items()}) for n in range(how_many)}
        return table.reply(BAD, records | {"metrics": MetricRecord({"num-examples": 10})})

    assert_rejected(each_strategy, reply, f"{how_many} array records, expected 1")


@pytest.mark.parametrize("how_many", [0, 2])
def test_one_metric_record_is_expected(each_strategy, how_many):
    def reply(table):
        records = {f"metrics-{n}": MetricRecord({"num-examples": 10}) for n in range(how_many)}
        return table.reply(BAD, records | {"arrays": ArrayRecord({k: Array(a) for k, a in GOOD.items()})})

    assert_rejected(each_strategy, reply, f"{how_many} metric records, expected 1")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def npy(array, **options):
    file = BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def as_archive(path):
    file = BytesIO()
    np.savez(file, w=GOOD["w"])
    return file.getvalue()


@pytest.mark.parametrize(
    "payload",
    [
        lambda path: pickle.dumps(Bomb(path)),
        lambda path: npy(np.array([Bomb(path)], dtype=object), allow_pickle=True),
        as_archive,
        lambda path: npy(GOOD["w"])[:-1],
        lambda path: npy(GOOD["w"]).replace(b"(3,)", b"(9999999999999,)".ljust(4)),
        lambda path: b"",
    ],
    ids=["pickle", "array of objects", "archive", "truncated", "huge shape", "nothing"],
)
def test_bytes_that_are_no_array_are_rejected_and_never_executed(each_strategy, tmp_path, payload):
    data = payload(tmp_path / "executed")
    disguised = Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=data)
    assert_rejected(
        each_strategy, lambda table: table.answer(BAD, arrays=GOOD | {"w": disguised}), "array 'w' cannot be read"
    )
    assert not (tmp_path / "executed").exists()


def test_the_pickle_of_the_test_above_would_have_been_executed(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_another_serialisation_is_rejected(each_strategy):
    foreign = Array(dtype="float32", shape=(3,), stype="torch.tensor", data=npy(GOOD["w"]))
    assert_rejected(
        each_strategy, lambda table: table.answer(BAD, arrays=GOOD | {"w": foreign}), "array 'w' cannot be read"
    )


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300, 10**400])
def test_metrics_that_would_spoil_the_means_are_rejected(each_strategy, value):
    assert_rejected(each_strategy, lambda table: table.answer(BAD, loss=value), "metric 'loss' is NaN, Inf or beyond")


def test_names_and_order_of_records_are_the_clients_own_affair(each_strategy):
    def replies(table, *, foreign):
        answers = others(table)
        if not foreign:
            return [*answers, table.answer(BAD, w=(9, 9, 9), loss=1.0)]
        arrays = {"seen": Array(np.array(7)), "w": Array(np.float32([9, 9, 9]))}
        metrics = MetricRecord({"num-examples": 10, "own": [1, 2], "loss": 1.0})
        return [*answers, table.reply(BAD, {"numbers": metrics, "tensors": ArrayRecord(arrays)})]

    plain, foreign = each_strategy(), each_strategy()
    assert same(plain.close(replies(plain, foreign=False)), foreign.close(replies(foreign, foreign=True)))
    assert foreign.became(BAD) == ("ok", "")


def test_a_client_cannot_write_over_what_the_server_knows_of_it(each_strategy):
    table = each_strategy()
    table.close([*others(table), table.answer(BAD, status=0, client=0, round=99, num_examples=3)])
    (row,) = [row for row in table.strategy.client_rows if row["client"] == BAD]
    assert (row["status"], row["round"], row["phase"], row["num_examples"]) == ("ok", 1, "train", 3)


def test_metrics_are_averaged_over_images_where_all_clients_have_them(each_strategy):
    table = each_strategy()
    table.close(
        [table.answer(k, num_examples=k + 1, loss=float(k), **{"accuracy": 0.5} if k else {}) for k in range(5)]
    )
    assert table.strategy.means() == {"loss": pytest.approx(sum(k * (k + 1) for k in range(5)) / 15)}


def test_evaluation_gives_mean_over_images_and_worst_client(open_round):
    table = open_round("fedavg", phase="evaluate")
    measured = {0: (30, 0.8), 1: (10, 0.4), 2: (0, 0.0)}
    replies = [
        table.reply(k, {"metrics": MetricRecord({"num-examples": n, "natural_accuracy": a})})
        for k, (n, a) in measured.items()
    ]
    nan = table.reply(3, {"metrics": MetricRecord({"num-examples": 5, "natural_accuracy": float("nan")})})
    result = table.strategy.aggregate_evaluate(1, [*replies, nan, table.error(4, "out of memory")])
    assert dict(result) == {"natural_accuracy": pytest.approx(0.7), "worst_natural_accuracy": 0.4}
    assert [table.became(k)[0] for k in range(5)] == ["ok", "ok", "ok", "rejected", "failed"]


def test_evaluation_without_images_gives_nothing(open_round):
    table = open_round("fedavg", phase="evaluate")
    empty = [table.reply(k, {"metrics": MetricRecord({"num-examples": 0})}) for k in range(5)]
    assert table.strategy.aggregate_evaluate(1, empty) is None


LARGEST = np.float32(MAX_VALUE)
ABOVE = np.nextafter(LARGEST, np.float32(np.inf))


def became(table, **answer):
    """What becomes of the first client's update beside four good ones."""
    table.close([table.answer(0, **answer), *(table.answer(client) for client in range(1, 5))])
    return table.became(0)[0]


def test_the_bounds():
    assert (MAX_VALUE, MAX_WEIGHT) == (1e15, 1e9)


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        ({"w": (1, 1, LARGEST * np.float32(0.999))}, {"w": (1, 1, ABOVE)}),
        ({"w": (1, 1, -LARGEST * np.float32(0.999))}, {"w": (1, 1, -ABOVE)}),
        ({"seen": 10**15}, {"seen": 10**15 + 1}),
        ({"num_examples": 10**9}, {"num_examples": 10**9 + 1}),
        ({"loss": 1e15}, {"loss": 1.0000001e15}),
    ],
)
def test_up_to_the_bound_and_no_further(open_round, within, beyond):
    assert became(open_round("fedavg"), **within) == "ok"
    assert became(open_round("fedavg"), **beyond) == "rejected"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_single_nan_anywhere_is_enough(open_round, position):
    w = np.ones(3, np.float32)
    w[position] = np.nan
    assert became(open_round("fedavg"), w=w) == "rejected"
