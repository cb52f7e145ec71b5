"""Parquet files with one encoded image per row → uint8 arrays."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from fedrobust.data.spec import DatasetSpec, Split, one_line
from fedrobust.errors import DataError

# Lossless formats only: a JPEG copy would be another data set. Naming them also halves the time of an open.
FORMATS = ("PNG", "WEBP")
MODES = {1: "L", 3: "RGB"}
STORED = ("1", "P", "PA", "LA", "RGBA")  # modes in which some formats keep a plain grey or coloured picture
CHUNK = 500  # rows per task: large enough to hide the pool, small enough for a smooth progress bar


Encoded = list[bytes | None]


def read_shards(files: list[Path], spec: DatasetSpec, *, title: str, total: int) -> Iterator[tuple[str, Split]]:
    """Yield the decoded content of each file, with the file's path.

    If standard error is a terminal, it shows a progress bar named `title` up to `total` images.

    Raises:
        DataError: a file that cannot be read, a missing column, an undecodable image (with its row).
    """
    console = Console(stderr=True)
    with (
        # Pillow releases the GIL inside the decoder, so threads gain a little; processes would gain more, but
        # they import the caller's __main__ again, and this runs once per machine.
        ThreadPoolExecutor() as pool,
        Progress(console=console, disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task(f"decoding {title}", total=total)
        for file in files:
            encoded, labels = read_columns(file, spec)
            images = np.empty((len(encoded), *spec.shape), dtype=np.uint8)
            decode_rows = partial(decode_chunk, file, spec, encoded, images)
            for decoded in pool.map(decode_rows, range(0, len(encoded), CHUNK)):
                progress.advance(task, decoded)
            yield str(file), Split(images, labels)


def read_columns(file: Path, spec: DatasetSpec) -> tuple[Encoded, np.ndarray]:
    """Return the encoded images and the int64 labels of one file.

    Raises:
        DataError: a file that is not readable parquet, or lacks the columns of `spec`, or lacks a label.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            table = parquet.read().flatten()  # struct `img` → `img.bytes`, `img.path`
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not readable as parquet ({one_line(error)}); copy it again") from error
    image_column = f"{spec.image_column}.bytes"
    if image_column not in table.column_names or spec.label_column not in table.column_names:
        needed = f"{image_column} and {spec.label_column}"
        raise DataError(f"{file}: columns are {', '.join(table.column_names)}; needed: {needed}")
    labels = table[spec.label_column]
    if not pa.types.is_integer(labels.type) or labels.null_count:
        found = f"{labels.type} with {labels.null_count} nulls"
        raise DataError(f"{file}: column {spec.label_column} is {found}; needed: integers without nulls")
    return table[image_column].to_pylist(), labels.to_numpy().astype(np.int64)


def decode_chunk(file: Path, spec: DatasetSpec, encoded: Encoded, images: np.ndarray, start: int) -> int:
    """Decode up to `CHUNK` rows from `start` into `images`, uint8 `[N, H, W, C]`; return their number.

    Raises:
        DataError: an undecodable image, or one of another size or mode than `spec`, by file and row.
    """
    stop = min(start + CHUNK, len(encoded))
    for row in range(start, stop):
        images[row] = decode_image(encoded[row] or b"", spec, f"{file} row {row}")
    return stop - start


def decode_image(data: bytes, spec: DatasetSpec, where: str, formats: tuple[str, ...] | None = FORMATS) -> np.ndarray:
    """Decode one image, uint8 `[H, W, C]`.

    Args:
        formats: allowed formats by Pillow's names; None allows all that it reads, which may then be stored in another
            mode (a palette, an opaque alpha channel) as long as nothing is lost.

    Raises:
        DataError: the image cannot be decoded, or is of another size or mode than `spec`; the message contains `where`.
    """
    height, width, channels = spec.shape
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        image.load()
    except Exception as error:  # broken bytes make decoders raise nearly anything
        reason = f"image cannot be decoded ({one_line(error)})"
        raise DataError(f"{where}: {reason}" + ("; allowed: PNG, WebP" if formats == FORMATS else "")) from error
    if formats is None:
        image = _without_loss(image, MODES[channels])
    if image.size != (width, height) or image.mode != MODES[channels]:
        found = f"{image.width}x{image.height} {image.mode}"
        raise DataError(f"{where}: image is {found}; expected {width}x{height} {MODES[channels]}")
    return np.asarray(image).reshape(spec.shape)


def _without_loss(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in that mode if both are the same picture, else unchanged."""
    if image.mode not in STORED:
        return image
    converted = image.convert(mode)
    return converted if converted.convert("RGBA").tobytes() == image.convert("RGBA").tobytes() else image
