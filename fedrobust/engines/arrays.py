"""Conversion between arrays and Flower's records, with one copy on the way there and none back.

Flower's own way goes through `numpy.save` and `numpy.load` on in-memory files, which copy every array two or three
times; at 45 MB per client that is most of a round's cost besides training. The bytes are the same: either side
can be Flower's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy

STYPE = "numpy.ndarray"  # how Flower names the .npy serialisation
MAX_HEADER = 10_000  # bytes, NumPy's own limit


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return arrays as a Flower record."""
    return ArrayRecord({key: _encode(array) for key, array in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the arrays of a record, as read-only views of its bytes.

    Raises:
        ValueError: an array that is not a complete .npy of plain numbers. Nothing is ever unpickled.
    """
    return {key: decode(array) for key, array in record.items()}


def decode(array: Array) -> np.ndarray:
    """Return one array of a record, as a read-only view; raise ValueError as `from_record` does."""
    if array.stype != STYPE:
        raise ValueError(f"serialised as {array.stype!r}, expected {STYPE!r}")
    start = _header_size(array.data)
    shape, fortran, dtype = _read_header(array.data[:start])
    if len(array.data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"has {len(array.data) - start} bytes for shape {shape} of {dtype}")
    flat = np.frombuffer(array.data, dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C")


def _header_size(data: bytes) -> int:
    """Return the number of bytes before the values: magic, version, length (2 bytes in version 1, 4 in version 2) and
    header.
    """
    version = npy.read_magic(BytesIO(data[: npy.MAGIC_LEN]))
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown .npy version {version}")
    end = npy.MAGIC_LEN + 2 * version[0]
    size = end + int.from_bytes(data[npy.MAGIC_LEN : end], "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size} bytes, more than {MAX_HEADER}")
    return size


@lru_cache(maxsize=4096)  # NumPy parses a header as Python source; a model's are the same in every message
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    file = BytesIO(header)
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    return shape, fortran, dtype


def _encode(array: np.ndarray) -> Array:
    array = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes a scalar one-dimensional
    header = BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    data = b"".join([header.getvalue(), array.reshape(-1).view(np.uint8).data])
    return Array(str(array.dtype), array.shape, STYPE, data)
