"""Data sets: one registry, one `load`, the same arrays from every source.

`import fedrobust.data` is cheap: torchvision, scikit-learn and pyarrow are imported when a set is read. Code that needs
PyTorch lies in `fedrobust.data.device` (a split as tensors on a device, and augmentation).

`split` assigns images to the server and the clients. `convex` and the packages above may import it.
"""

from pathlib import Path

import numpy as np

from fedrobust.config import Data
from fedrobust.config.names import unknown
from fedrobust.data.loading import assemble
from fedrobust.data.select import class_numbers, hold_out, restricted, some, subset
from fedrobust.data.spec import AugmentationName, Dataset, DatasetSpec, Split, SplitName
from fedrobust.errors import DataError

__all__ = [
    "DATASETS",
    "AugmentationName",
    "Dataset",
    "DatasetSpec",
    "Split",
    "SplitName",
    "class_numbers",
    "hold_out",
    "known_labels",
    "load",
    "load_data",
    "some",
    "subset",
]

# Name -> description. Means and standard deviations are the published ones of the training splits; those of
# digits were computed from its training split (a test computes them again, and CIFAR-10's).
# class names in label order
_DIGITS = tuple("0123456789")

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

_FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

DATASETS: dict[str, DatasetSpec] = {
    "cifar10": DatasetSpec(
        class_names=_CIFAR10,
        shape=(32, 32, 3),
        train_size=50_000,
        test_size=10_000,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augmentation="crop-flip",
        torchvision="CIFAR10",
        image_column="img",
    ),
    "cifar100": DatasetSpec(
        class_names=tuple(_CIFAR100.split()),
        shape=(32, 32, 3),
        train_size=50_000,
        test_size=10_000,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augmentation="crop-flip",
        torchvision="CIFAR100",
        image_column="img",
        label_column="fine_label",
    ),
    "svhn": DatasetSpec(
        class_names=_DIGITS,
        shape=(32, 32, 3),
        train_size=73_257,
        test_size=26_032,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        augmentation="crop",
        torchvision="SVHN",
        class_sizes=(4_948, 13_861, 10_585, 8_497, 7_458, 6_882, 5_727, 5_595, 5_045, 4_659),
    ),
    "mnist": DatasetSpec(
        class_names=_DIGITS,
        shape=(28, 28, 1),
        train_size=60_000,
        test_size=10_000,
        mean=(0.1307,),
        std=(0.3081,),
        augmentation="crop",
        torchvision="MNIST",
        class_sizes=(5_923, 6_742, 5_958, 6_131, 5_842, 5_421, 5_918, 6_265, 5_851, 5_949),
    ),
    "fashion-mnist": DatasetSpec(
        class_names=_FASHION_MNIST,
        shape=(28, 28, 1),
        train_size=60_000,
        test_size=10_000,
        mean=(0.2860,),
        std=(0.3530,),
        augmentation="crop",
        torchvision="FashionMNIST",
    ),
    "digits": DatasetSpec(
        class_names=_DIGITS,
        shape=(8, 8, 1),
        train_size=1_438,
        test_size=359,
        mean=(0.3059,),
        std=(0.3761,),
        augmentation="none",
        class_sizes=(142, 146, 142, 146, 145, 146, 145, 143, 139, 144),
    ),
}


def load_data(settings: Data) -> Dataset:
    """Return the data set of a run. Raise DataError as `load` does."""
    return load(settings.name, data_dir=settings.dir or None, classes=settings.classes)


def known_labels(settings: Data) -> np.ndarray:
    """Return the labels of a run's training set, sorted, int64 `[N]`, from its registry entry: no file is read.

    Raises:
        DataError: an unknown class.
    """
    spec = DATASETS[settings.name]
    sizes = spec.class_sizes or (spec.train_size // len(spec.class_names),) * len(spec.class_names)
    kept = class_numbers(settings.classes, spec.class_names)
    return np.repeat(np.arange(len(kept)), [sizes[number] for number in kept])


def load(name: str, *, data_dir: str | Path | None = None, classes: str = "", test_only: bool = False) -> Dataset:
    """Return the data set `name`, decoded once per machine and opened as memory maps from then on.

    With `classes`, only those (`fedrobust.data.select.restricted`), copied into memory.

    The source is the first that applies:

    1. `digits` comes with scikit-learn: no file, no download, `data_dir` is not looked at.
    2. `data_dir`: the Hub's parquet files, in `<data_dir>/<name>/` or in `data_dir` itself.
    3. The environment's `FEDROBUST_DATA`, when `<FEDROBUST_DATA>/<name>/` exists: the same parquet files.
    4. torchvision's download, into the cache folder.

    With `test_only`, without the training images: the training split is empty, and its files need not be there.

    The cache folder is `FEDROBUST_CACHE`, else `$XDG_CACHE_HOME/fedrobust`, else `~/.cache/fedrobust`.

    Raises:
        DataError: an unknown name or class; a source that is missing, partial or corrupt; a failed download; a cache
            folder that cannot be written.
    """
    if name not in DATASETS:
        raise DataError(unknown("data set", name, DATASETS))
    whole = assemble(name, DATASETS[name], None if data_dir is None else Path(data_dir), test_only=test_only)
    return restricted(whole, classes)
