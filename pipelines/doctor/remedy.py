"""The cure for a set, which itself stays unchanged: a palette, a manifest of good pairs, mended labels, and flags."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.doctor.findings import MANIFEST
from pipelines.doctor.mend import encoded, is_signed, mended, signed
from pipelines.doctor.options import Options
from pipelines.doctor.plan import Plan, Subject
from pipelines.doctor.reading import COUNTED, OWN, Reading
from pipelines.inputs.coding import PALETTE_FILE
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import Recovery, guarded_each
from trainer import prefetch, storage
from trainer.formats.images import ImageError
from trainer.formats.labels import Palette
from trainer.options import InputError, as_words, non_defaults

LABELS_FOLDER = "labels"
NAME = re.compile(r"\d{6,}\.png")
"""Names of mended labels: the number of the pair."""


@dataclass(frozen=True)
class Remedy:
    """The input and flags to give prepare instead of the set itself.

    Attributes:
      reading: how labels are read.
      left_out: numbers of the pairs to leave out.
      labels: number of a pair -> path of its mended label.
      splits: number of a pair -> its new split, if that changes.
      is_listed: whether a manifest is needed, because of these or of files that are not pairs.
      group_by: value of prepare's --group-by.
      val_fraction: value of its --val-fraction; None for the one given.
    """

    reading: Reading
    left_out: frozenset[int] = frozenset()
    labels: Mapping[int, str] = field(default_factory=dict)
    splits: Mapping[int, str] = field(default_factory=dict)
    is_listed: bool = False
    group_by: str = ""
    val_fraction: float | None = None

    @property
    def has_palette(self) -> bool:
        """Whether a palette file is needed."""
        return self.reading.palette is not None and self.reading.flag == OWN


def mend_labels(
    plan: Plan,
    kinds: Mapping[int, str],
    shift: tuple[int, int],
    reading: Reading,
    folder: str,
    overwrite: bool,
    recovery: Recovery | None,
) -> dict[int, str]:
    """Writes the labels that can be mended into a folder.

    Args:
      kinds: number of a pair -> kind of its fault or doubt.
      shift: how far to move all labels down and right, in pixels.
      folder: the output folder.
      overwrite: whether to replace labels too that this command did not write, or that were changed since.

    Returns:
      Number of a pair -> path of its new label.

    Raises:
      InputError: such a label, or one of the set, would be replaced.
    """
    ill = [(one, kinds.get(one.number, "")) for one in plan.subjects if shift != (0, 0) or one.number in kinds]
    work = functools.partial(_mended, palette=reading.palette, coding=reading.coding, shift=shift)

    def labels() -> Iterator[tuple[int, str, bytes]]:
        for (subject, _), call in guarded_each(work, ill, lambda one: (one[0].image, one[0].label), recovery):
            try:
                ids = attempt(call, known=(OSError, ImageError))
            except (OSError, ImageError, Failed):
                continue
            if ids is not None and (ids != reading.palette.ignore_id).any():
                path = storage.join(folder, LABELS_FOLDER, f"{subject.number:06d}.png")
                yield subject.number, path, encoded(ids, reading.palette, reading.coding)

    written = {}
    there = {file.path: file for file in _labels(folder)}
    replace = functools.partial(_replace, there, _inputs(plan) if there else frozenset(), overwrite)
    for (number, path, _), write in prefetch.write_behind(labels(), folder, replace, lambda label: len(label[2])):
        write()
        written[number] = path
    return written


def sweep(folder: str, plan: Plan, kept: Collection[str]) -> None:
    """Removes the labels that an earlier run mended, or was writing when it was killed.

    Those that were changed since they were written stay, and those that belong to the set.

    Args:
      folder: the output folder.
      kept: paths of the labels of this run.
    """
    stale = [file for file in _labels(folder) if file.path not in kept]
    inputs = _inputs(plan) if stale else frozenset()
    stale = [file for file in stale if storage.real(file.path) not in inputs]
    for _, remove in prefetch.write_behind(stale, folder, _remove, lambda file: file.size):
        remove()


def _labels(folder: str) -> list[storage.File]:
    """The files of the output folder that are named like mended labels, or like unfinished ones."""
    files: list[storage.File] = []
    with contextlib.suppress(FileNotFoundError):
        files = storage.files(storage.join(folder, LABELS_FOLDER), within=())
    return [file for file in files if NAME.fullmatch(storage.unfinished(file.relative) or file.relative)]


def is_name_of_mended(path: str) -> bool:
    """Whether a file is named like a mended label."""
    return bool(NAME.fullmatch(path.replace("\\", "/").rpartition("/")[2]))


def _inputs(plan: Plan) -> frozenset[str]:
    """Real paths of the labels of the set that are named like mended ones."""
    return frozenset(storage.real(one.label) for one in plan.subjects if is_name_of_mended(one.label))


def _replace(
    there: Mapping[str, storage.File], inputs: Collection[str], overwrite: bool, label: tuple[int, str, bytes]
) -> None:
    """Writes a label, unless its file holds it already. Raises InputError if that must not be replaced."""
    _, path, png = label
    data, file = signed(png), there.get(path)
    if file is not None:
        if file.identity == storage.identity(data) or (old := storage.read(path)) == data:
            return
        if storage.real(path) in inputs:
            raise InputError(f"{path} is an input and would be replaced; give another --output")
        # An empty file may be replaced: a power failure can leave one.
        if not (overwrite or is_signed(old) or old in (b"", png)):
            raise InputError(
                f"{path} was changed since this command wrote it, or was never its own, and would be replaced; give "
                "another --output, or --overwrite to replace it"
            )
    storage.write(path, data)


def _remove(file: storage.File) -> None:
    if storage.unfinished(file.relative) or is_signed(storage.read(file.path)):
        storage.remove(file.path)


def _mended(
    subject: tuple[Subject, str],
    palette: Palette,
    coding: str,
    shift: tuple[int, int],
    read: prefetch.Read = storage.read,
) -> np.ndarray | None:
    pair, kind = subject
    return mended(kind, read(pair.label), read(pair.image), palette, coding, shift)


def manifest(plan: Plan, remedy: Remedy) -> bytes:
    """The manifest of the good pairs, one JSON object per line."""
    lines = []
    for subject in plan.subjects:
        if subject.number not in remedy.left_out:
            label = remedy.labels.get(subject.number, subject.label)
            row = {"image": storage.absolute(subject.image), "label": storage.absolute(label)}
            lines.append(json.dumps({**row, "split": remedy.splits.get(subject.number, subject.split)}) + "\n")
    return "".join(lines).encode()


def files(plan: Plan, remedy: Remedy) -> dict[str, bytes]:
    """Name -> contents of the remedy's files in the output folder, except labels."""
    contents = {}
    palettes = {OWN: remedy.reading.palette if remedy.has_palette else None, COUNTED: remedy.reading.counted}
    for name, palette in palettes.items():
        if palette:
            contents[name] = (json.dumps(palette.to_json(), indent=2, ensure_ascii=False) + "\n").encode()
    if remedy.is_listed:
        contents[MANIFEST] = manifest(plan, remedy)
    return contents


