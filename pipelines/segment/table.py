"""The table of a segmentation, with a row per image: Parquet files in the folder `images.parquet`, one per chunk.

A file is written when its chunk is done, and again only if its contents change. Reruns rely on it: its metadata, which
Parquet readers ignore, hold the fingerprint of model and options, and the signatures of the images and of the files
made from them. Masks are therefore read again only if a signature has changed. docs/table.md describes the columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow
import pyarrow.parquet

from pipelines.masks.certainty import Certainty
from trainer import storage
from trainer.formats.labels import Palette
from trainer.formats.runs import pixels_of_ids

FOLDER = "images.parquet"
PART = re.compile(rf"{re.escape(FOLDER)}/part-[0-9a-f]{{16}}\.parquet")
KEY = b"deeplab"
"""Key of the metadata that only this program reads."""
PIXELS = "pixels_"
"""Prefix of the columns that count the pixels of a class."""
COLUMNS = {
    "key": pyarrow.string(),
    "path": pyarrow.string(),
    "identity": pyarrow.string(),
    "width": pyarrow.int32(),
    "height": pyarrow.int32(),
    "confidence": pyarrow.float64(),
    "entropy": pyarrow.float64(),
    "changed": pyarrow.float64(),
    "seconds": pyarrow.float64(),
}
"""The columns before those of the classes, see `Row`."""
SURE = ("confidence", "entropy", "changed")
FACTS = tuple(name for name in COLUMNS if name not in SURE)


@dataclass(frozen=True)
class Row:
    """The row of one image.

    Attributes:
      key: the path of its mask without ".png".
      path: the path of the image, local or gs://, see `text`.
      identity: the identity of its contents, see `storage.identity`.
      width, height: the size of image and mask, in pixels.
      pixels: number of pixels of every class in the mask, in palette order.
      certainty: the certainty of the network; None for masks of version 0.5 and earlier, which do not record it.
      seconds: the time from the start of reading to the end of writing, including the wait for images in the same
        batch; None if the process ended before it could record it.
      files: "image" and the kinds of files written for it -> their signatures at that time. Not a column.
    """

    key: str
    path: str
    identity: str
    width: int
    height: int
    pixels: tuple[int, ...]
    certainty: Certainty | None
    seconds: float | None
    files: Mapping[str, str] = field(default_factory=dict)


def pixels_of(ids: np.ndarray, palette: Palette) -> tuple[int, ...]:
    """The number of pixels of every class in a mask, uint8 [H, W] class ids."""
    return tuple(pixels_of_ids(ids)[: palette.num_classes].tolist())


def text(path: str) -> str:
    """A path as the table stores it: local file names need not be UTF-8, but strings in Parquet must be."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def schema(palette: Palette) -> pyarrow.Schema:
    """The columns of the table for masks with these classes."""
    return pyarrow.schema([*COLUMNS.items(), *((PIXELS + name, pyarrow.int64()) for name in palette.names)])


def part_of(keys: Iterable[str]) -> str:
    """The path, below the output folder, of the part for the chunk with these images."""
    return f"{FOLDER}/part-{hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()[:16]}.parquet"


def write(folder: str, part: str, rows: Sequence[Row], fingerprint: str, palette: Palette) -> None:
    """Writes a part below the output folder; equal rows give equal bytes.

    Args:
      fingerprint: the fingerprint of model and options, see `pipelines.masks.stamps`.
    """
    sure = [row.certainty or Certainty(None, None) for row in rows]
    columns = {
        **{name: [getattr(row, name) for row in rows] for name in FACTS},
        **{name: [getattr(one, name) for one in sure] for name in SURE},
        **{PIXELS + name: [row.pixels[index] for row in rows] for index, name in enumerate(palette.names)},
    }
    about = {"fingerprint": fingerprint, "files": [row.files for row in rows]}
    file = pyarrow.BufferOutputStream()
    # Arrow's schema, which adds nothing to Parquet's, would be half of a part.
    with pyarrow.parquet.ParquetWriter(file, schema(palette), compression="zstd", store_schema=False) as writer:
        writer.write_table(pyarrow.Table.from_pydict(columns, schema(palette)))
        writer.add_key_value_metadata({KEY: json.dumps(about, sort_keys=True).encode()})
    storage.write(storage.join(folder, part), file.getvalue().to_pybytes())


def read(folder: str, part: str, fingerprint: str, palette: Palette) -> dict[str, Row]:
    """The rows of a part by key, in order; empty if it is missing, damaged, or of another model or other options.

    Raises InputError if a folder is in its place.
    """
    path = storage.join(folder, part)
    storage.check_file(path)
    try:
        data = storage.read(path)
    except FileNotFoundError:
        return {}
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        about = json.loads(file.metadata.metadata[KEY])
        # Before any row is read: some kilobytes of Parquet can hold any number of them.
        is_ours = about["fingerprint"] == fingerprint and file.schema_arrow.equals(schema(palette))
        if not is_ours or file.metadata.num_rows != len(about["files"]):
            return {}
        rows = zip(file.read().to_pylist(), about["files"], strict=True)
        return {values["key"]: _row(values, files, palette) for values, files in rows}
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError):  # damaged, or not ours
        return {}


def keys(folder: str, part: str) -> list[str]:
    """The images in a part, whatever model and options it is of; empty if it is missing, damaged, or not ours."""
    try:
        data = storage.read(storage.join(folder, part))
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data), columns=["key"]) if is_ours(data) else None
    except (pyarrow.ArrowException, OSError):
        return []
    return table["key"].to_pylist() if table else []


def _row(values: Mapping[str, object], files: Mapping[str, str], palette: Palette) -> Row:
    sure = Certainty(*(values[name] for name in SURE))
    return Row(
        **{name: values[name] for name in FACTS},
        pixels=tuple(values[PIXELS + name] for name in palette.names),
        certainty=None if sure.confidence is None else sure,
        files=files,
    )


def is_ours(data: bytes) -> bool:
    """Whether this program wrote a file that is named like a part."""
    try:
        return KEY in (pyarrow.parquet.read_metadata(pyarrow.BufferReader(data)).metadata or {})
    except (pyarrow.ArrowException, OSError):
        return False
