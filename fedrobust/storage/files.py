"""Files that are complete or absent, locks, and error messages for what cannot be written or is damaged."""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fedrobust.errors import RunFailed, UserError

logger = logging.getLogger(__name__)


@contextmanager
def writing(what: object, advice: str = "", error: type[UserError] = RunFailed) -> Iterator[None]:
    """Turn an OSError in the block, which writes `what`, into an error of one line.

    "runs/a: cannot be written (No space left on device); name another run-dir": a path, the reason, `advice`.
    """
    try:
        yield
    except OSError as problem:
        line = f"{what}: cannot be written ({problem.strerror or problem})"
        raise error(f"{line}; {advice}" if advice else line) from problem


def lock(path: Path, *, wait: bool = False) -> BinaryIO:
    """Return this file, made if needed, locked: no other process gets it until it is closed, or all processes that
    inherited it have ended.

    Where the file system has no locks, nothing is locked, and the log says so.

    Raises:
        BlockingIOError: another process has it, and `wait` is false.
        OSError: it cannot be made or opened.
    """
    file = open(path, "ab")  # noqa: SIM115 (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as problem:
        if problem.errno != errno.ENOSYS:
            file.close()
            raise
        logger.warning("%s: this file system has no locks", path)
    return file


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace `path` by `data` so that a crash at any moment leaves the old file or the new one, never a part.

    Temporary file in the same folder, fsync, rename, fsync of the folder. `mode` is the file's, minus the umask.

    Raises:
        OSError: the file cannot be written; the error has its name. The temporary file is deleted then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # a stale one keeps its own mode
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raise RunFailed, one line, for a file that is empty, truncated or something
    else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # broken JSON and broken UTF-8 are ValueErrors
        why = " ".join(str(error).split()) if path.stat().st_size else "empty"
        raise RunFailed(f"{path}: damaged ({why})") from error
    if not isinstance(found, dict):
        raise RunFailed(f"{path}: damaged (no JSON object)")
    return found
