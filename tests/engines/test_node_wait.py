"""SuperNodes appear one by one: how long they are awaited, and what is said of a wrong number."""

from typing import cast

import pytest
from flwr.serverapp import Grid

from fedrobust.errors import RunFailed
from strategies import nodes


class Growing:
    """A grid to which one node comes with every look, up to `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.looks = most, 0

    def get_node_ids(self) -> list[int]:
        self.looks += 1
        return list(range(min(self.looks, self.most)))


def test_nodes_that_come_one_by_one_are_awaited_and_a_wrong_number_is_an_error(monkeypatch):
    monkeypatch.setattr(nodes, "PATIENCE", 0.5)
    assert len(nodes._wait_for_nodes(cast(Grid, Growing(5)), 4)) == 4
    with pytest.raises(RunFailed, match=r"^2 SuperNodes are there, num-clients is 5: .*num-supernodes=5"):
        nodes._wait_for_nodes(cast(Grid, Growing(2)), 5)
