"""Who is asked: a seeded choice of partitions."""

from fedrobust.config import RunConfig
from fedrobust.seeding import numpy_stream


def num_asked(cfg: RunConfig, fraction: float) -> int:
    """Clients asked in a phase that takes this fraction of them, at least one."""
    return max(1, round(fraction * cfg.num_clients))


def sample(cfg: RunConfig, phase: str, server_round: int, fraction: float) -> list[int]:
    """Partitions asked in a phase of a round, ascending: a function of the seed, the phase and the round alone."""
    size = num_asked(cfg, fraction)
    chosen = numpy_stream(cfg.seed, "sample", phase, server_round).choice(cfg.num_clients, size, replace=False)
    return sorted(int(partition) for partition in chosen)
