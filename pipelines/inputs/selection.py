"""Which images of a set a command takes: those in a split of records, or those that a list names.

Images are told by their names, which are paths below folders that the names do not tell: records know that an image
is `images/val/a.jpg` in its set, and a list may say `val/a` or `a`. A file bears a name if its whole path, with or
without the suffix, ends in the name, folder by folder. So it does not matter whether a command is given the set's
folder, that of all images or labels, or that of one split: `labels/val/a.png` is `val/a` in each, and never `train/a`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.inputs.lists import entry_path, is_list, read_rows
from pipelines.inputs.names import BLANKS, composed, name_of, spellings, split_named
from trainer import storage
from trainer.formats.dataset import Shard, load_dataset, open_shard
from trainer.formats.examples import decode
from trainer.formats.frames import CorruptRecord, scan_frames
from trainer.options import InputError

DEFAULT_SPLIT = "val"


@dataclass(frozen=True)
class Choice:
    """What a selection takes of some files.

    Attributes:
      paths: of the files that are taken, as they were given.
      missing: pairs (name, reason) of the selected images that no file could be found for.
      note: one human-readable sentence.
    """

    paths: frozenset[str]
    missing: tuple[tuple[str, str], ...]
    note: str


Reading = tuple[tuple[str, ...], ...]
"""The spellings of every image's name, best first."""


@dataclass(frozen=True)
class _Hit:
    """A file that bears a name: which file and image, how well (lower is better), and the folder the name is below."""

    path: str
    image: int
    rank: tuple[int, int]
    base: str


@dataclass(frozen=True)
class Selection:
    """The images that are to be taken.

    Attributes:
      source: where they are from, human-readable.
      names: of the images, one each.
      readings: ways to read the names, one of which fits.
      fallback: one more, for where none of these does; empty where there is none.
    """

    source: str
    names: tuple[str, ...]
    readings: tuple[Reading, ...]
    fallback: Reading = ()

    def choose(self, paths: Sequence[str]) -> Choice:
        """The files among `paths` (local or gs://) that bear the names.

        Raises:
          InputError: no file bears any, or files in several folders bear them alike.
        """
        for readings in (self.readings, (self.fallback,)):
            # A folder may be a link to the one whose name tells the split.
            for resolve in (storage.absolute, storage.real):
                addresses = [_posix(resolve(path)) for path in paths]
                best = max((_hits(reading, paths, addresses) for reading in readings), key=_images_of)
                if best:
                    return self._choice(best, paths)
        found = f"the first of {len(paths)} files is {min(paths)}" if paths else "there are no files"
        raise InputError(
            f"no file has the name of one of the {len(self.names)} images of {self.source}: the first of them is "
            f"{min(self.names)}, {found}; names count with their folders, so that no other split passes for this one"
        )

    def _choice(self, hits: list[_Hit], paths: Sequence[str]) -> Choice:
        images_of: dict[str, set[int]] = {}
        for hit in hits:
            images_of.setdefault(hit.base, set()).add(hit.image)
        # Names of files that lie outside of their set are whole paths, below "".
        bases = images_of.keys() - {""}
        most = max((len(images_of[base]) for base in bases), default=0)
        # What lies deeper has another name below the folder that the names are relative to.
        first, *others = sorted((base for base in bases if len(images_of[base]) == most), key=_depth) or [""]
        if other := next((base for base in others if not base.startswith(f"{first}/")), None):
            alike = " as well as ".join(min(hit.path for hit in hits if hit.base == base) for base in (first, other))
            raise InputError(
                f"{self.source}: files in several folders have the names of its images, {alike}; "
                "give the one folder that is meant, or whole paths in the list"
            )
        inside = {"", first}
        files: dict[int, list[_Hit]] = {}
        elsewhere: dict[int, str] = {}
        for hit in hits:
            if hit.base in inside:
                files.setdefault(hit.image, []).append(hit)
            else:
                elsewhere.setdefault(hit.image, hit.path)
        missing, chosen = [], set()
        for image, name in enumerate(self.names):
            rank = min((hit.rank for hit in files.get(image, [])), default=None)
            best = [hit.path for hit in files.get(image, []) if hit.rank == rank]
            if len(best) == 1:
                chosen.add(best[0])
            elif best:
                alike = " and ".join(sorted(posixpath.basename(_posix(path)) for path in best))
                missing.append((name, f"{self.source} may mean {alike}; keep one of them"))
            else:
                other = f"; {elsewhere[image]} lies in another folder" if image in elsewhere else ""
                missing.append((name, f"named by {self.source}, but there is no file of that name{other}"))
        note = f"selection: {len(chosen)} of {len(paths)} files, by {self.source}"
        if missing:
            note += f"; {len(missing)} of its {len(self.names)} images have no file, such as {missing[0][0]}"
        return Choice(frozenset(chosen), tuple(missing), note)


def _images_of(hits: list[_Hit]) -> int:
    """How many images there are files for."""
    return len({hit.image for hit in hits})


def _depth(base: str) -> tuple[int, str]:
    return base.count("/"), base


