"""What is printed is printed as it is, whatever is in it and wherever it goes, or a line says why not."""

import os
import shlex
import subprocess
import sys

import pytest

from fedrobust.cli import COMMANDS, main
from fedrobust.cli.console import new_console
from fedrobust.cli.launch import watched
from fedrobust.cli.listing import KINDS, entries
from fedrobust.cli.live import round_line
from fedrobust.config import DEFAULTS, RunConfig
from fedrobust.config.flat import walk
from fedrobust.errors import RunFailed
from fedrobust.storage.run_folder import RunFolder

ODD = "exp[eps=8] :x: [/]"
FULL = "/dev/full"


def test_a_folders_name_is_printed_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = """--engine local --num-rounds 1 --num-clients 2 --data.train-images 200 --data.test-images 50
    --local.epochs 1 --attack.steps 1 --evaluation.attacks fgsm --evaluation.select-by fgsm --workers.threads 1"""
    assert main(["run", "quickstart", "--variant", "fedavg", *tiny.split(), "--run-dir", ODD]) == 0
    assert f"{ODD}  (" in capsys.readouterr().out
    for command in (["runs", ODD], ["runs", "."], ["run", "--resume", ODD, "--engine", "local"]):
        assert main(command) == 0
        assert ODD in capsys.readouterr().out
    RunFolder(ODD).update_record(state="failed", error="[red]why[/red]")
    assert main(["runs", ODD, "--failed"]) == 0
    assert f"{ODD}: [red]why[/red]" in capsys.readouterr().out
    assert main(["evaluate", ODD, "--attacks", "fgsm", "--num-images", "10", "--no-checks"]) == 0
    assert f"{ODD}/evaluations/best-linf-0.1" in capsys.readouterr().out


def test_every_default_is_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    for kind in KINDS:
        assert main(["list", kind]) == 0
        out = capsys.readouterr().out
        for name, text in entries(kind).items():
            assert name in out
            assert text in out
    assert main(["list", "settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for key, _, value in walk(DEFAULTS):
        (line,) = (line for line in lines if line.strip().startswith(f"{key} "))
        assert f"[{'unset' if value == '' else value}]" in line


def test_the_command_that_resumes_is_quoted_for_the_shell(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.create(RunConfig(run_dir=str(tmp_path / "my runs" / "a;b[1]")))

    def fail():
        folder.update_record(state="interrupted")
        raise RunFailed("no [room]")

    assert watched("run", "a[b]", RunConfig(run_dir=str(folder.path)), fail, [], new_console()) == 1
    said = capsys.readouterr().err
    assert "error: no [room]" in said
    assert shlex.split(said.split("resume with: ")[1]) == ["fedrobust", "run", "--resume", "my runs/a;b[1]"]

    def stop():
        raise KeyboardInterrupt

    assert watched("deploy", "a[b]", RunConfig(run_dir=str(folder.path)), stop, [], new_console()) == 130
    said = capsys.readouterr().out
    assert shlex.split(said.split("resume with: ")[1]) == ["fedrobust", "deploy", "--resume", "my runs/a;b[1]"]


def test_a_warning_of_a_round_is_no_markup():
    row = {"round": 3, "train.loss": 1.0, "failed": 2, "warning": "[b]", "seconds_train": 1.0, "seconds_evaluate": 0.5}
    line = round_line(row, 10)
    assert line.plain == "round  3/10  loss 1.000  2 failed  [b]  1.5 s"
    assert [line.plain[span.start : span.end] for span in line.spans] == ["2 failed", "[b]"]


def fedrobust(*arguments, **keywords):
    command = [sys.executable, "-P", "-m", "fedrobust", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, **keywords)


def test_ascii_is_enough(tmp_path):
    """The presets have × and dashes in them."""
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = fedrobust("list", "presets", stdout=subprocess.PIPE, env=env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "48\\xd748" in done.stdout
    done = fedrobust("run", "größe", stdout=subprocess.PIPE, env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown preset 'gr\\xf6\\xdfe'" in done.stderr


@pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["list", "settings"], ["runs", "--help"], ["list", "nothing"]])
def test_a_full_disk_behind_the_output_is_one_line(tmp_path, command, unbuffered):
    with open(FULL, "w") as full:
        done = fedrobust(*command, stdout=full, cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    if command[-1] == "nothing":
        assert (done.returncode, done.stderr.splitlines()[0][:7]) == (2, "error: ")
    else:
        assert done.returncode == 1
        assert done.stderr == "error: standard output cannot be written (No space left on device)\n"


@pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full")
@pytest.mark.parametrize("command", list(COMMANDS))
def test_so_it_is_for_every_command(tmp_path, command, monkeypatch, capsys):
    """In this process, whose standard output is put aside."""
    monkeypatch.chdir(tmp_path)
    with open(FULL, "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{COMMANDS[command][0]}.main", lambda _: print("words") or 0)
            patch.setattr(f"{COMMANDS[command][0]}.add_arguments", lambda _: None)
            assert main([command]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == "error: standard output cannot be written (No space left on device)\n"


def test_closed_standard_output_is_no_traceback(tmp_path):
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -P -m fedrobust list settings >&-"],
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, b"")
