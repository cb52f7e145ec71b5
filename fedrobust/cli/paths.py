"""Paths as a user reads and types them, and what is said of one that cannot be written."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrobust.errors import RunFailed


def shown(path: Path) -> Path:
    """Relative to where the user stands, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def typed(path: Path) -> str:
    """The path as `shown`, quoted for a shell."""
    return shlex.quote(str(shown(path)))


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Turn an OSError in the block, which writes to the path of an option, into RunFailed with one line."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"{option} {path}: cannot be written ({error.strerror or error})") from error
