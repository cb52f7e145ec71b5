"""Names as users write and read them: lists in one setting, the nearest known name, metrics in short."""

from collections.abc import Iterable
from difflib import get_close_matches


def split_list(text: str) -> list[str]:
    """A comma-separated setting as a list: "fgsm, pgd-20" → ["fgsm", "pgd-20"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def unknown(kind: str, name: str, known: Iterable[str], typed: Iterable[str] = ()) -> str:
    """ "unknown attack 'pdg'; did you mean 'pgd'? known: …" (long lists of known names are left out).

    typed: the known names as one types them, if they stand for more than themselves: "pgd-20" for "pgd-K".
    """
    known = list(known)
    near = nearest(name, [*typed] or known)
    hint = f"; did you mean {near!r}?" if near else ""
    listed = f" known: {', '.join(known)}" if 0 < len(known) <= 20 else ""
    return f"unknown {kind} {name!r}{hint}{listed if hint else ';' + listed if listed else ''}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one, whatever their case; "" if none is like it."""
    written = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), written, n=1, cutoff=0.5)
    return written[near[0]] if near else ""


def short_metric(key: str) -> str:
    """An accuracy for a narrow column: "natural_accuracy" → "natural", "robust_accuracy.pgd-20" → "pgd-20"."""
    return key.replace("_accuracy", "").removeprefix("robust.").replace("worst-case", "worst case")
