"""The console of the command line: it prints text as it is, whatever brackets, colons or numbers are in it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def new_console(*, soft_wrap: bool = True) -> Console:
    """Return a console on standard output that reads no markup in names and paths. Styles go by `styled`."""
    return Console(soft_wrap=soft_wrap, markup=False, highlight=False, emoji=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a line of text of which some parts, pairs of text and style, are styled."""
    return Text.assemble(*parts)
