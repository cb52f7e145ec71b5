"""A time limit for one message on real machines, where nothing else ends a ClientApp that hangs and blocks its
SuperNode.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OF_ONE_MESSAGE = "flwr-clientapp"  # the program that a SuperExec starts for each


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End this process, with all stacks printed, if the block takes longer; only in a process that handles one message.

    Flower reports such a client within a minute, and its SuperNode takes the next message. In a process with many
    clients the engine has its own deadlines.
    """
    if Path(sys.argv[0]).name != OF_ONE_MESSAGE:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
