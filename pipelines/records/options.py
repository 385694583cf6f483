"""Inspect, repair and compare folders of records that `deeplab prepare` wrote.

examples:
  deeplab records ls out/records
  deeplab records show out/records --record train/a --save out/a
  deeplab records verify gs://bucket/records
  deeplab records export out/records out/raw --originals
  deeplab records repair out/records
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.options import CheckedOptions, InputError, option

FIRST = "0"
"""The number of the record that is shown by default."""
MEGABYTES = 128
"""The size of a shard by default, in MiB."""


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
      deeplab records show out/records --key 17
    """

    records: str = _folder()
    record: str = option(FIRST, "key of the record, or its number in the order of the shards, from 0", metavar="KEY|N")
    key: str = option("", "like --record, but always a key, even if it consists of digits", metavar="KEY")
    copy: int = option(0, "with a key: number of the augmented copy; 0 is the image itself", low=0)
    save: str = option("", "folder to save the image, its label and an overlay to", metavar="DIR")
    overwrite: bool = option(False, "replace existing files that differ, but never files of the raw set")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.key and self.record != FIRST:
            raise InputError(f"give either --record {self.record} or --key {self.key}, not both")
        if self.overwrite and not self.save:
            raise InputError("--overwrite is for --save DIR; give it, or omit --overwrite")


@dataclass(frozen=True)
class Verify(CheckedOptions):
    """Check every checksum, image, label and count.

    examples:
      deeplab records verify out/records
      deeplab records verify gs://bucket/records --delete

    A record is good if the trainer can read it, and export can write it below a folder. The status is 1 if there are
    faults. The same `deeplab prepare` or `records reshard` writes deleted shards again.
    """

    records: str = _folder()
    delete: bool = option(False, "delete faulty shards, if dataset.json lists them")


@dataclass(frozen=True)
class Stats(CheckedOptions):
    """Show the number of pixels of each class, and the sizes of the images.

    examples:
      deeplab records stats out/records
      deeplab records stats gs://bucket/records

    Reads only dataset.json.
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
    overwrite: bool = option(False, "replace existing files that differ, but never files of the raw set")


@dataclass(frozen=True)
class Repair(CheckedOptions):
    """Repair the shards in which verify finds faults.

    examples:
      deeplab records repair out/records
      deeplab records repair gs://bucket/records --drop

    Damaged records, augmented copies included, are made again from the raw set and the options in dataset.json, if
    that gives exactly the original bytes, as their checksum shows. Records that cannot be made again are left out only
    with --drop; the same `deeplab prepare` or `records reshard` can write all of them again. If it is killed, run it
    again.
    """

    records: str = _folder()
    drop: bool = option(False, "leave out damaged records that cannot be made again, and list them in rejects.jsonl")


@dataclass(frozen=True)
class Reshard(CheckedOptions):
    """Write the same records into a different number of shards.

    examples:
      deeplab records reshard out/records out/resharded --shards 64
      deeplab records reshard gs://bucket/records gs://bucket/resharded --megabytes 256

    The bytes of every record are kept, and no image is decoded. The shards are those that `deeplab prepare --shards`
    would have written: the same seed gives the same order.
    """

    records: str = _folder()
    output: str = option(help="folder to write to; local or gs://", positional=True, metavar="OUTPUT")
    shards: int = option(
        0,
        "shards of the largest split; the others get a proportionate number. Shards that would be empty are left "
        "out. 0: by --megabytes",
        low=0,
        high=999999,
    )
    megabytes: int = option(MEGABYTES, "size of a shard in MiB, without --shards", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shards and self.megabytes != MEGABYTES:
            raise InputError(f"give either --shards {self.shards} or --megabytes {self.megabytes}, not both")


@dataclass(frozen=True)
class Diff(CheckedOptions):
    """Show what differs between two sets of records.

    examples:
      deeplab records diff out/records out/other
      deeplab records diff out/records gs://bucket/records

    Compares keys, splits, the bytes of images and labels, classes, and the options that determine records, but not
    which shards the records are in. The status is 0 if nothing differs, else 1.
    """

    records: str = _folder()
    other: str = option(help="folder of the other records; local or gs://", positional=True, metavar="OTHER")


VERBS = {
    "ls": Ls,
    "show": Show,
    "verify": Verify,
    "stats": Stats,
    "export": Export,
    "repair": Repair,
    "reshard": Reshard,
    "diff": Diff,
}
"""Verb -> its options."""
USAGE = "FOLDER [OPTIONS]"
"""Usage of a verb, behind its name."""
