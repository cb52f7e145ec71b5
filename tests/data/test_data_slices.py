"""Parts of a data set: class-stratified slices, by closed form and properties, and some of its classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrobust.config import RunConfig
from fedrobust.data import class_numbers, hold_out, load, load_data, some, subset
from fedrobust.errors import ConfigError, DataError
from fedrobust.running.preflight import check_names

label_arrays = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda x: np.array(x, dtype=np.int64))
seeds = st.integers(0, 2**31)


def assert_proportional(labels: np.ndarray, chosen: np.ndarray) -> None:
    counts = np.bincount(labels[chosen], minlength=7)
    exact = np.bincount(labels, minlength=7) * len(chosen) / len(labels)
    assert (np.abs(counts - exact) < 1).all()


@given(label_arrays, seeds, st.data())
def test_hold_out_is_stratified_disjoint_and_complete(labels, seed, data):
    fraction = data.draw(st.floats(0, 1, exclude_max=True))
    train, validation = hold_out(labels, fraction, np.random.default_rng(seed))
    assert len(validation) == round(fraction * len(labels))
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert train.dtype == validation.dtype == np.int64
    assert_proportional(labels, validation)


@given(label_arrays, seeds, st.data())
def test_subset_is_stratified_and_seeded(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    chosen = subset(labels, count, np.random.default_rng(seed))
    assert len(np.unique(chosen)) == len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert_proportional(labels, chosen)
    assert np.array_equal(chosen, subset(labels, count, np.random.default_rng(seed)))


def test_balanced_classes_stay_balanced():
    labels = np.repeat(np.arange(10), 50)
    train, validation = hold_out(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[validation]).tolist() == [5] * 10
    assert np.bincount(labels[train]).tolist() == [45] * 10
    other = hold_out(labels, 0.1, np.random.default_rng(1))[1]
    assert not np.array_equal(validation, other)


def test_what_is_held_out_is_the_subset_of_the_same_draw():
    labels = np.arange(40) % 4
    _, validation = hold_out(labels, 0.25, np.random.default_rng(0))
    assert np.array_equal(validation, subset(labels, 10, np.random.default_rng(0)))


@pytest.mark.parametrize(("count", "all_"), [(0, True), (3, False), (6, True), (7, True)])
def test_some_or_all(count, all_):
    labels, index = np.arange(20) % 2, np.arange(1, 19, 3)
    chosen = some(index, labels, count, np.random.default_rng(0))
    if all_:
        assert np.array_equal(chosen, index)
    else:
        assert np.array_equal(chosen, index[subset(labels[index], count, np.random.default_rng(0))])


@pytest.mark.parametrize("tenth", [np.float32(0.1), np.float64(0.1)])
def test_numpy_scalars_mean_what_python_numbers_mean(tenth):
    assert len(hold_out(np.arange(40) % 4, tenth, np.random.default_rng(0))[1]) == 4


def test_nothing_to_hold_out():
    rng = np.random.default_rng(0)
    assert [len(part) for part in hold_out(np.zeros(5, int), 0, rng)] == [5, 0]
    assert [len(part) for part in hold_out(np.zeros(0, int), 0.1, rng)] == [0, 0]


@pytest.mark.parametrize("wrong", [1.0, -0.1, float("nan"), 5])
def test_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"validation fraction .*allowed"):
        hold_out(np.zeros(5, int), wrong, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [0, 6])
def test_subset_count_is_checked(wrong):
    with pytest.raises(ValueError, match=rf"subset of {wrong} of 5 images; allowed: 1..5"):
        subset(np.zeros(5, int), wrong, np.random.default_rng(0))


def test_the_images_of_some_classes_with_labels_from_0_on():
    whole, some = load("digits"), load("digits", classes="8, 3")
    assert some.class_names == ("3", "8")
    for split, of in ((some.train, whole.train), (some.test, whole.test)):
        index = np.flatnonzero((of.labels == 3) | (of.labels == 8))
        assert np.array_equal(split.images, of.images[index])
        assert np.array_equal(np.array([3, 8])[split.labels], of.labels[index])
    assert some.image_shape == whole.image_shape
    assert len({some.digest, whole.digest, load("digits", classes="3,9").digest}) == 3


def test_none_named_or_all_is_the_whole_set():
    whole = load("digits")
    for classes in ("", ",".join("9876543210")):
        assert load("digits", classes=classes).digest == whole.digest
    assert load_data(RunConfig.from_flat({"data.classes": "1,2"}).data).num_classes == 2


def test_names_and_numbers():
    names = ("airplane", "automobile", "bird")
    assert class_numbers("bird,0", names) == [0, 2]
    for classes, said in (
        ("bird,dog", "unknown class 'dog'"),
        ("bird,3", "unknown class '3'"),
        ("bird", "two classes or more"),
        ("bird,2,0", "each once"),
    ):
        with pytest.raises(DataError, match=said):
            class_numbers(classes, names)


def test_a_run_with_classes_that_are_not_there_is_refused_before_it_starts():
    with pytest.raises(DataError, match="unknown class 'eight'"):
        check_names(RunConfig.from_flat({"data.classes": "3,eight"}))
    with pytest.raises(ConfigError, match=r"data\.classes = '3,8': cannot be combined with data.own"):
        RunConfig.from_flat({"data.classes": "3,8", "data.own": True})
