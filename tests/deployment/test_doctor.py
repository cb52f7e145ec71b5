"""`fedrobust doctor` against a stand-in of the proxy: each thing that can be wrong, and what it says to do."""

import shutil
import socket
import ssl
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from time import time

import numpy as np
import pytest
from PIL import Image

from fedrobust.cli import main
from fedrobust.deploy import doctor
from fedrobust.deploy.certificates import make_certificates
from fedrobust.deploy.doctor import Client, examine


class Proxy(BaseHTTPRequestHandler):
    """What docker/nginx.conf answers."""

    flower, skew, control = version("flwr"), 0.0, 404

    def do_GET(self):
        self.send_response_only(200 if self.path == "/version" else self.control)
        self.send_header("Date", formatdate(time() + self.skew, usegmt=True))
        self.end_headers()
        if self.path == "/version":
            self.wfile.write(f"flwr {self.flower}\n".encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def proxy(tmp_path):
    """Start one with a server's bundle: its port. Class attributes given as keywords."""
    servers = []

    def start(*, names=("127.0.0.1",), **attributes):
        make_certificates(tmp_path / "certs", names, 1)
        server = HTTPServer(("0.0.0.0", 0), type("Handler", (Proxy,), attributes))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        bundle = tmp_path / "certs" / "server"
        context.load_cert_chain(bundle / "server.crt", bundle / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def findings(tmp_path):
    """(port) → check → finding, for the client whose bundle is client-0."""

    def see(port, host="127.0.0.1"):
        bundle = tmp_path / "certs" / "client-0"
        return {finding.check: finding for finding in examine(Client(host, port, bundle, "digits"))}

    return see


def test_a_client_that_is_fit_is_told_so(proxy, tmp_path, capsys):
    port = proxy()
    certs = ["--certs", str(tmp_path / "certs" / "client-0")]
    assert main(["doctor", "--server", f"127.0.0.1:{port}", *certs]) == 0
    out = capsys.readouterr().out
    assert out.count("✓") == 9
    assert "the certificate is for 127.0.0.1, for 396 more days" in out
    assert "digits: 1,438 training images" in out


@pytest.mark.parametrize(
    ("attributes", "check", "seen", "remedy"),
    [
        ({"skew": 60.0}, "clock", "", ""),
        ({"skew": 400.0}, "clock", " s behind the server's", "run NTP on both"),
        ({"skew": -30.0}, "clock", " s ahead of the server's", "run NTP on both"),
        (
            {"flower": "1.28.0"},
            "version",
            f"the server has flwr 1.28.0, this machine {version('flwr')}",
            "install the same commit",
        ),
        ({"control": 200}, "control", "the Control API answers here", "publish only the proxy's port"),
    ],
)
def test_what_the_server_gives_away(proxy, findings, attributes, check, seen, remedy):
    found = findings(proxy(**attributes))
    if not remedy:
        assert not any(finding.remedy for finding in found.values())
        return
    assert seen in found[check].seen
    assert remedy in found[check].remedy
    assert {name for name, finding in found.items() if finding.remedy} == {check}


def test_a_name_that_the_certificate_has_not_names_those_that_it_has(proxy, findings):
    found = findings(proxy(names=("fl.example.org",)), host="127.0.0.1")
    assert found["tls"].remedy == ""  # the loopback is always among them
    found = findings(proxy(names=("fl.example.org",)), host="127.0.0.2")
    assert "the certificate is for fl.example.org, localhost, 127.0.0.1, superlink, proxy, not for" in found["tls"].seen
    assert "SERVER_NAMES" in found["tls"].remedy
    assert found["clock"].seen == "not checked: the server does not answer"


def test_another_authority_is_told_from_a_wrong_name(proxy, findings, tmp_path):
    port = proxy()
    shutil.rmtree(tmp_path / "certs")
    make_certificates(tmp_path / "certs", ["127.0.0.1"], 1)
    assert "copy the bundle of the authority" in findings(port)["tls"].remedy


def test_a_closed_port_and_an_unknown_host(proxy, findings):
    proxy()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = findings(unused.getsockname()[1])
    assert "Connection refused" in found["port"].seen
    assert "firewall" in found["port"].remedy
    assert "check the name" in findings(1, host="no-such-host.invalid")["port"].remedy


def test_keys_that_are_missing_open_to_others_or_no_pair(proxy, findings, tmp_path):
    port, bundle = proxy(), tmp_path / "certs" / "client-0"
    (bundle / "node.key").chmod(0o644)
    assert findings(port)["keys"].remedy == f"chmod 600 {bundle / 'node.key'}"
    (bundle / "node.key").chmod(0o600)
    make_certificates(tmp_path / "other", ["127.0.0.1"], 1)
    shutil.copy(tmp_path / "other" / "client-0" / "node.pub", bundle / "node.pub")
    assert "not a pair" in findings(port)["keys"].seen
    (bundle / "node.pub").unlink()
    assert "node.pub does not exist" in findings(port)["keys"].seen


def test_data_that_is_not_there_and_a_disk_that_is_full(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDROBUST_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(doctor, "MIN_FREE", 1 << 60)
    port = proxy()
    client = Client("127.0.0.1", port, tmp_path / "certs" / "client-0", "cifar10")
    found = {finding.check: finding for finding in examine(client)}
    assert "is not a folder" in found["data"].seen
    assert "MiB free" in found["disk"].seen
    assert "free some space" in found["disk"].remedy


def test_a_folder_of_its_own_is_read(proxy, tmp_path):
    (tmp_path / "own" / "3").mkdir(parents=True)
    port, bundle = proxy(), tmp_path / "certs" / "client-0"

    def seen():
        client = Client("127.0.0.1", port, bundle, "digits", tmp_path / "own")
        return {finding.check: finding for finding in examine(client)}["data"]

    assert "no images; expected <class>/<name>.png" in seen().seen
    assert "mount the folder (OWN)" in seen().remedy
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "own" / "3" / "a.png")
    assert seen().seen == f"{tmp_path / 'own'}: 1 images of 1 of 10 classes of digits"
    assert not seen().remedy


def test_an_unknown_data_set_is_named(capsys):
    assert main(["doctor", "--server", "fl.example.org:8443", "--data", "cifar"]) == 2
    assert "--data: unknown data set 'cifar'; did you mean 'cifar10'?" in capsys.readouterr().err


def test_an_address_without_a_port_is_refused(capsys):
    assert main(["doctor", "--server", "fl.example.org"]) == 2
    assert "must be HOST:PORT" in capsys.readouterr().err
