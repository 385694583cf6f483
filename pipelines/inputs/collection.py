"""What `segment` works on: the images of a folder, a glob or a list, and the name that each mask gets."""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.inputs.lists import entry_path, is_list, read_rows
from trainer import storage
from trainer.formats.images import SUFFIXES
from trainer.options import InputError

RESERVED = ("overlays", "confidence")
"""Folders of the output that hold no masks."""
LONGEST_NAME, LONGEST_PATH, LONGEST_OBJECT = 255, 4000, 1000
"""Bytes of a file's name, and of its path or the name of an object, with room for what is written beside it."""


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
      unusable: pairs (path, reason) of the images whose masks cannot be written, because their names are unsafe,
        reserved, too long or taken, or because they lie in the output folder.
      notes: sentences on what was left out because it is no image, and on what was named twice.
    """

    images: tuple[SourceImage, ...]
    unusable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def find(source: str, output: str = "") -> Listing:
    """Lists the images of `source`.

    Args:
      source: a folder (searched recursively), an image, a glob, or a list: a .txt file with one path per line, or
        a .csv or .jsonl file with a column `image`. Paths in a list are relative to the list's folder. What exists is
        never read as a glob, whatever characters its name has.
      output: folder of the masks; what lies in it, through links too, is not an input.

    Masks are named by the image's path below the folder, below the fixed part of the glob, or below the folder that
    all images of a list share. Where two images differ in their suffix only, both keep it in the name.

    Raises:
      InputError: `source` is missing, cannot be read, has no images, or lies in the output folder.
    """
    try:
        files, kind, notes = _listed(source)
    except OSError as error:
        place = error.filename or source
        raise InputError(f"{place} cannot be read: {error.strerror or error}; mend that or leave it out") from None
    if kind == "folder" and output and storage.lies_in(source, output) and storage.lies_in(output, source):
        raise InputError(f"input and output are the same folder, {source}; masks would replace images")
    inside = _inside(output)
    outside = [file for file in files if not inside(file.path)]
    if files and not outside:
        raise InputError(f"{source} lies in the output folder {output}; choose another folder for the masks")
    named = kind in ("list", "image")
    # A file that was named is an image whatever its suffix; a folder or glob may well hold other files.
    chosen, others = [], []
    for file in outside:
        (chosen if named or _is_image(file.relative) else others).append(file)
    if not chosen:
        found = f"others, such as {files[0].relative}" if files else "no files at all"
        raise InputError(f"no images in {source} ({kind}); expected {', '.join(SUFFIXES)}, found {found}")
    images, unusable = _name(chosen, output)
    if len(files) > len(outside) and named:
        reason = "it lies in the output folder; choose another one for the masks"
        unusable += [(file.path, reason) for file in files if inside(file.path)]
    elif len(files) > len(outside):
        notes.append(f"files left out because they lie in the output folder: {len(files) - len(outside)}")
    lost = [file.relative for file in others if not file.modified and not storage.is_remote(file.path)]
    if lost:
        notes.append(f"links that lead nowhere, FIFOs and the like, skipped: {len(lost)}, such as {lost[0]}")
    if len(others) > len(lost):
        notes.append(f"files without the suffix of an image, skipped: {len(others) - len(lost)}")
    return Listing(tuple(images), tuple(unusable), tuple(notes))


def _listed(source: str) -> tuple[list[storage.File], str, list[str]]:
    """The files that `source` stands for, what it is, and what has to be said of it."""
    if storage.exists(source):  # first, for who may read objects need not be allowed to list them
        if is_list(source):
            files, notes = _from_list(source)
            return files, "list", notes
        return [_file(source, posixpath.basename(_posix(source)))], "image", []
    if storage.is_dir(source):
        return storage.files(source), "folder", []
    if storage.is_pattern(source):
        return storage.glob(source), "glob", []
    raise InputError(f"{source} does not exist; expected a folder, a glob, an image or a list")


def _inside(output: str) -> Callable[[str], bool]:
    """Tells of a file whether it lies in the folder `output`, or is a link to one that does."""
    if not output or not (storage.is_remote(output) or storage.is_dir(output)):
        return lambda path: False
    lies_in = functools.cache(lambda folder: storage.lies_in(folder, output))

    def inside(path: str) -> bool:
        linked = not storage.is_remote(path) and os.path.islink(path)
        return lies_in(_folder(path)) or (linked and lies_in(path))

    return inside


def _is_image(relative: str) -> bool:
    return relative.lower().endswith(SUFFIXES) and not relative.rpartition("/")[2].startswith(".")


def _folder(path: str) -> str:
    """The folder of a file; "" where we are."""
    head, slash, _ = _posix(path).rpartition("/")
    return head or slash


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


def _file(path: str, relative: str) -> storage.File:
    """A file that was named, not listed with its folder; nothing but its path is known."""
    return storage.File(path, relative, 0, 0)


def _from_list(source: str) -> tuple[list[storage.File], list[str]]:
    """The files of a list, each once, and a note on those that it names several times."""
    folder = _folder(storage.absolute(source))
    paths: list[str] = []
    for row in read_rows(source):
        image = row.values.get("image")
        if row.fault or not isinstance(image, str) or not image.strip():
            fault = row.fault or f"expected an image, got {dict(row.values)}"
            raise InputError(f"{source} line {row.line}: {fault}; correct or remove the line")
        paths.append(_posix(entry_path(folder, image)))
    if len(set(map(storage.is_remote, paths))) == 2:
        raise InputError(f"{source} lists local files and gs:// objects; expected one kind")
    folders = [path.split("/")[:-1] for path in paths]
    ends = zip(min(folders, default=[]), max(folders, default=[]), strict=False)
    shared = "".join(f"{one}/" for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    once = dict.fromkeys(paths)
    again = len(paths) - len(once)
    notes = [f"entries of {source} that name an image again: {again}"] if again else []
    return [_file(path, path[len(shared) :]) for path in once], notes


def _name(files: list[storage.File], output: str) -> tuple[list[SourceImage], list[tuple[str, str]]]:
    """Gives every file its mask's name; the second list says which files have none, and why."""
    files = sorted(files, key=lambda file: file.relative)
    stems = [posixpath.splitext(file.relative)[0] for file in files]
    counts = Counter(stems)
    named = []
    unusable = []
    for stem, file in zip(stems, files, strict=True):
        try:
            named.append((storage.safe_relative(stem if counts[stem] == 1 else file.relative), file))
        except InputError as error:
            unusable.append((file.path, str(error)))
    fault = _faults([name for name, _ in named], files, output)
    fold = folded if _may_fold([name for name, _ in named], output) else str
    images: dict[str, SourceImage] = {}
    for name, file in named:
        if reason := fault(name):
            unusable.append((file.path, reason))
        elif other := images.get(fold(name)):
            case = "" if other.name == name else ", since upper and lower case are the same in the output folder"
            unusable.append((file.path, f"its mask would overwrite that of {other.path}{case}; rename one"))
        else:
            images[fold(name)] = SourceImage(file.path, name, file.identity)
    return sorted(images.values(), key=lambda source: source.name), unusable


