"""Options that commands on raw sets and collections share; see `layouts` for what each of the layouts looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.formats.options import CODINGS, PALETTES
from trainer.options import CheckedOptions, InputError, option

LAYOUTS = ("auto", "manifest", "voc", "cityscapes", "camvid", "paired")
"""Values of --layout."""


def layout() -> Any:
    """The option --layout of a command that reads a raw set."""
    return option("auto", "how the raw set is laid out", choices=LAYOUTS, group="input")


def palette() -> Any:
    """The option --palette of a command that reads a raw set."""
    return option("auto", f"class set: auto, {', '.join(PALETTES)} or a JSON file", metavar="NAME|FILE", group="input")


def label_coding() -> Any:
    """The option --label-coding of a command that reads a raw set."""
    return option(
        "auto",
        "how to read labels that can be read in two ways, such as palette PNGs: by their ids or by their colors",
        choices=CODINGS,
        group="input",
    )


def val_fraction() -> Any:
    """The option --val-fraction of a command that reads a raw set."""
    return option(
        0.1,
        "share of images to hold out for validation if the set names none for it",
        low=0,
        below=1,
        group="input",
    )


@dataclass(frozen=True)
class SelectionOptions(CheckedOptions):
    """Selects some of the images, see `selection`; without one of these flags, all of them are taken."""

    records: str = option(
        "",
        "take only the images that are in --split of these records, made by `deeplab prepare`",
        metavar="DIR",
        group="selection",
    )
    list: str = option(
        "",
        "take only the images that this list names: a .txt with a name or path per line, such as Pascal VOC's "
        "val.txt, or a .csv or .jsonl file with a column image",
        metavar="FILE",
        group="selection",
    )
    split: str = option(
        "",
        "split of --records; default: val. With a --list that has a column split: only the lines of that split",
        metavar="SPLIT",
        group="selection",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.records and self.list:
            raise InputError(f"give --records or --list, got both: {self.records} and {self.list}")
        if self.split and not (self.records or self.list):
            raise InputError(f"--split {self.split} needs the records that it is a split of: give --records DIR")