def load(records: str, split: str, list_file: str) -> Selection | None:
    """The selection that the flags --records, --split and --list ask for; None without the first and the last.

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
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda shard: _images(folder, shard), dataset.of_split(split))
        images = sorted({image for part in parts for image in part})
    names = tuple(key for key, _ in images)
    by_key = tuple((key,) for key in names)
    # File names in the set are more exact than keys: images/a.jpg is not labels/a.png.
    by_filename = tuple((filename, name_of(filename)) for _, filename in images)
    readings = [by_filename, by_key] if len(set(by_filename)) == len(names) else [by_key]
    return Selection(f"split {split} of {folder}", names, tuple(readings), _without_shared_folder(by_key))


def _images(folder: str, shard: Shard) -> list[tuple[str, str]]:
    """(key, file name) of every source image in a shard. Raises InputError when it is missing or damaged."""
    advice = f"`deeplab records verify {folder}` lists all faults"
    images, count = [], 0
    try:
        with open_shard(folder, shard.name) as file:
            for frame in scan_frames(file):
                if isinstance(frame, CorruptRecord):
                    raise InputError(f"{shard.name}: {frame}; {advice}")
                record = decode(frame.data)
                count += 1
                if not record.copy:
                    images.append((record.key, record.filename))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"shard {shard.name} in {folder} cannot be read: {reason}; {advice}") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{shard.name} in {folder}: {error}; {advice}") from None
    if count != shard.records:
        found = f"has {count} records, but dataset.json says {shard.records}"
        raise InputError(f"{shard.name} in {folder} {found}; {advice}")
    if len(images) != shard.images:
        raise InputError(f"{shard.name} in {folder} holds {len(images)} images, expected {shard.images}; {advice}")
    return images


def _of_list(path: str, split: str) -> Selection:
    if not is_list(path):
        raise InputError(f"--list {path}: expected a .txt, .csv or .jsonl file")
    folder = posixpath.dirname(_posix(storage.absolute(path)))
    entries: dict[str, None] = {}
    splits: set[str] = set()
    try:
        for row in read_rows(path):
            image = row.values.get("image")
            if row.fault or not isinstance(image, str) or not image.strip(BLANKS):
                fault = row.fault or f"expected an image, got {dict(row.values)}"
                raise InputError(f"{path} line {row.line}: {fault}; correct or remove the line")
            its_split = str(row.values.get("split") or "").strip()
            splits.add(split_named(its_split) or its_split)
            if not split or (split_named(its_split) or its_split) == (split_named(split) or split):
                entries[image.strip(BLANKS)] = None
    except OSError as error:
        raise InputError(f"--list {path} cannot be read: {error}") from None
    if not entries:
        known = ", ".join(sorted(splits - {""})) or "none"
        raise InputError(f"--list {path} names no image{f' of split {split}; its splits: {known}' if split else ''}")
    names = tuple(entries)
    reading = tuple(_spelled(folder, name) for name in names)
    return Selection(f"list {path}", names, (reading,), _without_shared_folder(reading))


def _spelled(folder: str, entry: str) -> tuple[str, ...]:
    """The names that an entry of a list in `folder` may mean, best first; paths that leave the folder are whole."""
    spelled = []
    for name in spellings(entry):
        whole = storage.is_remote(name) or ".." in name.split("/")
        path = _posix(entry_path(folder, name)) if whole else posixpath.normpath(name)
        spelled.append(_bare(path))
    return tuple(dict.fromkeys(spelled))


def _without_shared_folder(reading: Reading) -> Reading:
    """Another reading, where all images share a folder that labels need not lie in; empty where they share none."""
    shared = posixpath.commonpath([posixpath.dirname(spelled[-1]) for spelled in reading]).split("/")
    while split_named(shared[-1]):
        shared.pop()
        if not shared:
            return ()
    prefix = "/".join(shared) + "/"
    return () if prefix == "/" else tuple(tuple(name.removeprefix(prefix) for name in names) for names in reading)


def _hits(reading: Sequence[Sequence[str]], paths: Iterable[str], addresses: Iterable[str]) -> list[_Hit]:
    """Every file that bears a name; the longest where there are several."""
    index: dict[str, list[tuple[int, int]]] = {}
    for image, spelled in enumerate(reading):
        for rank, name in enumerate(spelled):
            for form in {name, composed(name)}:
                index.setdefault(form, []).append((rank, image))
    depth = max((name.count("/") + 1 for name in index), default=0)
    hits = []
    for path, address in zip(paths, addresses, strict=True):
        for form, parts in enumerate(_forms(address)):
            starts = range(max(0, len(parts) - depth), len(parts))
            found = next((start for start in starts if _look_up(index, "/".join(parts[start:]))), None)
            if found is not None:
                base, below = "/".join(parts[:found]), "/".join(parts[found:])
                hits += [_Hit(path, image, (form, rank), base) for rank, image in _look_up(index, below)]
                break
    return hits


def _look_up(index: dict[str, list[tuple[int, int]]], below: str) -> list[tuple[int, int]]:
    """(rank, image) of the images that a file of that path, or the path without its suffix, may be."""
    whole = [(2 * rank, image) for rank, image in index.get(below, [])]
    return whole or [(2 * rank + 1, image) for rank, image in index.get(name_of(below), [])]


def _forms(address: str) -> Iterator[list[str]]:
    """The parts of a path: as it is; as other systems write its accents; with SegNet's folders of labels as splits."""
    exact = _bare(address)
    parts = composed(exact).split("/")
    yield exact.split("/")
    if composed(exact) != exact:
        yield parts
    splits = [part.removesuffix("annot") for part in parts]
    yield [split if split_named(split) else part for split, part in zip(splits, parts, strict=True)]


def _bare(path: str) -> str:
    return path.removeprefix(storage.SCHEME).lstrip("/")


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")
