"""Names as users write and read them: lists in one setting, the nearest known name, metrics in short."""

from difflib import get_close_matches
from typing import Any


def split_list(text: str) -> list[str]:
    """A comma-separated setting as a list: "fgsm, pgd-20" → ["fgsm", "pgd-20"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def unknown(kind: str, name: str, known: Any) -> str:
    """ "unknown attack 'pdg'; did you mean 'pgd'? known: …" (long lists of known names are left out)."""
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = f" known: {', '.join(known)}" if len(known) <= 20 else ""
    return f"unknown {kind} {name!r}{hint}{listed if hint else ';' + listed if listed else ''}"


def short_metric(key: str) -> str:
    """An accuracy for a narrow column: "natural_accuracy" → "natural", "robust_accuracy.pgd-20" → "pgd-20"."""
    return key.replace("_accuracy", "").removeprefix("robust.")
