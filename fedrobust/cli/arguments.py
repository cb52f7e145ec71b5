"""The parser and the types of command-line arguments, and every setting of `RunConfig` as a flag.

A mistake in an argument is reported in one line, without the usage text.
"""

from __future__ import annotations

import argparse
import math
import re
from typing import Any, NoReturn

from fedrobust.config import DEFAULTS, RunConfig
from fedrobust.config.flat import Ratio, walk
from fedrobust.config.names import split_list, unknown
from fedrobust.errors import ConfigError

PREFIX = "set:"  # of a setting's name in the parsed namespace
SHORT = {"data.dir": "--data-dir", "workers.address": "--address"}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError in the cases in which argparse would print its usage and exit."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help, also to an output that cannot be written: argparse would ignore that error."""
        print(message, end="", file=file)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the nearest of an argument's choices; argparse would list all of them."""
        if action.choices is not None and value not in action.choices:
            if isinstance(action, argparse._SubParsersAction):
                raise argparse.ArgumentError(None, unknown("command", value, action.choices))
            raise argparse.ArgumentError(action, unknown("choice", value, action.choices))

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def count(text: str) -> int:
    """Parse a whole number of at least 0."""
    try:
        if (value := int(text)) >= 0:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not {text!r}")


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")


def device(text: str) -> str:
    """Parse the name of a device."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        return text
    raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda, cuda:N or mps, not {text!r}")


def numbers(text: str) -> tuple[float, ...]:
    """Parse numbers of at least 0, separated by commas."""
    try:
        values = tuple(float(part) for part in split_list(text))
    except ValueError:
        values = ()
    if not values or not all(0 <= value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"must be numbers of at least 0, separated by commas, not {text!r}")
    return values


def counts(text: str) -> tuple[int, ...]:
    """Parse whole numbers of at least 0, separated by commas."""
    if not (parts := split_list(text)):
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 0, separated by commas, not {text!r}")
    return tuple(map(count, parts))


def ratio(text: str) -> Ratio:
    """Parse a radius or a step size, such as 8/255."""
    try:
        return Ratio(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def share(text: str) -> float:
    """Parse a share, above 0 and at most 1."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if 0 < value <= 1 and "%" not in text:
        return value
    hint = f" (for {value:g} % write {value / 100:g})" if 0 < value <= 100 else ""
    raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text!r}{hint}")


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
