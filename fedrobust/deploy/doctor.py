"""Checks of a client's machine before a run, with a remedy for each failure."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedrobust.deploy.certificates import alternatives_of
from fedrobust.errors import UserError

AHEAD, BEHIND = 5, 305  # seconds that Flower lets a client's clock be ahead of the server's, and behind it
SECONDS = 5.0  # to wait for an answer
MIN_FREE = 1 << 30


@dataclass(frozen=True)
class CheckResult:
    """The result of a check; `remedy` is empty if nothing is wrong."""

    check: str
    seen: str
    remedy: str = ""


class CheckFailed(Exception):
    """A failed check, with a remedy."""

    def __init__(self, seen: str, remedy: str) -> None:
        super().__init__(seen)
        self.seen, self.remedy = seen, remedy


@dataclass(frozen=True)
class Client:
    """A client's machine: the server's address, its bundle (None for plaintext), its data set, and its own folder of
    images if it trains on one (`data.own`).
    """

    host: str
    port: int
    bundle: Path | None
    data: str
    own: Path | None = None


def examine(client: Client) -> Iterator[CheckResult]:
    """Yield one result per check, in the order in which failures should be repaired; a check that cannot be made says
    so.
    """
    checks: dict[str, Callable[[Client], str]] = {
        "port": _port,
        **({"keys": _keys, "tls": _tls} if client.bundle else {}),
        "version": _version,
        "clock": _clock,
        "control": _control,
        "device": _device,
        "data": _data,
        "disk": _disk,
    }
    for name, check in checks.items():
        try:
            yield CheckResult(name, check(client))
        except CheckFailed as trouble:
            yield CheckResult(name, trouble.seen, trouble.remedy)


def _port(client: Client) -> str:
    try:
        with socket.create_connection((client.host, client.port), timeout=SECONDS):
            return f"{client.host}:{client.port} answers"
    except socket.gaierror as error:
        raise CheckFailed(
            f"{client.host}: {error.strerror}", "check the name, or give it an address (extra_hosts)"
        ) from error
    except OSError as error:
        raise CheckFailed(
            f"{client.host}:{client.port}: {error.strerror or error}",
            "start the server's proxy, or open its port (FLEET_PORT) in the firewall between",
        ) from error


def _keys(client: Client) -> str:
    assert client.bundle
    for name in ("ca.crt", "node.key", "node.pub", "superexec.secret", "runtime.crt", "runtime.key"):
        path = client.bundle / name
        if not path.exists():
            raise CheckFailed(
                f"{path} does not exist",
                "copy the complete bundle certs/client-<n> from the machine on which fedrobust certs made it",
            )
        if not os.access(path, os.R_OK):
            owner = path.stat().st_uid
            raise CheckFailed(f"{path} belongs to user {owner}, this is {os.getuid()}", f"chown -R {os.getuid()} it")
        if name in ("node.key", "runtime.key", "superexec.secret") and path.stat().st_mode & (
            stat.S_IRWXG | stat.S_IRWXO
        ):
            raise CheckFailed(f"{path} can be read by others", f"chmod 600 {shlex.quote(str(path))}")
    private = serialization.load_ssh_private_key((client.bundle / "node.key").read_bytes(), None)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    if not (client.bundle / "node.pub").read_bytes().startswith(public):
        raise CheckFailed("node.key and node.pub are not a pair", "copy the complete bundle again")
    return f"{client.bundle} is complete"


def _tls(client: Client) -> str:
    try:
        with _connection(client) as sock:
            ends = ssl.cert_time_to_seconds(str((sock.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        names = ", ".join(alternatives_of(_presented(client)))
        if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
            remedy = f"add {client.host} to SERVER_NAMES on the server and start it again"
            raise CheckFailed(f"the certificate is for {names}, not for {client.host}", remedy) from error
        if "expired" in error.verify_message or "not yet valid" in error.verify_message:
            remedy = "renew it on the server (fedrobust certs), or set this clock right"
            raise CheckFailed(f"the certificate: {error.verify_message}", remedy) from error
        raise CheckFailed(
            f"the certificate: {error.verify_message}", "copy the bundle of the authority that the server has"
        ) from error
    except (ssl.SSLError, OSError) as error:
        raise CheckFailed(
            f"no TLS on {client.host}:{client.port} ({error})",
            "check the port (FLEET_PORT), and that the server uses TLS",
        ) from error
    days = (datetime.fromtimestamp(ends, UTC) - datetime.now(UTC)).days
    return f"the certificate is for {client.host}, for {days} more days"


def _version(client: Client) -> str:
    here = version("flwr")
    there = _ask(client, "/version").read().decode().split()
    if there[:1] != ["flwr"]:
        raise CheckFailed(
            "the server does not report its version", f"{client.host}:{client.port} must be the server's proxy"
        )
    if there[1] != here:
        raise CheckFailed(
            f"the server has flwr {there[1]}, this machine {here}", "install the same commit on all machines"
        )
    return f"flwr {here} on both sides"


def _clock(client: Client) -> str:
    there = _ask(client, "/version").getheader("Date")
    assert there, "HTTP servers send the time with their answers"
    ahead = (datetime.now(UTC) - parsedate_to_datetime(there)).total_seconds()
    if not -BEHIND < ahead < AHEAD:
        raise CheckFailed(
            f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's",
            f"run NTP on both (allowed: {AHEAD} s ahead, {BEHIND} s behind)",
        )
    return f"within {abs(ahead):.0f} s of the server's"


def _control(client: Client) -> str:
    status = _ask(client, "/v1/control/list-runs").status
    if status != 404:
        raise CheckFailed(
            f"the Control API answers here (status {status})",
            "anyone who reaches it can run code: publish only the proxy's port",
        )
    return "the Control API cannot be reached from here"


def _device(client: Client) -> str:
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            raise CheckFailed(
                "this machine has a GPU that PyTorch cannot use", "use the profile gpu, and NVIDIA's container toolkit"
            )
        return "no GPU; it trains on the CPU"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _data(client: Client) -> str:
    from fedrobust.data import DATASETS, load
    from fedrobust.data.own import read_folder

    spec, passed = DATASETS[client.data], list[str]()
    if client.own:
        try:
            own = read_folder(client.own, spec, passed.append)
        except UserError as error:
            raise CheckFailed(str(error), "mount the folder (OWN), and correct the error") from error
        classes = f"{len(set(own.labels.tolist()))} of {len(spec.class_names)} classes of {client.data}"
        return "; ".join([f"{client.own}: {len(own):,} images of {classes}", *passed])
    try:
        dataset = load(client.data)
    except UserError as error:
        raise CheckFailed(str(error), "mount the folder (DATA) and set FEDROBUST_DATA to it") from error
    return f"{client.data}: {len(dataset.train):,} training images, digest {dataset.digest[:8]}"


def _disk(client: Client) -> str:
    from fedrobust.data.cache import root

    folder = root()
    near = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(near, os.W_OK):
        raise CheckFailed(f"{folder} cannot be written", "set FEDROBUST_CACHE to a folder that can")
    if (free := shutil.disk_usage(near).free) < MIN_FREE:
        raise CheckFailed(
            f"{folder}: {free / 2**20:.0f} MiB free", f"{MIN_FREE / 2**20:.0f} MiB are needed; free some space"
        )
    return f"{folder}: {free / 2**30:.0f} GiB free"


def _connection(client: Client) -> ssl.SSLSocket:
    context = _trust(client)
    assert context
    sock = socket.create_connection((client.host, client.port), timeout=SECONDS)
    return context.wrap_socket(sock, server_hostname=client.host)


def _trust(client: Client) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=str(client.bundle / "ca.crt")) if client.bundle else None


def _presented(client: Client) -> x509.Certificate:
    """Return the certificate that the server shows, without verification."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((client.host, client.port), timeout=SECONDS) as sock,
        context.wrap_socket(sock) as wrapped,
    ):
        return x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")


def _ask(client: Client, path: str) -> HTTPResponse:
    """Return the server's answer. Raise CheckFailed if there is none: an earlier check says why."""
    try:
        trust = _trust(client)
        if trust:
            connection: HTTPConnection = HTTPSConnection(client.host, client.port, timeout=SECONDS, context=trust)
        else:
            connection = HTTPConnection(client.host, client.port, timeout=SECONDS)
        connection.request("GET", path)
        return connection.getresponse()
    except (OSError, HTTPException) as error:
        raise CheckFailed("not checked: the server does not answer", "correct the failures above first") from error
