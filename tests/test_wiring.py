"""Each setting reaches what it sets: away from its default it changes the weights, what is measured, or its own test.

The tables below cover every field of the config: a new setting without an effect has no row, or its row fails.
"""

import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

import clients.app
import clients.local
from clients.app import app
from clients.local import Instructions, LocalClient
from fedrobust.config import FIELDS, RunConfig
from fedrobust.data import load_data
from fedrobust.data.device import AUGMENTATIONS
from fedrobust.engines.local import LocalGrid
from fedrobust.engines.plan import plan_workers
from fedrobust.errors import ConfigError, DataError, RunFailed
from fedrobust.hardware.process import pick_device
from fedrobust.running import central
from fedrobust.running.evaluator import RunEvaluator
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder
from fedrobust.training import build
from fedrobust.training.central import Trainer
from fedrobust.training.context import run_context
from fedrobust.training.step import TrainingStep
from strategies.federation import Federation

TINY = {
    "num-rounds": 1,
    "data.train-images": 120,
    "data.test-images": 30,
    "partition.concentration": 1.0,
    "partition.min-samples": 5,
    "local.steps": 2,
    "local.batch-size": 16,
    "evaluation.clients-every": 0,
}
TINY_ARGUMENTS = {key.replace(".", "__").replace("-", "_"): value for key, value in TINY.items()}
RESNET = {"model.name": "resnet18", "model.width": 0.0625, "local.steps": 1}
CENTRAL = {"kind": "central", "num-rounds": 4, "local.steps": 2, "evaluation.every": 0}

# setting → (what else is set, the value away from that), where another model comes out
WEIGHTS = {
    "kind": ({}, "central"),
    "num-clients": ({}, 2),
    "num-rounds": ({}, 2),
    "seed": ({}, 1),
    "precision": ({}, "bfloat16"),
    "data.classes": ({"num-clients": 2}, "0,1,2"),
    "data.train-images": ({}, 200),
    "data.validation-fraction": ({}, 0.3),
    "partition.scheme": ({}, "iid"),
    "partition.concentration": ({}, 30.0),
    "partition.min-samples": ({"partition.concentration": 0.1, "partition.min-samples": 1}, 20),
    "partition.classes-per-client": ({"partition.scheme": "shards", "num-clients": 5}, 3),
    "partition.dominant-share": ({"partition.scheme": "dominant", "num-clients": 5}, 0.5),
    "partition.held-out": ({}, 0.4),
    "partition.legacy-seed": ({}, 7),
    "pool.fraction": ({}, 0.2),
    "pool.share": ({"pool.fraction": 0.2}, 0.5),
    "pool.mode": ({"pool.fraction": 0.2}, "replace"),
    "model.name": (RESNET, "preact-resnet18"),
    "model.activation": ({}, "silu"),
    "model.activation-alpha": ({"model.activation": "elu"}, 0.5),
    "model.backward-activation": ({}, "silu"),
    "model.backward-phase": ({"model.backward-activation": "silu"}, "attack"),
    "model.width": (RESNET, 0.125),
    "model.input-size": ({}, 12),
    "objective.name": ({}, "trades"),
    "objective.trades-beta": ({"objective.name": "trades"}, 1.0),
    "objective.adversarial-fraction": ({"objective.name": "mixed"}, 0.25),
    "objective.temperature": ({"strategy.name": "calfat"}, 0.5),
    "objective.scale": ({"strategy.name": "calfat"}, 2.0),
    "objective.label-smoothing": ({}, 0.2),
    "objective.noise-sigma": ({"objective.name": "mixed"}, 0.1),
    "objective.awp-gamma": ({}, 0.05),
    "objective.attack-mode": (RESNET, "train"),
    "attack.name": ({}, "fgsm"),
    "attack.epsilon": ({}, "0.2"),
    "attack.norm": ({}, "l2"),
    "attack.step-size": ({}, "0.02"),
    "attack.steps": ({"attack.steps": 1}, 3),
    "attack.restarts": ({}, 2),
    "attack.random-start": ({}, "zero"),
    "local.epochs": ({"local.steps": 0}, 2),
    "local.steps": ({}, 3),
    "local.batch-size": ({}, 8),
    "local.learning-rate": ({}, 0.01),
    "local.momentum": ({}, 0.5),
    "local.weight-decay": ({}, 0.1),
    "central.images": (CENTRAL, {"central.images": "pool", "pool.fraction": 0.4}),
    "central.schedule": (CENTRAL, "cosine"),
    "central.milestones": ({**CENTRAL, "central.schedule": "piecewise"}, "0.25"),
    "central.decay": ({**CENTRAL, "central.schedule": "piecewise"}, 0.5),
    "central.peak": ({**CENTRAL, "central.schedule": "cyclic"}, 0.7),
    "central.average": (CENTRAL, "ema"),
    "central.average-decay": ({**CENTRAL, "central.average": "ema"}, 0.5),
    "central.average-start": ({**CENTRAL, "central.average": "swa"}, 0.75),
    "central.awp-start": ({**CENTRAL, "objective.awp-gamma": 0.05}, 0.75),
    "strategy.name": ({}, "median"),
    "strategy.fraction-train": ({}, 0.4),
    "strategy.proximal-mu": ({"strategy.name": "fedprox"}, 3.0),
    "strategy.trim-fraction": ({"strategy.name": "trimmed-mean", "num-clients": 5}, 0.0),
    "strategy.num-malicious": ({"strategy.name": "krum", "num-clients": 6, "seed": 1, "partition.min-samples": 3}, 3),
}

