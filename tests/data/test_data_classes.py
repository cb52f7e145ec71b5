"""Some classes of a data set: what is left, and what is said of words that name none."""

import numpy as np
import pytest

from fedrobust.config import RunConfig
from fedrobust.data import class_numbers, load, load_data
from fedrobust.errors import ConfigError, DataError
from fedrobust.running.preflight import check_names


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
