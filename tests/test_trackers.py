"""What TensorBoard and MLflow show of a run: its rows, each round once, also after a resume."""

import json
import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedrobust.cli import main
from fedrobust.config import RunConfig
from fedrobust.errors import RunFailed
from fedrobust.running.trackers import MLflow, TensorBoard, scalars
from fedrobust.storage.run_folder import RunFolder

ROW = {"round": 1, "ok": 3, "train.loss": 0.5, "validation.robust_accuracy.pgd-2": 0.25, "note": "x", "flag": True}
CONFIG = RunConfig()


def rows(*rounds, loss=0.5):
    return [{"round": number, "train.loss": loss} for number in rounds]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_tags_are_columns_with_slashes_and_only_numbers_have_one():
    assert scalars(ROW) == {"ok": 3, "train/loss": 0.5, "validation/robust_accuracy/pgd-2": 0.25}
    assert scalars({"round": 1, "loss": 2}, "best") == {"best/loss": 2}


@pytest.mark.parametrize(("flag", "module"), [("--tensorboard", "torch.utils.tensorboard"), ("--mlflow", "mlflow")])
def test_a_missing_package_is_one_line_before_any_run(flag, module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["run", "quickstart", flag]) == 2
    name = flag[2:]
    expected = f"error: {flag}: needs the package {name}: pip install 'fedrobust[{name}]'\n"
    assert capsys.readouterr().err == expected
    assert not list(tmp_path.iterdir())


# -- TensorBoard -----------------------------------------------------------------------------------------------------


def shown(folder):
    """Tag → [(step, value)], as TensorBoard reads the folder."""
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, events


def test_tensorboard_shows_every_number_of_a_run_and_goes_on_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["--attack.steps", "1", "--evaluation.attacks", "fgsm,pgd-2", "--evaluation.select-by", "fgsm"]
    tiny += ["--variant", "fedavg", "--workers.threads", "1", "--local.steps", "1", "--run-dir", "mine"]
    assert main(["run", "quickstart", "--engine", "local", "--tensorboard", "--num-rounds", "2", *tiny]) == 0
    folder = RunFolder("mine")
    for resume, rounds in (([], 2), (["--num-rounds", "3"], 3), ([], 3)):
        if rounds == 3:
            assert main(["run", "--resume", "mine", "--engine", "local", "--tensorboard", *resume]) == 0
        tags, events = shown(folder)
        written = [scalars(row) for row in folder.read("rounds.jsonl")]
        assert len(written) == rounds
        assert tags.keys() == {tag for row in written for tag in row}
        for tag, points in tags.items():
            expected = [(step, pytest.approx(row[tag])) for step, row in enumerate(written, 1) if tag in row]
            assert points == expected, tag
    assert "validation/robust_accuracy/worst-case" in tags
    (text,) = events.Tensors("config/text_summary")[-1].tensor_proto.string_val
    assert b"| num-rounds | 3 |" in text


def test_a_repeated_round_takes_the_place_of_the_one_that_was_cut_back(folder):
    tracker = TensorBoard(folder, CONFIG)
    tracker.begin(rows(1, 2, 3))
    for row in [*rows(3, loss=9.0), *rows(4)]:
        tracker.round(row)
    tracker.end()
    assert shown(folder)[0] == {"train/loss": [(1, 0.5), (2, 0.5), (3, 9.0), (4, 0.5)]}


# -- MLflow ----------------------------------------------------------------------------------------------------------


class FakeStore:
    """MLflow's client as far as it is used, over a dictionary; `module` is what `import mlflow` gives."""

    def __init__(self):
        self.runs, self.experiments, self.uris, self.down = {}, {}, [], False
        self.error = type("MlflowException", (Exception,), {})
        self.module = SimpleNamespace(
            MlflowClient=self.connect,
            entities=SimpleNamespace(
                Param=lambda key, value: (key, value), Metric=lambda key, value, timestamp, step: (key, step, value)
            ),
            exceptions=SimpleNamespace(MlflowException=self.error),
        )

    def connect(self, *, tracking_uri):
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name):
        if self.down:
            raise self.error("API request failed\nwith details")
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        return self.experiments.setdefault(name, f"experiment-{len(self.experiments)}")

    def create_run(self, experiment_id, *, run_name):
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = {"name": run_name, "experiment": experiment_id, "params": {}, "metrics": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id, *, status):
        if run_id not in self.runs:
            raise self.error("no such run")
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id, *, metrics=(), params=()):
        self.runs[run_id]["metrics"] += metrics
        self.runs[run_id]["params"] |= dict(params)

    def log_dict(self, run_id, dictionary, artifact_file):
        self.runs[run_id][artifact_file] = dictionary

    def set_terminated(self, run_id, status):
        self.runs[run_id]["status"] = status


