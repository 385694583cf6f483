"""The cure for a set, which itself stays unchanged: a palette, a manifest of good pairs, mended labels, and flags."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.doctor.findings import MANIFEST
from pipelines.doctor.mend import encoded, mended
from pipelines.doctor.options import Options
from pipelines.doctor.plan import Plan, Subject
from pipelines.doctor.reading import COUNTED, OWN, Reading
from pipelines.inputs.coding import PALETTE_FILE
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import Recovery, guarded_each
from trainer import prefetch, storage
from trainer.formats import images
from trainer.formats.images import ImageError
from trainer.formats.labels import Palette

LABELS_FOLDER = "labels"


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
    """

    reading: Reading
    left_out: frozenset[int] = frozenset()
    labels: Mapping[int, str] = field(default_factory=dict)
    splits: Mapping[int, str] = field(default_factory=dict)
    is_listed: bool = False
    group_by: str = ""

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
    recovery: Recovery | None,
) -> dict[int, str]:
    """Writes the labels that can be mended into a folder.

    Args:
      kinds: number of a pair -> kind of its fault or doubt.
      shift: how far to move all labels down and right, in pixels.
      folder: the output folder.

    Returns:
      Number of a pair -> path of its new label.
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
    for (number, path, _), write in prefetch.write_behind(labels(), folder, _write, lambda label: len(label[2])):
        write()
        written[number] = path
    _sweep(storage.join(folder, LABELS_FOLDER))
    return written


def _sweep(folder: str) -> None:
    """Removes the labels that a killed run was writing."""
    with contextlib.suppress(FileNotFoundError):
        for file in storage.files(folder, within=()):
            if re.fullmatch(r"\d{6,}\.png", storage.unfinished(file.relative)):
                storage.remove(file.path)


def _write(label: tuple[int, str, bytes]) -> None:
    _, path, data = label
    storage.write(path, data)


def _mended(
    subject: tuple[Subject, str],
    palette: Palette,
    coding: str,
    shift: tuple[int, int],
    read: prefetch.Read = storage.read,
) -> np.ndarray | None:
    pair, kind = subject
    header = images.header(read(pair.image))
    return mended(kind, read(pair.label), header, palette, coding, shift)


def manifest(plan: Plan, remedy: Remedy) -> bytes:
    """The manifest of the good pairs, one JSON object per line; without splits if prepare assigns them by groups."""
    lines = []
    for subject in plan.subjects:
        if subject.number not in remedy.left_out:
            label = remedy.labels.get(subject.number, subject.label)
            row = {"image": storage.absolute(subject.image), "label": storage.absolute(label)}
            split = remedy.splits.get(subject.number, subject.split)
            lines.append(json.dumps(row if remedy.group_by else {**row, "split": split}) + "\n")
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
    reading, words = remedy.reading, ["deeplab", "prepare"]
    words += ["--input", storage.join(options.output, MANIFEST) if remedy.is_listed else options.input]
    if options.layout != "auto" and not remedy.is_listed:
        words += ["--layout", options.layout]
    if remedy.has_palette:
        words += ["--palette", storage.join(options.output, OWN)]
    elif reading.flag:
        words += ["--palette", reading.flag]
    elif remedy.is_listed and reading.palette is not None:  # the manifest implies no palette
        own = storage.join(root, PALETTE_FILE)
        words += ["--palette", own if storage.exists(own) else reading.palette.name]
    words += ["--label-coding", reading.coding_flag] if reading.coding_flag else []
    group_by = remedy.group_by or options.group_by
    words += ["--group-by", group_by] if group_by else []
    if options.val_fraction != 0.1:
        words += ["--val-fraction", f"{options.val_fraction:g}"]
    return " ".join(map(shlex.quote, [*words, "--output", "out/records"]))


def mend_command(options: Options) -> str:
    """The `deeplab doctor` command that mends labels, quoted for a shell."""
    words = ["deeplab", "doctor", options.input]
    for name in ("layout", "images", "labels", "palette", "label_coding", "group_by"):
        value = getattr(options, name)
        words += [options.flag(name), value] if value not in ("auto", "") else []
    words += ["--full"] if options.full else []
    return " ".join(map(shlex.quote, [*words, "--mend", "--output", options.output]))
