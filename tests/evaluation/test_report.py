"""The tables and pictures of an evaluation."""

import numpy as np
import pytest
from matplotlib.image import imread

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