@pytest.fixture
def store(monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    fake = FakeStore()
    monkeypatch.setitem(sys.modules, "mlflow", fake.module)
    return fake


def tracked(folder, before, new, **settings):
    """One process' part of a run."""
    tracker = MLflow(folder, CONFIG, "label", **settings)
    tracker.begin(before)
    for row in new:
        tracker.round(row)
    return tracker


def test_mlflow_gets_settings_rounds_and_the_record(folder, store):
    folder.update_record(state="completed", best={"round": 1, "loss": 0.25, "per_class": {}}, command="x")
    tracked(folder, [], [ROW], uri="http://there").end()
    (run,) = store.runs.values()
    assert store.uris == ["http://there"]
    assert (run["name"], run["experiment"], run["status"]) == ("label", store.experiments["fedrobust"], "FINISHED")
    assert run["params"] == {key: str(value) for key, value in CONFIG.to_flat().items() if value != ""}
    assert len(run["params"]) <= 100  # MLflow takes no more at once
    assert run["metrics"] == [(tag, 1, value) for tag, value in scalars(ROW).items()] + [("best/loss", 1, 0.25)]
    assert run["record.json"] == folder.record()


def test_mlflow_goes_on_in_the_same_run_with_the_rounds_it_lacks(folder, store):
    tracked(folder, [], [])  # killed in round 1
    tracked(folder, [], rows(1, 2))  # killed, after round 3 had been written
    tracked(folder, rows(1, 2, 3), rows(4)).end()
    (run,) = store.runs.values()
    assert [step for _, step, _ in run["metrics"]] == [1, 2, 3, 4]
    assert run["status"] == "KILLED"
    assert store.uris == [None, None, None]


def test_another_store_gets_a_run_with_all_rounds(folder, store):
    tracked(folder, [], rows(1))
    store.runs.clear()
    tracked(folder, rows(1), rows(2))
    (run,) = store.runs.values()
    assert [step for _, step, _ in run["metrics"]] == [1, 2]


def test_a_store_that_is_down_ends_the_run_before_it_starts(folder, store):
    store.down = True
    with pytest.raises(RunFailed, match=r"^--mlflow http://there: API request failed$"):
        tracked(folder, [], [], uri="http://there")


def test_the_command_line_tracks_every_run_of_a_preset(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["--num-rounds", "1", "--local.steps", "1", "--evaluation.attacks", "fgsm", "--evaluation.select-by", "fgsm"]
    assert main(["run", "quickstart", "--engine", "local", *tiny, "--run-dir", "mine", "--mlflow"]) == 0
    assert [(run["name"], run["status"]) for run in store.runs.values()] == [
        ("fedavg", "FINISHED"),
        ("calfat", "FINISHED"),
    ]
    for run in store.runs.values():
        record = RunFolder(f"mine/{run['name']}").record()
        assert run["record.json"] == record
        assert ("best/natural_accuracy", 1, record["best"]["natural_accuracy"]) in run["metrics"]
        assert record["peak_memory_bytes"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the versions of SQLAlchemy that MLflow takes
def test_mlflow_itself_takes_it(folder, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    uri = f"sqlite:///{folder.path}/store.db"
    monkeypatch.chdir(folder.path)
    folder.update_record(state="completed", best={"round": 1, "loss": 0.25})
    tracked(folder, [], [ROW], uri=uri)
    tracked(folder, [ROW], rows(2), uri=uri).end()
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(json.loads((folder.path / "mlflow.json").read_text())["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["attack.epsilon"] == "8/255"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["record.json"]
