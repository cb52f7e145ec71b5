"""The import path of child processes: these packages, and no packages of a user with the same names.

`clients`, `strategies` and `partitions` are names that a user's own files may have, too, and the current folder comes
first on the import path of `python -m` and of Ray's workers.
"""

import os
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[1]


def import_path() -> str:
    """Return the PYTHONPATH of a child process: these packages before all others."""
    return os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])


def leave_current_folder() -> None:
    """Remove the current folder from this process's import path, on which `python -m` has put it first."""
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != PACKAGES:
        del sys.path[0]
