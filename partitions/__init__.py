"""Partitions: they take labels and return one index array per client. NumPy only.

`PARTITIONS` maps the names that users type to partitioners, all with one signature: ``(labels [N], num_clients, rng, *,
options) -> num_clients`` ascending int64 index arrays, disjoint, seeded by `rng` alone.

Every package may import it; it imports none of them.
"""

from partitions.assembly import Indices, Partitioner, PartitionError, Rng
from partitions.dirichlet import dirichlet
from partitions.dirichlet_balanced import dirichlet_balanced
from partitions.dominant import dominant
from partitions.iid import iid
from partitions.shards import shards
from partitions.shared_pool import MAX_FRACTION, MODES, client_share, draw_pool, mix
from partitions.summary import PartitionSummary, class_counts, class_priors, earth_movers_distance, summarise

PARTITIONS: dict[str, Partitioner] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "dirichlet-balanced": dirichlet_balanced,
    "shards": shards,
    "dominant": dominant,
}

__all__ = [
    "MAX_FRACTION",
    "MODES",
    "PARTITIONS",
    "Indices",
    "PartitionError",
    "PartitionSummary",
    "Partitioner",
    "Rng",
    "class_counts",
    "class_priors",
    "client_share",
    "dirichlet",
    "dirichlet_balanced",
    "dominant",
    "draw_pool",
    "earth_movers_distance",
    "iid",
    "mix",
    "shards",
    "summarise",
]
