"""Each flag: raised by what it is for, and by nothing less; explained in the docs."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedrobust.evaluation import flags
from fedrobust.evaluation.probes import Probes

N = 1000
SOUND = {"fgsm": 600, "pgd-10": 500, "pgd-20": 499, "pgd-40": 498, "pgd-20x5": 497, "square-200": 560}
CLEAN = Probes(random=False, probabilities=False, optimises=False, zero_gradients=0.0, num_images=256)


def names(raised):
    return [flag.name for flag in raised]


def stand(count, images=N):
    """The first `count` of the images stand: of two attacks one breaks all that the other breaks."""
    return np.arange(images) < count


def strength(counts, images=N):
    return list(flags.strength_flags({name: stand(count, images) for name, count in counts.items()}))


def curve(*points, images=N):
    return names(flags.curve_flags([(epsilon, stand(count, images)) for epsilon, count in points]))


def test_a_sound_evaluation_raises_none():
    assert not strength(SOUND)
    assert not names(flags.model_flags(CLEAN))
    assert not curve((0.0, 800), (0.01, 500), (0.1, 0))
    assert not names(flags.square_flags(2, 1000))
    assert not names(flags.rescoring_flags(0, 100))
    assert not names(flags.planted_flags(1.0, 100))


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"fgsm": 490}, "weaker-attack-wins"),
        ({"pgd-10": 490, "fgsm": 495}, "weaker-attack-wins"),
        ({"pgd-40": 494}, "steps-not-converged"),
        ({"pgd-20x5": 494}, "restarts-not-converged"),
        ({"square-200": 490}, "gradient-free-wins"),
        ({"gaussian-noise": 490}, "gradient-free-wins"),
        ({"cw": 450, "autoattack": 370}, "cross-entropy-overstates"),
    ],
)
def test_attacks_in_the_wrong_order(changed, flag):
    assert flag in names(strength(SOUND | changed))


def test_pgd_may_leave_a_quarter_to_the_attacks_on_the_margin():
    assert not strength(SOUND | {"autoattack": 380, "apgd-t": 390})
    broken = {"fgsm": 30, "pgd-10": 11, "pgd-20": 11, "pgd-40": 9, "pgd-20x5": 10, "square-200": 30}
    assert not strength(broken | {"cw": 0})


def test_differences_within_the_allowance_are_none():
    assert not strength(SOUND | {"fgsm": 499, "square-200": 496})


@pytest.mark.parametrize("images", [60, 200])
@pytest.mark.parametrize("more", [1, 2, 3, 4, 5])
def test_of_few_images_a_few_raise_nothing(images, more):
    """Each is more than a point of 60 images; up to four in a row are heads of a fair coin in one of 16 throws."""
    few = dict.fromkeys(SOUND, 30)
    for changed in ({"fgsm": 30 - more}, {"square-200": 30 - more}, {"pgd-40": 30 - more}, {"pgd-20x5": 30 - more}):
        assert bool(strength(few | changed, images)) == (more >= 5)
    assert bool(curve((0.1, 30), (0.2, 30 + more), (0.8, 0), images=images)) == (more >= 5)
    assert bool(curve((0.1, 30), (0.8, more), images=images)) == (more >= 3)
    assert bool(names(flags.square_flags(more, images))) == (more >= 3)
    assert bool(names(flags.planted_flags(1 - more / images, images))) == (more >= 3)
    zero = Probes(False, False, False, more / images, images)
    assert bool(names(flags.model_flags(zero))) == (more >= 3)
    transferred, white_box = {"fgsm": stand(30 - more, images)}, {"fgsm": stand(30, images)}
    assert bool(names(flags.transfer_flags(transferred, white_box))) == (more >= 5)


def test_attacks_that_break_different_images_are_compared_on_those_alone():
    """FGSM is ahead by 20 images: of 20 that is no chance, of 420 on which the two differ it may be."""
    pgd, fgsm = stand(500), stand(500)
    fgsm[480:500] = False
    (flag,) = flags.strength_flags({"fgsm": fgsm, "pgd-10": pgd})
    assert flag.seen == (
        "1000 images: 480 robust against fgsm, 20 misclassified only under it; "
        "500 robust against pgd-10, 0 misclassified only under it"
    )
    fgsm[280:480], fgsm[500:700] = False, True
    assert fgsm.sum() == 480
    assert not names(flags.strength_flags({"fgsm": fgsm, "pgd-10": pgd}))


def test_the_curve():
    assert curve((0.0, 800), (0.01, 500), (0.02, 510), (0.1, 0)) == ["rises-with-epsilon"]
    assert curve((0.0, 800), (0.1, 11)) == ["stands-at-large-epsilon"]


def test_transfer_and_square():
    assert names(flags.transfer_flags({"pgd-20": stand(300)}, {"pgd-20": stand(310)})) == ["transfer-wins"]
    assert not names(flags.transfer_flags({"pgd-20": stand(300)}, {"fgsm": stand(310)}))
    (flag,) = flags.square_flags(3, 1000)
    assert flag.seen == "Square broke 3 of 1000 images that withstood AutoAttack's gradient attacks"


@pytest.mark.parametrize(
    ("probes", "flag"),
    [
        (Probes(True, False, False, 0.0, 256), "random-output"),
        (Probes(False, True, False, 0.0, 256), "probabilities"),
        (Probes(False, False, True, 0.0, 256), "optimises-in-forward"),
        (Probes(False, False, False, 0.02, 256), "zero-gradients"),
    ],
)
def test_what_a_model_does(probes, flag):
    assert names(flags.model_flags(probes)) == [flag]


def test_verdicts_that_change_and_planted_examples_that_are_missed():
    assert names(flags.rescoring_flags(1, 100)) == ["unstable-verdicts"]
    assert names(flags.planted_flags(0.97, 100)) == ["planted-missed"]
    assert not names(flags.planted_flags(0.0, 0))


def test_every_flag_is_explained_and_every_explained_flag_exists():
    page = (Path(__file__).parents[2] / "docs" / "evaluation-flags.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == list(flags.FLAGS)
