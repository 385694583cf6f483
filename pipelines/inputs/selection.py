"""Which images of a set a command takes: those in a split of records, or those that a list names.

Images are identified by names, which are paths relative to an unknown folder: records know that an image is
`images/val/a.jpg` in its set, and a list may contain `val/a` or `a`. A file matches a name if its whole path, with or
without the suffix, ends in the name, folder by folder. So a command may be given the set's folder, the folder of all
images or labels, or that of one split: `labels/val/a.png` matches `val/a` in each case, and never `train/a`.
"""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from pipelines.inputs import hits
from pipelines.inputs.lists import entry_path, image_of, is_list, read_entries
from pipelines.inputs.names import BLANKS, name_of, spellings, split_named
from pipelines.inputs.rows import Row, Rows, ordered
from trainer import storage
from trainer.formats import tiles
from trainer.formats.dataset import Shard, load_dataset, unchanged
from trainer.formats.records import read_records
from trainer.options import InputError

DEFAULT_SPLIT = "val"


class NoneNamed(InputError):
    """No file has the name of a selected image."""


@dataclass(frozen=True)
class Choice:
    """The files that a selection takes.

    Attributes:
      taken: bool [files], whether each file is taken, in the order given.
      missing: pairs (name, reason) for selected images without a file.
      note: one human-readable sentence.
    """

    taken: np.ndarray
    missing: tuple[tuple[str, str], ...]
    note: str


@dataclass(frozen=True)
class Selection:
    """The images to take.

    Attributes:
      source: where the selection comes from, human-readable.
      names: one row per image, with its name.
      readings: alternative readings of the names, one of which fits: rows with the spellings of every image's name,
        best first.
      is_list: whether people wrote the names, who may name an image twice: as a path, and by its end.
    """

    source: str
    names: Rows
    readings: tuple[Rows, ...]
    is_list: bool = False

    def choose(self, paths: Collection[str]) -> Choice:
        """Chooses the files among `paths` (local or gs://) that match the names.

        Args:
          paths: iterated over several times.

        Raises:
          NoneNamed: no file matches a name.
          InputError: every name fits several files, or files in several folders match equally
            well.
        """
        for readings in (lambda: self.readings, self._without_shared_folder):
            # A folder may be a link to one that is named after the split.
            for resolve in (storage.absolute, storage.real):
                candidates = [hits.find(reading, (_posix(resolve(path)) for path in paths)) for reading in readings()]
                best = max(candidates, key=lambda one: one.images, default=None)
                if best and best.images:
                    return self._choice(best, paths)
        files = f"the first of {len(paths)} files is {min(paths)}" if paths else "there are no files"
        (name,) = min(self.names)
        raise NoneNamed(
            f"no file has the name of one of the {len(self.names)} images of {self.source}: the first of them is "
            f"{name}, {files}; names count with their folders, so that no other split is mistaken for this one"
        )

    def _without_shared_folder(self) -> tuple[Rows, ...]:
        """A further reading, without the folder that all images share; () if there is none."""
        reading = self.readings[-1]
        prefix = _shared_folder(reading)
        return (Rows(tuple(name.removeprefix(prefix) for name in row) for row in reading),) if prefix else ()

    def _choice(self, found: hits.Hits, paths: Collection[str]) -> Choice:
        rows, first = found.rows, self._folder(found.rows, paths)
        taken, missing, repeated = np.zeros(len(paths), bool), [], 0
        groups = itertools.groupby(ordered(_of_images(rows, {"", first})), itemgetter(0))
        following = next(groups, None)
        for image, (name,) in enumerate(self.names):
            best: list[int] = []
            elsewhere = None
            if following and following[0] == image:
                best, elsewhere = _best(following[1])
                following = next(groups, None)
            if len(best) == 1:
                taken[best[0]] = True
            elif self.is_list and not best and found.is_shorter[image]:
                repeated += 1
            else:
                missing.append((name, best, elsewhere))
        reasons = self._reasons(missing, paths)
        if not taken.any():
            raise InputError(f"{self.source} selects no file: {reasons[0][0]}: {reasons[0][1]}")
        note = f"selection: {int(taken.sum())} of {len(paths)} files, by {self.source}"
        if repeated:
            note += f"; {repeated} of its {len(self.names)} entries name an image again"
        images = len(self.names) - repeated
        several = [reason for reason, (_, best, _) in zip(reasons, missing, strict=True) if best]
        absent = [reason for reason, (_, best, _) in zip(reasons, missing, strict=True) if not best]
        if absent:
            note += f"; {len(absent)} of its {images} images have no file, such as {absent[0][0]}"
        if several:
            note += f"; {len(several)} of its {images} images fit several files and are left out, such as "
            note += f"{several[0][0]}: {several[0][1]}"
        return Choice(taken, reasons, note)

    def _folder(self, rows: Rows, paths: Collection[str]) -> str:
        """The folder that the names are relative to; "" if all of them are whole paths."""
        images_of = {
            base: sum(1 for _ in itertools.groupby(group, itemgetter(1)))
            for base, group in itertools.groupby(rows, itemgetter(0))
            if base  # Names of files outside their set are whole paths, relative to "".
        }
        most = max(images_of.values(), default=0)
        # Deeper matches have another name relative to that folder.
        likely = (base for base, images in images_of.items() if images == most)
        first, *others = sorted(likely, key=lambda base: (base.count("/"), base)) or [""]
        if other := next((base for base in others if not base.startswith(f"{first}/")), None):
            alike = " as well as ".join(_first_of(base, rows, paths) for base in (first, other))
            raise InputError(
                f"{self.source}: files in several folders have the names of its images, {alike}; "
                "give one of these folders, or full paths in the list"
            )
        return first

    def _reasons(
        self, missing: list[tuple[str, list[int], int | None]], paths: Collection[str]
    ) -> tuple[tuple[str, str], ...]:
        """Pairs (name, reason) for images with no file, with several equal matches, or with one in another folder."""
        wanted = {number for _, best, other in missing for number in (*best, *(() if other is None else (other,)))}
        path_of = {number: path for number, path in enumerate(paths) if number in wanted} if wanted else {}
        reasons = []
        for name, best, other in missing:
            if best:
                alike = " and ".join(sorted(posixpath.basename(_posix(path_of[number])) for number in best))
                reasons.append((name, f"{self.source} may mean {alike}; keep one of them"))
            else:
                hint = "" if other is None else f"; {path_of[other]} lies in another folder"
                reasons.append((name, f"named by {self.source}, but there is no file of that name{hint}"))
        return tuple(reasons)


