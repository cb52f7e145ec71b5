"""Warnings that a robustness number should not be trusted; docs/evaluation-flags.md explains every flag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedrobust.evaluation.probes import Probes
from fedrobust.evaluation.statistics import sign_test
from fedrobust.evaluation.suite import NO_GRADIENT

LEAST_IMAGES = 3  # that any flag about images is raised for: one of 60 is 1.7 points, and chance
LEVEL = 0.05  # of the sign test between two attacks on the same images
POINT = 0.01
LEAST_GAIN = 0.2 * POINT  # by which an attack that ought to be weaker may be ahead
CONVERGED = 0.5 * POINT  # that twice the steps, or five times the starts, may still change
OVERSTATED = 0.25  # share of what stands under PGD that attacks on the margin may break
ALL_BROKEN = 1 * POINT  # accuracy at eight times epsilon
FEW_ZERO_GRADIENTS = 1 * POINT
PLANTED_MISSED = 1 * POINT

ON_THE_MARGIN = ("cw", "apgd-t", "autoattack")

FLAGS: dict[str, str] = {
    "random-output": "Two passes over the same images differ.",
    "probabilities": "The outputs are probabilities, not logits.",
    "optimises-in-forward": "The forward pass calls autograd.",
    "zero-gradients": "Correctly classified images have no gradient.",
    "weaker-attack-wins": "FGSM beats PGD-10, or PGD-10 beats PGD-40.",
    "steps-not-converged": "Twice the steps still change the accuracy.",
    "restarts-not-converged": "Five starts still change the accuracy.",
    "cross-entropy-overstates": "Attacks on the margin succeed on many images on which PGD on the cross-entropy fails.",
    "gradient-free-wins": "Square or noise succeeds more often than every attack with gradients.",
    "transfer-wins": "Examples made on another model succeed more often than those made on this one.",
    "rises-with-epsilon": "An attack with a larger epsilon succeeds on fewer images.",
    "stands-at-large-epsilon": "Images remain correctly classified at eight times epsilon.",
    "unstable-verdicts": "The verdict on an adversarial example depends on its batch.",
    "planted-missed": "The attack misses adversarial examples that were planted for it.",
}


@dataclass(frozen=True)
class Flag:
    """A warning: its name, a key of FLAGS, and the observation.

    `about`: prefix of the names of the attacks whose numbers it concerns; "" for all of them.
    """

    name: str
    seen: str
    about: str = ""

    def __post_init__(self) -> None:
        if self.name not in FLAGS:
            raise KeyError(self.name)


def model_flags(probes: Probes) -> Iterator[Flag]:
    """Yield flags for behaviour of the model that makes gradient attacks fail (AutoAttack's checks)."""
    if probes.random:
        yield Flag("random-output", "two passes over the same images disagree")
    if probes.probabilities:
        yield Flag("probabilities", "the outputs are probabilities, not logits")
    if probes.optimises:
        yield Flag("optimises-in-forward", "the forward pass calls autograd")
    if _many(count := round(probes.zero_gradients * probes.num_images), probes.num_images, FEW_ZERO_GRADIENTS):
        yield Flag("zero-gradients", f"no gradient at all at {count} of {probes.num_images} images")


def strength_flags(stands: Mapping[str, np.ndarray]) -> Iterator[Flag]:
    """Yield flags if a stronger attack gives higher accuracy, or an attack without gradients is ahead of one with them;
    masks [n] of robust images by attack.
    """
    for weak, strong in (("fgsm", "pgd-10"), ("pgd-10", "pgd-40")):
        if {weak, strong} <= stands.keys():
            pair = Pair(weak, stands[weak], strong, stands[strong])
            if pair.first_wins and pair.gain > LEAST_GAIN:
                yield Flag("weaker-attack-wins", str(pair), strong.split("-")[0])
    for less, more, name in (
        ("pgd-20", "pgd-40", "steps-not-converged"),
        ("pgd-20", "pgd-20x5", "restarts-not-converged"),
    ):
        if {less, more} <= stands.keys():
            pair = Pair(less, stands[less], more, stands[more])
            if (pair.first_wins or pair.second_wins) and abs(pair.gain) >= CONVERGED:
                yield Flag(name, str(pair), "pgd")
    standing = {name: int(images.sum()) for name, images in stands.items()}
    on_the_margin = [name for name in ON_THE_MARGIN if name in stands]
    if on_the_margin and "pgd-40" in stands:
        strongest = min(on_the_margin, key=standing.__getitem__)
        pair = Pair(strongest, stands[strongest], "pgd-40", stands["pgd-40"])
        overstated = standing[strongest] < (1 - OVERSTATED) * standing["pgd-40"]
        if pair.first_wins and pair.gain > POINT and overstated:
            yield Flag("cross-entropy-overstates", str(pair), "pgd")
    blind = [name for name in stands if name.startswith(NO_GRADIENT)]
    sighted = [name for name in stands if name not in blind and name != "autoattack"]
    if not sighted:
        return
    best = min(sighted, key=standing.__getitem__)
    for name in blind:
        pair = Pair(name, stands[name], best, stands[best])
        if pair.first_wins and pair.gain > LEAST_GAIN:
            yield Flag("gradient-free-wins", str(pair))


def square_flags(newly_broken: int, images: int) -> Iterator[Flag]:
    """Yield a flag if, inside AutoAttack, only Square succeeded on images (AutoAttack's own check)."""
    if _many(newly_broken, images, LEAST_GAIN):
        seen = f"Square broke {newly_broken} of {images} images that withstood AutoAttack's gradient attacks"
        yield Flag("gradient-free-wins", seen)


def transfer_flags(transferred: Mapping[str, np.ndarray], white_box: Mapping[str, np.ndarray]) -> Iterator[Flag]:
    """Yield a flag if an attack made on another model beats the same one made on this model; masks of robust images."""
    for name in transferred.keys() & white_box.keys():
        pair = Pair(f"{name} transferred", transferred[name], f"{name} white-box", white_box[name])
        if pair.first_wins and pair.gain > LEAST_GAIN:
            yield Flag("transfer-wins", str(pair))


def curve_flags(curve: Sequence[tuple[float, np.ndarray]]) -> Iterator[Flag]:
    """Yield flags if robust images increase with epsilon, or do not end at none; masks by ascending epsilon."""
    for (smaller, before), (larger, after) in pairwise(curve):
        pair = Pair(f"epsilon {smaller:.4f}", before, f"epsilon {larger:.4f}", after)
        if pair.first_wins and pair.gain > LEAST_GAIN:
            yield Flag("rises-with-epsilon", str(pair), "pgd")
    if curve:
        epsilon, stands = curve[-1]
        if _many(count := int(stands.sum()), len(stands), ALL_BROKEN):
            yield Flag("stands-at-large-epsilon", f"{count} of {len(stands)} images at {epsilon:.4f}")


def rescoring_flags(changed: int, images: int) -> Iterator[Flag]:
    """Yield a flag if the verdict on adversarial examples with a clear margin depends on the batch size."""
    if changed:
        yield Flag("unstable-verdicts", f"{changed} of {images} adversarial examples change sides with the batch size")


def planted_flags(found: float, images: int) -> Iterator[Flag]:
    """Yield a flag for the share of planted adversarial examples that the attack does not find."""
    if _many(missed := images - round(found * images), images, PLANTED_MISSED):
        yield Flag("planted-missed", f"missed {missed} of {images} planted adversarial examples", "pgd")


class Pair:
    """A comparison of two attacks on the same images.

    Attributes:
        gain: difference by which the accuracy is lower under the first, a share of all images.
        first_wins, second_wins: true if it succeeds on more images than chance explains: three or more, with a sign
            test over the images on which they differ below LEVEL.
    """

    def __init__(self, first: str, first_stands: np.ndarray, second: str, second_stands: np.ndarray) -> None:
        self._names, self._standing = (first, second), (int(first_stands.sum()), int(second_stands.sum()))
        self._images = len(first_stands)
        one, other = int((second_stands & ~first_stands).sum()), int((first_stands & ~second_stands).sum())
        self._alone, self.gain = (one, other), (one - other) / max(self._images, 1)
        self.first_wins, self.second_wins = _clearly(one, other), _clearly(other, one)

    def __str__(self) -> str:
        counts = zip(self._names, self._standing, self._alone, strict=True)
        said = (f"{stand} robust against {name}, {alone} misclassified only under it" for name, stand, alone in counts)
        return f"{self._images} images: {'; '.join(said)}"


def _clearly(ahead: int, behind: int) -> bool:
    return ahead - behind >= LEAST_IMAGES and sign_test(ahead, behind) < LEVEL


def _many(count: int, images: int, share: float) -> bool:
    """Return whether count is more than `share` of the images, and at least LEAST_IMAGES."""
    return count >= LEAST_IMAGES and count > share * images