# the same, where the model stays and other numbers are measured of it
MEASURED = {
    "central.overfitting": (CENTRAL, "ignore"),
    "strategy.fraction-evaluate": ({}, 0.4),
    "evaluation.every": ({"num-rounds": 2}, 2),
    "evaluation.clients-every": ({"num-rounds": 2}, 1),
    "evaluation.probe-images": ({}, 20),
    "evaluation.attacks": ({}, "fgsm,pgd-2"),
    "evaluation.step-size": ({"evaluation.attacks": "pgd-2", "attack.epsilon": "0.3"}, "0.3"),
    "evaluation.validation-images": ({"data.validation-fraction": 0.3}, 10),
    "evaluation.test-images": ({}, 10),
    "data.test-images": ({}, 50),
}


@pytest.fixture(scope="module")
def ended(quick, federate):
    """The weights and the numbers of a tiny run with these flat settings; each is run once."""
    known = {}

    def run(flat):
        key = json.dumps(flat, sort_keys=True)
        if key not in known:
            cfg = RunConfig.from_flat(quick().to_flat() | TINY | flat)
            if cfg.kind == "central":
                central.run(cfg)
                folder = RunFolder(cfg.run_dir)
            else:
                folder = federate(cfg)
            rows = [row for log in ("rounds.jsonl", "clients.jsonl") for row in folder.read(log)]
            found = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
            record = folder.record()
            assert record["state"] == "completed"
            known[key] = weights_of(folder), [*found, record["best"], record["last"]]
        return known[key]

    return run


def weights_of(folder):
    return {key: (array.shape, array.tobytes()) for key, array in load_model(folder.last)[0].items()}


def away(key, value):
    return value if isinstance(value, dict) else {key: value}


def test_there_is_a_row_or_a_test_for_every_setting():
    assert WEIGHTS.keys() | MEASURED.keys() | ELSEWHERE.keys() == FIELDS.keys()
    assert len(WEIGHTS) + len(MEASURED) + len(ELSEWHERE) == len(FIELDS)


@pytest.mark.parametrize("key", WEIGHTS)
def test_it_changes_the_model(key, ended):
    others, value = WEIGHTS[key]
    assert ended(others)[0] != ended({**others, **away(key, value)})[0]


@pytest.mark.parametrize("key", MEASURED)
def test_it_changes_what_is_measured_of_the_same_model(key, ended):
    others, value = MEASURED[key]
    (model, numbers), (other_model, other_numbers) = ended(others), ended({**others, **away(key, value)})
    assert model == other_model
    assert numbers != other_numbers


# settings that decide what is asked of whom, where, and with what


def test_data_name(quick):
    with pytest.raises(DataError, match="svhn"):
        run_context(quick(data__name="svhn", data__dir="nowhere"))