def command(options: Options, remedy: Remedy, root: str) -> str:
    """The `deeplab prepare` command that reads the set correctly, quoted for a shell.

    Args:
      root: folder of the raw set.
    """
    reading = remedy.reading
    flags = {"input": storage.join(options.output, MANIFEST) if remedy.is_listed else options.input}
    if options.layout != "auto" and not remedy.is_listed:
        flags["layout"] = options.layout
    if remedy.has_palette:
        flags["palette"] = storage.join(options.output, OWN)
    elif reading.flag:
        flags["palette"] = reading.flag
    elif remedy.is_listed and reading.palette is not None:  # the manifest implies no palette
        own = storage.join(root, PALETTE_FILE)
        flags["palette"] = own if storage.exists(own) else reading.palette.name
    others = {"label_coding": reading.coding_flag, "group_by": remedy.group_by or options.group_by}
    flags |= {name: value for name, value in others.items() if value}
    if remedy.val_fraction is not None and not remedy.is_listed:
        options = dataclasses.replace(options, val_fraction=remedy.val_fraction)
    given = _changed(options, "val_fraction", "max_pixels")
    return shlex.join(["deeplab", "prepare", *as_words({**flags, **given, "output": "out/records"})])


def mend_command(options: Options) -> str:
    """The `deeplab doctor` command that mends labels, quoted for a shell."""
    others = {"input", "output", "mend", "json", "overwrite"}
    given = _changed(options, *(field.name for field in dataclasses.fields(options) if field.name not in others))
    words = ["deeplab", "doctor", options.input, *as_words(given), "--mend", "--output", options.output]
    return shlex.join(words)


def _changed(options: Options, *names: str) -> dict[str, object]:
    """Those of these options that are not the defaults."""
    given = non_defaults(options)
    return {name: given[name] for name in names if name in given}
