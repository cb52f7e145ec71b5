"""The in-process grids: the same numbers under both, and what becomes of clients that raise, die or hang."""

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedrobust import engines
from fedrobust.config import RunConfig
from fedrobust.config.registry import load_path
from fedrobust.engines.grid import FIRST_NODE_ID, SimulationGrid
from fedrobust.engines.local import LocalGrid
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder

# Ray leaves it to the operating system to wait for its processes and to close its files
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CLIENTS = 6
SCRIPTED = "scripted_client:app"


@pytest.fixture(scope="module", autouse=True)
def _workers_find_the_scripted_client() -> Iterator[None]:
    here = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", here)
        patch.syspath_prepend(here)
        yield
    sys.modules.pop("scripted_client", None)


@pytest.fixture(scope="module")
def ray_is_up(tmp_path_factory, put_namesakes) -> Iterator[Path]:
    """One Ray for all tests here; a grid neither starts nor stops one that is there. Where a user stood meanwhile."""
    cluster = pytest.importorskip("fedrobust.engines.ray_cluster")
    put_namesakes(folder := tmp_path_factory.mktemp("current"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cluster.start_ray("", 4)
    yield folder
    cluster.stop_ray()
    gc.collect()  # while the warning of `pytestmark` is let pass


@pytest.fixture(scope="module")
def actors(ray_is_up) -> Iterator[SimulationGrid]:
    """Two workers with the scripted client."""
    from fedrobust.engines.ray_pool import RayGrid

    grid = RayGrid(RunConfig().replace(num_clients=CLIENTS, workers__num=2, workers__threads=1), SCRIPTED)
    yield grid
    grid.close()


def test_a_cluster_with_too_few_cores_is_refused_instead_of_waited_for(ray_is_up):
    from fedrobust.engines.ray_pool import RayGrid

    cfg = RunConfig().replace(num_clients=CLIENTS, workers__num=3, workers__threads=2)
    with pytest.raises(ConfigError, match=r"workers.num = 3 with 2 threads .*needs 6 CPUs, the Ray cluster has 4"):
        RayGrid(cfg, SCRIPTED)


def test_workers_do_not_import_from_the_folder_that_the_user_stands_in(ray_is_up):
    ray = pytest.importorskip("ray")
    paths = ray.get(ray.remote(lambda: sys.path).remote())
    assert str(Path(__file__).parent) in paths
    assert str(ray_is_up) not in paths


def test_a_cluster_that_is_there_answers(ray_is_up):
    from fedrobust.engines.ray_cluster import _check_cluster, ray

    _check_cluster(ray.get_runtime_context().gcs_address)


def test_a_private_ray_listens_on_the_loopback_alone_and_has_no_dashboard(ray_is_up):
    ray = pytest.importorskip("ray")
    listening = {
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {address for _, address in listening} == {"127.0.0.1"}
    assert not ray._private.worker.global_worker.node.webui_url


@pytest.fixture(scope="module")
def processes() -> Iterator[SimulationGrid]:
    """The same two workers without Ray."""
    from fedrobust.engines.process_pool import ProcessGrid

    grid = ProcessGrid(RunConfig().replace(num_clients=CLIENTS, workers__num=2, workers__threads=1), SCRIPTED)
    yield grid
    grid.close()


@pytest.fixture
def here() -> SimulationGrid:
    """The same in this process."""
    return LocalGrid(RunConfig().replace(num_clients=CLIENTS, workers__threads=1), load_path(SCRIPTED))


@pytest.fixture(params=["local", "processes", "ray"])
def grid(request: pytest.FixtureRequest) -> SimulationGrid:
    """Each of the three."""
    return request.getfixturevalue({"local": "here", "processes": "processes", "ray": "actors"}[request.param])


@pytest.fixture(params=["processes", "ray"])
def pool(request: pytest.FixtureRequest) -> SimulationGrid:
    """Each of those with workers."""
    return request.getfixturevalue({"processes": "processes", "ray": "actors"}[request.param])


@pytest.fixture
def ask(tmp_path):
    """Send every client a message with the arrays 0, 1, 2, script some; answers or errors by partition, in order."""

    def send(grid, *, timeout=None, clients=range(CLIENTS), **script):
        config = ConfigRecord(
            {"folder": str(tmp_path), **{key.removeprefix("client_"): v for key, v in script.items()}}
        )
        arrays = ArrayRecord({"w": Array(np.arange(3, dtype=np.float32))})
        messages = [
            Message(RecordDict({"arrays": arrays, "config": config}), FIRST_NODE_ID + client, "query")
            for client in clients
        ]
        replies = {}
        for reply in grid.send_and_receive(messages, timeout=timeout):
            client = reply.metadata.src_node_id - FIRST_NODE_ID
            assert client not in replies
            assert reply.metadata.reply_to_message_id == messages[list(clients).index(client)].metadata.message_id
            replies[client] = reply.error.reason if reply.has_error() else dict(reply.content["answer"])
        return replies

    return send


@pytest.fixture
def calls(tmp_path):
    """How often a client was asked."""
    return lambda client: len((tmp_path / f"{client}.calls").read_text().splitlines())


def memory(grid):
    """Messages that each client's state has seen."""
    return [
        int(context.state["memory"]["messages"]) if "memory" in context.state else 0
        for context in grid.contexts.values()
    ]


# -- both --------------------------------------------------------------------------------------------------------------


def test_all_answer_in_the_order_they_were_asked(grid, ask):
    replies = ask(grid, clients=[4, 0, 5, 1, 3, 2])
    assert list(replies) == [4, 0, 5, 1, 3, 2]
    assert all(reply["partition"] == client and reply["sum"] == 3 for client, reply in replies.items())


def test_state_comes_back_to_its_client(grid, ask):
    before = memory(grid)
    for _ in range(2):
        replies = ask(grid, clients=[1, 3])
    assert memory(grid) == [n + 2 * (client in (1, 3)) for client, n in enumerate(before)]
    assert replies[3]["messages"] == before[3] + 2


def test_state_goes_through_a_checkpoint(grid, ask):
    ask(grid)
    cfg = RunConfig().replace(num_clients=CLIENTS)
    other = LocalGrid(cfg, load_path(SCRIPTED))
    assert other.client_states() == {}
    other.restore_client_states(grid.client_states())
    assert memory(other) == memory(grid)
    assert ask(other)[2]["messages"] == memory(grid)[2] + 1


def test_what_a_client_raises_is_its_answer(grid, ask):
    replies = ask(grid, client_2="raises")
    assert "ValueError: no such luck" in replies.pop(2)
    assert [reply["partition"] for reply in replies.values()] == [0, 1, 3, 4, 5]


def test_a_client_cannot_take_the_arrays_from_another(grid, ask):
    replies = ask(grid, client_0="empties its message", client_1="empties its message")
    assert [reply["sum"] for reply in replies.values()] == [0, 0, 3, 3, 3, 3]


def test_flowers_other_way_to_send(grid, tmp_path):
    content = RecordDict({"config": ConfigRecord({"folder": str(tmp_path)})})
    ids = list(grid.push_messages([grid.create_message(content, "query", FIRST_NODE_ID + 3, group_id="1")]))
    (reply,) = grid.pull_messages(ids)
    assert [reply.metadata.reply_to_message_id] == ids
    assert reply.content["answer"]["partition"] == 3
    assert list(grid.get_node_ids()) == [FIRST_NODE_ID + client for client in range(CLIENTS)]


# -- local -------------------------------------------------------------------------------------------------------------


def test_local_asks_nobody_after_the_deadline(here, ask, calls, monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 99.0])
    monkeypatch.setattr(engines.local, "monotonic", lambda: next(clock))
    assert list(ask(here, timeout=50)) == [0, 1]
    assert calls(1) == 1


# -- those with workers ------------------------------------------------------------------------------------------------


def test_a_dead_worker_is_replaced_and_its_client_tried_once_more(pool, ask, calls):
    before = memory(pool)
    replies = ask(pool, client_1="dies once", client_4="dies")
    assert replies[1]["messages"] == before[1] + 1
    assert "worker died 2 times" in replies[4]
    assert [replies[client]["partition"] for client in (0, 1, 2, 3, 5)] == [0, 1, 2, 3, 5]
    assert [calls(client) for client in range(CLIENTS)] == [1, 2, 1, 1, 2, 1]
    assert memory(pool)[4] == before[4]


def test_a_straggler_is_left_out_and_the_next_round_has_all_workers(pool, ask, slowness):
    ask(pool)  # both workers are there
    limit = 3 * slowness()
    before, start = memory(pool), time.monotonic()
    replies = ask(pool, timeout=limit, client_0="hangs")
    assert list(replies) == [1, 2, 3, 4, 5]
    assert limit <= time.monotonic() - start < limit + 5 * slowness()
    assert memory(pool) == [n + (client > 0) for client, n in enumerate(before)]
    assert list(ask(pool)) == list(range(CLIENTS))
    assert len(pool._idle) == 2


def test_a_round_that_is_broken_off_leaves_a_working_pool(pool, tmp_path, ask):
    config = ConfigRecord({"folder": str(tmp_path), "2": "hangs"})
    nodes = [FIRST_NODE_ID + client for client in range(CLIENTS)]
    replies = pool.send_and_receive([Message(RecordDict({"config": config}), node, "query") for node in nodes])
    next(replies)
    replies.close()
    assert len(pool._idle) == 2
    assert list(ask(pool)) == list(range(CLIENTS))


def test_an_app_that_cannot_be_loaded_ends_the_run_in_a_line(ask, capfd):
    from fedrobust.engines.process_pool import ProcessGrid

    grid = ProcessGrid(RunConfig().replace(num_clients=CLIENTS, workers__num=1, workers__threads=1), "no.such:app")
    with pytest.raises(RunFailed, match="the process that starts workers ended with status 1"):
        ask(grid)
    grid.close()
    assert "No module named 'no'" in capfd.readouterr().err


DRIVER = """
import os, signal, sys
from flwr.app import ConfigRecord, Message, RecordDict
from fedrobust.config import RunConfig
from fedrobust.engines.grid import FIRST_NODE_ID
from fedrobust.engines.process_pool import ProcessGrid

grid = ProcessGrid(RunConfig().replace(num_clients=2, workers__num=2, workers__threads=1), "scripted_client:app")
config = ConfigRecord({"folder": sys.argv[1], "1": "hangs"})
messages = [Message(RecordDict({"config": config}), FIRST_NODE_ID + client, "query") for client in (0, 1)]
replies = grid.send_and_receive(messages)
next(replies)
while not all(worker.learn_pid(60) for worker in grid._workers):
    pass
print(*(worker.pid for worker in grid._workers), grid._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_driver_that_is_killed(tmp_path):
    """One of them at work, one idle, and the process that has forked them."""
    done = subprocess.run([sys.executable, "-c", DRIVER, tmp_path], capture_output=True, text=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3, done.stderr
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, left = psutil.wait_procs(alive, timeout=60)
    assert left == []


POLYNOMIAL = {
    "num_rounds": 1,
    "workers__num": 1,
    "model__name": "polynomial",
    "model__activation": "polynomial",
    "objective__name": "convex",
    "attack__norm": "l2",
    "data__classes": "3,8",
    "data__train_images": 200,
    "data__test_images": 20,
}
# batch norm: statistics that are averaged, and attacks on a view that each process folds for itself
RESIDUAL = {
    "num_rounds": 1,
    "workers__num": 1,
    "model__name": "resnet18",
    "model__width": 0.0625,
    "attack__steps": 1,
    "data__train_images": 120,
    "data__test_images": 20,
    "partition__min_samples": 2,
}


@pytest.mark.parametrize("changes", [{}, POLYNOMIAL, RESIDUAL], ids=["small-cnn", "polynomial", "resnet18"])
def test_every_engine_gives_the_same_bits(changes, quick, ray_is_up, metrics_of):
    settings = {"num_clients": 5, "strategy__fraction_train": 0.6, "pool__fraction": 0.2, "pool__share": 0.5, **changes}
    folders = []
    for engine in ("local", "processes", "ray"):
        cfg = quick(**settings)
        engines.run(cfg, engine)
        folders.append(RunFolder(cfg.run_dir))
    first, *others = folders
    for other in others:
        assert metrics_of(other) == metrics_of(first)
        for which in ("best", "last"):
            ours, theirs = (load_model(getattr(folder, which))[0] for folder in (first, other))
            assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}
