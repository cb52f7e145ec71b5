"""Flat settings as TOML, top-level keys first, then one table per section, and back; files of settings by name."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrobust.config.names import unknown
from fedrobust.errors import ConfigError


def dumps(flat: Mapping[str, Any], prefix: str = "") -> str:
    """Return flat scalars as TOML; `prefix` ("tool.flwr.app.config") is put before the sections' names."""
    lines = [f"{key} = {_value(value)}" for key, value in flat.items() if "." not in key]
    sections = dict.fromkeys(key.rsplit(".", 1)[0] for key in flat if "." in key)
    for section in sections:
        lines += ["", f"[{prefix + '.' if prefix else ''}{section}]"]
        lines += [
            f"{key.rsplit('.', 1)[1]} = {_value(value)}"
            for key, value in flat.items()
            if key.rsplit(".", 1)[0] == section and "." in key
        ]
    return "\n".join(lines) + "\n"


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as flat dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file as nested tables.

    Raises:
        ConfigError: it is not there, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deeply") from None


def table(path: Path, found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table `key` of a file's content; an empty one if it has none.

    Raises:
        ConfigError: something else is there.
    """
    value = found.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path.name}: {key} = {value!r}: must be a table, [{key}]")
    return value


def tables(path: Path, found: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Return the tables below `key`, flat, by name: [key.NAME].

    Raises:
        ConfigError: something else is there.
    """
    below = table(path, found, key)
    for name, value in below.items():
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path.name}: {key}.{name} = {value!r}: must be a table, [{key}.{name}], of settings")
    return {name: flatten(value) for name, value in below.items()}


def text(path: Path, found: Mapping[str, Any], key: str) -> str:
    """Return the text at `key` of a file's content; "" if it has none.

    Raises:
        ConfigError: something else is there.
    """
    value = found.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"{path.name}: {key} = {value!r}: must be text in quotes")
    return value


def shipped(folder: Path) -> list[str]:
    """Return the names of the TOML files that come with the package in this folder."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def locate(folder: Path, kind: str, name: str) -> Path:
    """Return the path of a TOML file: for a name the file in `folder`, for a path that ends in .toml the path itself.

    Raises:
        ConfigError: no file has that name; the message names the nearest.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in shipped(folder):
        raise ConfigError(unknown(kind, name, shipped(folder)))
    return folder / f"{name}.toml"


def _value(value: Any) -> str:
    """Write a value as TOML: JSON's scalars, but with characters beyond the first plane unescaped and DEL escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