def folded(name: str) -> str:
    """What names that a folder does not tell apart have in common."""
    return unicodedata.normalize("NFC", name).casefold()


def _may_fold(names: list[str], output: str) -> bool:
    """Whether the output folder would take some of these names for one."""
    return len(set(map(folded, names))) < len(set(names)) and storage.folds_case(output or ".")


def _faults(names: list[str], files: list[storage.File], output: str) -> Callable[[str], str]:
    """Tells why a mask of that name cannot be written, if it cannot: "" otherwise."""
    remote = storage.is_remote(output)
    length = len(os.fsencode(storage.join(storage.absolute(output), max(RESERVED, key=len), "")))
    # In Cloud Storage "a.png" and "a.png/b.png" are two names; elsewhere one is a file and the other a folder.
    folders = set() if remote else {parent for name in names for parent in _parents(name) if parent.endswith(".png")}
    sources = {storage.real(folder) for folder in {_folder(file.path) for file in files}}

    @functools.cache
    def misled(folder: str) -> str:
        place = storage.real(storage.join(output, folder))
        return place if place in sources else ""

    def fault(name: str) -> str:
        top, _, below = name.partition("/")
        if below and (top in RESERVED or (top.casefold() in RESERVED and storage.folds_case(output))):
            return f"its mask would lie in {top}/, which is reserved; rename the image's folder"
        if f"{name}.png" in folders:
            return f"its mask would be called {name}.png, like a folder of other masks; rename the image"
        if too_long(name):
            return "the name of its mask would be too long; shorten the image's name"
        if remote and ("\n" in name or "\r" in name):
            return "Cloud Storage takes no line ends in names; rename the image"
        if output and (place := misled(_folder(name))):
            return f"its mask would lie in {place}, among the images; choose another output folder"
        return ""

    def too_long(name: str) -> bool:
        mask = f"{name}.png".encode()
        if remote:
            return length + len(mask) > LONGEST_OBJECT
        return length + len(mask) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in mask.split(b"/"))

    return fault


def _parents(name: str) -> Iterator[str]:
    """The folders that a relative path goes through: "a/b/c" -> "a/b", "a"."""
    while name := name.rpartition("/")[0]:
        yield name
