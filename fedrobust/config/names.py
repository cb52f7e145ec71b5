"""Names as users write and read them: lists in one setting, the nearest known name, short names of metrics."""

from collections.abc import Iterable
from difflib import get_close_matches


def split_list(text: str) -> list[str]:
    """Split a comma-separated setting into a list: "fgsm, pgd-20" → ["fgsm", "pgd-20"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def unknown(kind: str, name: str, known: Iterable[str], typed: Iterable[str] = ()) -> str:
    """Return "unknown attack 'pdg'; did you mean 'pgd'? known: …" (long lists of known names are left out).

    typed: the known names as a user types them, if they are patterns: "pgd-20" for "pgd-K".
    """
    known = list(known)
    near = nearest(name, [*typed] or known)
    hint = f"; did you mean {near!r}?" if near else ""
    listed = f" known: {', '.join(known)}" if 0 < len(known) <= 20 else ""
    return f"unknown {kind} {name!r}{hint}{listed if hint else ';' + listed if listed else ''}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar to this one, ignoring case; "" if none is similar."""
    written = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), written, n=1, cutoff=0.5)
    return written[near[0]] if near else ""


def short_metric(key: str) -> str:
    """Return an accuracy's name for a narrow column: "natural_accuracy" → "natural", "robust_accuracy.pgd-20" →
    "pgd-20".
    """
    return key.replace("_accuracy", "").removeprefix("robust.").replace("worst-case", "worst case")
