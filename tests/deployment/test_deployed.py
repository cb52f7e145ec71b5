"""One federation of real processes over TLS: strangers at the door, SuperLink killed in round 1, a client
in round 2. What it computes is held against the `local` engine."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fedrobust.cli import main
from fedrobust.config import RunConfig
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder

pytestmark = pytest.mark.timeout(1200)  # a Python process per message, each of which imports PyTorch

SETTINGS = {
    "num-clients": 2,
    "num-rounds": 2,
    "device": "cpu",
    "data.train-images": 400,
    "data.test-images": 100,
    "attack.steps": 2,
    "local.batch-size": 32,
    "strategy.timeout": 300,
    "strategy.node-timeout": 60,  # the SuperLink is away for a while; seconds of this machine, which may be busy
    "strategy.fraction-evaluate": 0,
    "evaluation.attacks": "fgsm",
    "evaluation.select-by": "natural",
    "workers.threads": 1,
}


@pytest.fixture(scope="module")
def story(tmp_path_factory, federation_of_processes, wait_until, slowness):
    """Play it once; what was seen."""
    folder = tmp_path_factory.mktemp("deployed")
    machines = federation_of_processes(folder, 2)
    (folder / "mine.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in SETTINGS.items()))
    run = RunFolder(folder / "run")

    def messages(client):
        return machines.log(client).read_text().count("train message")

    try:
        machines.start_server()
        machines.start_strangers()
        register = ("--register", str(machines.certs / "server" / "nodes"))
        machines.deploy("deploy", str(folder / "mine.toml"), "--run-dir", str(run.path), *register)
        deploy, said = machines.processes["deploy"], machines.log("deploy")
        wait_until("the keys", lambda: said.read_text().count("registered") == 2, process=deploy, seconds=120)
        machines.start_client(0)
        machines.start_client(1, will_be_killed=True)
        wait_until("round 1", lambda: messages("client-1"), process=deploy, seconds=300)
        machines.kill("superlink")
        machines.start_server()
        wait_until("its end", lambda: run.read("rounds.jsonl"), process=deploy, seconds=400)
        machines.processes["client-1"].send_signal(signal.SIGUSR1)  # not before: the SuperLink was away
        wait_until("round 2", lambda: messages("client-1") > 2, process=deploy, seconds=300)
        machines.kill("client-1")
        code = deploy.wait(timeout=400 * slowness())
        strangers = machines.strangers()
        listening = {
            connection.laddr.ip
            for process in [machines.processes["superlink"], machines.processes["client-0"]]
            for connection in psutil.Process(process.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
    finally:
        machines.close()
    return SimpleNamespace(machines=machines, run=run, code=code, strangers=strangers, listening=listening)


def test_the_first_round_is_the_simulations_though_the_superlink_was_killed(story, tmp_path):
    local = tmp_path / "local"
    mine = ["run", str(story.machines.folder / "mine.toml"), "--num-rounds", "1", "--run-dir", str(local)]
    assert main([*mine, "--engine", "local"]) == 0

    def rows(folder):
        rows = folder.read("rounds.jsonl")[:1] + [r for r in folder.read("clients.jsonl") if r["round"] == 1]
        return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]

    for ours, theirs in zip(rows(story.run), rows(RunFolder(local)), strict=True):
        # norms are sums over buffers that may be aligned differently
        norms = {key: value for key, value in theirs.items() if "drift" in key or "norm" in key}
        assert ours == theirs | {key: pytest.approx(value, rel=1e-6) for key, value in norms.items()}


def test_the_round_completes_without_the_client_that_was_killed_and_names_it(story):
    assert story.code == 0, story.machines.log("deploy").read_text()
    second = story.run.read("rounds.jsonl")[1]
    assert (second["ok"], second["failed"] + second["missing"]) == (1, 1)
    (lost,) = [row for row in story.run.read("clients.jsonl") if row["status"] != "ok"]
    assert (lost["round"], lost["phase"], lost["client"]) == (2, "train", 1)
    assert second["seconds_train"] < SETTINGS["strategy.timeout"] + 5
    weights, facts = load_model(story.run.last)
    assert facts["round"] == 2
    assert weights


def test_the_record_is_like_a_simulations(story):
    record = story.run.record()
    assert record["state"] == "completed"
    assert record["engine"] == "deployment"
    assert {"command", "commit", "versions", "hardware", "best", "last", "seconds"} <= set(record)
    assert story.run.read_config() == RunConfig.from_flat({**SETTINGS, "run-dir": str(story.run.path)})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("plaintext", "Connection attempt failed"),
        ("unregistered", "Failed to activate SuperNode"),
        ("without-a-key", "Exit Code: 305"),
        ("other-authority", "certificate verify failed: unable to get local issuer certificate"),
        ("expired", "certificate verify failed: certificate has expired"),
        ("wrong-name", "certificate is not valid for '127.0.0.2'"),
    ],
)
def test_strangers_stay_outside(story, name, reason):
    log = story.machines.log(name).read_text()
    assert reason in log
    assert "train message" not in log
    assert story.strangers.get(name) or name == "plaintext"  # which tries for ever; `fedrobust doctor` says why


def test_they_listen_on_this_host_alone(story):
    assert story.listening == {"127.0.0.1"}


def test_nothing_is_sent_anywhere_else(story):
    """Every connection of every Python process, clients and ServerApp included, as an audit hook saw it."""
    reached = {line.rpartition(" ")[2] for line in story.machines.connections.read_text().splitlines()}
    programs = {Path(line.split(" ")[0]).name for line in story.machines.connections.read_text().splitlines()}
    assert {"flower-supernode", "flower-superexec", "flwr-clientapp", "flwr-serverapp", "flwr"} <= programs
    assert reached == {"127.0.0.1", "127.0.0.2"}  # the second is the wrongly named server's


def test_no_secret_is_in_a_log(story):
    secrets = [path.read_text().strip() for path in story.machines.certs.rglob("*.secret")]
    secrets += ["".join(path.read_text().splitlines()[1:-1])[:40] for path in story.machines.certs.rglob("*.key")]
    logs = [path.read_text() for path in Path(story.machines.folder).glob("*.log")]
    logs.append((story.run.path / "flwr.log").read_text())
    assert len(secrets) >= 8
    assert not any(secret in log for secret in secrets for log in logs)
