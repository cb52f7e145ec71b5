"""Arrays on the wire: Flower's bytes, without Flower's copies, and never a pickle."""

import pickle
from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedrobust.engines.arrays import decode, from_record, to_record
from fedrobust.training.context import as_tensor

numbers = arrays.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    shape=arrays.array_shapes(min_dims=0, max_dims=4, min_side=0),
)


@given(numbers)
def test_there_and_back_is_the_same_array(array):
    back = from_record(to_record({"w": array}))["w"]
    np.testing.assert_array_equal(back, array, strict=True)


@given(numbers)
def test_either_side_can_be_flowers(array):
    np.testing.assert_array_equal(to_record({"w": array})["w"].numpy(), array, strict=True)
    np.testing.assert_array_equal(decode(Array(array)), array, strict=True)


def test_any_memory_order_arrives():
    array = np.arange(24.0).reshape(2, 3, 4)
    for given_array in (array.transpose(2, 0, 1), np.asfortranarray(array), array[:, ::2]):
        np.testing.assert_array_equal(from_record(to_record({"w": given_array}))["w"], given_array)
        np.testing.assert_array_equal(decode(Array(given_array)), given_array)


def test_what_comes_back_is_a_view_and_read_only():
    array = from_record(to_record({"w": np.zeros(3)}))["w"]
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert as_tensor(array).tolist() == [0, 0, 0]


def _npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


WHOLE = _npy(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("stype", "data"),
    [
        ("numpy.ndarray", pickle.dumps([1, 2])),
        ("numpy.ndarray", _npy(np.array([{}], dtype=object))),
        ("numpy.ndarray", WHOLE[:-1]),
        ("numpy.ndarray", WHOLE + b"x"),
        ("numpy.ndarray", b""),
        ("pickle", WHOLE),
    ],
)
def test_anything_else_is_refused(stype, data):
    with pytest.raises(ValueError):
        from_record(ArrayRecord({"w": Array("float32", (3,), stype, data)}))
