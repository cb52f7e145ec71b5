"""Who holds which image: everything once, exact sizes, the same answer for the server and every client."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.local import Instructions, LocalClient
from fedrobust.config import RunConfig
from fedrobust.data.split import make_split, split_of, summarise_split
from fedrobust.errors import ConfigError
from fedrobust.presets import load_preset
from fedrobust.running.evaluator import RunEvaluator
from fedrobust.training import build
from fedrobust.training.context import run_context
from partitions import MODES, PARTITIONS

N = 1000
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), N // 10))
REST = 900  # after a validation slice of a tenth


def config(**settings):
    return RunConfig().replace(num_clients=6, **settings)


def assert_everything_once(split, images):
    owned = [[client.own, client.held_out] for client in split.clients]
    whole = np.concatenate([split.validation, split.pool, *chain.from_iterable(owned)])
    np.testing.assert_array_equal(np.sort(whole), images)


@pytest.mark.parametrize("scheme", PARTITIONS)
@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_every_image_is_validation_pool_own_or_held_out(scheme, fraction):
    split = make_split(config(partition__scheme=scheme, pool__fraction=fraction), LABELS)
    assert_everything_once(split, np.arange(N))
    assert all(len(client.held_out) for client in split.clients)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    validation=st.one_of(st.just(0.0), st.floats(0.01, 0.5)),
    held_out=st.floats(0, 0.5),
    fraction=st.floats(0, 0.4),
)
def test_so_it_is_for_any_fractions(seed, validation, held_out, fraction):
    cfg = config(seed=seed, data__validation_fraction=validation, pool__fraction=fraction)
    split = make_split(cfg.replace(partition__held_out=held_out, partition__concentration=5.0), LABELS)
    assert_everything_once(split, np.arange(N))
    assert len(split.validation) == round(validation * N)
    assert len(split.pool) == round(fraction * N)


@pytest.mark.parametrize(("fraction", "size"), [(0.0, 0), (0.1, 100), (0.4, 400)])
def test_the_pool_has_its_exact_size_and_meets_nothing_else(fraction, size):
    split = make_split(config(pool__fraction=fraction), LABELS)
    assert len(split.validation) == N - REST
    assert len(split.pool) == size
    assert not np.isin(split.pool, split.validation).any()
    for client in split.clients:
        assert not np.isin(split.pool, client.own).any()
        assert not np.isin(client.train, np.concatenate([split.validation, client.held_out])).any()


def test_the_pool_is_a_share_of_the_whole_training_set_whatever_is_held_out():
    sizes = [
        len(make_split(config(data__validation_fraction=v, pool__fraction=0.4), LABELS).pool) for v in (0.0, 0.1, 0.5)
    ]
    assert sizes == [400, 400, 400]
    subset = config(data__train_images=500, data__validation_fraction=0.2, pool__fraction=0.4)
    assert len(make_split(subset, LABELS).pool) == 200


@pytest.mark.parametrize("name", ["cifar10-calfat", "cifar10-fedavg"])
def test_the_published_variant_has_calfats_sizes_on_all_images(name):
    """Sizes and class counts follow from RandomState(2021) and the class sizes; which images, from their order."""
    (cfg,) = load_preset(name).configs({}, "published").values()
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 5000))
    split = make_split(cfg, labels)
    assert len(split.validation) == 0
    assert [len(client.train) for client in split.clients] == [4418, 14309, 12312, 7479, 11482]
    assert np.bincount(labels[split.clients[0].train]).tolist() == [1117, 30, 0, 5, 0, 1, 302, 16, 2028, 919]
    assert all(len(client.held_out) == 0 for client in split.clients)


def test_another_legacy_seed_is_another_partition_of_the_same_images():
    one, other, own = (make_split(config(partition__legacy_seed=seed), LABELS) for seed in (1, 2, 0))
    assert shards_of(one) != shards_of(other) != shards_of(own) != shards_of(one)
    assert shards_of(one) == shards_of(make_split(config(partition__legacy_seed=1), LABELS))


@pytest.mark.parametrize("fraction", [0.41, -0.01, float("nan")])
def test_other_pools_are_refused(fraction):
    with pytest.raises(ConfigError, match=r"pool\.fraction = "):
        config(pool__fraction=fraction)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_a_client_trains_on(mode, share):
    split = make_split(config(pool__fraction=0.2, pool__share=share, pool__mode=mode), LABELS)
    received = round(share * 200)
    for client in split.clients:
        n = len(client.own)
        from_pool = np.isin(client.train, split.pool)
        assert np.isin(client.train[~from_pool], client.own).all()
        assert (len(client.train), from_pool.sum()) == {
            "add": (n + received, received),
            "replace": (n, round(0.2 * n)),
            "control": (n + received, 0),
        }[mode]
        assert (len(np.unique(client.train)) == len(client.train)) == (mode != "control")


@pytest.mark.parametrize(("mode", "share"), [("add", 0.5), ("replace", 0.5), ("replace", 1.0)])
def test_each_client_has_its_own_part_of_the_pool(mode, share):
    cfg = config(partition__scheme="iid", pool__fraction=0.2, pool__share=share, pool__mode=mode)
    split, again = make_split(cfg, LABELS), make_split(cfg, LABELS)
    parts, parts_again = (
        [tuple(client.train[np.isin(client.train, s.pool)]) for client in s.clients] for s in (split, again)
    )
    assert len(set(parts)) == len(split.clients)
    assert parts == parts_again


@pytest.mark.parametrize("mode", MODES)
def test_without_a_pool_each_trains_on_its_own(mode):
    for client in make_split(config(pool__mode=mode), LABELS).clients:
        np.testing.assert_array_equal(client.train, client.own)


def test_a_subset_is_taken_first_and_balanced():
    split = make_split(config(data__train_images=500, pool__fraction=0.1), LABELS)
    everything = [split.validation, split.pool, *(np.concatenate([c.own, c.held_out]) for c in split.clients)]
    chosen = np.concatenate(everything)
    assert len(np.unique(chosen)) == len(chosen) == 500
    assert (np.bincount(LABELS[chosen]) == 50).all()


def shards_of(split):
    return [array.tolist() for client in split.clients for array in (client.own, client.train, client.held_out)]


def test_only_seed_and_data_settings_decide():
    cfg = config(pool__fraction=0.1)
    same = cfg.replace(num_rounds=3, local__epochs=9, strategy__name="krum", workers__num=2, attack__steps=1)
    split, again, other = (make_split(c, LABELS) for c in (cfg, same, cfg.replace(seed=1)))
    assert shards_of(split) == shards_of(again) != shards_of(other)
    np.testing.assert_array_equal(split.validation, again.validation)
    assert not np.array_equal(split.validation, other.validation)


def test_pool_mode_and_share_leave_the_partition_as_it_is():
    split, other = (
        make_split(config(pool__fraction=0.1, **changes), LABELS)
        for changes in ({}, {"pool__mode": "replace", "pool__share": 0.9})
    )
    np.testing.assert_array_equal(split.pool, other.pool)
    assert [c.own.tolist() for c in split.clients] == [c.own.tolist() for c in other.clients]


def test_server_and_clients_have_the_same_split(quick):
    cfg = quick(pool__fraction=0.1)
    arrived = RunConfig.from_flat(cfg.to_flat())  # as a client gets it
    server = RunEvaluator(cfg).split
    split_of.cache_clear()
    for partition, shard in enumerate(server.clients):
        for name in ("own", "train", "held_out"):
            np.testing.assert_array_equal(getattr(LocalClient(arrived, partition).shard, name), getattr(shard, name))


def test_the_class_prior_counts_own_and_pool(quick, monkeypatch):
    cfg = quick(strategy__name="calfat", pool__fraction=0.2, local__steps=1)
    client, seen = LocalClient(cfg, 1), []
    make = build.make_objective

    def spy(name, **settings):
        seen.append(settings["class_counts"])
        return make(name, **settings)

    monkeypatch.setattr(build, "make_objective", spy)
    client.train(client.context.weights(), Instructions(1, 0.01, "calfat", 0.0))
    labels = client.context.dataset.train.labels
    own, pool = (np.bincount(labels[index], minlength=10) for index in (client.shard.own, split_of(cfg).pool))
    np.testing.assert_array_equal(seen[0].numpy(), own + pool)


def test_the_summary_agrees_with_the_split(quick):
    cfg = quick(pool__fraction=0.2)
    context, split = run_context(cfg), split_of(cfg)
    summary = summarise_split(context.dataset, split)
    assert summary.pool_size == len(split.pool) == 80
    assert summary.mean_emd < summary.emd_before.mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__train_images": 1001}, r"data\.train-images = 1001: allowed is at most 1000, or 0"),
        (
            {"data__train_images": 4},
            r"data\.validation-fraction = 0\.1: of 4 training images this is no image; raise it or data\.train-images",
        ),
        (
            {"data__train_images": 10, "data__validation_fraction": 0.5, "pool__fraction": 0.4, "num_clients": 2},
            r"num-clients = 2: allowed is 1 to 1, the number of samples",
        ),
        ({"num_clients": 200}, r"partition\.min-samples = 10: allowed is 1 to 4 \(900 samples over 200 clients\)"),
        (
            {"num_clients": 20, "partition__concentration": 0.001},
            r"in 1000 draws of Dir\(0\.001\) the smallest .* held at most \d; raise partition\.concentration, or lower",
        ),
        ({"num_clients": 1000, "partition__scheme": "iid"}, r"num-clients = 1000: allowed is 1 to 900"),
        ({"partition__scheme": "shards", "partition__classes_per_client": 11}, r"partition\.classes-per-client = 11"),
        (
            {"pool__fraction": 0.4, "pool__share": 0.01, "pool__mode": "replace"},
            r"pool\.fraction = 0\.4: to replace .* raise pool\.share, lower pool\.fraction, or use pool\.mode add",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_setting_to_change(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_split(RunConfig().replace(**settings), LABELS)
