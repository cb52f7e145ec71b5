"""What the command line says of itself, and how little it takes to say it."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.cli import COMMANDS, main
from fedrobust.cli.listing import described, description_of, entries
from fedrobust.config.registry import REGISTRIES, registry


def test_list_shows_every_registry(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for kind in REGISTRIES:
        for name in registry(kind):
            assert name in out


@pytest.mark.parametrize("kind", sorted(set(REGISTRIES) - {"datasets"}))
def test_a_registry_read_from_its_source_is_the_registry(kind):
    assert described(REGISTRIES[kind]) == {name: description_of(entry) for name, entry in registry(kind).items()}


def test_what_cannot_be_read_from_the_source_is_imported():
    assert described(REGISTRIES["datasets"]) == {}
    assert entries("datasets") == {name: spec.description for name, spec in registry("datasets").items()}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_and_is_in_the_readme(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"fedrobust {command}" in (Path(__file__).parents[2] / "README.md").read_text()


def test_help_and_list_wait_for_no_heavy_package():
    script = (
        "import sys\n"
        "from fedrobust.cli import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try:\n"
        "        main([command, '--help'])\n"
        "    except SystemExit:\n"
        "        pass\n"
        "main(['list'])\n"
        "print('loaded', *{'torch', 'ray', 'flwr', 'pandas', 'matplotlib', 'sklearn', 'cvxpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"
