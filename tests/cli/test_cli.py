"""The command line, as a user meets it: what it prints, its exit codes, and no traceback for a mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pandas as pd
import psutil
import pytest
import torch

from fedrobust.cli import main
from fedrobust.config import RunConfig
from fedrobust.config.effects import unused
from fedrobust.presets import load_preset, preset_names
from fedrobust.running.preflight import check_settings
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder

TINY = ["--num-rounds", "2", "--attack.steps", "1", "--local.epochs", "1", "--evaluation.attacks", "fgsm,pgd-2"]
TINY += ["--evaluation.select-by", "pgd-2", "--workers.threads", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny_run(*arguments):
    return main(["run", "quickstart", "--variant", "fedavg", "--engine", "local", *TINY, *arguments])


def test_run_ends_with_a_table_and_the_folder(here, capsys):
    assert tiny_run("--run-dir", "mine") == 0
    out = capsys.readouterr().out
    assert re.search(r"round 2/2 .*natural +\d+\.\d%", out)
    assert re.search(r"fedavg .*best", out)
    assert not re.search(r"round 2/2 .*worst.case", out)
    assert re.search(r"strategy .*worst case", out)
    assert "mine  (" in out


def test_the_folder_holds_everything(here):
    tiny_run("--run-dir", "mine")
    folder = RunFolder(here / "mine")
    assert folder.read_config().num_rounds == 2
    rounds = pd.read_json(folder.path / "rounds.jsonl", lines=True)
    assert list(rounds["round"]) == [1, 2]
    clients = pd.read_json(folder.path / "clients.jsonl", lines=True)
    assert set(clients["phase"]) == {"train", "evaluate"}
    assert len(clients[clients["phase"] == "train"]) == 10
    record = json.loads((folder.path / "record.json").read_text())
    assert record["command"]
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|", record["commit"])  # none outside of a checkout
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["hardware"]["cores"] >= 1
    assert record["seconds"] > 0
    assert record["precision"] == "float32"
    assert record["best"]["round"] in (1, 2)
    assert record["last"]["round"] == 2
    assert record["state"] == "completed"
    assert record["engine"] == "local"
    assert record["peak_memory_bytes"] > 50 << 20
    for path in (folder.best, folder.last):
        assert load_model(path)[1]["model"] == "small-cnn"
    assert len(pd.read_csv(folder.partition)) == 5


def test_a_folder_is_not_run_into_twice(here, capsys):
    assert tiny_run("--run-dir", "mine") == 0
    record = RunFolder("mine").record()
    assert tiny_run("--run-dir", "mine") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run already" in line
    assert RunFolder("mine").record() == record


def test_resume_goes_on_and_a_complete_run_stays(here, capsys):
    tiny_run("--run-dir", "mine")
    assert main(["run", "--resume", "mine", "--engine", "local"]) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["run", "--resume", "mine", "--engine", "local", "--num-rounds", "3"]) == 0
    rounds = RunFolder("mine").read("rounds.jsonl")
    assert [row["round"] for row in rounds] == [1, 2, 3]
    assert RunFolder("mine").read_config().num_rounds == 3


def test_what_cannot_change_in_a_resumed_run_is_refused(here, capsys):
    tiny_run("--run-dir", "mine")
    assert main(["run", "--resume", "mine", "--seed", "1"]) == 2
    assert "seed: cannot change in a resumed run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run quickstart --local.epoch 3", "unknown setting 'local.epoch'; did you mean 'local.epochs'?"),
        ("run quikstart", "unknown preset 'quikstart'; did you mean 'quickstart'?"),
        ("run quickstart --local.epochs 0", "local.epochs = 0: must be greater than or equal to 1"),
        ("run quickstart --attack.name pdg", "unknown attack 'pdg'; did you mean 'pgd'?"),
        ("run quickstart --strategy.name fedavgg", "unknown strategy 'fedavgg'; did you mean 'fedavg'?"),
        ("run quickstart --data.name cifr10", "unknown data set 'cifr10'; did you mean 'cifar10'?"),
        ("run quickstart --evaluation.attacks pgd-20,fgms", "unknown attack 'fgms'"),
        ("run quickstart --variant nothing", "unknown variant of quickstart 'nothing'; known: fedavg, calfat"),
        ("run quickstart --objective.name natural --variant calfat", "trains with 'calfat' only"),
        ("run quickstart --attack.random-start zero --variant calfat", "use gaussian or uniform"),
        ("run quickstart --device cuda:99", "device = 'cuda:99': not on this machine"),
        ("run quickstart --model.name calfat-cnn", "model calfat-cnn: needs images of at least 18×18, not 8×8; set"),
        ("run quickstart --workers.threads 9999", "workers.threads = 9999: this machine has"),
        ("run quickstart extra", "unexpected argument 'extra'"),
        ("run --resume nowhere", "no run in it"),
        ("run", "no preset is given"),
        ("run quickstart --engine tram", "--engine: unknown choice 'tram'"),
        ("run quickstart --engine locla", "--engine: unknown choice 'locla'; did you mean 'local'?"),
        ("run quickstart --strategy.name FedProxx", "unknown strategy 'FedProxx'; did you mean 'fedprox'?"),
        (
            "run quickstart --evaluation.attacks pgd20",
            "evaluation.attacks: unknown attack 'pgd20'; did you mean 'pgd-20'",
        ),
        ("run quickstart --evaluation.attacks fgsm", "evaluation.select-by = 'pgd-20': must be natural or one of"),
        ("run quickstart --pool.fraction 40", "must be less than or equal to 0.4 (for 40 % write 0.4)"),
        ("run quickstart --pool.fraction 20", "(for 20 % write 0.2)"),
        ("run quickstart --pool.fraction 20%", "pool.fraction = '20%': must be a number (for 20% write 0.2)"),
        ("run quickstart --partition.dominant-share 92", "(for 92 % write 0.92)"),
        (
            "report . --target-robust 40",
            "--target-robust: must be above 0 and at most 1, not '40' (for 40 % write 0.4)",
        ),
        ("report nowhere", "nowhere: no such file or folder"),
        ("list strategie", "kind: unknown choice 'strategie'; did you mean 'strategies'?"),
        ("rum", "unknown command 'rum'; did you mean 'run'?"),
        ("--verison", "unknown setting 'verison'; did you mean 'version'?"),
        ("sweep", "the following arguments are required: study"),
        ("sweep sharing --parallel many", "--parallel: must be a whole number of at least 0, not 'many'"),
        ("fly", "unknown command 'fly'; known: run, central"),
        ("run missing.toml", "missing.toml: no such file"),
        ("partition --partition.concentration 0.01 --num-clients 100", "raise partition.concentration"),
        ("partition --num-clients 5000", "num-clients"),
        ("partition --figure picture.bmp", "must end in .png, .pdf, .svg"),
        ("run .toml", ".toml: no such file"),
        ("run folder.toml", "folder.toml: cannot be read (Is a directory)"),
        ("sweep folder.toml", "folder.toml: cannot be read (Is a directory)"),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(here, capsys, arguments, message):
    (here / "folder.toml").mkdir()
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


def test_a_missing_data_folder_is_named(here, capsys):
    assert main(["run", "cifar10-smoke", "--data-dir", str(here / "nowhere"), "--engine", "local"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_round_1(here, capsys):
    (here / "file").write_text("")
    assert tiny_run("--run-dir", "file/below") == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "send"), [(signal.SIGINT, os.kill), (signal.SIGTERM, os.killpg)])
def test_a_signal_leaves_a_checkpoint_and_no_process(here, number, send, wait_until, output_at_end, slowness):
    """Ctrl-C to the process, and what Slurm or `timeout` send: SIGTERM to its whole group."""
    process = subprocess.Popen(
        [
            *[sys.executable, "-P", "-m", "fedrobust", "run", "quickstart", "--variant", "fedavg", "--engine", "ray"],
            *["--num-rounds", "500", "--run-dir", "mine", "--attack.steps", "1", "--workers.num", "1"],
            *["--workers.threads", "1", "--data.train-images", "300", "--data.test-images", "60"],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # whoever runs the tests in the background has SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    started = []
    try:
        folder = RunFolder(here / "mine")
        wait_until("the first checkpoint", folder.checkpoint.exists, process=process, seconds=200)
        started = psutil.Process(process.pid).children(recursive=True)
        assert {"raylet", "gcs_server"} <= {child.name() for child in started}
        assert all(os.getsid(child.pid) != process.pid for child in started)
        start = time.monotonic()
        send(process.pid, number)
        wait_until("the mark", lambda: folder.record()["state"] == "interrupted", seconds=2)
        out = output_at_end(process)
        assert time.monotonic() - start < 10 * slowness()
        wait_until("no process", lambda: not any(map(_is_at_work, started)), seconds=5)
    finally:
        for left in [process, *filter(_is_at_work, started)]:
            left.kill()
    assert process.returncode == 130
    assert "resume with: fedrobust run --resume mine" in out
    assert "Traceback" not in out
    assert "SIGTERM" not in out
    assert folder.record()["state"] == "interrupted"


def _is_at_work(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_files_of_the_users_with_our_names_are_not_ours(here, put_namesakes):
    put_namesakes(here)
    (here / "fedrobust.py").unlink()  # Python itself would run that one
    command = [sys.executable, "-m", "fedrobust", "list", "strategies"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fedavg" in done.stdout


def test_partition_prints_and_draws(here, capsys):
    assert main(["partition", "quickstart", "--pool.fraction", "0.2", "--figure", "p.png", "--csv", "p.csv"]) == 0
    out = capsys.readouterr().out
    assert "pool: 288 raw images that every client sees" in out
    assert (here / "p.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_csv("p.csv")) == 5


@pytest.mark.parametrize("flag", ["--figure nowhere/p.png", "--csv nowhere/p.csv", "--figure file/p.svg"])
def test_a_file_that_cannot_be_written_is_one_line(here, capsys, flag):
    (here / "file").write_text("")
    assert main(["partition", *flag.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {flag}: cannot be written (")
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize("style", ["bars", "bubbles"])
def test_partition_draws_many_clients(here, style):
    arguments = ["--partition.scheme", "iid", "--num-clients", "100", "--figure", "p.svg", "--style", style]
    assert main(["partition", *arguments]) == 0
    assert "<svg" in (here / "p.svg").read_text()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name):
    preset = load_preset(name)
    assert preset.description
    for cfg in preset.configs({"device": "cpu"}).values():
        assert isinstance(cfg, RunConfig)
        check_settings(cfg)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_runs_at_smoke_size(here, name, capsys):
    preset = load_preset(name)
    if preset.settings["data.name"] == "cifar10" and not os.environ.get("FEDROBUST_DATA"):
        pytest.skip("needs CIFAR-10: set FEDROBUST_DATA")
    some = "200" if preset.settings.get("data.classes") else "600"
    small = {"data.train-images": some, "data.test-images": "50", "data.validation-fraction": "0.1"}
    small |= {"local.steps": "1", "local.batch-size": "8", "attack.steps": "1", "num-rounds": "1"}
    small |= {"evaluation.attacks": "fgsm", "evaluation.select-by": "fgsm", "partition.min-samples": "5"}
    variants = [*preset.variants, *preset.alternatives]
    if preset.settings.get("kind") == "central":  # a variant of those that are for GPUs, with another model
        variants = variants[:1]
        small |= {"model.name": "small-cnn", "precision": "float32"}
    if preset.alternatives:
        variants.insert(0, "")
    for variant in variants or [""]:
        (cfg,) = preset.configs(small, variant).values()
        flags = [word for key in small.keys() - unused(cfg) for word in (f"--{key}", small[key])]
        command = ["run", name, "--engine", "local", *flags, "--run-dir", f"mine{variant}"]
        assert main([*command, *(["--variant", variant] if variant else [])]) == 0
        assert RunFolder(here / f"mine{variant}").record()["state"] == "completed"


def test_report_writes_a_table_figures_and_a_page(here, capsys):
    tiny_run("--run-dir", "mine")
    assert main(["report", "mine", "--out", "out"]) == 0
    out = capsys.readouterr().out
    record = RunFolder("mine").record()
    assert f"| {100 * record['last']['natural_accuracy']:.1f} |" in out
    assert (here / "out" / "summary.md").read_text() in out
    table = pd.read_csv("out/results.csv")
    assert list(table["model"]) == ["best", "last"]
    assert list(table["robust_accuracy.worst-case"]) == [
        record[m]["robust_accuracy.worst-case"] for m in table["model"]
    ]
    assert "per_class" not in table
    for name in ("curves.png", "drift.png", "report.html"):
        assert (here / "out" / name).stat().st_size > 10_000


@pytest.mark.parametrize("inside", ["record.json", "rounds.jsonl", "evaluations/mine/evaluation.json", "evaluations"])
def test_what_lies_in_a_runs_folder_stands_for_the_run(here, capsys, inside):
    tiny_run("--run-dir", "mine")
    (here / "mine" / "evaluations" / "mine").mkdir(parents=True)
    (here / "mine" / "evaluations" / "mine" / "evaluation.json").write_text("{}")
    capsys.readouterr()
    assert main(["runs", f"mine/{inside}"]) == 0
    assert re.search(r"^mine +(completed|unreadable) ", capsys.readouterr().out, re.MULTILINE)
    assert main(["run", "--resume", f"mine/{inside}", "--engine", "local"]) == 0
    assert "mine: complete" in capsys.readouterr().out


def test_a_percentage_that_no_share_can_be_gets_no_advice(here, capsys):
    assert main(["run", "quickstart", "--pool.fraction", "60"]) == 2
    assert "write" not in capsys.readouterr().err


def test_resumable_settings_are_words_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["deploy", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "may change: num-rounds, workers., device, data.dir, strategy.timeout, evaluation.test-images" in said


def test_a_run_that_attacks_nothing_says_so(here, capsys):
    assert tiny_run("--attack.epsilon", "0/255", "--run-dir", "mine") == 0
    assert "attack.epsilon = 0/255: nothing is attacked" in capsys.readouterr().out
    (here / "study.toml").write_text('preset = "quickstart"\nseeds = [0, 1]\naxes.attack.epsilon = ["0", "8/255"]\n')
    assert main(["sweep", "study.toml", "--dry-run"]) == 0
    assert "robust accuracy is natural accuracy (2 of 4 runs)" in capsys.readouterr().out


def test_report_of_nothing_is_refused(here, capsys):
    assert main(["report", "."]) == 2
    assert "no run in it" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_has_gone_is_no_traceback(here):
    command = [sys.executable, "-m", "fedrobust", "certs", "--server", "localhost", "--clients", "1"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
