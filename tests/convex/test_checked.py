"""Tables that can be neither trained on nor certified: each is a line, and nothing is certified of a NaN."""

import logging
from dataclasses import replace

import pytest
import torch

from fedrobust.convex.certificates import l2_distances, l2_margins, linf_margins
from fedrobust.convex.logistic import LogisticProblem
from fedrobust.convex.margins import worst_case
from fedrobust.convex.problem import Problem
from fedrobust.convex.relu_programme import ReluNetwork, ReluProblem, margins
from fedrobust.convex_study.samples import from_table, load_samples
from fedrobust.errors import ConfigError, DataError, UserError

NAN, INF = float("nan"), float("inf")
PROGRAMMES = [Problem, LogisticProblem, ReluProblem]


@pytest.fixture
def table(blobs):
    x, y = blobs(40, 3)
    return x.clone(), y.clone()


@pytest.fixture
def certificates(random_network):
    """Each takes x and y, and gives a number per row, of which one above 0 certifies something."""
    lifted = random_network(3)
    relu = ReluNetwork(torch.randn(5, 4, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64))
    return {
        "l2": lambda x, y: l2_margins(lifted, x, y, 0.1),
        "distance": lambda x, y: l2_distances(lifted, x, y),
        "linf": lambda x, y: linf_margins(lifted, x, y, 0.1),
        "relu l2": lambda x, y: margins(relu, x, y, 0.1, "l2"),
        "relu linf": lambda x, y: margins(relu, x, y, 0.1, "linf"),
    }


def put(x, place, value):
    x[place] = value
    return x


BAD = {
    "NaN": (lambda x, y: (put(x, (7, 1), NAN), y), "NaN or Inf in row 7, column 1"),
    "Inf": (lambda x, y: (put(x, (0, 2), -INF), y), "NaN or Inf in row 0, column 2"),
    "fewer labels": (lambda x, y: (x, y[:30]), r"rows \[40, 3\] with labels \[30\]"),
    "more labels": (lambda x, y: (x[:30], y), r"rows \[30, 3\] with labels \[40\]"),
    "columns of labels": (lambda x, y: (x, y[:, None]), r"labels \[40, 1\]"),
    "no table": (lambda x, y: (x[:, 0], y), r"rows \[40\]"),
    "a third class": (lambda x, y: (x, y + 1), "label 2 in row .*allowed: 0 to 1, or -1 and 1"),
    "three signs": (lambda x, y: (x, torch.cat([2 * y[1:] - 1, y[:1]])), "label -1 in row"),
    "half a class": (lambda x, y: (x, y / 2), "label 0.5 in row"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_table_is_neither_trained_on_nor_certified(kind, table, certificates):
    change, problem = BAD[kind]
    x, y = change(*table)
    for programme in PROGRAMMES:
        with pytest.raises(DataError, match=problem):
            programme(x, y, 0.1, 0.02)
    for certify in certificates.values():
        with pytest.raises(DataError, match=problem):
            certify(x, y)


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_beta_and_radius_are_numbers_that_an_optimum_has(programme, table):
    for beta in (0.0, -0.1, NAN, INF):
        with pytest.raises(ConfigError, match=f"beta = {beta}: must be a number above 0"):
            programme(*table, 0.1, beta)
    for radius in (-0.1, NAN, INF):
        with pytest.raises(ConfigError, match=f"radius = {radius}: must be a number of at least 0"):
            programme(*table, radius, 0.1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float64])
def test_signs_are_classes_and_that_is_said(dtype, table, certificates, caplog):
    x, y = table
    signs = (2 * y - 1).to(dtype)
    for programme in PROGRAMMES:
        caplog.clear()
        problem = programme(x, signs, 0.1, 0.02)
        assert torch.equal(problem.y, y)
        assert caplog.messages == ["samples: labels -1 and 1 are taken as classes 0 and 1"]
        caplog.clear()
        assert torch.equal(replace(problem, beta=0.1).y, y)
        assert not caplog.messages
    for certify in certificates.values():
        assert torch.equal(certify(x, signs), certify(x, y))


def test_three_classes_have_no_signs(blobs):
    x, y = blobs(30, 3, num_classes=3)
    with pytest.raises(DataError, match=r"label -1 in row 0; allowed: 0 to 2$"):
        Problem(x, y - 1, 0.1, 0.02, 3)


def test_a_nan_is_never_a_margin(random_network, blobs):
    """Where nothing is checked, in the middle of training, a row with a NaN is at its worst."""
    for functions in (1, 3):
        x, y = blobs(30, 3, num_classes=max(functions, 2))
        x = x.clone()
        x[4, 1] = NAN
        assert not worst_case(random_network(3, functions).forms, x, y, 0.1).margin[4] > 0


def test_tables_of_numpy_are_checked_alike(table, caplog):
    x, y = (part.numpy() for part in table)
    with pytest.raises(DataError, match=r"mine: rows \[40, 3\] with labels \[30\]"):
        from_table("mine", x, y[:30], ("a", "b"), 0)
    with caplog.at_level(logging.WARNING):
        signs, classes = (from_table("mine", x, labels, ("a", "b"), 0) for labels in (2 * y - 1, y))
    assert torch.equal(signs.y, classes.y)
    assert caplog.messages == ["mine: labels -1 and 1 are taken as classes 0 and 1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a;b;label\n1;2;x\n2;1;y\n", r"';'"),
        ("a;b;label\n1,5;2,5;x\n2,0;1,0;y\n", r"';'"),
        ("a\tb\tlabel\n1\t2\tx\n", "tabs"),
        ("\ufeffa|b|label\n1|2|x\n", r"'\|'"),
    ],
)
def test_another_separator_is_named(text, said, tmp_path):
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"mine.csv: its columns are separated by {said}; save it with commas"):
        load_samples(str(tmp_path / "mine.csv"), seed=0)


def test_a_label_with_a_semicolon_is_no_separator(table, tmp_path):
    x, y = (part.numpy() for part in table)
    rows = [f"{a},{b},{c},{'p;q' if label else 'r'}" for (a, b, c), label in zip(x, y, strict=True)]
    (tmp_path / "mine.csv").write_text("a,b,c;d,label\n" + "\n".join(rows))
    assert load_samples(str(tmp_path / "mine.csv"), seed=0).class_names == ("p;q", "r")
