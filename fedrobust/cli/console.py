"""Text on the command line: printed unchanged, with paths as a user reads and types them."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text


def new_console(*, soft_wrap: bool = True) -> Console:
    """Return a console on standard output that reads no markup in names and paths. Use `styled` for styles."""
    return Console(soft_wrap=soft_wrap, markup=False, highlight=False, emoji=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a line of text; pairs of text and style are styled."""
    return Text.assemble(*parts)


def shown(path: Path) -> Path:
    """Return the path relative to the current folder if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def typed(path: Path) -> str:
    """Return the path as `shown` does, quoted for a shell."""
    return shlex.quote(str(shown(path)))
