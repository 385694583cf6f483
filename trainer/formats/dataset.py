"""The contract between `prepare` and what reads records: a folder of TFRecord shards and its dataset.json."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from trainer import leases, storage
from trainer.accounts import percent
from trainer.formats.labels import Palette
from trainer.formats.options import MAX_PIXELS
from trainer.options import InputError
from trainer.terminal import some_and_more

DATASET_FILE = "dataset.json"
WORK_AREA = "shards"
"""The folder beside it in which `deeplab prepare` describes every shard that it has written."""
DATASET_VERSION = 2
READ_VERSIONS = (1, 2)
"""Version 1 says "pictures" where version 2 says "images"."""
SHARD_PATTERN = re.compile(r"(?P<split>[\w-]+)-(?P<index>[0-9]{5,})-of-(?P<count>[0-9]{5,})\.tfrecord")
MUCH_IGNORED = 0.5
"""From this share of ignored pixels on, a split is doubtful."""
NAMED_CLASSES = 8
"""The most absent classes to name; a set may have two hundred."""


def shard_name(split: str, index: int, count: int) -> str:
    """The file name of a shard. All of a split have the same length, so their order is that of their numbers."""
    digits = max(5, len(str(count)))
    return f"{split}-{index:0{digits}d}-of-{count:0{digits}d}.tfrecord"


def shuffle_hash(seed: int, key: str, copy: int) -> int:
    """A 64-bit hash that determines the shard and the order of a record; the same on every machine."""
    return int.from_bytes(hashlib.md5(f"{seed}/{copy}/{key}".encode()).digest()[:8], "big")


def open_shard(folder: str, name: str) -> BinaryIO:
    """The shard `name` in `folder` (local or gs://), open for reading from its first byte.

    Raises:
      OSError: it is missing (FileNotFoundError) or cannot be read.
    """
    return storage.reader(storage.join(folder, name))


@dataclasses.dataclass(frozen=True)
class Shard:
    """The contents of one shard.

    Attributes:
      name, split: file name and split.
      records, images: examples, and how many of them are no copies, but source images or tiles of them.
      bytes, crc32c: size of the file and CRC-32C of all its bytes.
      fingerprint: the fingerprint of the options and inputs it was made from.
      class_pixels: label pixels of every class, in palette order.
      ignored_pixels: label pixels of ignore_id.
      min_size, max_size: smallest and largest (height, width) of its images, each side by itself.
    """

    name: str
    split: str
    records: int
    images: int
    bytes: int
    crc32c: int
    fingerprint: str
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    min_size: tuple[int, int]
    max_size: tuple[int, int]

    @staticmethod
    def from_json(value: dict[str, Any]) -> Shard:
        """The inverse of dataclasses.asdict, and of its JSON. Raises TypeError for another object."""
        if not isinstance(value, dict):
            raise TypeError(f"a shard is a JSON object, got {value!r}")
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        # Version 1 calls the images pictures.
        shard = Shard(**{"images" if name == "pictures" else name: v for name, v in values.items()})
        shard._check()
        return shard

    def _check(self) -> None:
        """Raises TypeError if a value has the wrong type."""
        texts, numbers = (self.name, self.split, self.fingerprint), (self.records, self.images, self.bytes)
        rows = (self.class_pixels, self.min_size, self.max_size)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(row, tuple) for row in rows):
            raise TypeError("a shard has a name, a split, a fingerprint, sizes and pixels of every class")
        counts = [*numbers, self.crc32c, self.ignored_pixels, *self.class_pixels, *self.min_size, *self.max_size]
        wrong = [count for count in counts if type(count) is not int or not 0 <= count < 1 << 63]
        if wrong or self.images > self.records or len(self.min_size) != 2 or len(self.max_size) != 2:
            raise TypeError(f"counts of {self.name!r}: {repr(wrong[0])[:40] if wrong else 'more images than records'}")


@dataclasses.dataclass
class Sums:
    """The statistics of a shard, added up record by record."""

    records: int = 0
    originals: int = 0
    size: int = 0
    crc: int = 0
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    min_size: tuple[int, int] = (0, 0)
    max_size: tuple[int, int] = (0, 0)

    def add(self, framed: bytes, size: tuple[int, int], pixels: np.ndarray, copy: int) -> None:
        """Adds a record.

        Args:
          framed: the record's bytes in the shard.
          size: (height, width) of image and label, in pixels.
          pixels: the number of label pixels of every id, int64 [256].
          copy: 0 for a source image.
        """
        self.count(size, pixels, copy)
        self.append(framed)

    def count(self, size: tuple[int, int], pixels: np.ndarray, copy: int) -> None:
        """Adds a record but for its bytes, in any order; arguments as in `add`."""
        sizes = [size, *([self.min_size, self.max_size] if self.records else [])]
        self.min_size, self.max_size = (tuple(map(pick, zip(*sizes, strict=True))) for pick in (min, max))
        self.records += 1
        self.originals += copy == 0
        self.pixels += pixels

    def append(self, framed: bytes) -> None:
        """Adds the bytes of a record, in the order of the shard."""
        self.size += len(framed)
        self.crc = google_crc32c.extend(self.crc, framed)

    def shard(self, name: str, split: str, fingerprint: str, palette: Palette) -> Shard:
        return Shard(
            name=name,
            split=split,
            records=self.records,
            images=self.originals,
            bytes=self.size,
            crc32c=self.crc,
            fingerprint=fingerprint,
            class_pixels=tuple(self.pixels[: palette.num_classes].tolist()),
            ignored_pixels=int(self.pixels[palette.ignore_id]),
            min_size=self.min_size,
            max_size=self.max_size,
        )


def fingerprint_of(shards: Iterable[Shard]) -> str:
    """The MD5 of the contents of shards, in order of their names."""
    return hashlib.md5(json.dumps([[shard.name, shard.crc32c] for shard in shards]).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of records, as its dataset.json describes it.

    Attributes:
      palette: classes, colours and ignore_id of every label.
      shards: in order of name.
      options: the options of the `prepare` that made it.
      fingerprint: a digest of the shards' contents only; the same data has the same fingerprint everywhere.
      max_side: bound on the images' longest side in pixels, 0 for none.
      rejected: records that could not be made.
      edited: the digest stated in dataset.json if it does not match, because the file has been edited since it was
        written; else "", also for files of versions up to 0.6, which state none.
    """

    palette: Palette
    shards: tuple[Shard, ...]
    options: dict[str, Any]
    fingerprint: str
    max_side: int = 0
    rejected: int = 0
    edited: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted({shard.split for shard in self.shards}))

    def of_split(self, split: str) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.split == split)

    def count(self, split: str) -> int:
        """The number of records in `split`."""
        return sum(shard.records for shard in self.of_split(split))

    def images(self, split: str) -> int:
        """The number of source images or tiles in `split`: records that are not augmented copies."""
        return sum(shard.images for shard in self.of_split(split))

    def pixels(self, split: str) -> tuple[tuple[int, ...], int]:
        """The label pixels of every class in `split`, in palette order, and the ignored ones."""
        shards = self.of_split(split)
        none = (0,) * self.palette.num_classes
        counts = zip(none, *(shard.class_pixels for shard in shards), strict=True)
        return tuple(map(sum, counts)), sum(shard.ignored_pixels for shard in shards)

    def doubts(self, split: str) -> list[str]:
        """Reasons, in words, to doubt that the labels of `split` are right."""
        counts, ignored = self.pixels(split)
        used = sum(counts)
        absent = [name for name, count in zip(self.palette.names, counts, strict=True) if not count]
        if not used:  # neither has a split without shards
            return [f"{split}: every pixel of its labels is ignored (id {self.palette.ignore_id})"] * (ignored > 0)
        doubts = []
        if absent:
            have = "has" if len(absent) == 1 else "have"
            doubts.append(
                f"{split}: {len(absent)} of {len(counts)} classes {have} no pixel in its labels: "
                f"{some_and_more(absent, NAMED_CLASSES)}"
            )
        if used in counts:
            name = self.palette.names[counts.index(used)]
            doubts.append(
                f"{split}: every pixel that is not ignored is of the class {name}; nothing else can be learnt"
            )
        if ignored > MUCH_IGNORED * (used + ignored):
            share = ignored / (used + ignored)
            doubts.append(f"{split}: {percent(share, 1)}% of the pixels are ignored (id {self.palette.ignore_id})")
        return doubts

    def shard_paths(self, folder: str, split: str) -> list[str]:
        return [storage.join(folder, shard.name) for shard in self.of_split(split)]


