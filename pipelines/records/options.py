"""Look into a folder of records that `deeplab prepare` wrote.

examples:
  deeplab records ls out/records
  deeplab records show out/records --record train/a --save out/a
  deeplab records verify gs://bucket/records
  deeplab records export out/records out/raw --originals
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.options import CheckedOptions, option


def _folder() -> Any:
    return option(help="folder of records; local or gs://", positional=True, metavar="FOLDER")


@dataclass(frozen=True)
class Ls(CheckedOptions):
    """List the shards with their counts.

    examples:
      deeplab records ls out/records
      deeplab records ls gs://bucket/records
    """

    records: str = _folder()


@dataclass(frozen=True)
class Show(CheckedOptions):
    """Show one record, and save its image, label and overlay.

    examples:
      deeplab records show out/records
      deeplab records show out/records --record 17
      deeplab records show out/records --record train/a --copy 1 --save out/a
    """

    records: str = _folder()
    record: str = option("0", "which one: its key, or its number in the order of the shards, from 0", metavar="KEY|N")
    copy: int = option(0, "with a key: which augmented copy; 0 is the image itself", low=0)
    save: str = option("", "folder to save the image, its label and an overlay to", metavar="DIR")
    overwrite: bool = option(False, "replace files that are there already and differ; never those of the raw set")


@dataclass(frozen=True)
class Verify(CheckedOptions):
    """Check every checksum, image, label and count.

    examples:
      deeplab records verify out/records
      deeplab records verify gs://bucket/records --delete

    A record is good when the trainer reads it. Ends with status 1 when it finds a fault. Shards that are deleted are
    written again by the same `deeplab prepare`.
    """

    records: str = _folder()
    delete: bool = option(False, "delete the shards that have faults, among those that dataset.json lists")


@dataclass(frozen=True)
class Stats(CheckedOptions):
    """Show how many pixels each class has, and the sizes of the images.

    examples:
      deeplab records stats out/records
      deeplab records stats gs://bucket/records

    Reads dataset.json alone.
    """

    records: str = _folder()


@dataclass(frozen=True)
class Export(CheckedOptions):
    """Write records back to image and label files, byte for byte.

    examples:
      deeplab records export out/records out/raw
      deeplab records export out/records gs://bucket/raw --originals

    The files are laid out as images/SPLIT and labels/SPLIT, with a palette.json: a raw set for `deeplab prepare`.
    """

    records: str = _folder()
    output: str = option(help="folder to write to; local or gs://", positional=True, metavar="OUTPUT")
    originals: bool = option(False, "leave out augmented copies")
    overwrite: bool = option(False, "replace files that are there already and differ; never those of the raw set")


VERBS = {"ls": Ls, "show": Show, "verify": Verify, "stats": Stats, "export": Export}
"""Verb -> its options."""
