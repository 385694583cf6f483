"""Turn a raw set of images and labels into sharded, augmented TFRecords.

examples:
  deeplab prepare --input data/camvid --output out/records --copies 2 --shards 8
  deeplab prepare --input data/list.csv --output out/records --palette classes.json --max-side 1024
  deeplab prepare --input gs://bucket/camvid --output gs://bucket/records --copies 2 --shards 256 \\
      --runner DataflowRunner --project my-project --region europe-west1 \\
      --temp_location gs://bucket/tmp --sdk_container_image IMAGE

Stop it at any moment and run it again: finished shards are kept, and the bytes are the same. Only the plan goes
through the runner; each worker reads the images of its shards and writes the shards. Flags that are not listed here
are passed on to Apache Beam, such as --direct_num_workers 4.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from pipelines.entries.options import RecordOptions
from pipelines.inputs.options import layout, palette, val_fraction
from trainer.accounts import max_reject_rate
from trainer.options import InputError, option

SMALLEST_TILE = 64
"""The least --tile, in pixels: of less a network of output stride 16 sees a few cells."""


@dataclass(frozen=True)
class Options(RecordOptions):
    """Options of `deeplab prepare`."""

    takes_beam_flags: ClassVar[bool] = True

    input: str = option(
        help="folder of the raw set, or its manifest; local or gs://", metavar="DIR|FILE", group="input"
    )
    output: str = option(help="folder for the records; local or gs://", metavar="DIR", group="records")
    layout: str = layout()
    palette: str = palette()
    val_fraction: float = val_fraction()
    group_by: str = option(
        "",
        "regular expression that keeps images together, such as the frames of a film: images whose keys match with "
        "the same text (of its first group, if it has one) go to the same split",
        metavar="REGEX",
        group="input",
    )
    copies: int = option(0, "augmented copies of every image, in addition to the image itself", low=0, group="records")
    augment_splits: tuple[str, ...] = option(
        ("train",), "splits that get augmented copies", metavar="SPLIT", group="records"
    )
    tile: int = option(
        0,
        "cut the images of the split train that have more pixels than this on a side into tiles of at most this many, "
        "each of which becomes a record; 0: no tiles",
        low=0,
        metavar="SIDE",
        group="records",
    )
    shards: int = option(
        0,
        "shards of the largest split; the others get a proportionate number. Shards that would be empty are left "
        "out. 0: about 1000 records or 128 MB each",
        low=0,
        high=999999,
        group="records",
    )
    overwrite: bool = option(
        False,
        "write every shard again, even over files of the same name that this program did not write",
        group="records",
    )
    max_reject_rate: float = max_reject_rate("records")

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.tile < SMALLEST_TILE:
            raise InputError(f"--tile {self.tile}: expected at least {SMALLEST_TILE} pixels, or 0 for no tiles")

    def versions(self, split: str) -> int:
        """The number of records of every image or tile of a split: itself and its augmented copies."""
        return 1 + self.copies * (split in self.augment_splits)

    def check_augmented(self, splits: Collection[str], root: str) -> None:
        """Raises InputError if the set at `root`, which has these splits, lacks one that --augment-splits names."""
        unknown = sorted({*self.augment_splits}.difference(splits))
        if unknown and splits and self.augment_splits != Options.augment_splits:
            hint = "; expected blanks between the splits, not commas" if "," in unknown[0] else ""
            raise InputError(
                f"--augment-splits: {root} has no split {unknown[0]}; it has {', '.join(sorted(splits))}{hint}"
            )
