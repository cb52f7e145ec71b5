"""What the command line says of itself, and how little it takes to say it."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.cli import COMMANDS, main
from fedrobust.config.registry import REGISTRIES, registry


def test_list_shows_every_registry(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for kind in REGISTRIES:
        for name in registry(kind):
            assert name in out


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_and_is_in_the_readme(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"fedrobust {command}" in (Path(__file__).parents[2] / "README.md").read_text()


def test_help_waits_for_no_heavy_package():
    script = (
        "import sys\n"
        "from fedrobust.cli import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try:\n"
        "        main([command, '--help'])\n"
        "    except SystemExit:\n"
        "        pass\n"
        "print('loaded', *{'torch', 'ray', 'flwr', 'pandas', 'matplotlib', 'sklearn', 'cvxpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"
