"""Paths as a user reads and types them."""

import shlex
from pathlib import Path


def shown(path: Path) -> Path:
    """Relative to where the user stands, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def typed(path: Path) -> str:
    """The path as `shown`, quoted for a shell."""
    return shlex.quote(str(shown(path)))