def _of_images(rows: Rows, inside: set[str]) -> Iterator[Row]:
    """Yields rows (image, is elsewhere, form, rank, file) of the matches, in the folders `inside` and elsewhere."""
    for base, image, form, rank, number in rows:
        yield (image, False, form, rank, number) if base in inside else (image, True, 0, 0, number)


def _best(group: Iterable[Row]) -> tuple[list[int], int | None]:
    """The files of an image that match its name best, and the first one elsewhere, None if there is none."""
    best, rank, elsewhere = [], None, None
    for _, is_elsewhere, *fit, number in group:
        if is_elsewhere:
            elsewhere = number if elsewhere is None else elsewhere
        elif rank in (None, fit):
            rank = fit
            best.append(number)
    return best, elsewhere


def _first_of(base: str, rows: Rows, paths: Collection[str]) -> str:
    numbers = {number for folder, *_, number in rows if folder == base}
    return min(path for number, path in enumerate(paths) if number in numbers)


def load(records: str, split: str, list_file: str) -> Selection | None:
    """The selection for the flags --records, --split and --list; None without --records and --list.

    Raises:
      InputError: records or list are missing, damaged, or name no image.
    """
    if records:
        return _of_records(records, split or DEFAULT_SPLIT)
    return _of_list(list_file, split) if list_file else None


