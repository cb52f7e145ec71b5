"""Settings: their definition (`settings`), their flat and TOML forms (`flat`, `toml`), their effects (`effects`), and
the names of registries' entries (`registry`, `names`).

`presets`, `storage`, `attacks` and the packages above may import it.
"""

from fedrobust.config.settings import (
    DEFAULTS,
    FIELDS,
    WORST_CASE,
    Central,
    Data,
    Model,
    RunConfig,
    todays_meaning,
)

__all__ = ["DEFAULTS", "FIELDS", "WORST_CASE", "Central", "Data", "Model", "RunConfig", "todays_meaning"]
