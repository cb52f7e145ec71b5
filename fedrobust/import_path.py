"""The import path of processes that are started from here: these packages, and none of a user's of the same name.

`clients`, `strategies` and `partitions` are names that a user's own files have, too, and the current folder comes first
on the import path of `python -m` and of Ray's workers.
"""

import os
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[1]


def import_path() -> str:
    """The PYTHONPATH of a process started from here: these packages before all else."""
    return os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])


def leave_current_folder() -> None:
    """Take the current folder off this process's import path, on which `python -m` has put it first."""
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != PACKAGES:
        del sys.path[0]
