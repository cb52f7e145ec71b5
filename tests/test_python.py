"""The Python interface: what `import fedrobust as fr` gives, and the blocks of docs/python.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
import torch
from torch import nn

import fedrobust as fr
import strategies
from fedrobust.cli import main
from fedrobust.data import load

ROOT = Path(__file__).parents[1]
TINY = {
    "engine": "local",
    "num_rounds": 1,
    "num_clients": 2,
    "data__train_images": 200,
    "data__test_images": 50,
    "attack__steps": 1,
    "evaluation__attacks": "fgsm",
    "evaluation__select_by": "natural",
    "workers__threads": 1,
}
HEAVY = ("torch", "flwr", "ray", "pandas", "pydantic", "numpy")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fr.run("quickstart", variant="fedavg", run_dir=tmp_path_factory.mktemp("python") / "run", **TINY)


def test_the_import_loads_nothing():
    script = f"import sys, fedrobust as fr; dir(fr); print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("asked", "found"), [({}, "5000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "unset")]
)
def test_waiting_threads_soon_sleep_unless_the_user_has_asked_for_something_else(asked, found):
    script = "import os, fedrobust; print(os.environ.get('GOMP_SPINCOUNT', 'unset'))"
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment | asked)
    assert done.stdout.strip() == found


def test_every_public_name_is_there():
    assert set(fr.__all__) <= set(dir(fr))
    for name in fr.__all__:
        assert getattr(fr, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'attack'"):
        fr.attack  # noqa: B018


def test_names_stay_what_they_are_once_the_packages_beneath_are_loaded():
    script = (
        "import fedrobust.cli, fedrobust.api, fedrobust.running.launch, fedrobust.reports.page, fedrobust as fr;"
        "print(callable(fr.run), callable(fr.report), callable(fr.evaluate), callable(fr.sweep))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "True " * 3 + "True\n"
    )


def test_a_run_is_that_of_the_command_line(run, tmp_path, metrics_of):
    flags = [f"--{key.replace('__', '.').replace('_', '-')}={value}" for key, value in TINY.items()]
    assert main(["run", "quickstart", "--variant", "fedavg", "--run-dir", str(tmp_path / "same"), *flags]) == 0
    assert metrics_of(run.folder) == metrics_of(tmp_path / "same")
    record = json.loads((tmp_path / "same" / "record.json").read_text())
    assert record.keys() == run.record.keys()
    assert (run.record["name"], run.record["engine"], run.record["state"]) == ("fedavg", "local", "completed")


def test_tables_hold_what_the_files_hold(run):
    loaded = fr.load_run(run.folder / "record.json")
    assert loaded.folder == run.folder
    for table, log in ((loaded.rounds, "rounds.jsonl"), (loaded.clients, "clients.jsonl")):
        pd.testing.assert_frame_equal(table, pd.read_json(run.folder / log, lines=True), check_dtype=False)
    assert loaded.rounds["round"].tolist() == [1]
    assert sorted(loaded.clients["client"].unique()) == [0, 1]
    assert len(loaded.partition) > 1
    assert loaded.best.is_file()
    assert loaded.last.is_file()
    assert loaded.config.num_clients == 2
    assert "completed" in repr(loaded)


def test_rounds_are_handed_on_as_they_are_written(tmp_path):
    seen = []
    run = fr.run("quickstart", variant="fedavg", run_dir=tmp_path / "run", on_round=seen.append, **TINY)
    assert seen == [json.loads(line) for line in (run.folder / "rounds.jsonl").read_text().splitlines()]


def test_a_run_resumes(run, tmp_path):
    folder = tmp_path / "longer"
    first = fr.run("quickstart", variant="fedavg", run_dir=folder, **TINY)
    longer = fr.run(resume=first.folder, num_rounds=2, engine="local")
    assert longer.rounds["round"].tolist() == [1, 2]
    assert fr.run(resume=first.folder, num_rounds=2).folder == longer.folder  # complete: nothing to do
    with pytest.raises(fr.ConfigError, match=r"pool\.fraction: cannot change in a resumed run"):
        fr.run(resume=first.folder, pool__fraction=0.1)
    with pytest.raises(fr.ConfigError, match="give only resume"):
        fr.run("quickstart", resume=first.folder)


def test_a_config_of_one_s_own(tmp_path):
    settings = {key.replace("__", ".").replace("_", "-"): value for key, value in TINY.items() if key != "engine"}
    run = fr.run(fr.RunConfig.from_flat(settings), engine="local", run_dir=tmp_path / "run", seed=3)
    assert run.config.seed == 3
    assert run.config.num_clients == 2


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("quickstart",), {"num_rouds": 1}, "unknown setting 'num-rouds'; did you mean 'num-rounds'"),
        (("quickstart",), {"variant": "fedavg", "pool__fraction": 2}, r"pool\.fraction"),
        (("quickstart",), {"variant": "fedavg", "central__decay": 0.2}, r"central\.decay = 0\.2: has no effect"),
        (("quickstart",), {}, "has several variants; give variant = one of fedavg, calfat"),
        (("quickstar",), {}, "did you mean 'quickstart'"),
        ((), {}, "no preset is given"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_has_begun(arguments, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fr.ConfigError, match=message):
        fr.run(*arguments, **settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(fr.ConfigError, match="no run in it"):
        fr.load_run(tmp_path)
    with pytest.raises(fr.ConfigError, match="holds packed runs"):
        fr.load_run(ROOT / "experiments" / "sharing-smoke")
    assert len(fr.report(ROOT / "experiments" / "sharing-smoke").summary) > 1


def test_an_evaluation_is_that_of_the_command_line(run, tmp_path):
    chosen = {"attacks": ["fgsm", "pgd-2"], "epsilon": "8/255", "num_images": 30, "checks": False}
    result = fr.evaluate(run, **chosen, out=tmp_path / "out")
    command = ["evaluate", str(run.folder), "--attacks", "fgsm,pgd-2", "--epsilon", "8/255", "--num-images", "30"]
    assert main([*command, "--no-checks", "--out", str(tmp_path / "same")]) == 0
    record = json.loads((tmp_path / "same" / "evaluation.json").read_text())
    shares = {name: row["accuracy"] for name, row in record["accuracy"].items()}
    assert result.accuracy == shares
    assert list(result.table.index) == ["natural", "fgsm", "pgd-2", "worst-case"]
    assert len(result.images) == 30
    assert result.images["natural"].mean() == shares["natural"]
    assert result.examples.shape == (30, 1, 8, 8)
    assert (tmp_path / "out" / "evaluation.json").is_file()


def test_a_module_is_evaluated_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = load("digits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    result = fr.evaluate(model, data="digits", attacks="fgsm", epsilon=0.05, num_images=0, checks=False)
    x = torch.from_numpy(dataset.test.images.transpose(0, 3, 1, 2) / 255).float()
    right = (model(x).argmax(1).numpy() == dataset.test.labels).mean()
    assert result.accuracy["natural"] == pytest.approx(right, abs=1e-9)
    assert result.folder is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(fr.ConfigError, match="does not name its data set"):
        fr.evaluate(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 8}, "epsilon = 8: must be above 0, and at most 1 for linf"),
        ({"epsilon": "a"}, "epsilon = 'a': must be a number or a fraction"),
        ({"norm": "l1"}, "norm = 'l1': must be linf or l2"),
        ({"attacks": "pdg-20"}, "did you mean"),
        ({"attacks": ()}, "no attack is given"),
    ],
)
def test_an_evaluation_s_mistakes(run, settings, message):
    with pytest.raises(fr.ConfigError, match=message):
        fr.evaluate(run, **settings)


def smaller(text, *changes):
    """A text that runs the same with smaller numbers."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_page_on_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = smaller((ROOT / "docs" / "python.md").read_text(), ("num_images=100)", "num_images=20)"))
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(names["runs"]) == 2
    assert set(names["report"].summary["pool"]) == {0.0, 0.2}
    assert (tmp_path / "mine" / "report" / "report.html").is_file()


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(strategies, "STRATEGIES", dict(strategies.STRATEGIES))
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for cell in cells:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                if source.startswith("settings = "):
                    source = smaller(source, ('"num_rounds": 5', '"num_rounds": 2'), ("1000", "400"))
                exec(compile(source, "docs/quickstart.ipynb", "exec"), names)
    assert [run.record["state"] for run in names["runs"].values()] == ["completed"] * 3
    assert names["best"]["strategy"].tolist() == ["fedavg", "calfat", "sqrt-avg"]
    assert all(
        cell["outputs"]
        for cell in cells
        if "fr.run" in "".join(cell["source"]) and "strategy__" not in "".join(cell["source"])
    )