def test_data_dir(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        load_data(RunConfig.from_flat({"data.name": "cifar10", "data.dir": str(tmp_path)}).data)


def test_data_own(quick, monkeypatch):
    monkeypatch.delenv("FEDROBUST_OWN", raising=False)
    with pytest.raises(DataError, match="FEDROBUST_OWN is not set"):
        LocalClient(quick(data__own=True), 0)


@pytest.mark.parametrize("kind", ["federated", "central"])
@pytest.mark.parametrize(("augment", "name"), [(True, "crop"), (False, "none")])
def test_local_augment(quick, monkeypatch, kind, augment, name):
    used = []
    spies = {entry: lambda x, _, entry=entry: used.append(entry) or x for entry in AUGMENTATIONS}
    monkeypatch.setattr(build, "AUGMENTATIONS", spies)
    cfg = quick(local__augment=augment, local__steps=1, kind=kind)
    context = run_context(cfg)
    cropped = replace(context, dataset=replace(context.dataset, augmentation="crop"))
    if kind == "central":
        Trainer(cfg, cropped, np.arange(50), context.arrays()).train(1)
    else:
        client = LocalClient(cfg, 0)
        client.context = cropped
        client.train(context.weights(), Instructions(1, 0.01, "at", 0.0))
    assert used == [name]


def test_device(quick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"device = 'cuda:2': not on this machine"):
        run_context(quick(device="cuda:2"))
    assert run_context(quick(device="cpu")).device == torch.device("cpu")


def test_init(quick, federate):
    """The weights are the file's, and the streams of training are still the seed's."""
    start = federate(quick(**TINY_ARGUMENTS))
    begun = [
        federate(quick(**TINY_ARGUMENTS, init=str(start.last), seed=seed, num_clients=1, attack__epsilon="0.0"))
        for seed in (1, 2)
    ]
    assert [folder.record()["init"]["round"] for folder in begun] == [1, 1]
    assert weights_of(begun[0]) != weights_of(begun[1])
    still = federate(quick(**TINY_ARGUMENTS, init=str(start.last), local__learning_rate=1e-30, local__weight_decay=0.0))
    assert weights_of(still) == weights_of(start)


def test_run_dir_and_resume(quick, federate, tmp_path):
    folder = federate(quick(**TINY_ARGUMENTS, run_dir=str(tmp_path / "here")))
    assert folder.path == tmp_path / "here"
    assert folder.checkpoint.exists()
    again = federate(quick(**TINY_ARGUMENTS, run_dir=str(folder.path)).replace(num_rounds=2, resume=True))
    assert [row["round"] for row in again.read("rounds.jsonl")] == [1, 2]


def test_central_patience(quick):
    cfg = quick(kind="central", num_rounds=9, local__learning_rate=1e-30, local__weight_decay=0.0, central__patience=2)
    central.run(cfg)
    assert RunFolder(cfg.run_dir).record()["rounds"] == 3
    assert "no better score since round 1" in RunFolder(cfg.run_dir).record()["stopped"]


def test_strategy_min_replies(quick, federate):
    def one_fails(message, context):
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 1:
            raise RuntimeError("no")
        return app(message, context)

    assert federate(quick(**TINY_ARGUMENTS, strategy__min_replies=2), one_fails).record()["state"] == "completed"
    with pytest.raises(RunFailed, match="2 usable updates of 3 clients, 3 are needed"):
        federate(quick(**TINY_ARGUMENTS, strategy__min_replies=3), one_fails)


def test_strategy_timeout(quick):
    """Both ends heed it: the server waits no longer, and a client ends itself."""

    class Stops(Exception):
        pass

    class Spy(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            waited.append(timeout)
            if any(message.metadata.message_type == "train" for message in messages):
                raise Stops
            return super().send_and_receive(messages, timeout=timeout)

    waited = []
    cfg = quick(**TINY_ARGUMENTS, strategy__timeout=77.0)
    with pytest.raises(Stops):
        Federation(cfg, Spy(cfg, app)).run()
    assert waited == [77.0]  # `test_nodes` has the question which partition a node holds


def test_a_client_ends_itself_at_the_timeout(quick, monkeypatch):
    limits = []
    monkeypatch.setattr(clients.app, "limited", lambda seconds: limits.append(seconds) or nullcontext())
    cfg = quick(**TINY_ARGUMENTS, strategy__timeout=77.0)
    Federation(cfg, LocalGrid(cfg, app)).run()
    assert set(limits) == {77.0}


@pytest.mark.parametrize(("min_clients", "begins"), [(0, False), (2, True)])
def test_strategy_min_clients_and_node_timeout(quick, min_clients, begins):
    class TwoOfThree(LocalGrid):
        def get_node_ids(self):
            return [*super().get_node_ids()][:2]

    cfg = quick(**TINY_ARGUMENTS, strategy__min_clients=min_clients, strategy__node_timeout=0.01)
    federation = Federation(cfg, TwoOfThree(cfg, app))
    if not begins:
        with pytest.raises(RunFailed, match="2 SuperNodes are connected, num-clients is 3"):
            federation.run()
        return
    federation.run()
    assert [row["missing"] for row in RunFolder(cfg.run_dir).read("rounds.jsonl")] == [1]


@pytest.mark.parametrize(("select_by", "best"), [("natural", 1), ("fgsm", 2), ("worst-case", 3)])
def test_evaluation_select_by(quick, federate, monkeypatch, select_by, best):
    """Each criterion has its highest score in another round."""
    validate, rounds = RunEvaluator.validation, count(1)

    def validation(self, arrays):
        number = next(rounds)
        robust = {name: float(number == at) for name, at in (("fgsm", 2), ("pgd-2", 1), ("worst-case", 3))}
        return replace(validate(self, arrays), natural_accuracy=float(number == 1), robust_accuracy=robust)

    monkeypatch.setattr(RunEvaluator, "validation", validation)
    settings = {**TINY_ARGUMENTS, "num_rounds": 3, "evaluation__attacks": "fgsm,pgd-2"}
    assert federate(quick(**settings, evaluation__select_by=select_by)).record()["best"]["round"] == best


def test_evaluation_batch_size(quick):
    cfg, sizes = quick(evaluation__batch_size=7), []
    measure = RunEvaluator(cfg)
    with torch.no_grad():
        handle = measure.context.model.register_forward_hook(lambda *_: sizes.append(len(_[1][0])))
        measure.validation(measure.context.arrays())
        handle.remove()
    assert max(sizes) == 7


def test_workers(quick, monkeypatch):
    monkeypatch.setattr("fedrobust.engines.plan.available_cores", lambda: 8)
    monkeypatch.setattr("fedrobust.engines.plan._num_gpus", lambda _: 2)
    planned, _ = plan_workers(quick(workers__num=3, workers__threads=2, workers__num_gpus=0.5, num_clients=9), "ray")
    assert (planned.workers.num, planned.workers.threads, planned.workers.num_gpus) == (3, 2, 0.5)
    planned, _ = plan_workers(quick(workers__num=0, workers__threads=4, workers__num_gpus=0.0, num_clients=9), "ray")
    assert (planned.workers.num, planned.workers.threads, planned.workers.num_gpus) == (2, 4, 1.0)


def test_workers_threads_are_the_clients(quick):
    seen = []

    def counting(message, context):
        seen.append(torch.get_num_threads())
        return app(message, context)

    cfg = quick(**TINY_ARGUMENTS, workers__threads=2)
    Federation(cfg, LocalGrid(cfg, counting)).run()
    assert set(seen) == {2}


def test_workers_address(quick, monkeypatch):
    from fedrobust.engines import ray_pool

    joined = []

    def start_ray(address, cpus):
        joined.append(address)
        raise ConfigError("enough")

    monkeypatch.setattr(ray_pool, "start_ray", start_ray)
    with pytest.raises(ConfigError, match="enough"):
        ray_pool.RayGrid(quick(workers__address="10.0.0.1:6379"), "clients.app:app")
    assert joined == ["10.0.0.1:6379"]


def test_class_counts_are_those_of_the_client_that_trains(quick, monkeypatch):
    """They lie in one tensor, which one objective reads for all clients."""
    seen = []

    def train(model, data, index, objective, schedule, **settings):
        counts = objective.keywords["class_counts"].clone()
        seen.append((objective, counts, torch.bincount(data.labels[index], minlength=10)))
        raise StopIteration

    monkeypatch.setattr(clients.local, "train", train)
    cfg = quick(**TINY_ARGUMENTS, strategy__name="calfat")
    for partition in (0, 1):
        client = LocalClient(cfg, partition)
        with pytest.raises(StopIteration):
            client.train(client.context.weights(), Instructions(1, 0.01, "calfat", 0.0))
    (first, counts, expected), (second, others, also) = seen
    assert first is second
    assert torch.equal(counts, expected)
    assert torch.equal(others, also)
    assert not torch.equal(counts, others)


def test_cuda_graphs(quick, monkeypatch):
    """Handed to the step by a client; `test_training` has what the step makes of it on CUDA."""
    made = []

    class Step(TrainingStep):
        def __init__(self, *objects, **settings):
            made.append(settings["capture"])
            super().__init__(*objects, **settings)

    monkeypatch.setattr("fedrobust.training.step.TrainingStep", Step)
    for asked in (True, False):
        cfg = quick(**TINY_ARGUMENTS, cuda_graphs=asked)
        context = run_context(cfg)
        LocalClient(cfg, 0).train(context.weights(), Instructions(1, 0.01, "at", 0.0))
    assert made == [True, False]


ELSEWHERE = {
    "data.name": test_data_name,
    "data.dir": test_data_dir,
    "data.own": test_data_own,
    "local.augment": test_local_augment,
    "device": test_device,
    "cuda-graphs": test_cuda_graphs,
    "init": test_init,
    "run-dir": test_run_dir_and_resume,
    "resume": test_run_dir_and_resume,
    "central.patience": test_central_patience,
    "strategy.min-replies": test_strategy_min_replies,
    "strategy.timeout": test_strategy_timeout,
    "strategy.min-clients": test_strategy_min_clients_and_node_timeout,
    "strategy.node-timeout": test_strategy_min_clients_and_node_timeout,
    "evaluation.select-by": test_evaluation_select_by,
    "evaluation.batch-size": test_evaluation_batch_size,
    "workers.num": test_workers,
    "workers.threads": test_workers_threads_are_the_clients,
    "workers.num-gpus": test_workers,
    "workers.address": test_workers_address,
}