class NewerDataset(InputError):
    """A later version of this program wrote the dataset.json."""


def save_dataset(folder: str, dataset: Dataset) -> None:
    """Writes `folder`/dataset.json."""
    value = dataclasses.asdict(dataset) | {
        "version": DATASET_VERSION,
        "palette": dataset.palette.to_json(),
        "splits": {
            split: {"records": dataset.count(split), "images": dataset.images(split)} for split in dataset.splits
        },
    }
    value["digest"] = value.pop("edited") or _digest(json.loads(json.dumps(value)))
    storage.write_json(storage.join(folder, DATASET_FILE), value)


def _digest(value: dict[str, Any]) -> str:
    """The MD5 of the contents of a dataset.json without this digest."""
    rest = {name: part for name, part in value.items() if name != "digest"}
    return hashlib.md5(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def maker(folder: str) -> str:
    """The command that wrote the records in `folder`, for messages; both that may have, if there is no WORK_AREA."""
    is_prepared = False
    with contextlib.suppress(OSError):
        is_prepared = storage.is_dir(storage.join(folder, WORK_AREA))
    return "`deeplab prepare`" if is_prepared else "`deeplab records reshard` or `deeplab prepare`"


def _cure(folder: str) -> str:
    """The cure of a damaged dataset.json."""
    command = maker(folder)
    if "reshard" in command:  # which leaves no other description of its shards, so it would take them for others
        return f"empty the folder, and run the same {command} again"
    return f"remove it, and run the same {command} again, which keeps the shards"


def load_dataset(folder: str) -> Dataset:
    """Reads `folder`/dataset.json. Raises InputError if it is missing or damaged."""
    path = storage.join(folder, DATASET_FILE)
    try:
        value = storage.read_json(path)
    except (InputError, OSError) as error:
        if storage.exists(path):
            raise InputError(f"{error}; {_cure(folder)}") if isinstance(error, InputError) else error from None
        if owner := leases.writer(folder):
            raise InputError(f"{owner}, and its {DATASET_FILE} is not there yet; {leases.ONCE_ENDED}") from None
        found = storage.absence(folder, f"holds no records: {DATASET_FILE} is missing")
        missing = f"{folder} {found}; make it with `deeplab prepare`"
        raise InputError(missing) from None
    try:
        version = value["version"]
        dataset = _dataset(value) if version in READ_VERSIONS else None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); {_cure(folder)}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if dataset is None:
        known = " and ".join(map(str, READ_VERSIONS))
        kind = NewerDataset if type(version) is int and version > DATASET_VERSION else InputError
        raise kind(f"{path} has version {version}, this program reads {known}; update the program")
    return dataset


