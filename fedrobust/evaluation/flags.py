"""When a robustness number warns of itself; docs/evaluation-flags.md explains every flag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedrobust.evaluation.probes import Probes
from fedrobust.evaluation.suite import NO_GRADIENT

POINT = 0.01
LEAST_GAIN = 0.2 * POINT  # by which an attack that ought to be weaker may be ahead
CONVERGED = 0.5 * POINT  # that twice the steps, or five times the starts, may still change
OVERSTATED = 0.25  # share of what stands under PGD that attacks on the margin may break
ALL_BROKEN = 1 * POINT  # accuracy at eight times epsilon
FEW_ZERO_GRADIENTS = 1 * POINT
PLANTED_FOUND = 0.99

ON_THE_MARGIN = ("cw", "apgd-t", "autoattack")


FLAGS: dict[str, str] = {
    "random-output": "Two passes over the same images differ.",
    "probabilities": "The outputs are probabilities, not logits.",
    "optimises-in-forward": "The forward pass calls autograd.",
    "zero-gradients": "Images that are right and have no gradient.",
    "weaker-attack-wins": "FGSM beats PGD-10, or PGD-10 beats PGD-40.",
    "steps-not-converged": "Twice the steps still change the accuracy.",
    "restarts-not-converged": "Five starts still change the accuracy.",
    "cross-entropy-overstates": "Attacks on the margin break many images that withstand PGD on the cross-entropy.",
    "gradient-free-wins": "Square or noise beats every attack with gradients.",
    "transfer-wins": "Examples made on another model beat those made on this one.",
    "rises-with-epsilon": "A larger epsilon breaks fewer images.",
    "stands-at-large-epsilon": "Images withstand eight times epsilon.",
    "unstable-verdicts": "The verdict on an adversarial example depends on its batch.",
    "planted-missed": "The attack misses adversarial examples that were planted for it.",
}


@dataclass(frozen=True)
class Flag:
    """A warning: its name, a key of FLAGS, and what was seen.

    `about`: how the names of the attacks begin whose numbers it is about; "" for all of them.
    """

    name: str
    seen: str
    about: str = ""

    def __post_init__(self) -> None:
        if self.name not in FLAGS:
            raise KeyError(self.name)


def model_flags(probes: Probes) -> Iterator[Flag]:
    """What the model does that makes gradient attacks fail (AutoAttack's checks; E9)."""
    if probes.random:
        yield Flag("random-output", "two passes over the same images disagree")
    if probes.probabilities:
        yield Flag("probabilities", "the outputs are probabilities, not logits")
    if probes.optimises:
        yield Flag("optimises-in-forward", "the forward pass calls autograd")
    if probes.zero_gradients > FEW_ZERO_GRADIENTS:
        yield Flag("zero-gradients", f"no gradient at all at {probes.zero_gradients:.1%} of the images")


def strength_flags(accuracy: Mapping[str, float]) -> Iterator[Flag]:
    """Robust accuracy by attack, all on the same images: a stronger attack never gains (E4), none without gradients
    is ahead of those with (E5)."""

    def shown(*names: str) -> str:
        return ", ".join(f"{name} {accuracy[name]:.1%}" for name in names)

    for weak, strong in (("fgsm", "pgd-10"), ("pgd-10", "pgd-40")):
        if {weak, strong} <= accuracy.keys() and accuracy[weak] < accuracy[strong] - LEAST_GAIN:
            yield Flag("weaker-attack-wins", shown(weak, strong), strong.split("-")[0])
    for less, more, name in (
        ("pgd-20", "pgd-40", "steps-not-converged"),
        ("pgd-20", "pgd-20x5", "restarts-not-converged"),
    ):
        if {less, more} <= accuracy.keys() and abs(accuracy[less] - accuracy[more]) >= CONVERGED:
            yield Flag(name, shown(less, more), "pgd")
    on_the_margin = [name for name in ON_THE_MARGIN if name in accuracy]
    if on_the_margin and "pgd-40" in accuracy:
        strongest = min(on_the_margin, key=accuracy.__getitem__)
        if accuracy[strongest] < min((1 - OVERSTATED) * accuracy["pgd-40"], accuracy["pgd-40"] - POINT):
            yield Flag("cross-entropy-overstates", shown("pgd-40", strongest), "pgd")
    blind = {name: value for name, value in accuracy.items() if name.startswith(NO_GRADIENT)}
    sighted = {name: value for name, value in accuracy.items() if name not in blind and name != "autoattack"}
    if not sighted:
        return
    best = min(sighted, key=sighted.__getitem__)
    for name, value in blind.items():
        if value < sighted[best] - LEAST_GAIN:
            yield Flag("gradient-free-wins", shown(name, best))


def square_flags(newly_broken: float) -> Iterator[Flag]:
    """Share of the images that, inside AutoAttack, only Square broke (AutoAttack's own check)."""
    if newly_broken > LEAST_GAIN:
        yield Flag(
            "gradient-free-wins", f"Square broke {newly_broken:.1%} that withstood AutoAttack's gradient attacks"
        )


def transfer_flags(transferred: Mapping[str, float], white_box: Mapping[str, float]) -> Iterator[Flag]:
    """The same attacks made on another model and on this one (E5)."""
    for name in transferred.keys() & white_box.keys():
        if transferred[name] < white_box[name] - LEAST_GAIN:
            seen = f"{name} transferred {transferred[name]:.1%}, white-box {white_box[name]:.1%}"
            yield Flag("transfer-wins", seen)


def curve_flags(curve: Sequence[tuple[float, float]]) -> Iterator[Flag]:
    """Robust accuracy against epsilon, ascending: it never rises, and at the end nothing stands (E3)."""
    for (smaller, before), (larger, after) in pairwise(curve):
        if after > before + LEAST_GAIN:
            seen = f"{before:.1%} at {smaller:.4f}, {after:.1%} at {larger:.4f}"
            yield Flag("rises-with-epsilon", seen, "pgd")
    if curve and curve[-1][1] > ALL_BROKEN:
        yield Flag("stands-at-large-epsilon", f"{curve[-1][1]:.1%} at {curve[-1][0]:.4f}")


def rescoring_flags(changed: int, images: int) -> Iterator[Flag]:
    """Adversarial examples whose verdict, with a clear margin, depends on the batch size (E6)."""
    if changed:
        yield Flag("unstable-verdicts", f"{changed} of {images} adversarial examples change sides with the batch size")


def planted_flags(found: float, images: int) -> Iterator[Flag]:
    """Share of planted adversarial examples that the attack finds (E10)."""
    if images and found < PLANTED_FOUND:
        yield Flag("planted-missed", f"found {found:.1%} of {images} planted adversarial examples", "pgd")
