"""When a run ends before its last round, and the sign by which single-step training is seen to fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedrobust.config import Central

PROBE_ATTACK, PROBE_IMAGES = "pgd-5", 256
PROBE = f"probe.robust_accuracy.{PROBE_ATTACK}"
FALL = 0.20

Row = dict[str, Any]


def fallen(rows: Sequence[Row]) -> str:
    """Catastrophic overfitting in the last of these rounds, in words; "" where there is none.

    The accuracy under PGD-5 on training images lies more than 20 points below the highest so far (Wong et al. 2020,
    section 5.4, who compare with the round before; a fall over two rounds is one, too).
    """
    found = [row[PROBE] for row in rows if PROBE in row]
    if len(found) < 2 or max(found) - found[-1] <= FALL:
        return ""
    return (
        f"catastrophic overfitting in round {rows[-1]['round']}: {PROBE_ATTACK} accuracy on training images fell from "
        f"{max(found):.1%} to {found[-1]:.1%}"
    )


def why_over(settings: Central, rows: Sequence[Row], best_round: int) -> str:
    """Why a run with these rounds behind it ends; "" to go on."""
    if not rows:
        return ""
    if settings.overfitting == "stop" and (why := fallen(rows)):
        return why
    last = rows[-1]["round"]
    if settings.patience and best_round and last - best_round >= settings.patience:
        return f"no better score since round {best_round}, {last - best_round} rounds ago"
    return ""
