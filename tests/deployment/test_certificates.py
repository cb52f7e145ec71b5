"""The keys of a deployment: what is made, what is renewed and what is left, and who can read it."""

import ipaddress
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from fedrobust.cli import main
from fedrobust.deploy import certificates
from fedrobust.deploy.certificates import alternatives_of, make_certificates
from fedrobust.errors import ConfigError

PRIVATE = {"ca.key", "server.key", "runtime.key", "node.key", "superexec.secret"}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path):
    make_certificates(tmp_path, ["fl.example.org", "10.0.0.5"], 2)
    return tmp_path


def test_each_machine_has_a_bundle_and_only_the_first_folder_the_authoritys_key(made):
    bundle = ["ca.crt", "node.key", "node.pub", "runtime.crt", "runtime.key", "superexec.secret"]
    server = ["ca.crt", "nodes/0.pub", "nodes/1.pub", "server.crt", "server.key", "superexec.secret"]
    expected = {"ca.crt", "ca.key", *(f"server/{name}" for name in server)}
    assert set(contents(made)) == expected | {f"client-{n}/{name}" for n in (0, 1) for name in bundle}
    files = contents(made)
    assert len({files[f"{where}/superexec.secret"] for where in ("server", "client-0", "client-1")}) == 3
    assert files["client-1/node.pub"] == files["server/nodes/1.pub"] != files["client-0/node.pub"]


def test_keys_and_secrets_are_their_owners_alone(made):
    for path in (path for path in made.rglob("*") if path.is_file()):
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.name in PRIVATE else 0o644), path


def test_again_nothing_changes_and_more_clients_leave_the_others_alone(made):
    before = contents(made)
    assert make_certificates(made, ["10.0.0.5", "fl.example.org"], 2) == []
    assert contents(made) == before
    changes = make_certificates(made, ["fl.example.org", "10.0.0.5"], 3)
    assert {line.split("/")[-2] for line in changes} == {"client-2"}
    assert contents(made).items() >= before.items()


def test_other_names_renew_the_servers_certificate_alone(made):
    before = contents(made)
    (line,) = make_certificates(made, ["other.example.org"], 2)
    after = contents(made)
    assert {name for name in before if before[name] != after[name]} == {"server/server.crt", "server/server.key"}
    assert "named fl.example.org, 10.0.0.5, localhost" in line
    names = alternatives_of(x509.load_pem_x509_certificate(after["server/server.crt"]))
    assert names == ["other.example.org", "localhost", "127.0.0.1", "superlink", "proxy"]


def test_what_ends_soon_is_renewed_and_the_authority_must_be_there_for_it(made, monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=380)

    monkeypatch.setattr(certificates, "datetime", Later)
    hidden = made / "ca.key"
    key = hidden.read_bytes()
    hidden.unlink()
    with pytest.raises(ConfigError, match=r"server\.crt: ends on \d{4}-\d\d-\d\d, but .*ca\.key is missing"):
        make_certificates(made, ["fl.example.org", "10.0.0.5"], 2)
    hidden.write_bytes(key)
    assert len(make_certificates(made, ["fl.example.org", "10.0.0.5"], 2)) == 3


@pytest.mark.parametrize("name", ["", "fl example", "https://fl.example.org", "fl..example"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="must be a DNS name or an IP address"):
        make_certificates(tmp_path, [name], 1)


def test_a_folder_of_someone_elses_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the folder must belong to user"):
        make_certificates(tmp_path / "file" / "certs", ["localhost"], 1)


def test_the_command_says_what_it_did(tmp_path, capsys):
    arguments = ["certs", "--server", "fl.example.org", "--clients", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "client-0/node.key: made" in capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("complete, nothing to renew\n")
    assert main(["certs", "--server", "x", "--clients", "0"]) == 2


def handshake(folder, name, *, cafile):
    """What a client makes of a server with this bundle that it reaches as `name`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server" / "server.crt", folder / "server" / "server.key")
    client = ssl.create_default_context(cafile=cafile)
    ours, theirs = socket.socketpair()

    def serve():
        try:
            with server.wrap_socket(theirs, server_side=True):
                pass
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name):
            pass
    finally:
        ours.close()
        thread.join()


def test_the_name_and_the_authority_must_fit(made, tmp_path_factory):
    for name in ("fl.example.org", "10.0.0.5", "superlink"):
        handshake(made, name, cafile=made / "client-0" / "ca.crt")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'evil\.example\.org'"):
        handshake(made, "evil.example.org", cafile=made / "client-0" / "ca.crt")
    other = tmp_path_factory.mktemp("other")
    make_certificates(other, ["fl.example.org"], 1)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature failure"):
        handshake(made, "fl.example.org", cafile=other / "ca.crt")


def test_addresses_are_addresses(made):
    certificate = x509.load_pem_x509_certificate((made / "server" / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(a) for a in ("10.0.0.5", "127.0.0.1")]