def check_split(folder: str, dataset: Dataset, split: str) -> None:
    """Raises InputError if the data set in `folder` has no records of a split that a training reads."""
    if not dataset.count(split):
        raise InputError(
            f"{folder} has no records of split {split!r}, only of {', '.join(dataset.splits) or 'none'}; "
            "prepare it again from a set with train and val images"
            f"{', or with a larger --val-fraction' if split == 'val' else ''}"
        )


def check_shards(folder: str, dataset: Dataset) -> None:
    """Raises InputError if shards in `folder` are missing, or their sizes differ from its dataset.json."""
    sizes = {file.relative: file.size for file in storage.files(folder, within=())}
    bad = [shard.name for shard in dataset.shards if sizes.get(shard.name) != shard.bytes]
    if bad:
        raise InputError(
            f"{folder}: {len(bad)} of {len(dataset.shards)} shards are missing or of another size than {DATASET_FILE} "
            f"says, such as {bad[0]}; run the same {maker(folder)} again"
        )


def _dataset(value: dict[str, Any]) -> Dataset:
    """The data set of a dataset.json of a known version. Raises TypeError or KeyError if it is damaged."""
    palette, options, names = Palette.from_json(value["palette"]), value["options"], set()
    shards = tuple(map(Shard.from_json, value["shards"]))
    for shard in shards:
        parts = SHARD_PATTERN.fullmatch(shard.name)
        if not parts:
            raise InputError(f"names a shard {shard.name!r}, expected SPLIT-00000-of-00000.tfrecord")
        if shard.name in names or parts["split"] != shard.split or len(shard.class_pixels) != palette.num_classes:
            raise TypeError(f"{shard.name} appears twice, in split {shard.split!r}, or with pixels of other classes")
        names.add(shard.name)
    numbers = value["max_side"], value["rejected"]
    if not shards or any(type(number) is not int or number < 0 for number in numbers) or numbers[0] > MAX_PIXELS:
        raise TypeError(f"{len(shards)} shards, max_side and rejected {numbers}")
    texts = (
        value["fingerprint"],
        value.get("digest", ""),
        *(options.get(name) or "" for name in ("input", "layout", "label_coding")),
    )
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("its options, its fingerprint or its digest")
    edited = value["digest"] if value.get("digest", "") not in ("", _digest(value)) else ""
    return Dataset(palette, shards, options, value["fingerprint"], *numbers, edited)


def check_unchanged(folder: str, dataset: Dataset) -> None:
    """Raises InputError if the dataset.json in `folder` is not `dataset`.

    `prepare` removes it before it changes shards; `records repair`, which replaces damaged ones, writes it after them.
    """
    try:
        now = load_dataset(folder)
    except InputError:
        now = None
    if now is None or (now.fingerprint, now.shards, now.palette) != (
        dataset.fingerprint,
        dataset.shards,
        dataset.palette,
    ):
        raise InputError(
            f"the records in {folder} were changed by another command since this one began: it read another "
            f"{DATASET_FILE} then; run the same command again once that has ended"
        )


@contextlib.contextmanager
def unchanged(folder: str, dataset: Dataset) -> Iterator[None]:
    """Raises InputError if another command changes the records while the block reads them.

    It does so in place of an error of the block: what that found wrong may be due to the other command. While one is
    still at work, as `records repair` on shards that dataset.json describes later, the error names it.
    """
    try:
        yield
    except Exception as error:
        check_unchanged(folder, dataset)
        is_due = isinstance(error, (OSError, ValueError)) and leases.ONCE_ENDED not in str(error)
        if is_due and (owner := leases.writer(folder)):
            is_of_file = isinstance(error, OSError) and error.filename and error.strerror
            fault = f"{error.filename}: {error.strerror}" if is_of_file else error
            raise InputError(f"{fault}; meanwhile {owner}: {leases.ONCE_ENDED}") from None
        raise
    check_unchanged(folder, dataset)
