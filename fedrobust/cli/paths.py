"""Paths as a user reads them."""

from pathlib import Path


def shown(path: Path) -> Path:
    """Relative to where the user stands, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
