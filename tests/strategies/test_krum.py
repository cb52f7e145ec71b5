"""Krum where its choice depends on how many attackers it reckons with."""

import numpy as np
import pytest

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
