"""The keys of a deployment: an authority, the server's certificate, and a bundle per client.

    <folder>/ca.crt, ca.key          the authority; only this command needs ca.key; best kept off the server
    <folder>/server/                 ca.crt, server.crt, server.key, superexec.secret, nodes/<n>.pub
    <folder>/client-<n>/             ca.crt, node.key, node.pub, runtime.crt, runtime.key, superexec.secret

A bundle contains all that its machine needs, and no key of another machine. TLS keys and node keys are ECDSA over
P-384, the one curve that Flower takes for nodes. Keys and secrets are readable by their owner only.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrobust.errors import ConfigError
from fedrobust.storage.files import write_atomically

AUTHORITY_DAYS, LEAF_DAYS, RENEW_DAYS = 3650, 397, 30
INSIDE = ("localhost", "127.0.0.1", "superlink", "proxy")  # what the server is called on its own machine
RUNTIME = ("localhost", "127.0.0.1", "supernode")  # and a SuperNode where its ClientApp runs

_NEW = ec.SECP384R1()


def make_certificates(folder: Path, server_names: Sequence[str], num_clients: int) -> list[str]:
    """Make missing keys and certificates, renew those that changed or end within 30 days; return one line per change.

    server_names: DNS names and IP addresses under which clients reach the server; a certificate for others is renewed.

    Raises:
        ConfigError: a name that is not valid, a folder that cannot be written, an authority without its key.
    """
    try:
        return _make(folder, _alternatives(server_names), num_clients)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: {error.strerror}; the folder must belong to user {os.getuid()}, "
            "who runs this command (in a container: FEDROBUST_UID)"
        ) from error


def _make(folder: Path, names: list[x509.GeneralName], num_clients: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    changes: list[str] = []
    authority = Authority(folder, changes)
    server = folder / "server"
    authority.leaf(server / "server", names + [n for n in _alternatives(INSIDE) if n not in names], changes)
    _secret(server / "superexec.secret", changes)
    _copy(authority.path, server / "ca.crt")
    for number in range(num_clients):
        bundle = folder / f"client-{number}"
        inside = _alternatives([*RUNTIME, f"supernode-{number}"])
        authority.leaf(bundle / "runtime", inside, changes)
        _node_key(bundle, changes)
        _secret(bundle / "superexec.secret", changes)
        _copy(authority.path, bundle / "ca.crt")
        _copy(bundle / "node.pub", server / "nodes" / f"{number}.pub")
    return changes


class Authority:
    """The certificate authority in a folder; made when there is none."""

    def __init__(self, folder: Path, changes: list[str]) -> None:
        self.path, self._key_path = folder / "ca.crt", folder / "ca.key"
        if not self.path.exists():
            self._found(changes)
        self.certificate = x509.load_pem_x509_certificate(self.path.read_bytes())

    def _found(self, changes: list[str]) -> None:
        key = ec.generate_private_key(_NEW)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedrobust authority")])
        builder = _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        _private(self._key_path, _pem(key))
        _public(self.path, builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))
        changes.append(f"{self.path}: made, valid for {AUTHORITY_DAYS} days")

    def leaf(self, stem: Path, names: list[x509.GeneralName], changes: list[str]) -> None:
        """Make `<stem>.crt` and `.key` for a server of these names; keep them if they have the same names and are still
        valid.
        """
        why = self._why_renew(stem.with_suffix(".crt"), names)
        if not why:
            return
        if not self._key_path.exists():
            raise ConfigError(f"{stem}.crt: {why}, but {self._key_path} is missing; put it back to run this command")
        authority_key = serialization.load_pem_private_key(self._key_path.read_bytes(), None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(_NEW)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedrobust {stem.name}")])
        builder = _builder(subject, self.certificate.subject, key.public_key(), LEAF_DAYS)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        _private(stem.with_suffix(".key"), _pem(key))
        signed = builder.sign(authority_key, hashes.SHA384())
        _public(stem.with_suffix(".crt"), signed.public_bytes(serialization.Encoding.PEM))
        changes.append(f"{stem}.crt: {why}; made, valid for {LEAF_DAYS} days: {', '.join(map(_shown, names))}")

    def _why_renew(self, path: Path, names: list[x509.GeneralName]) -> str:
        if not path.exists() or not path.with_suffix(".key").exists():
            return "did not exist"
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return "is of another authority"
        if set(alternatives_of(certificate)) != set(map(_shown, names)):
            return "named " + ", ".join(alternatives_of(certificate))
        if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=RENEW_DAYS):
            return f"ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
        return ""


def alternatives_of(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names and IP addresses that a certificate is for."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [_shown(name) for name in extension.value]


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    """Return names and addresses in a certificate's form. Raise ConfigError for one that is neither."""
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if not name or not all(part and part.replace("-", "").isalnum() for part in name.split(".")):
                raise ConfigError(
                    f"{name!r}: must be a DNS name or an IP address, such as fl.example.org or 10.0.0.5"
                ) from None
            found.append(x509.DNSName(name))
    return found


def _shown(name: x509.GeneralName) -> str:
    return str(name.value)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(minutes=5)  # for machines whose clocks lag
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _node_key(bundle: Path, changes: list[str]) -> None:
    """Make a SuperNode's key pair in OpenSSH's format; never replace one, because the server knows the public key."""
    if (bundle / "node.key").exists() and (bundle / "node.pub").exists():
        return
    key = ec.generate_private_key(_NEW)
    _private(
        bundle / "node.key",
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _public(bundle / "node.pub", public + f" {bundle.name}\n".encode())
    changes.append(f"{bundle / 'node.key'}: made")


def _secret(path: Path, changes: list[str]) -> None:
    """Make the secret with which a SuperExec authenticates to its SuperLink or SuperNode."""
    if not path.exists():
        _private(path, secrets.token_hex(32).encode())
        changes.append(f"{path}: made")


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private(path: Path, data: bytes) -> None:
    _write(path, data, 0o600)


def _public(path: Path, data: bytes) -> None:
    _write(path, data, 0o644)


def _copy(source: Path, target: Path) -> None:
    _public(target, source.read_bytes())


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data, mode=mode)
