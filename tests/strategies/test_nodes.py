"""Nodes come one by one, go, and come back: who is asked, who is recorded as missing, and what ends a run."""

import time
from itertools import count

import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict

from fedrobust.config import RunConfig
from fedrobust.engines import flower
from fedrobust.engines.grid import FIRST_NODE_ID
from fedrobust.engines.local import LocalGrid
from fedrobust.errors import RunFailed
from strategies.nodes import Nodes


class Fleet:
    """A grid of nodes: id → (partition, num-partitions), or None for one that cannot answer."""

    def __init__(self, **nodes) -> None:
        flower.take_identity(1)
        self.nodes = {int(name[1:]): answer for name, answer in nodes.items()}
        self.away: set[int] = set()
        self.asked: list[int] = []
        self.waited: set[float] = set()
        self._ids = count()

    def get_node_ids(self):
        return [node for node in self.nodes if node not in self.away]

    def send_and_receive(self, messages, *, timeout):
        self.waited.add(timeout)
        for message in messages:
            flower.set_message_id(message, str(next(self._ids)))
            self.asked.append(message.metadata.dst_node_id)
        return [self.reply(message) for message in reversed(messages)]

    def reply(self, message):
        answer = self.nodes[message.metadata.dst_node_id]
        if answer is None:
            return Message(Error(1, "broken"), reply_to=message)
        metrics = MetricRecord({"partition-id": answer[0], "num-partitions": answer[1]})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)


def settings(num_clients=3, **strategy):
    flat = {"strategy__node_timeout": 0.3} | {f"strategy__{key}": value for key, value in strategy.items()}
    return RunConfig().replace(num_clients=num_clients, **flat)


@pytest.fixture
def fleet():
    return Fleet(n7=(2, 3), n8=(0, 3), n9=(1, 3))


def test_each_is_asked_once_and_partitions_count_not_ids(fleet):
    nodes = Nodes(settings(timeout=77.0))
    assert nodes.available(fleet, [0, 1, 2], 1) == {0: 8, 1: 9, 2: 7}
    assert fleet.waited == {77.0}
    assert nodes.available(fleet, [0, 2], 1) == {0: 8, 2: 7}
    assert sorted(fleet.asked) == [7, 8, 9]


def test_the_nodes_of_a_simulation_are_known_unasked():
    def asked(message, context):
        raise AssertionError("a client was asked")

    cfg = settings(num_clients=3)
    found = Nodes(cfg).available(LocalGrid(cfg, asked), [0, 2], 1)
    assert found == {0: FIRST_NODE_ID, 2: FIRST_NODE_ID + 2}


def test_whoever_is_away_is_not_asked_and_is_again_when_back(fleet):
    nodes = Nodes(settings())
    nodes.available(fleet, [0, 1, 2], 1)
    fleet.away = {8}
    assert nodes.available(fleet, [0, 1, 2], 1) == {1: 9, 2: 7}
    fleet.away = set()
    assert nodes.available(fleet, [0, 1, 2], 1) == {0: 8, 1: 9, 2: 7}
    assert len(fleet.asked) == 3


def test_too_few_are_awaited_but_not_for_ever(fleet, slowness):
    nodes = Nodes(settings())
    nodes.available(fleet, [0, 1, 2], 1)
    fleet.away = {7, 8}
    start = time.monotonic()
    assert nodes.available(fleet, [0, 1, 2], 2) == {1: 9}
    assert 0.3 <= time.monotonic() - start < 3 * slowness()


def test_another_node_may_take_the_place_of_one_that_left_and_none_of_one_that_is_there(fleet):
    nodes = Nodes(settings())
    nodes.available(fleet, [0, 1, 2], 1)
    fleet.away = {8}
    fleet.nodes |= {20: (0, 3), 21: (1, 3), 22: None, 23: (0, 4)}
    assert nodes.available(fleet, [0, 1, 2], 1) == {0: 20, 1: 9, 2: 7}
    nodes.available(fleet, [0, 1, 2], 1)
    assert sorted(fleet.asked) == [7, 8, 9, 20, 21, 22, 23]


def test_a_run_begins_with_fewer_only_where_that_is_allowed():
    fleet = Fleet(n7=(2, 3), n9=(1, 3))
    with pytest.raises(RunFailed, match=r"^2 SuperNodes are connected, num-clients is 3: .*num-supernodes=3"):
        Nodes(settings()).available(fleet, [0, 1, 2], 1)
    assert Nodes(settings(min_clients=2)).available(fleet, [0, 1, 2], 1) == {1: 9, 2: 7}


def test_nodes_that_come_one_by_one_are_awaited(fleet):
    class Growing(Fleet):
        looks = 0

        def get_node_ids(self):
            self.looks += 1
            return list(self.nodes)[: self.looks]

    grid = Growing(n7=(2, 3), n8=(0, 3), n9=(1, 3))
    assert len(Nodes(settings()).available(grid, [0, 1, 2], 3)) == 3
    assert grid.looks >= 3


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"n1": (0, 2), "n2": (0, 2)}, "two nodes hold partition 0"),
        ({"n1": (0, 3), "n2": (1, 3)}, "started for 3 partitions, num-clients is 2"),
        ({"n1": (0, 2), "n2": (2, 2)}, "holds partition 2 of 2"),
        ({"n1": (0, 2), "n2": None}, "could not say which partition it holds: broken"),
        ({"n1": (0, 2), "n2": (1, 2), "n3": (1, 2)}, "3 SuperNodes are connected, num-clients is 2"),
    ],
)
def test_what_is_wrong_at_the_beginning_ends_the_run(nodes, message):
    with pytest.raises(RunFailed, match=message):
        Nodes(settings(2)).available(Fleet(**nodes), [0, 1], 1)


def test_one_that_is_away_is_recorded_as_missing(quick, federate, monkeypatch):
    there = Nodes.available

    def without_one(self, grid, wanted, least):
        return {partition: node for partition, node in there(self, grid, wanted, least).items() if partition != 1}

    monkeypatch.setattr(Nodes, "available", without_one)
    folder = federate(quick(num_rounds=1))
    (row,) = folder.read("rounds.jsonl")
    assert (row["clients"], row["ok"], row["missing"]) == (3, 2, 1)
    away = [c for c in folder.read("clients.jsonl") if c["status"] != "ok"]
    assert [(c["phase"], c["client"], c["status"], c["reason"]) for c in away] == [
        (phase, 1, "missing", "its SuperNode is not there") for phase in ("train", "evaluate")
    ]


def test_a_round_without_enough_of_them_ends_the_run_and_says_why(quick, federate, monkeypatch):
    monkeypatch.setattr(Nodes, "available", lambda self, grid, wanted, least: {})
    with pytest.raises(RunFailed, match=r"0 usable updates of 3 clients.*client 0 missing: its SuperNode is not there"):
        federate(quick())
