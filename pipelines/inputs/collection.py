"""What `segment` works on: the images of a folder, a glob or a list, and the name that each mask gets."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from dataclasses import dataclass

from pipelines.inputs.lists import entry_path, is_list, read_rows
from trainer import storage
from trainer.formats.images import SUFFIXES
from trainer.options import InputError

RESERVED = ("overlays", "confidence")
"""Folders of the output that hold no masks."""


@dataclass(frozen=True)
class SourceImage:
    """One image to segment.

    Attributes:
      path: where it is, local or gs://.
      name: relative path of its mask without ".png", with forward slashes.
      identity: of its contents, see `storage.identity`, where the listing tells it; "" otherwise.
    """

    path: str
    name: str
    identity: str = ""


@dataclass(frozen=True)
class Listing:
    """The images of a collection.

    Attributes:
      images: in order of name.
      unusable: pairs (path, reason) of the images whose masks cannot be written, because their paths are unsafe,
        reserved or taken.
      notes: sentences on what was left out because it is no image.
    """

    images: tuple[SourceImage, ...]
    unusable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def find(source: str, output: str = "") -> Listing:
    """Lists the images of `source`.

    Args:
      source: a folder (searched recursively), an image, a glob, or a list: a .txt file with one path per line, or
        a .csv or .jsonl file with a column `image`. Paths in a list are relative to the list's folder.
      output: folder of the masks; what lies in it is not an input.

    Masks are named by the image's path below the folder, below the fixed part of the glob, or below the folder that
    all images of a list share. Where two images differ in their suffix only, both keep it in the name.

    Raises:
      InputError: `source` is missing, cannot be read, or has no images.
    """
    if any(character in source for character in "*?["):
        files, kind = storage.glob(source), "glob"
    elif storage.is_dir(source):
        if not storage.is_remote(source) and os.path.realpath(source) == os.path.realpath(output or "/"):
            raise InputError(f"input and output are the same folder, {source}; masks would replace images")
        files, kind = storage.files(source), "folder"
    elif not storage.exists(source):
        raise InputError(f"{source} does not exist; expected a folder, a glob, an image or a list")
    elif is_list(source):
        files, kind = _from_list(source), "list"
    else:
        files, kind = [_file(source, posixpath.basename(_posix(source)))], "image"
    inside = _posix(storage.absolute(output) if output else "").rstrip("/") + "/"
    outside = [f for f in files if not output or not _posix(storage.absolute(f.path)).startswith(inside)]
    # A file that was named is an image whatever its suffix; a folder or glob may well hold other files.
    chosen = [f for f in outside if kind in ("list", "image") or _is_image(f.relative)]
    notes = []
    if len(files) > len(outside):
        notes.append(f"files left out because they lie in the output folder: {len(files) - len(outside)}")
    if len(outside) > len(chosen):
        notes.append(f"files without the suffix of an image, skipped: {len(outside) - len(chosen)}")
    if not chosen:
        others = f"others, such as {files[0].relative}" if files else "no files at all"
        raise InputError(f"no images in {source} ({kind}); expected {', '.join(SUFFIXES)}, found {others}")
    images, unusable = _name(chosen)
    return Listing(tuple(images), tuple(unusable), tuple(notes))


def _is_image(relative: str) -> bool:
    return relative.lower().endswith(SUFFIXES) and not posixpath.basename(relative).startswith(".")


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


def _file(path: str, relative: str) -> storage.File:
    """A file that was named, not listed with its folder; its size is known if it is local and exists."""
    if storage.is_remote(path):
        return storage.File(path, relative, 0, 0)
    try:
        stat = os.stat(path)
    except OSError:
        return storage.File(path, relative, 0, 0)
    return storage.File(path, relative, stat.st_size, stat.st_mtime_ns)


def _from_list(source: str) -> list[storage.File]:
    folder = posixpath.dirname(_posix(storage.absolute(source)))
    paths: dict[str, None] = {}
    for row in read_rows(source):
        image = row.values.get("image")
        if row.fault or not isinstance(image, str) or not image.strip():
            fault = row.fault or f"expected an image, got {dict(row.values)}"
            raise InputError(f"{source} line {row.line}: {fault}; correct or remove the line")
        paths[_posix(entry_path(folder, image.strip()))] = None
    folders = {posixpath.dirname(path) for path in paths}
    try:
        shared = posixpath.commonpath(folders) if folders else ""
    except ValueError:
        raise InputError(f"{source} lists local files and gs:// objects; expected one kind") from None
    if any(map(storage.is_remote, paths)):
        shared = storage.SCHEME + shared.partition(":/")[2].lstrip("/")
    return [_file(path, path[len(shared) :].lstrip("/")) for path in paths]


def _name(files: list[storage.File]) -> tuple[list[SourceImage], list[tuple[str, str]]]:
    """Gives every file its mask's name; the second list says which files have none, and why."""
    stems = Counter(posixpath.splitext(file.relative)[0] for file in files)
    images: dict[str, SourceImage] = {}
    unusable = []
    for file in sorted(files, key=lambda file: file.relative):
        stem = posixpath.splitext(file.relative)[0]
        name = stem if stems[stem] == 1 else file.relative
        try:
            storage.safe_relative(name)
        except InputError as error:
            unusable.append((file.path, str(error)))
            continue
        if name.split("/")[0] in RESERVED and "/" in name:
            unusable.append(
                (
                    file.path,
                    f"its mask would lie in {name.split('/')[0]}/, which is reserved; rename the image's folder",
                )
            )
        elif name in images:
            unusable.append((file.path, f"its mask would overwrite that of {images[name].path}; rename one"))
        else:
            images[name] = SourceImage(file.path, name, file.identity)
    return sorted(images.values(), key=lambda source: source.name), unusable
