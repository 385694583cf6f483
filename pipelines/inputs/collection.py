"""The images that `segment` processes, from a folder, a glob or a list.

There may be a hundred million of them: they are named in three passes over rows that are sorted on disk.
"""

from __future__ import annotations

import functools
import itertools
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from pipelines.inputs.contents import Contents, images_among
from pipelines.inputs.layouts import labels_beside_images
from pipelines.inputs.lists import entry_path, image_of, is_list, read_entries
from pipelines.inputs.mask_names import with_mask_names
from pipelines.inputs.rows import Row, Rows, ordered
from trainer import prefetch, storage
from trainer.formats.images import SUFFIXES
from trainer.options import InputError


class SourceImage(NamedTuple):
    """One image to segment.

    Attributes:
      path: the path of the image, local or gs://.
      name: relative path of its mask without ".png", with forward slashes.
      identity: the identity of its contents, see `storage.identity`, if the listing includes it; else "".
    """

    path: str
    name: str
    identity: str = ""


UNPAIRED = 0.05
"""Share of images up to which not each label need have an image, nor each image a label, where they lie together."""


class Images:
    """A sequence of images that is kept on disk."""

    def __init__(self, images: Iterable[SourceImage]) -> None:
        self._rows = Rows(map(tuple, images))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SourceImage]:
        return itertools.starmap(SourceImage, self._rows)

    def __getitem__(self, index: int) -> SourceImage:
        return SourceImage(*self._rows[index])


@dataclass(frozen=True)
class Listing:
    """The images of a collection.

    Attributes:
      images: in order of name.
      unusable: pairs (path, reason) for images whose masks cannot be written: their names are unsafe, reserved, too
        long or taken, or they are in the output folder.
      notes: sentences on files that were left out because they are not images, and on duplicates.
    """

    images: Images
    unusable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def find(source: str, output: str = "") -> Listing:
    """Lists the images of `source`.

    Args:
      source: a folder (searched recursively), an image, a glob, or a list: a .txt file with one path per line, or
        a .csv or .jsonl file with a column `image`. Paths in a list are relative to the list's folder. A path that
        exists is never taken for a glob, whatever characters it contains.
      output: folder of the masks; files in it, also through links, are not inputs.

    Masks are named after the image's path relative to the folder, to the fixed part of the glob, or to the folder that
    all images of a list share. If two images differ only in their suffix, both keep it in the name.

    Raises:
      InputError: `source` is missing, cannot be read, has no images, lies in the output folder, or is a folder that
        holds labels of a raw set among or beside its images, which would be segmented too.
    """
    try:
        files, kind, notes = _listed(source)
        contents = Contents()
        rows = ordered(images_among(files, kind, output, contents))
    except OSError as error:
        place = error.filename or source
        raise InputError(f"{place} cannot be read: {error.strerror or error}; fix that or leave it out") from None
    if kind == "folder" and output and storage.lies_in(source, output) and storage.lies_in(output, source):
        raise InputError(f"input and output are the same folder, {source}; masks would replace images")
    if contents.inside and not contents.images and not contents.others:
        raise InputError(f"{source} lies in the output folder {output}; choose another folder for the masks")
    if not contents.images:
        others = f"others, such as {contents.first}" if contents.first else "no files at all"
        raise InputError(f"no images in {source} ({kind}); expected {', '.join(SUFFIXES)}, found {others}")
    if kind == "folder":
        _check_no_labels(source, contents)
    unusable: list[tuple[str, str]] = []
    images = Images(itertools.starmap(SourceImage, with_mask_names(rows, contents.folders, output, unusable)))
    reason = "it lies in the output folder; choose another one for the masks"
    unusable += [(path, reason) for path in contents.inside_paths]
    return Listing(images, tuple(unusable), (*notes, *contents.notes()))


def _check_no_labels(source: str, contents: Contents) -> None:
    below = storage.join(source, "")
    folders = (folder[len(below) :] for folder in contents.folders if folder.startswith(below))
    pair = labels_beside_images(folders)
    if pair:
        labels, images = (storage.join(source, name) for name in pair)
        raise InputError(
            f"{labels} has the labels of the images in {images}, and would be segmented like these; give {images} as "
            f"--input, or a pattern such as '{below}**' for everything"
        )
    if abs(contents.images - 2 * contents.labels) <= contents.images * UNPAIRED:
        raise InputError(
            f"half of the {contents.images:,} images in {source} are named like labels of the others, such as "
            f"{contents.first_label}, and would be segmented like these; give a pattern that only images match, such "
            f"as '{below}**/*.jpg', or '{below}**' for everything"
        )


def _listed(source: str) -> tuple[Iterable[storage.File], str, list[str]]:
    """The files that `source` stands for, its kind ("folder", "glob", "image" or "list"), and notes on it."""
    is_folder = prefetch.ahead(source, functools.partial(storage.is_dir, source))
    if storage.exists(source):  # first, for who may read objects need not be allowed to list them
        if is_list(source):
            files, notes = _from_list(source)
            return files, "list", notes
        return [_file(source, posixpath.basename(source))], "image", []
    if is_folder():
        return storage.walk(source), "folder", []
    if storage.is_pattern(source):
        return _once(storage.matching(source)), "glob", []
    found = storage.absence(source, "does not exist")
    raise InputError(f"{source} {found}; expected a folder, a glob, an image or a list")


def _once(files: Iterable[storage.File]) -> Iterator[storage.File]:
    """The files in order of their relative paths, each once, even if a pattern matches it in two ways."""
    rows = ordered((file.relative, file.path, file.size, file.modified, file.identity) for file in files)
    for relative, group in itertools.groupby(rows, itemgetter(0)):
        path, size, modified, identity = next(group)[1:]
        yield storage.File(path, relative, size, modified, identity)


def _file(path: str, relative: str) -> storage.File:
    """A file that was named explicitly rather than listed, so that only its path is known."""
    return storage.File(path, relative, 0, 0)


def _from_list(source: str) -> tuple[Iterable[storage.File], list[str]]:
    """The files of a list, each once, and a note on duplicates."""
    once, lines, shared, kinds = Rows(), 0, None, set()

    def paths() -> Iterator[Row]:
        nonlocal lines, shared
        folder = posixpath.dirname(storage.absolute(source))
        for entry in read_entries(source):
            path = entry_path(folder, image_of(source, entry))
            shared = _shared(shared, path)
            kinds.add(storage.is_remote(path))
            lines += 1
            yield (path,)

    once.extend(path for path, _ in itertools.groupby(ordered(paths())))
    if len(kinds) == 2:
        raise InputError(f"{source} lists local files and gs:// objects; expected one kind")
    again = lines - len(once)
    notes = [f"entries of {source} that repeat an image: {again}"] if again else []
    return (_file(path, path[len(shared or "") :]) for (path,) in once), notes


def _shared(folder: str | None, path: str) -> str:
    """The deepest folder, with a slash, that holds both `path` and `folder`; the folder of `path` if that is None."""
    own = path[: path.rfind("/") + 1]
    if folder is None or own.startswith(folder):
        return own if folder is None else folder
    ends = zip(folder.split("/")[:-1], own.split("/")[:-1], strict=False)
    return "".join(f"{part}/" for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
