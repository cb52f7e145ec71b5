"""Settings: what a run can be told, how it is written, and what each name stands for."""

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
