"""A deployment of real processes on this machine: SuperLink, SuperExec, SuperNodes; flags as in docker-compose.yml."""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from unittest.mock import patch
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from fedrobust.deploy import certificates
from fedrobust.deploy.certificates import make_certificates
from fedrobust.engines.superlink import flwr_environment

NOTES_CONNECTIONS = """
import os, sys
def note(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        with open(os.environ["NOTED_CONNECTIONS"], "a") as file:
            print(sys.argv[0], arguments[1][0], file=file)
sys.addaudithook(note)
"""
# `flower-supernode`, which is heard of every four seconds. It says, as all do, that this will be every 30, so that it
# is missed after twice that; from SIGUSR1 on it says 10, the least that Flower takes
MISSED_SOON = """
import signal
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection as connection
from flwr.supernode.cli import flower_supernode
heartbeat.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT_MIN_INTERVAL
signal.signal(signal.SIGUSR1, lambda *_: setattr(connection, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_MIN_INTERVAL))
flower_supernode()
"""
# `flower-supernode` several times, imported once: (name, log, flags) of each as JSON; prints how each ends
SUPERNODES = """
import json, os, sys
import flwr.supernode.main
from flwr.supernode.cli import flower_supernode
names = {}
for name, log, flags in json.loads(sys.argv[1]):
    if started := os.fork():
        names[started] = name
        continue
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = ["flower-supernode", *flags]
    sys.exit(flower_supernode())
while names:
    ended, status = os.wait()
    print(names.pop(ended), os.waitstatus_to_exitcode(status), flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Machines:
    """Starts, kills and reads the processes; each has a FLWR_HOME, a log and a process group of its own."""

    def __init__(self, folder: Path, num_clients: int, wait_until: Callable[..., None]) -> None:
        """`wait_until`: as of the fixture."""
        self.folder, self.num_clients, self._wait_until = folder, num_clients, wait_until
        self.certs = folder / "certs"
        make_certificates(self.certs, ["127.0.0.1"], num_clients)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._doors: list[socket.socket] = []
        self.connections = folder / "connections.txt"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(NOTES_CONNECTIONS)
        path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
        self._environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "NOTED_CONNECTIONS": str(self.connections)}

    def start(self, name: str, *command: str, **environment: str) -> None:
        home = self.folder / "homes" / name
        home.mkdir(parents=True, exist_ok=True)
        with open(self.log(name), "ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=home,
                env=flwr_environment(home) | self._environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start_server(self) -> None:
        bundle = self.certs / "server"
        secret = ("--superexec-auth-secret-file", str(bundle / "superexec.secret"))
        tls = ("--ssl-ca-certfile", str(bundle / "ca.crt"), "--ssl-certfile", str(bundle / "server.crt"))
        tls += ("--ssl-keyfile", str(bundle / "server.key"))
        self.start(
            "superlink",
            *("flower-superlink", *tls, "--enable-supernode-auth", "--isolation", "process", *secret),
            *("--database", str(self.folder / "state.db"), "--disable-runtime-dependency-installation"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        )
        if "serverapp" not in self.processes:
            trust = ("--root-certificates", str(bundle / "ca.crt"))
            self.start("serverapp", "flower-superexec", *trust, "--runtime-api-address", self.address, *secret)
        self._wait_until("SuperLink answers", self.healthy, process=self.processes["superlink"])

    def healthy(self) -> bool:
        with suppress(URLError, OSError):
            trust = ssl.create_default_context(cafile=str(self.certs / "ca.crt"))
            return urlopen(f"https://{self.address}/health", context=trust, timeout=2).status == 200
        return False

    def start_client(self, number: int, *, will_be_killed: bool = False, **environment: str) -> None:
        """A SuperNode; one that will be killed is missed sooner once it gets SIGUSR1."""
        program = (sys.executable, "-c", MISSED_SOON) if will_be_killed else ("flower-supernode",)
        bundle = self.certs / f"client-{number}"
        self.start(
            f"client-{number}",
            *program,
            *("--root-certificates", str(bundle / "ca.crt"), "--superlink", self.address),
            *("--auth-supernode-private-key", str(bundle / "node.key"), "--port", str(free_port())),
            *("--node-config", f"partition-id={number} num-partitions={self.num_clients}"),
            **environment,
        )

    def deploy(self, name: str, *arguments: str) -> None:
        """`fedrobust deploy`, talking to this SuperLink."""
        command = (sys.executable, "-m", "fedrobust", "deploy", *arguments)
        self.start(name, *command, "--superlink", self.address, "--ca", str(self.certs / "ca.crt"))

    def start_strangers(self) -> None:
        """SuperNodes that must not get in, or must not go in; each has a log."""
        ours = self.certs / "client-0"
        other = self._bundles("other")
        expired = self._bundles("expired", days=1e-3)  # 86 s, and they began five minutes ago
        trust = ["--root-certificates", str(ours / "ca.crt")]
        foreign = ["--root-certificates", str(other / "ca.crt")]
        key = ["--auth-supernode-private-key", str(ours / "node.key")]
        flags = {
            "plaintext": (self.address, ["--insecure"]),
            "unregistered": (self.address, [*trust, *key[:1], str(other / "client-0" / "node.key")]),
            "without-a-key": (self.address, trust),
            "other-authority": (self.address, [*foreign, *key]),
            "expired": (self._door("127.0.0.1", expired), ["--root-certificates", str(expired / "ca.crt"), *key]),
            "wrong-name": (self._door("127.0.0.2", self.certs), [*trust, *key]),
        }
        where = ["--isolation", "process", "--node-config", "partition-id=0 num-partitions=2", "--port"]
        all_flags = [
            (name, str(self.log(name)), ["--superlink", address, *chosen, *where, str(free_port())])
            for name, (address, chosen) in flags.items()
        ]
        self.start("strangers", sys.executable, "-c", SUPERNODES, json.dumps(all_flags))

    def strangers(self) -> dict[str, int]:
        """Exit codes of those that have ended, by name."""
        return {name: int(code) for name, code in map(str.split, self.log("strangers").read_text().splitlines())}

    def _bundles(self, name: str, days: float = certificates.LEAF_DAYS) -> Path:
        """The keys of another authority, whose certificates last so long."""
        with patch.object(certificates, "LEAF_DAYS", days):
            make_certificates(self.folder / name, ["127.0.0.1"], 1)
        return self.folder / name

    def _door(self, host: str, certs: Path) -> str:
        """Address of a TLS server with the certificate of `certs`, which says nothing to those who come in."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certs / "server" / "server.crt", certs / "server" / "server.key")
        listener = socket.create_server((host, 0))
        self._doors.append(listener)

        def answer() -> None:
            while True:
                try:
                    visitor, _ = listener.accept()
                except OSError:  # it was closed
                    return
                with suppress(OSError), context.wrap_socket(visitor, server_side=True):
                    pass

        Thread(target=answer, daemon=True).start()
        return f"{host}:{listener.getsockname()[1]}"

    def kill(self, name: str) -> None:
        """`kill -9`, of all that this process started too."""
        process = self.processes.pop(name)
        for started in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                started.kill()
        process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            with suppress(psutil.NoSuchProcess):
                self.kill(name)
        for door in self._doors:
            door.shutdown(socket.SHUT_RDWR)
            door.close()
