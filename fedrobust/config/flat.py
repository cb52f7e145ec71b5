"""Nested sections of settings as flat scalars, and back: the form shared by presets, flags and Flower's run config."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict

from fedrobust.config.names import unknown
from fedrobust.errors import ConfigError


class Ratio(float):
    """A number that keeps the text it was written as: `Ratio("8/255") == 8 / 255`, `str` gives "8/255".

    Accepts a fraction "a/b", a decimal string or a number; a Ratio is returned as it is. Its text gives the same
    number again, so that a config can be written and read. Raises ValueError for anything else.
    """

    text: str

    def __new__(cls, value: Any) -> Ratio:
        if isinstance(value, Ratio):
            return value
        text = str(value).strip()
        try:
            number = float(Fraction(text))
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"must be a number or a fraction such as 8/255, not {text!r}") from error
        self = super().__new__(cls, number)
        self.text = text
        return self

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self.text,)

    def __str__(self) -> str:
        return self.text


FlatValue = bool | int | float | str


class Section(BaseModel, frozen=True):
    """A frozen section of settings that accepts no unknown keys, with keys in kebab-case."""

    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        validate_default=True,
        populate_by_name=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
    )


def walk(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (flat key, pydantic field, value) of every setting, in the order of the classes."""
    for name, field in type(section).model_fields.items():
        key, value = prefix + name.replace("_", "-"), getattr(section, name)
        if isinstance(value, Section):
            yield from walk(value, key + ".")
        else:
            yield key, field, value


def set_keys(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """Yield the flat key of every setting that was given when the section was made."""
    for name in section.model_fields_set:
        key, value = prefix + name.replace("_", "-"), getattr(section, name)
        if isinstance(value, Section):
            yield from set_keys(value, key + ".")
        else:
            yield key


def nest(flat: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat values as nested tables; text is converted to the field's type.

    Raises:
        ConfigError: one line per unknown key (with the nearest known one) and per value of another type.
    """
    nested: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in flat.items():
        if key not in fields:
            problems.append(unknown("setting", key, fields))
            continue
        *sections, name = key.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        try:
            target[name] = _coerce(value, fields[key])
        except ValueError as error:
            problems.append(f"{key} = {value!r}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return nested


def _coerce(value: Any, field: Any) -> Any:
    """Convert a value to the field's type: flags arrive as text, TOML as numbers; a bool does not count as a number."""
    kinds = get_args(field.annotation) if get_origin(field.annotation) is types.UnionType else (field.annotation,)
    kind = kinds[0]
    if isinstance(value, bool) and kind in (int, float):
        raise ValueError("must be a number")
    if not isinstance(value, str) or kind is str:
        return value
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return value.lower() == "true"
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value) if kind is float else None
            hint = f" (for {value.strip()} write {float(share[1]) / 100:g})" if share else ""
            raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}{hint}") from None
    return value


def one_line(detail: Any) -> str:
    """Return a pydantic error as "key = value: what is allowed"."""
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not detail["loc"]:
        return message
    key = ".".join(str(part) for part in detail["loc"])
    return f"{key} = {_shown(detail['input'])}: {message}{_percent(detail)}"


def _percent(detail: Any) -> str:
    """Return a hint for a share that was given in percent."""
    bounds, value = detail.get("ctx", {}), detail["input"]
    most = bounds.get("le", bounds.get("lt", 0))
    if not isinstance(value, int | float) or not 1 < value <= 100 * most <= 100:
        return ""
    return f" (for {value:g} % write {value / 100:g})"


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Ratio) else repr(value)
