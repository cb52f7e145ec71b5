"""Types and the parser of command-line arguments: a mistake in one is reported in one line, without the usage text."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any, NoReturn

from fedrobust.config.flat import Ratio
from fedrobust.config.names import split_list, unknown
from fedrobust.errors import ConfigError


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
