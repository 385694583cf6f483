"""The output folder for files of records: existing files are kept, unless the user says otherwise."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.inputs.coding import PALETTE_FILE
from pipelines.inputs.rawset import scan
from trainer import storage
from trainer.formats.dataset import Dataset
from trainer.options import InputError


def check_apart(output: str, records: str) -> None:
    """Raises InputError if the folder to write to is that of the records."""
    if storage.lies_in(output, records) and storage.lies_in(records, output):
        raise InputError(f"{output} is the folder of the records themselves; give another folder")


@dataclass(frozen=True)
class Target:
    """An output folder, and the files that it held before.

    Attributes:
      folder: local or gs://; it need not exist.
      dataset: the records.
      files: the existing files, by folded relative path.
      fold: maps paths of the same file to the same text, on a file system that ignores case.
    """

    folder: str
    dataset: Dataset
    files: Mapping[str, storage.File]
    fold: Callable[[str], str]

    @classmethod
    def of(cls, folder: str, dataset: Dataset) -> Target:
        fold = str.casefold if storage.folds_case(folder) else str
        try:
            files = {fold(file.relative): file for file in storage.files(folder)}
        except FileNotFoundError:
            files = {}
        return cls(folder, dataset, files, fold)

    def path(self, relative: str) -> str:
        return storage.join(self.folder, *relative.split("/"))

    def has(self, relative: str, data: bytes) -> bool:
        """Whether the file already exists with these contents."""
        file = self.files.get(self.fold(relative))
        if file is None or file.size != len(data):
            return False
        return file.identity == storage.identity(data) if file.identity else storage.read(file.path) == data

    def others(self, contents: Mapping[str, bytes]) -> list[str]:
        """Paths of the files that already exist with other contents."""
        there = [relative for relative in contents if self.fold(relative) in self.files]
        return [self.path(relative) for relative in there if not self.has(relative, contents[relative])]

    def check(self, relatives: Collection[str]) -> None:
        """Raises InputError if a folder is in the place of one of these files, or a file in that of its folder."""
        for relative in relatives:
            storage.check_file(self.path(relative))
        for folder in {posixpath.dirname(relative) for relative in relatives}:
            storage.check_folder(self.path(folder))

    def write(self, relative: str, data: bytes) -> None:
        """Writes a file, unless it already exists with these contents."""
        if not self.has(relative, data):
            storage.write(self.path(relative), data)

    def refuse_raw_set(self, folders: Iterable[str]) -> None:
        """Raises InputError if the folder is that of the raw set, or one of `folders` in it is a link to it."""
        if not (source := self._raw_set()):
            return
        is_own = storage.lies_in(self.folder, source) and storage.lies_in(source, self.folder)
        present = filter(storage.is_dir, map(self.path, folders))
        linked = (path for path in present if not storage.lies_in(path, self.folder))
        if is_own or any(storage.lies_in(path, source) for path in linked):
            raise InputError(
                f"{self.folder} is, or leads into, the raw set that the records were made from; give another folder"
            )

    def refuse(self, others: Sequence[str], overwrite: bool) -> None:
        """Raises InputError if one of `others`, the files that would be replaced, must not be replaced."""
        if others and not overwrite:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise InputError(
                f"{min(others)}{more} would be replaced by other contents; give another folder, or --overwrite"
            )
        inputs = self._inputs(others) if others else frozenset()
        for path in sorted(others):
            if storage.real(path) in inputs:
                raise InputError(f"{path} belongs to the raw set that the records were made from; give another folder")

    def _raw_set(self) -> str:
        """The folder or list that the records were made from; "" if it is no more."""
        source = self.dataset.options.get("input") or ""
        try:
            return source if storage.is_dir(source) or storage.exists(source) else ""
        except PermissionError:  # nor may we write there
            return ""

    def _inputs(self, others: Sequence[str]) -> frozenset[str]:
        """Real paths of the files that the records were made from, if they still exist.

        Raises InputError if these cannot be listed, and `others` may be among them.
        """
        if not (source := self._raw_set()):
            return frozenset()
        try:
            raw = scan(source, self.dataset.options.get("layout", "auto"))
        except (InputError, OSError) as error:
            if storage.is_dir(source) and not any(storage.lies_in(path, source) for path in others):
                return frozenset()
            raise InputError(
                f"files in {self.folder} would be replaced, and whether they belong to {source}, the raw set that the "
                f"records were made from, is unknown: {error}; give another folder"
            ) from None
        paths = [path for pair in raw.pairs for path in (pair.image, pair.label)]
        paths += [*(reject.path for reject in raw.rejects), source, storage.join(raw.root, PALETTE_FILE)]
        return frozenset(map(storage.real, paths))
