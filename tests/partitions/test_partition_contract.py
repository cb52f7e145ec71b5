"""What every entry of the registry promises, whatever the labels."""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import PARTITIONS, Indices, PartitionError, Rng

EVERY = pytest.mark.parametrize("name", sorted(PARTITIONS))
BOTH_GENERATORS = pytest.mark.parametrize("generator", [np.random.default_rng, np.random.RandomState])


@st.composite
def label_rows(draw: st.DrawFn) -> Indices:
    """Up to 300 labels in any order, of up to 6 classes of any size, some class numbers unused."""
    numbers = draw(st.lists(st.integers(0, 20), min_size=1, max_size=6, unique=True))
    sizes = draw(st.lists(st.integers(1, 50), min_size=len(numbers), max_size=len(numbers)))
    return np.random.default_rng(draw(st.integers(0, 9))).permutation(np.repeat(numbers, sizes))


@EVERY
@BOTH_GENERATORS
@settings(max_examples=60, deadline=None)
@given(labels=label_rows(), num_clients=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_each_sample_goes_to_one_client_or_the_split_is_refused(
    name: str, generator: Callable[[int], Rng], labels: Indices, num_clients: int, seed: int
) -> None:
    parts: list[Indices] = []
    refusal = ""
    try:
        parts = PARTITIONS[name](labels, num_clients, generator(seed))
    except PartitionError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert name != "iid" or num_clients > len(labels)
        return
    assert len(parts) == num_clients
    for part in parts:
        assert part.dtype == np.int64
        assert part.size > 0
        assert (np.diff(part) > 0).all()
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    minimum = inspect.signature(PARTITIONS[name]).parameters.get("min_samples")
    assert min(map(len, parts)) >= (minimum.default if minimum else 1)
    again = PARTITIONS[name](labels, num_clients, generator(seed))
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@EVERY
def test_the_seed_alone_decides(name: str) -> None:
    labels = np.repeat(np.arange(10), 100)
    state = np.random.get_state(legacy=False)["state"]["key"].copy()  # pyright: ignore
    one, other = (PARTITIONS[name](labels, 5, np.random.default_rng(seed)) for seed in (0, 1))
    assert any(not np.array_equal(first, second) for first, second in zip(one, other, strict=True))
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], state)  # pyright: ignore
    assert np.array_equal(labels, np.repeat(np.arange(10), 100))


@EVERY
@pytest.mark.parametrize("num_clients", [0, -1, 101, 2.0, True, None])
def test_an_impossible_number_of_clients_is_refused(name: str, num_clients: int) -> None:
    with pytest.raises(PartitionError, match=rf"^num-clients = {num_clients}: allowed is 1 to 100"):
        PARTITIONS[name](np.repeat(np.arange(10), 10), num_clients, np.random.default_rng(0))


@EVERY
@pytest.mark.parametrize("labels", [[], [[0, 1]], [0.5, 1.0], [-1, 0], 3])
def test_labels_that_are_none_are_refused(name: str, labels: object) -> None:
    with pytest.raises(PartitionError, match=r"^labels: "):
        PARTITIONS[name](labels, 1, np.random.default_rng(0))


@EVERY
def test_options_are_keyword_only_with_defaults(name: str) -> None:
    parameters = list(inspect.signature(PARTITIONS[name]).parameters.values())
    assert [parameter.name for parameter in parameters[:3]] == ["labels", "num_clients", "rng"]
    for option in parameters[3:]:
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.default is not inspect.Parameter.empty
