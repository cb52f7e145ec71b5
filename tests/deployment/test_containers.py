"""The compose file's demo in real containers: locked down, and faults one by one in one run (`make test-docker`)."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = "fedrobust-test"
RUN = (
    "quickstart --variant fedavg --num-rounds 60 --run-dir /runs/run --workers.threads 1 --local.epochs 1 "
    "--attack.steps 1 --data.train-images 400 --data.test-images 100 --evaluation.attacks fgsm "
    "--evaluation.select-by natural --strategy.fraction-evaluate 0 --strategy.node-timeout 20 --strategy.timeout 240"
)
SETTINGS = {
    "BASE_IMAGE": os.environ.get("BASE_IMAGE", "python:3.11-slim-bookworm"),
    "FEDROBUST_UID": "1000",
    "SERVER_NAMES": "localhost",
    "NUM_CLIENTS": "3",
    "SUPERLINK": "localhost:8443",
    "PARTITION": "0",
    "CONTROL_PORT": "18000",
    "FLEET_PORT": "18443",
    "RUN": RUN,
}
SERVICES = ["certs", "superlink", "nodes", "serverapp", "proxy", "submit"]
SERVICES += [f"{kind}-{number}" for kind in ("supernode", "clientapp") for number in range(3)]


def why_not() -> str:
    if os.environ.get("FEDROBUST_TEST_DOCKER") != "1":
        return "`make test-docker` runs these"
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "no Docker Engine here"
    return ""


pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(3600)]


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout + done.stderr


def compose(*arguments: str) -> None:
    v2 = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    command = ["docker", "compose"] if v2 else ["docker-compose"]
    files = ["-f", str(ROOT / "docker-compose.yml"), "-p", PROJECT, "--profile", "demo"]
    environment = os.environ | SETTINGS
    subprocess.run([*command, *files, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)


def container(service: str) -> str:
    labels = (f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}")
    return docker("ps", "-aq", *(word for label in labels for word in ("--filter", f"label={label}"))).split()[0]


def rows(log: str) -> list[dict]:
    text = docker("exec", container("serverapp"), "cat", f"/runs/run/{log}.jsonl", check=False)
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def kill_inside(service: str) -> None:
    """kill -9 of what the container is for; its restart policy is to bring it back."""
    code = "import os, psutil; [p.kill() for p in psutil.Process(1).children()]"
    docker("exec", container(service), "python", "-c", code, check=False)


class Story:
    """One run, as its folder tells it."""

    def rounds(self) -> int:
        return len(rows("rounds"))

    def await_round(self, number: int, seconds: float = 600) -> int:
        end = time.monotonic() + seconds
        while (done := self.rounds()) < number:
            assert time.monotonic() < end, docker("logs", "--tail", "50", container("submit"))
            time.sleep(1)
        return done

    def await_client(self, client: int, after: int, *, ok: bool, seconds: float = 900) -> dict:
        """The first row of a client after a round in which its update was used, or was not."""
        end = time.monotonic() + seconds
        while True:
            for row in rows("clients"):
                if row["round"] > after and row["client"] == client and (row["status"] == "ok") == ok:
                    return row
            assert time.monotonic() < end, f"client {client}: never {'ok' if ok else 'lost'}"
            time.sleep(1)


@pytest.fixture(scope="module")
def story():
    """Bring the demo up, let one thing after another happen to it, and keep what is asked about."""
    compose("down", "-v")
    compose("build")
    try:
        compose("up", "-d")
        yield play()
    finally:
        compose("down", "-v")


def play() -> SimpleNamespace:
    """What happens, and what was seen."""
    story, seen = Story(), SimpleNamespace()
    names = [container(service) for service in SERVICES]
    look_around(seen, names)
    story.await_round(1, 900)

    # a SuperNode dies, and its restart policy brings it back; another is cut off for 30 s
    before, network = story.rounds(), f"{PROJECT}_fleet"
    kill_inside("supernode-1")
    docker("network", "disconnect", network, container("supernode-2"))
    time.sleep(30)
    docker("network", "connect", "--alias", "supernode-2", network, container("supernode-2"))
    seen.f1 = story.await_client(1, before, ok=False)
    seen.f1_back = story.await_client(1, seen.f1["round"], ok=True)
    seen.f6 = story.await_client(2, before + 1, ok=True)

    # a client hangs, and rounds end all the same; meanwhile the SuperLink dies
    before, start = story.rounds(), time.monotonic()
    docker("pause", container("clientapp-0"))
    kill_inside("superlink")
    story.await_round(before + 1, 900)
    seen.f5_seconds = time.monotonic() - start
    story.await_round(before + 2, 900)
    docker("unpause", container("clientapp-0"))
    seen.f7 = [row for row in rows("clients") if row["client"] == 0 and row["round"] > before]
    seen.f7_back = story.await_client(0, before + 2, ok=True)

    # whoever waits is stopped, and the run with it; then it goes on
    start = time.monotonic()
    docker("kill", "--signal", "INT", container("submit"))
    seen.f11_code = int(docker("wait", container("submit")))
    seen.f11_seconds = time.monotonic() - start
    time.sleep(20)
    stopped_at = story.rounds()
    time.sleep(30)
    seen.f11_rounds = (stopped_at, story.rounds())
    for number in range(3):  # Flower's, after a run that was stopped in mid-round, answer one message late
        docker("restart", container(f"supernode-{number}"))
    resume = f"fedrobust deploy --resume /runs/run --num-rounds {story.rounds() + 1}"
    with_tls = "--superlink superlink:8000 --ca /certs/server/ca.crt"
    seen.resumed = docker("exec", container("serverapp"), *resume.split(), *with_tls.split(), check=False)
    seen.logs = "".join(docker("logs", name) for name in names)
    seen.rounds, seen.clients = rows("rounds"), rows("clients")
    return seen


def look_around(seen: SimpleNamespace, names: list[str]) -> None:
    """How the containers are locked down, and what a client reaches."""
    seen.inspected = json.loads(docker("inspect", *names).removesuffix("\n"))
    read = "cat /certs/*/*.secret /certs/*/*.key /certs/*.key"
    seen.secrets = docker("exec", container("certs"), "sh", "-c", read)
    seen.control = docker(
        *("exec", container("supernode-0"), "python", "-c"),
        "import ssl, sys; from urllib.request import urlopen; from urllib.error import HTTPError\n"
        "context = ssl.create_default_context(cafile='/certs/ca.crt')\n"
        "paths = '/v1/control/list-runs /v1/runtime/acquire-task /health /v1/fleet/../control/list-runs'\n"
        "for path in paths.split():\n"
        "    try: print(urlopen('https://proxy:8443' + path, data=b'', context=context).status)\n"
        "    except HTTPError as error: print(error.code)\n",
    )
    resolve = "import socket; socket.getaddrinfo('superlink', 8000)"
    seen.superlink_from_client = docker("exec", container("supernode-0"), "python", "-c", resolve, check=False)
    leave = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=3)"
    seen.way_out = docker("exec", container("clientapp-0"), "python", "-c", leave, check=False)
    check_up = ["fedrobust", "doctor", "--server", "proxy:8443", "--certs", "/certs/client-0"]
    seen.doctor = docker("exec", "-e", "FEDROBUST_CACHE=/tmp/cache", container("supernode-0"), *check_up, check=False)


def test_they_are_locked_down(story):
    for found in story.inspected:
        name, host = found["Name"], found["HostConfig"]
        assert found["Config"]["User"] == "1000", name
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False), name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}, name


def test_no_secret_is_in_an_image_its_settings_or_a_log(story):
    secrets = [line for line in story.secrets.splitlines() if len(line) > 30 and "-----" not in line]
    assert len(secrets) > 15
    history = "".join(docker("history", "--no-trunc", f"{name}:local") for name in ("fedrobust", "fedrobust-proxy"))
    places = {"history": history, "inspect": json.dumps(story.inspected), "logs": story.logs}
    assert not [where for where, text in places.items() for secret in secrets if secret in text]
    assert docker("run", "--rm", "fedrobust:local", "sh", "-c", "ls /certs") == ""


def test_other_machines_reach_the_fleets_path_alone(story):
    assert story.control.split() == ["404"] * 4
    assert "gaierror" in story.superlink_from_client
    assert "timed out" in story.way_out or "unreachable" in story.way_out
    ports = {
        found["Config"]["Labels"]["com.docker.compose.service"]: found["HostConfig"]["PortBindings"]
        for found in story.inspected
    }
    published = {service: bindings for service, bindings in ports.items() if bindings}
    assert set(published) == {"superlink", "proxy"}
    assert published["superlink"]["8000/tcp"][0]["HostIp"] == "127.0.0.1"


def test_doctor_finds_a_client_fit(story):
    assert "✗" not in story.doctor
    assert story.doctor.count("✓") == 9


def test_a_dead_client_is_named_and_comes_back(story):
    # its message died with it: it is missing at the deadline, or unavailable where it was away for a minute
    assert "Node Unavailable" in story.f1["reason"] or story.f1["reason"] == "no reply in time"
    assert story.f1_back["round"] > story.f1["round"]


def test_one_that_was_cut_off_rejoins_and_nothing_counts_twice(story):
    keys = [(row["round"], row["phase"], row["client"]) for row in story.clients]
    assert len(keys) == len(set(keys))
    assert story.f6["status"] == "ok"


def test_a_straggler_is_left_out_at_the_deadline(story):
    assert any(row["status"] in ("missing", "failed") for row in story.f7)
    assert all(row["seconds_train"] < 240 + 60 for row in story.rounds)  # the deadline, and a restart of the SuperLink
    assert story.f7_back["status"] == "ok"


def test_the_run_goes_on_after_the_superlink_restarted(story):
    assert story.f5_seconds < 300


def test_stopped_it_ends_and_the_run_with_it(story):
    assert story.f11_code == 130
    assert story.f11_seconds < 30  # Flower's command, which stops the run, is a process that takes its time to start
    assert story.f11_rounds[0] == story.f11_rounds[1]


def test_and_a_resume_goes_on_from_its_last_whole_round(story):
    assert "on the test set" in story.resumed, story.resumed
    assert [row["round"] for row in story.rounds] == list(range(1, story.f11_rounds[1] + 2))


@pytest.mark.parametrize(("mount", "reason"), [("size=1m", "MiB free"), ("ro", "cannot be written")])
def test_a_full_or_read_only_disk_is_refused_before_round_1(mount, reason):
    command = "fedrobust run quickstart --variant fedavg --num-rounds 1 --engine local --run-dir /runs/run"
    mounts = ["--tmpfs", f"/runs:{mount},uid=1000", "--tmpfs", "/tmp", "--read-only"]
    said = docker("run", "--rm", *mounts, "fedrobust:local", *command.split(), check=False)
    assert reason in said
    assert "round 1" not in said
    assert "Traceback" not in said
