"""The bundle (FAB) that Flower builds holds what it should and nothing else, and both apps run from it."""

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
from flwr.cli.app_cmd.publish import _collect_file_paths, _validate_files
from flwr.cli.build import build_fab_from_disk

from fedrobust.engines import flwr_command
from fedrobust.engines.flwr_command import app_directory, stage
from fedrobust.errors import ConfigError

ROOT = Path(__file__).parents[2]
PACKAGES = ("fedrobust", "clients", "strategies", "partitions")
ADDED_BY_FLOWER = {"pyproject.toml", ".info/CONTENT"}  # no README, no LICENSE: fab-include does not name them

RUN = """
import json, sys
import clients, strategies  # as Flower's commands do, which look for the app
assert "torch" not in sys.modules
from fedrobust.config import RunConfig
from fedrobust.engines import run
flat = {"num-clients": 2, "num-rounds": 1, "attack.steps": 1, "evaluation.attacks": "fgsm",
        "evaluation.select-by": "fgsm", "data.train-images": 300, "workers.threads": 1, "run-dir": sys.argv[1]}
run(RunConfig.from_flat(flat), "local")
packages = sys.argv[2:]
files = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in packages}
print(json.dumps(files))
"""


def build(folder: Path) -> bytes:
    """What `flwr build` and `flwr run` make of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's, about pathspec
        return build_fab_from_disk(folder)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The files that git keeps, laid elsewhere; where there is no git, those of the packages, and pyproject.toml."""
    folder = tmp_path_factory.mktemp("published")
    if (ROOT / ".git").exists():
        names = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    else:
        paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.*") if path.is_file())
        names = ["pyproject.toml", *(path.relative_to(ROOT).as_posix() for path in paths)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files there are")
def test_the_app_passes_flowers_own_check_before_it_is_published(published, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's, about pathspec
        files = _collect_file_paths(published)
    _validate_files(files)
    assert "Validation passed" in capsys.readouterr().out
    names = {path.relative_to(published.resolve()).parts[0] for path in files}
    assert {*PACKAGES, "tests", "docs", "pyproject.toml", "README.md"} <= names


@pytest.fixture(scope="module")
def fab(published) -> bytes:
    """A bundle of a checkout with what is not for it; a whole virtual environment would take Flower ten seconds."""
    added = [
        published / path for path in (".venv/fedrobust/a.py", "runs/fedrobust/a.py", "fedrobust/__pycache__/a.pyc")
    ]
    for path in added:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    built = build(published)
    for path in added:
        path.unlink()
    return built


def test_the_bundle_holds_the_four_packages_and_the_presets(fab):
    python = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    presets = set((ROOT / "fedrobust" / "presets").glob("*.toml"))
    assert presets
    expected = {path.relative_to(ROOT).as_posix() for path in python | presets} | ADDED_BY_FLOWER
    assert set(zipfile.ZipFile(io.BytesIO(fab)).namelist()) == expected


def test_the_launcher_bundles_the_same(fab, tmp_path):
    stage(app_directory(), tmp_path)
    assert build(tmp_path) == fab


def test_both_apps_run_from_the_unpacked_bundle(fab, tmp_path):
    """The checkout is on the path too, where it is installed editable: every module must come from the bundle."""
    bundle, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    zipfile.ZipFile(io.BytesIO(fab)).extractall(bundle)
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "run"), *PACKAGES],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(bundle)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout.splitlines()[-1])
    assert {"strategies.app", "clients.app", "clients.local", "partitions", "fedrobust.engines.local"} <= set(files)
    assert all(Path(file).is_relative_to(bundle) for file in files.values()), files
    assert json.loads((tmp_path / "run" / "record.json").read_text())["state"] == "completed"


def test_an_installation_without_the_app_directory_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(flwr_command, "__file__", str(tmp_path / "fedrobust" / "engines" / "flwr_runtime.py"))
    with pytest.raises(ConfigError, match="install from a checkout"):
        app_directory()
