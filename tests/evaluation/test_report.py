"""The tables and pictures of an evaluation, and the statistics in them."""

import numpy as np
import pytest
from matplotlib.image import imread

from fedrobust.evaluation.statistics import sign_test, wilson_interval
from fedrobust.reports.evaluation import draw_examples, markdown, rows


@pytest.fixture
def record():
    share = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    return {
        "subject": {"name": "net"},
        "source": None,
        "num_images": 100,
        "norm": "linf",
        "epsilon": "8/255",
        "seed": 0,
        "accuracy": {"natural": share, "pgd-20": share | {"seconds": 3.0}, "cw": share, "worst-case": share},
        "per_class": [{"label": 0, "class": "cat", "images": 100, "natural": 0.5, "worst-case": 0.25}],
        "per_client": [],
        "worst_client": None,
        "flags": [
            {"name": "steps-not-converged", "seen": "x", "about": "pgd"},
            {"name": "zero-gradients", "seen": "y", "about": ""},
        ],
    }


def test_flags_stand_beside_the_numbers_they_are_about(record):
    beside = {row[0]: row[-1] for row in rows(record)}
    assert beside == {
        "natural": "",
        "pgd-20": "steps-not-converged, zero-gradients",
        "cw": "zero-gradients",
        "worst case": "steps-not-converged, zero-gradients",
    }


def test_the_page(record):
    page = markdown(record)
    assert "# net: 100 test images, linf, epsilon 8/255, seed 0" in page
    assert "| pgd-20 | 50.0 | 40.0 to 60.0 | 3 | steps-not-converged, zero-gradients |" in page
    assert "flag zero-gradients: y" in page
    assert "| cat | 100 | 50.0 | 25.0 |" in page


@pytest.mark.parametrize(("count", "channels"), [(0, 3), (1, 1), (8, 3)])
def test_a_contact_sheet_of_any_size(count, channels, tmp_path):
    images = np.full((count, channels, 8, 8), 0.5, dtype=np.float32)
    path = tmp_path / "sheet.png"
    draw_examples(images, images + 0.1, ["cat"] * count, ["dog"] * count, path)
    assert imread(path).std() > 0.01


def test_a_published_value():
    # 81 of 263: Newcombe 1998, table I
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_limits():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(20, 20)[1] == 1.0
    low, high = wilson_interval(5_000_000, 10_000_000)
    assert high - low < 1e-3


@pytest.mark.parametrize(("successes", "total"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes: int, total: int):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, total)


def test_covers_the_true_share_about_95_times_in_100():
    draws = np.random.default_rng(0).binomial(200, 0.3, size=2000)
    covered = [low <= 0.3 <= high for low, high in (wilson_interval(int(k), 200) for k in draws)]
    assert 0.93 < np.mean(covered) < 0.97


def test_the_sign_test_is_that_of_a_fair_coin():
    assert [sign_test(k, 0) for k in range(6)] == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32])
    assert sign_test(7, 3) == pytest.approx((120 + 45 + 10 + 1) / 1024)
    assert sign_test(0, 4) == pytest.approx(1)
    assert sign_test(5000, 4700) == pytest.approx(0.00119, rel=0.02)
    with pytest.raises(ValueError, match="-1 behind"):
        sign_test(3, -1)
