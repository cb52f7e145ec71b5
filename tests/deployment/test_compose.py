"""The compose files and the Dockerfile as text: what holds for every service, whoever adds one."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
INSECURE = (ROOT / "docker-compose.insecure.yml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_locked_down(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].startswith("${FEDROBUST_UID:?")
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert "privileged" not in service
    assert service["restart"] == ("no" if name in ("submit", "tool") else "unless-stopped")
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


def test_tls_and_authentication_are_the_default_and_plaintext_is_in_the_overlay_alone():
    assert "--insecure" not in COMPOSE
    for service in SERVICES.values():
        command = str(service.get("command", ""))
        if "flower-" in command:
            assert "--superexec-auth-secret-file" in command
        if "flower-superlink" in command:
            assert {"--enable-supernode-auth", "--ssl-certfile"} <= set(command.split())
            assert "--disable-runtime-dependency-installation" in command
        if "flower-supernode" in command:
            assert {"--auth-supernode-private-key", "--root-certificates", "--ssl-certfile"} <= set(command.split())
    overlaid = yaml.safe_load(INSECURE)["services"]
    assert set(overlaid) <= set(SERVICES)
    for name, service in SERVICES.items():
        assert (name in overlaid) == ("flower-" in str(service.get("command")) or name in ("proxy", "nodes", "submit"))


def test_flowers_images_are_for_what_holds_no_code_of_ours_and_of_the_locks_version():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!reset", lambda loader, node: "reset")
    overlaid = yaml.load((ROOT / "docker-compose.flower.yml").read_text(), Loader)["services"]
    theirs = {name: service["image"] for name, service in overlaid.items() if "image" in service}
    version = re.search(r"^flwr==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]
    for name, service in SERVICES.items():
        program = re.search(r"flower-(superlink|supernode)", str(service.get("command")))
        assert theirs.pop(name, None) == (f"flwr/{program[1]}:{version}" if program else None)
        assert not program or overlaid[name]["build"] == "reset"
    assert not theirs


def test_one_port_is_for_others_and_control_is_on_the_loopback():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"superlink", "proxy"}
    assert all(port.startswith("127.0.0.1:") for port in ports["superlink"])
    fleets = {name for name, service in SERVICES.items() if "fleet" in service.get("networks", [])}
    assert not {"superlink", "serverapp", "nodes"} & fleets
    for name, service in SERVICES.items():
        if name.startswith("clientapp"):
            assert service["networks"] == ["nodes"]
    assert yaml.safe_load(COMPOSE)["networks"]["nodes"] == {"internal": True}


def test_the_proxy_knows_the_fleets_path_and_no_other():
    for name in ("nginx.conf", "nginx-insecure.conf"):
        text = (ROOT / "docker" / name).read_text() + (ROOT / "docker" / "other-paths.conf").read_text()
        assert re.findall(r"location ([^{]+) {", text) == ["/v1/fleet/", "= /version", "/"]
        assert re.search(r"location / \{\s*return 404;", text)


def test_all_images_are_of_the_base_that_is_an_argument():
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${BASE_IMAGE}"}
    (pinned,) = re.findall(
        r"^ARG BASE_IMAGE=(python:3\.11-slim-bookworm@sha256:[0-9a-f]{64})$", dockerfile, re.MULTILINE
    )
    assert f"# BASE_IMAGE={pinned}\n" in (ROOT / ".env.example").read_text()
    assert "USER fedrobust" in dockerfile


def test_every_variable_that_must_be_set_is_in_the_example():
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    required = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE))
    assert required == set(example)
    assert set(re.findall(r"\$\{([A-Z_]+)\}", COMPOSE + INSECURE)) <= required
