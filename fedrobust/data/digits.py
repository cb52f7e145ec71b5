"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels that every installation already has.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998 (the test part, as shipped by `sklearn.datasets.load_digits`).
"""

from collections.abc import Iterator

import numpy as np

from fedrobust.data.canonical import canonical
from fedrobust.data.spec import Split, SplitName

TEST_FRACTION = 0.2


def read(split: SplitName) -> Iterator[tuple[str, Split]]:
    """1,438 training or 359 test images, uint8 `[N, 8, 8, 1]`; value v of 0..16 becomes round(v * 255 / 16).

    scikit-learn has no split, so one is fixed here: in each class, the first fifth in canonical order is
    the test split. The pixels' digest is the seed: no version of NumPy or scikit-learn can change the split.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    whole = canonical(Split(images, np.asarray(labels).astype(np.int64)))
    is_test = np.zeros(len(whole), dtype=bool)
    for label in range(10):
        members = np.flatnonzero(whole.labels == label)
        is_test[members[: round(TEST_FRACTION * len(members))]] = True
    chosen = is_test if split == "test" else ~is_test
    yield f"scikit-learn's digits {split}", Split(whole.images[chosen], whole.labels[chosen])
