"""Ray that cannot start, or be joined: a line that names the engine that does not need it."""

import http.server
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from fedrobust.config import RunConfig
from fedrobust.engines import check, ray_cluster
from fedrobust.errors import ConfigError, RunFailed

# a process that a test has ended before it was waited for
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def no_ray(monkeypatch):
    """Whatever other tests of this process have left, there is no Ray."""
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 0.5)


@pytest.fixture
def silent():
    """A port at which somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed():
    """A port at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@pytest.fixture
def page():
    """A port with a web page, as Ray's dashboard has one."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def other_service():
    """A port at which gRPC is spoken, but not by Ray: that of a Flower SuperLink, say."""
    server = grpc.server(ThreadPoolExecutor(1))
    yield server.add_insecure_port("127.0.0.1:0")
    server.stop(None).wait()


@pytest.mark.parametrize("who", ["silent", "closed", "page", "other_service"])
def test_a_cluster_that_does_not_answer_is_said(no_ray, request, who):
    address = f"127.0.0.1:{request.getfixturevalue(who)}"
    with pytest.raises(ConfigError, match=rf"workers.address = '{address}': no Ray cluster answers there") as said:
        check(RunConfig().replace(workers__address=address), "ray")
    assert str(said.value).endswith("--engine local needs no Ray")
    assert "\n" not in str(said.value)


def test_what_keeps_ray_from_starting_is_one_line_and_its_daemons_end(no_ray, monkeypatch):
    def start(**options):
        ray_cluster.services.ConsolePopen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        raise TimeoutError("Timed out after 60 seconds\nwhile waiting for node to startup")

    monkeypatch.setattr(ray_cluster.ray, "init", start)
    started = ray_cluster._daemons
    with pytest.raises(RunFailed, match=r"^Ray did not start \(Timed out after 60 seconds\); --engine local needs no"):
        ray_cluster.start_ray("", 1)
    assert started == []
    assert ray_cluster.services.ConsolePopen is not ray_cluster._start_daemon
