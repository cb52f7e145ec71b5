"""From replies to the next global model: closed forms, order, integers, and replies that do not count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrobust.errors import ConfigError, RunFailed
from strategies.fedavg import WeightedMean

VECTORS = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
IMAGES = (7, 300, 41, 1, 86)


def answers(table, vectors=VECTORS):
    return [table.answer(k, w=vector, seen=k, num_examples=IMAGES[k]) for k, vector in enumerate(vectors)]


def test_fedavg_weighs_by_images(open_round):
    table = open_round("fedavg")
    expected = np.average(VECTORS.astype(np.float64), axis=0, weights=IMAGES).astype(np.float32)
    np.testing.assert_array_equal(table.close(answers(table))["w"], expected)


def test_calfat_is_the_plain_mean(open_round):
    table = open_round("calfat")
    expected = VECTORS.astype(np.float64).mean(0).astype(np.float32)
    np.testing.assert_array_equal(table.close(answers(table))["w"], expected)


@pytest.mark.parametrize("objective", ["at", "natural"])
def test_calfat_refuses_another_objective(open_round, objective):
    with pytest.raises(ConfigError, match="strategy calfat trains with 'calfat' only"):
        open_round("calfat", objective__name=objective)


def test_median_takes_the_middle_of_each_coordinate(open_round):
    table = open_round("median")
    np.testing.assert_array_equal(table.close(answers(table))["w"], np.median(VECTORS, axis=0))


def test_trimmed_mean_leaves_out_both_ends(open_round):
    table = open_round("trimmed-mean", strategy__trim_fraction=0.2)
    np.testing.assert_allclose(table.close(answers(table))["w"], np.sort(VECTORS, axis=0)[1:-1].mean(0), rtol=1e-6)


def test_trimmed_mean_of_nothing_trimmed_is_the_plain_mean(open_round):
    table = open_round("trimmed-mean", strategy__trim_fraction=0.0)
    np.testing.assert_allclose(table.close(answers(table))["w"], VECTORS.mean(0), rtol=1e-6)


def test_krum_takes_the_update_nearest_to_the_others(open_round):
    table = open_round("krum", strategy__num_malicious=1)
    crowd = np.float32([[1, 1, 1], [1, 1, 1.1], [1, 1, 1.2], [1, 1.3, 1], [-900, 0, 900]])
    np.testing.assert_array_equal(table.close(answers(table, crowd))["w"], crowd[1])


def test_krum_refuses_fewer_clients_than_its_guarantee_needs(open_round):
    with pytest.raises(ConfigError, match=r"krum needs 6 updates a round .*but 5 clients are asked"):
        open_round("krum", strategy__num_malicious=3)
    assert len(open_round("krum", strategy__num_malicious=2).messages) == 5


def test_one_in_ten_with_the_sign_flipped_slows_a_mean_down_and_not_a_median(open_round):
    moved = {}
    for name in ("fedavg", "median", "trimmed-mean", "krum"):
        table = open_round(name, num_clients=10)
        step = [-1.0 if k == 4 else 1.0 for k in range(10)]
        moved[name] = table.close([table.answer(k, w=1 + np.full(3, step[k])) for k in range(10)])["w"][0] - 1
    assert moved == {"fedavg": pytest.approx(0.8), "median": 1, "trimmed-mean": 1, "krum": 1}


def test_the_order_of_arrival_changes_no_bit(each_strategy):
    results = []
    for seed in range(6):
        table = each_strategy()
        replies = answers(table)
        np.random.default_rng(seed).shuffle(replies)
        results.append(table.close(replies)["w"].tobytes())
        assert [row["client"] for row in table.strategy.client_rows] == [0, 1, 2, 3, 4]
    assert set(results) == {results[0]}


def test_integers_stay_integers(each_strategy):
    table = each_strategy()
    after = table.close([table.answer(k, w=(k, k, k), seen=seen) for k, seen in enumerate((1, 2, 2, 2, 4))])
    assert after["seen"].dtype == np.int64
    assert after["seen"] == 2
    assert after["w"].dtype == np.float32


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "calfat", "trimmed-mean"])
def test_the_mean_of_integers_is_rounded(open_round, name):
    """Of 2.6, or 2.67 without the ends."""
    table = open_round(name, strategy__trim_fraction=0.2)
    after = table.close([table.answer(k, seen=seen) for k, seen in enumerate((1, 2, 3, 3, 4))])
    assert after["seen"] == 3


@given(
    w=arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    images=st.integers(1, 2**29 - 1),
    seen=st.integers(-(2**24), 2**24),
)
def test_the_mean_of_one_is_that_one_bit_for_bit(w, images, seen):
    term = {"w": w, "seen": np.array(seen)}
    mean = WeightedMean(term)
    mean.add(term, images)
    result = mean.result()
    np.testing.assert_array_equal(result["w"], w)
    assert result["seen"] == seen


def test_the_mean_of_none_is_an_error():
    with pytest.raises(ZeroDivisionError):
        WeightedMean({"w": VECTORS}).result()


@pytest.mark.parametrize("position", [1, 5])
def test_nothing_counts_twice(each_strategy, position):
    """The first reply of client 3 counts, whether it is still waiting for its turn when the second comes or not."""
    table, once = each_strategy(), each_strategy()
    replies = [answers(table)[k] for k in (3, 1, 2, 4, 0)]
    replies.insert(position, table.answer(3, w=(50, 50, 50)))
    assert table.close(replies)["w"].tobytes() == once.close(answers(once))["w"].tobytes()
    assert len(table.strategy.client_rows) == 5


def test_a_reply_to_no_question_of_this_phase_is_dropped(each_strategy):
    earlier, table, alone = each_strategy(phase="evaluate"), each_strategy(), each_strategy()
    strange = earlier.answer(3, w=(50, 50, 50))
    assert table.close([strange, *answers(table)])["w"].tobytes() == alone.close(answers(alone))["w"].tobytes()
    assert len(table.strategy.client_rows) == 5


def test_the_missing_and_the_failed_are_named(each_strategy):
    table = each_strategy(strategy__num_malicious=0)
    table.close([reply for k, reply in enumerate(answers(table)) if k not in (1, 4)] + [table.error(4, "OOM: 9 GiB")])
    assert [table.became(k) for k in range(5)] == [
        ("ok", ""),
        ("missing", "no reply in time"),
        ("ok", ""),
        ("ok", ""),
        ("failed", "OOM: 9 GiB"),
    ]


def test_fewer_replies_than_the_minimum_end_the_run_with_the_reasons(each_strategy):
    table = each_strategy(strategy__min_replies=4)
    replies = [*answers(table)[:3], table.error(3, "OOM")]
    with pytest.raises(
        RunFailed, match=r"3 usable updates of 5 .*4 are needed \(client 3 failed: OOM; client 4 missing: no rep"
    ):
        table.close(replies)


def test_rejections_that_leave_krum_too_few_end_the_run(open_round):
    table = open_round("krum", strategy__num_malicious=1)
    assert np.isfinite(table.close(answers(table)[:4])["w"]).all()
    table = open_round("krum", strategy__num_malicious=1)
    bad = np.float32([np.nan, 1, 1])
    with pytest.raises(
        RunFailed, match=r"3 usable updates of 5 clients, 4 are needed \(client 3 rejected.*client 4 rej"
    ):
        table.close(answers(table, [*VECTORS[:3], bad, bad]))


def test_more_replies_than_clients_asked_are_refused_before_round_1(each_strategy):
    with pytest.raises(ConfigError, match=r"needs 6 updates a round .*but 5 clients are asked"):
        each_strategy(strategy__min_replies=6)


def test_as_many_replies_as_the_minimum_are_enough(each_strategy):
    table = each_strategy(strategy__min_replies=4)
    assert np.isfinite(table.close(answers(table)[:4])["w"]).all()


LINE = (3, 5, 6, 17, 18, 22, 27)


def nearest_to(neighbours):
    """Of the points of LINE, the one with the least sum of squares to that many neighbours."""
    squares = np.sort(np.subtract.outer(LINE, LINE) ** 2, axis=1)[:, 1 : neighbours + 1].sum(1)
    return LINE[int(squares.argmin())]


@pytest.mark.parametrize(("f", "chosen"), [(1, 18), (2, 22)])
def test_as_many_malicious_as_the_setting_says_leave_that_many_neighbours(open_round, f, chosen):
    """n − f − 2 of them: with one more or one less another update would be chosen."""
    neighbours = len(LINE) - f - 2
    assert nearest_to(neighbours) == chosen
    assert chosen not in (nearest_to(neighbours - 1), nearest_to(neighbours + 1))
    table = open_round("krum", num_clients=len(LINE), strategy__num_malicious=f)
    after = table.close([table.answer(client, w=(at, 0, 0)) for client, at in enumerate(LINE)])
    np.testing.assert_array_equal(after["w"], np.float32([chosen, 0, 0]))
