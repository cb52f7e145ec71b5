"""The assignment of images to training, evaluation and validation: the server and every client compute the same one.

    training set → (subset) → validation slice | pool | partition over clients → own training part | held out
    a client trains on its own training part mixed with its share of the pool
    a central run is one client that holds all but the validation slice, or only the pool (central.images)

Everything is an index into the training set in its canonical order, drawn from named streams of the run's seed,
so that server and clients compute it for themselves and no index travels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

import partitions
from fedrobust.config import RunConfig
from fedrobust.config.registry import bind_settings
from fedrobust.data import Dataset, hold_out, load_data, subset
from fedrobust.errors import ConfigError
from fedrobust.seeding import numpy_stream
from partitions.shared_pool import client_share, draw_pool, mix


@dataclass(frozen=True)
class ClientShard:
    """The indices of one client: its own training images, those it trains on (pool included), those it evaluates on."""

    own: np.ndarray
    train: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class FederatedSplit:
    """The validation slice, the shared pool and every client's shard; all disjoint except for the pool's copies.

    Without shards if the clients' data are their own (`data.own`).
    """

    validation: np.ndarray
    pool: np.ndarray
    clients: tuple[ClientShard, ...]


def make_split(cfg: RunConfig, labels: np.ndarray) -> FederatedSplit:
    """Return the split of a training set with these labels [N].

    Args:
        cfg: the run's complete settings; its seed and the sections data, partition, pool and central decide.
        labels: class numbers of the whole training set in canonical order, [N], from 0 on.

    Raises:
        ConfigError: the partition or the pool cannot be made; the message names the setting to change.
    """
    try:
        return _split(cfg, labels)
    except (partitions.PartitionError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _split(cfg: RunConfig, labels: np.ndarray) -> FederatedSplit:
    def rng(*name: str | int) -> np.random.Generator:
        return numpy_stream(cfg.seed, *name)

    universe = np.arange(len(labels))
    if cfg.data.train_images:
        if cfg.data.train_images > len(labels):
            raise ConfigError(f"data.train-images = {cfg.data.train_images}: allowed is at most {len(labels)}, or 0")
        universe = subset(labels, cfg.data.train_images, rng("subset"))
    rest, validation = _compose(universe, hold_out(labels[universe], cfg.data.validation_fraction, rng("validation")))
    if cfg.data.validation_fraction and not len(validation):
        raise ConfigError(
            f"data.validation-fraction = {cfg.data.validation_fraction:g}: of {len(universe)} training images this is "
            "no image; raise it or data.train-images, or set it to 0: the best round is then the last"
        )
    pool, private = _compose(rest, draw_pool(labels[rest], cfg.pool.fraction, rng("pool"), whole=len(universe)))
    if cfg.kind == "central":
        held = pool if cfg.central.images == "pool" else rest
        return FederatedSplit(validation, pool, (ClientShard(held, held, held[:0]),))

    if cfg.data.own:
        return FederatedSplit(validation, pool, ())
    settings = cfg.partition
    partitioner = bind_settings(
        "partition scheme",
        partitions.PARTITIONS,
        settings.scheme,
        {
            "concentration": settings.concentration,
            "min_samples": settings.min_samples,
            "classes_per_client": settings.classes_per_client,
            "dominant_share": settings.dominant_share,
        },
    )
    seed = settings.legacy_seed
    parts = partitioner(labels[private], cfg.num_clients, np.random.RandomState(seed) if seed else rng("partition"))
    clients = (_shard(cfg, client, private[part], pool, labels) for client, part in enumerate(parts))
    return FederatedSplit(validation, pool, tuple(clients))


def shard_of(cfg: RunConfig, client: int, own: np.ndarray, pool: np.ndarray, labels: np.ndarray) -> ClientShard:
    """Return a client's shard from its own images and the pool, both indices into `labels` [N].

    Raises:
        ConfigError: the pool cannot be mixed in; the message names the setting to change.
    """
    try:
        return _shard(cfg, client, own, pool, labels)
    except (partitions.PartitionError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _shard(cfg: RunConfig, client: int, own: np.ndarray, pool: np.ndarray, labels: np.ndarray) -> ClientShard:
    def rng(name: str) -> np.random.Generator:
        return numpy_stream(cfg.seed, name, client)

    held_out = own[:0]
    if cfg.partition.held_out:
        own, held_out = _compose(own, hold_out(labels[own], cfg.partition.held_out, rng("held-out")))
    train = own
    if len(pool):
        shared = client_share(pool, labels, cfg.pool.share, rng("pool-share"))
        train = mix(own, shared, mode=cfg.pool.mode, fraction=cfg.pool.fraction, rng=rng("mix"))
    return ClientShard(own, train, held_out)


def _compose(base: np.ndarray, parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return indices into `base` as indices into the training set."""
    return base[parts[0]], base[parts[1]]


def summarise_split(dataset: Dataset, split: FederatedSplit) -> partitions.PartitionSummary:
    """Compute class counts, sizes, EMD before and after sharing, overlap and bytes moved, against all labels."""
    return partitions.summarise(
        dataset.train.labels,
        own=[client.own for client in split.clients],
        mixed=[client.train for client in split.clients],
        pool=split.pool,
        num_classes=dataset.num_classes,
        image_bytes=dataset.train.images[0].nbytes,
    )


@lru_cache(maxsize=2)
def split_of(cfg: RunConfig) -> FederatedSplit:
    """Return `make_split` for the run's own data set, computed once per process."""
    return make_split(cfg, load_data(cfg.data).train.labels)
