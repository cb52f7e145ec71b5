"""Every setting of `RunConfig` as a flag, made from the one definition."""

from __future__ import annotations

import argparse
from typing import Any

from fedrobust.config import DEFAULTS, RunConfig
from fedrobust.config.flat import walk
from fedrobust.config.names import unknown
from fedrobust.errors import ConfigError

PREFIX = "set:"  # of a setting's name in the parsed namespace
SHORT = {"data.dir": "--data-dir", "workers.address": "--address"}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag such as `--local.epochs` for each setting, grouped by section; RunConfig checks the values."""
    groups: dict[str, Any] = {}
    for key, field, value in walk(DEFAULTS):
        if key == "resume":  # said with a folder: `--resume FOLDER`
            continue
        section = key.split(".")[0] if "." in key else "run"
        group = groups.setdefault(section, parser.add_argument_group(f"{section} settings"))
        default = "unset" if value == "" else value
        text = f"{field.description} [{default}]".replace("%", "%%")
        names = [f"--{key}", SHORT[key]] if key in SHORT else [f"--{key}"]
        group.add_argument(*names, dest=PREFIX + key, metavar="V", default=None, help=text)


def given_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the settings given as flags, by flat key, as text."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(PREFIX) and value is not None
    }


def refuse_unknown(rest: list[str], parser: argparse.ArgumentParser) -> None:
    """Raise ConfigError for the first argument that the command does not take; for a flag the nearest is named."""
    flags = [word for word in rest if word.startswith("--")]
    if flags:
        known = [flag[2:] for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
        raise ConfigError(unknown("setting", flags[0][2:].split("=")[0], known))
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}")


def complete(preset: str, overrides: dict[str, str]) -> RunConfig:
    """Return the config of a preset's first variant with overrides; of the defaults if preset is ""."""
    from fedrobust.config.effects import refuse_unused
    from fedrobust.presets import load_preset

    if preset:
        cfg, typed = next(iter((found := load_preset(preset)).configs(overrides).values())), found.typed
    else:
        cfg, typed = RunConfig.from_flat(overrides), frozenset[str]()
    refuse_unused({preset: cfg}, overrides.keys() | typed)
    return cfg
