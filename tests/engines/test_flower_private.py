"""What this project takes from Flower is there and behaves; what is not public is taken in one file only."""

import ast
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedrobust.config.registry import load_path
from fedrobust.engines import CLIENT_APP, SERVER_APP, flower
from fedrobust.engines.superlink import flwr_environment

ROOT = Path(__file__).parents[2]
PACKAGES = ("fedrobust", "clients", "strategies", "partitions")
PUBLIC = {"flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp"}
PRIVATE_ALLOWED = {"fedrobust/engines/flower.py"}


def flower_imports() -> Iterator[tuple[str, str, str]]:
    """(file, module, name) of everything the four packages import from Flower, wherever in a file; name "" for all."""
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                if module.split(".")[0] == "flwr":
                    names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else [""]
                    yield from ((path.relative_to(ROOT).as_posix(), module, name) for name in names)


def records() -> RecordDict:
    weights = ArrayRecord({"w": Array(np.arange(6, dtype=np.float32).reshape(2, 3)), "n": Array(np.array(7))})
    config = ConfigRecord({"round": 3, "rate": 0.1, "name": "at", "raw": b"\x00\x01", "on": True, "many": [1, 2]})
    return RecordDict({"arrays": weights, "metrics": MetricRecord({"loss": 0.5, "counts": [1, 2]}), "config": config})


def test_every_imported_symbol_is_there():
    found = {(module, name) for _, module, name in flower_imports()}
    assert len(found) > 15
    missing = [(m, name) for m, name in sorted(found) if name and not hasattr(import_module(m), name)]
    assert not missing


def test_only_one_file_imports_what_is_not_public():
    private = {(file, module) for file, module, _ in flower_imports() if module not in PUBLIC}
    assert {file for file, _ in private} == PRIVATE_ALLOWED, sorted(private)


def test_taking_the_identity_makes_messages_possible():
    run = flower.take_identity(7)
    assert run.run_id == 7
    message = Message(RecordDict(), 1000, "train")
    assert message.metadata.run_id == 7
    assert message.metadata.dst_node_id == 1000
    assert message.metadata.src_node_id == flower.SUPERLINK_NODE_ID


def test_a_message_takes_the_id_it_is_given_and_its_reply_refers_to_it():
    flower.take_identity(7)
    message = Message(RecordDict(), 1000, "train")
    flower.set_message_id(message, "42")
    assert message.metadata.message_id == "42"
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "42"


def test_records_survive_as_bytes():
    before = records()
    data = flower.records_to_bytes(before)
    after = flower.records_from_bytes(data)
    assert data == flower.records_to_bytes(after) == flower.records_to_bytes(records())
    assert list(after) == list(before)
    assert after["metrics"] == before["metrics"]
    assert after["config"] == before["config"]
    arrays, expected = after["arrays"], before["arrays"]
    assert isinstance(arrays, ArrayRecord)
    assert isinstance(expected, ArrayRecord)
    for key in expected:
        np.testing.assert_array_equal(arrays[key].numpy(), expected[key].numpy(), strict=True)


def test_the_error_code_of_a_client_that_raises_is_a_number():
    assert flower.CLIENT_APP_FAILED > 0


@pytest.mark.parametrize(
    ("module", "name"),
    [("flwr.common.constant", "FLWR_HOME"), ("flwr.supercore.constant", "FLWR_DISABLE_UPDATE_CHECK")],
)
def test_environment_variables_are_called_what_flower_calls_them(module, name, tmp_path):
    assert getattr(import_module(module), name) in flwr_environment(tmp_path)


def test_telemetry_is_switched_off_by_the_name_flower_reads(tmp_path):
    telemetry = import_module("flwr.supercore.telemetry")
    assert hasattr(telemetry, "FLWR_TELEMETRY_ENABLED")
    assert flwr_environment(tmp_path)["FLWR_TELEMETRY_ENABLED"] == "0"


def test_the_environment_has_absolute_paths_and_leaves_threads_to_ray(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDROBUST_DATA", "data")
    monkeypatch.delenv("FEDROBUST_CACHE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    environment = flwr_environment(tmp_path)
    assert environment["FEDROBUST_DATA"] == str(tmp_path / "data")
    assert "FEDROBUST_CACHE" not in environment
    assert "OMP_NUM_THREADS" not in environment


def test_engines_and_flower_load_the_same_apps():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["tool"]["flwr"]["app"]["components"] == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    assert type(load_path(SERVER_APP)).__name__ == "ServerApp"
    assert type(load_path(CLIENT_APP)).__name__ == "ClientApp"
