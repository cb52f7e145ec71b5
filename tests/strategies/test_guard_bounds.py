"""The largest values that the guard lets through, and the smallest that it does not."""

import numpy as np
import pytest

from strategies.guard import MAX_VALUE, MAX_WEIGHT

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