def _of_records(folder: str, split: str) -> Selection:
    dataset = load_dataset(folder)
    if split not in dataset.splits:
        raise InputError(f"{folder} has no split {split!r}; it has {', '.join(dataset.splits)}")
    with unchanged(folder, dataset), ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda shard: _images(folder, shard, bool(dataset.options.get("tile"))), dataset.of_split(split)
        )
        images = Rows(image for image, _ in itertools.groupby(ordered(image for part in parts for image in part)))
    if not images:
        raise InputError(
            f"{folder}: its split {split} holds no image, only augmented copies; run `deeplab prepare` again, or give "
            "another --split"
        )
    names = Rows((key,) for key, _ in images)
    # File names are more exact than keys: images/a.jpg is not labels/a.png.
    by_filename = Rows((filename, name_of(filename)) for _, filename in images)
    is_exact = sum(1 for _ in itertools.groupby(ordered(by_filename))) == len(names)
    return Selection(f"split {split} of {folder}", names, (by_filename, names) if is_exact else (names,))


def _images(folder: str, shard: Shard, is_cut: bool) -> list[tuple[str, str]]:
    """(key, file name) of the source image of every record in a shard that is no copy.

    Args:
      is_cut: whether images were cut into tiles, whose records then come with the key of their image.

    Raises:
      InputError: the shard is missing or damaged.
    """
    originals = (record for _, record in read_records(folder, shard) if not record.copy)
    images = [(tiles.parts_of(one.key)[0] if is_cut else one.key, one.filename) for one in originals]
    if len(images) != shard.images:
        raise InputError(
            f"{shard.name} in {folder} holds {len(images)} images, expected {shard.images}; `deeplab records verify "
            f"{folder}` lists all faults"
        )
    return images


def _of_list(path: str, split: str) -> Selection:
    if not is_list(path):
        raise InputError(f"--list {path}: expected a .txt, .csv or .jsonl file")
    folder = posixpath.dirname(_posix(storage.absolute(path)))
    splits: set[str] = set()
    names = Rows(_once(_names(path, split, splits)))
    if not names:
        known = ", ".join(sorted(splits - {""})) or "none, for it has no column split"
        raise InputError(f"--list {path} names no image{f' of split {split}; its splits: {known}' if split else ''}")
    known = sorted(splits - {""})
    all_of_them = f" (of splits {' and '.join(known)}; --split takes one)" if not split and len(known) > 1 else ""
    return Selection(
        f"list {path}{all_of_them}", names, (Rows(_spelled(folder, name) for (name,) in names),), is_list=True
    )


def _names(path: str, split: str, splits: set[str]) -> Iterator[str]:
    """Yields the images of a list that are in `split`, all of them if it is ""; adds the list's splits to `splits`."""
    try:
        for entry in read_entries(path):
            image = image_of(path, entry)
            its_split = str(entry.values.get("split") or "").strip()
            its_split = split_named(its_split) or its_split
            splits.add(its_split)
            if not split or its_split == (split_named(split) or split):
                yield image.strip(BLANKS)
    except OSError as error:
        raise InputError(f"--list {path} cannot be read: {error}") from None


def _once(names: Iterable[str]) -> Iterator[Row]:
    """Rows with the distinct names, in the order of their first occurrence."""
    numbered = ordered((name, number) for number, name in enumerate(names))
    firsts = ordered((next(group)[1], name) for name, group in itertools.groupby(numbered, itemgetter(0)))
    return ((name,) for _, name in firsts)


def _spelled(folder: str, entry: str) -> tuple[str, ...]:
    """The names that an entry of a list in `folder` may mean, best first; whole paths if they leave the folder."""
    spelled = []
    for name in spellings(entry):
        whole = storage.is_remote(name) or ".." in name.split("/")
        path = _posix(entry_path(folder, name)) if whole else posixpath.normpath(name)
        spelled.append(hits.bare(path))
    return tuple(dict.fromkeys(spelled))


def _shared_folder(reading: Iterable[Row]) -> str:
    """The folder that all images share, with a slash, without splits at its end; "" if they share none."""
    shared = None
    for row in reading:
        folder = posixpath.dirname(row[-1])
        if folder != shared:
            shared = posixpath.commonpath([folder] if shared is None else [shared, folder])
    folders = (shared or "").split("/")
    while folders and split_named(folders[-1]):
        folders.pop()
    return "/".join([*folders, ""]) if any(folders) else ""


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")
