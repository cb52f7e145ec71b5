"""`make config`: rewrite `[tool.flwr.app.config]` in pyproject.toml from the defaults in `fedrobust.config`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fedrobust.config import DEFAULTS, toml

TABLE = "tool.flwr.app.config"


def rewritten(pyproject: str) -> str:
    """Return the text of a pyproject.toml with its run-config table (and sub-tables) replaced by the defaults."""
    table = f"[{TABLE}]\n{toml.dumps(DEFAULTS.to_flat(), prefix=TABLE)}"
    pattern = rf"^\[{re.escape(TABLE)}\]\n.*?(?=^\[(?!{re.escape(TABLE)}\.)|\Z)"
    text, count = re.subn(pattern, lambda _: table + "\n", pyproject, flags=re.DOTALL | re.MULTILINE)
    if count != 1:
        raise ValueError(f"pyproject.toml: [{TABLE}] occurs {count} times; expected once")
    return text


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
