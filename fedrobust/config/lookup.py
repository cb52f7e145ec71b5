"""From a name and a bag of settings to a function that is ready to call."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeVar

from fedrobust.config.names import unknown
from fedrobust.errors import ConfigError

T = TypeVar("T")


def lookup(kind: str, registry: Mapping[str, T], name: str) -> T:
    """The entry called `name`.

    Raises:
        ConfigError: there is none. It names the nearest: "unknown attack 'pdg'; did you mean 'pgd'?"
    """
    if name not in registry:
        raise ConfigError(unknown(kind, name, registry))
    return registry[name]


def configure(
    kind: str, registry: Mapping[str, Callable[..., T]], name: str, settings: Mapping[str, Any]
) -> partial[T]:
    """The entry called `name` with those of `settings` bound that it takes by keyword.

    One set of settings serves a whole registry: what only other entries take is left out, and None is the
    same as leaving a setting out. A setting that no entry takes is a mistake, never ignored.

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no entry takes, or one missing that this entry needs.
    """
    function = lookup(kind, registry, name)
    known = {key for entry in registry.values() for key in settings_of(entry)}
    for key in settings:
        if key not in known:
            raise ValueError(unknown(f"{kind} setting", key, sorted(known)))
    taken = settings_of(function)
    bound = {key: value for key, value in settings.items() if key in taken and value is not None}
    for key, parameter in taken.items():
        if parameter.default is Parameter.empty and key not in bound:
            raise ValueError(f"{kind} {name!r} needs {key}")
    return partial(function, **bound)


def settings_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the settings that an entry takes: its parameters that are given by keyword only."""
    return {k: p for k, p in signature(function).parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
