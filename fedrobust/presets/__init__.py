"""Named settings that come with the package: a few keys over the defaults, and sometimes variants to compare.

A preset is a TOML file beside this one: `description`, settings as in `RunConfig`, and optionally `[variants.<name>]`
tables, each with a few more keys; running the preset runs every variant. A table `[alternatives.<name>]` is a variant
that runs only if it is asked for by name.

`data`, `engines` and the packages above may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrobust.config import DEFAULTS, RunConfig, todays_meaning, toml
from fedrobust.config.names import unknown
from fedrobust.errors import ConfigError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """The settings of a preset by flat key; `variants` is empty for a single run, `alternatives` run only by name."""

    name: str
    description: str
    settings: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    alternatives: Mapping[str, Mapping[str, Any]]
    own: bool = False
    """True for a user's file."""

    @property
    def keys(self) -> frozenset[str]:
        """The flat keys that the preset sets."""
        return frozenset(self.settings).union(*self.variants.values(), *self.alternatives.values())

    @property
    def typed(self) -> frozenset[str]:
        """The flat keys that a user typed: all of a user's file, but none of a complete config, which a run wrote."""
        return self.keys if self.own and "resume" not in self.settings else frozenset()

    def configs(self, overrides: Mapping[str, Any], variant: str = "") -> dict[str, RunConfig]:
        """Return variant → complete config ("" if there are no variants); `overrides` win over both.

        Raises:
            ConfigError: a setting or the variant is unknown or out of range.
        """
        named = {**self.variants, **self.alternatives}
        if variant and variant not in named:
            raise ConfigError(unknown(f"variant of {self.name}", variant, named))
        chosen = [variant] if variant else list(self.variants) or [""]
        return {name: RunConfig.from_flat({**self.settings, **named.get(name, {}), **overrides}) for name in chosen}


def preset_names(kind: str = "") -> list[str]:
    """Return the names of the presets that come with the package; with a kind, those of runs of that kind."""
    names = toml.shipped(FOLDER)
    return [name for name in names if kind in ("", load_preset(name).settings.get("kind", DEFAULTS.kind))]


def load_preset(name: str) -> Preset:
    """Return the preset of that name, or the one in a TOML file at that path.

    Raises:
        ConfigError: no such preset (the message names the nearest), or a file with another structure.
    """
    path = toml.locate(FOLDER, "preset", name)
    table = toml.read(path)
    description = toml.text(path, table, "description")
    variants, alternatives = (toml.tables(path, table, kind) for kind in ("variants", "alternatives"))
    if twice := sorted(variants.keys() & alternatives.keys()):
        raise ConfigError(f"{path.name}: {twice[0]}: is a variant and an alternative; call one of them differently")
    for key in ("description", "variants", "alternatives"):
        table.pop(key, None)
    settings = todays_meaning(toml.flatten(table)) if "resume" in table else toml.flatten(table)
    return Preset(path.stem, description, settings, variants, alternatives, own=path.parent != FOLDER)
