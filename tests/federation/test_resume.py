"""A run that stopped goes on as if it had not; what cannot go on says so."""

import itertools
import json
import multiprocessing
import random

import pytest
from flwr.app import MetricRecord

from clients.app import app
from fedrobust import engines
from fedrobust.config import toml
from fedrobust.engines import flower
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.running.preflight import check_run
from fedrobust.storage.checkpoint import load_checkpoint
from fedrobust.storage.run_folder import RunFolder

KILLS = 8  # of the driver, at random moments; 20 were tried once, too


def test_a_run_that_failed_goes_on_from_its_last_round(quick, federate, fedavg, metrics_of, bits):
    cfg, rounds = quick(), itertools.count()

    def broken_in_round_two(message, context):
        if message.metadata.message_type == "train" and int(message.content["config"]["server-round"]) == 2:
            next(rounds)
            raise RuntimeError("no")
        return app(message, context)

    with pytest.raises(RunFailed, match=r"round 2: 0 usable"):
        federate(cfg, broken_in_round_two)
    assert next(rounds) == 3
    folder = federate(cfg.replace(resume=True))
    assert bits(folder.last) == bits(fedavg.last)
    assert metrics_of(folder) == metrics_of(fedavg)
    assert (folder.record()["state"], folder.record()["error"]) == ("completed", "")


def test_more_rounds_go_on_where_the_run_ended(quick, federate, fedavg, metrics_of, bits):
    cfg = quick(num_rounds=1)
    federate(cfg)
    folder = federate(cfg.replace(num_rounds=2, resume=True))
    assert bits(folder.last) == bits(fedavg.last)
    assert metrics_of(folder) == metrics_of(fedavg)


@pytest.fixture
def begun_before(quick, federate):
    """A folder as a run left it when `pool.fraction` was a share of the images beside the validation slice."""

    def make(**settings):
        folder = federate(quick(num_rounds=1, **settings))
        config = folder.path / "config.toml"
        flat = toml.flatten(toml.read(config))
        del flat["partition.legacy-seed"]
        flat["pool.fraction"] = flat["pool.fraction"] / (1 - flat["data.validation-fraction"])
        config.write_text(toml.dumps(flat))
        return folder

    return make


def test_an_old_run_keeps_the_meaning_of_its_pool(begun_before, federate, quick):
    folder = begun_before(pool__fraction=0.36)
    assert "fraction = 0.39999" in (folder.path / "config.toml").read_text()
    cfg = folder.read_config()
    assert cfg.pool.fraction == pytest.approx(0.36)
    resumed = federate(cfg.replace(num_rounds=2, resume=True))
    assert resumed.record()["pool"]["images"] == 144
    assert resumed.read_config().pool.fraction == pytest.approx(0.36)  # it has the key now, and is not converted twice


def test_an_old_run_whose_pool_would_be_another_is_not_resumed(begun_before, federate):
    folder = begun_before(pool__fraction=0.36)
    folder.update_record(pool={"images": 143})
    with pytest.raises(
        ConfigError, match=r"gives a pool of 144 images, but the run began with 143; it cannot be resumed"
    ):
        federate(folder.read_config().replace(num_rounds=2, resume=True))


def test_a_corrupt_checkpoint_ends_a_resume(quick, federate):
    cfg = quick(num_rounds=1)
    folder = federate(cfg)
    data = bytearray(folder.checkpoint.read_bytes())
    data[-5] ^= 1
    folder.checkpoint.write_bytes(data)
    with pytest.raises(RunFailed, match=r"checkpoint\.safetensors: corrupt .*not loaded"):
        federate(cfg.replace(num_rounds=2, resume=True))
    assert folder.record()["state"] == "failed"


def test_another_seed_cannot_go_on(quick, federate):
    cfg = quick(num_rounds=1)
    federate(cfg)
    with pytest.raises(ConfigError, match=r"seed = 1: the checkpoint was made with 0"):
        federate(cfg.replace(seed=1, num_rounds=2, resume=True))


def test_a_run_that_is_at_work_is_left_alone(quick, federate):
    cfg = quick(num_rounds=1)
    folder = federate(cfg)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with folder.held():
        assert folder.at_work
        with pytest.raises(ConfigError, match=r"a run is at work in it; wait until it is done, or stop it"):
            federate(cfg.replace(num_rounds=2, resume=True))
        with pytest.raises(ConfigError, match=r"a run is at work in it"):
            check_run(cfg.replace(num_rounds=2, resume=True))
    assert not folder.at_work
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_what_clients_remember_survives_a_resume(quick, federate):
    def counting(message, context):
        if message.metadata.message_type == "train":
            seen = context.state.metric_records.get("memory", {"messages": 0})["messages"]
            context.state["memory"] = MetricRecord({"messages": seen + 1})
        return app(message, context)

    cfg = quick(num_rounds=1)
    federate(cfg, counting)
    folder = federate(cfg.replace(num_rounds=3, resume=True), counting)
    states = load_checkpoint(folder.checkpoint).clients
    counted = {client: flower.records_from_bytes(state)["memory"]["messages"] for client, state in states.items()}
    assert counted == {0: 3, 1: 3, 2: 3}


# -- the driver is killed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver():
    """Processes that run federations, everything imported before they start, so that they are killed at work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "clients.app", "strategies.app"])
    return lambda cfg: context.Process(target=engines.run, args=(cfg, "local"))


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(quick, driver, metrics_of, bits):
    settings = {"num_rounds": 4, "strategy__fraction_train": 0.7, "pool__fraction": 0.1}
    reference = quick(**settings)
    process = driver(reference)
    process.start()
    process.join()
    undisturbed, rng = RunFolder(reference.run_dir), random.Random(0)
    longest = 1.2 * undisturbed.record()["seconds"]

    kills = finished = 0
    while kills < KILLS or not finished:
        cfg = quick(**settings)
        folder, running = RunFolder(cfg.run_dir), True
        while running:
            process = driver(cfg.replace(resume=(folder.path / "config.toml").exists()))
            process.start()
            process.join(rng.uniform(0, longest) if kills < KILLS else None)
            if running := process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
                assert not folder.at_work
                assert_at_most_one_round_is_lost(folder)
            else:
                assert process.exitcode == 0
        finished += 1
        assert metrics_of(folder) == metrics_of(undisturbed)
        assert bits(folder.last) == bits(undisturbed.last)
        assert bits(folder.best) == bits(undisturbed.best)
        assert folder.record()["best"] == undisturbed.record()["best"]


def assert_at_most_one_round_is_lost(folder):
    written = (
        (folder.path / "rounds.jsonl").read_bytes().splitlines() if (folder.path / "rounds.jsonl").exists() else []
    )
    kept = load_checkpoint(folder.checkpoint).progress.server_round if folder.checkpoint.exists() else 0
    assert kept <= len(written) <= kept + 1
    assert [json.loads(line)["round"] for line in written[:kept]] == list(range(1, kept + 1))
