"""What there is to segment, with what, and what is done already. No image is opened."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.crf.options import CrfOptions
from pipelines.crf.tuning import TUNING_FILE, load
from pipelines.inputs.collection import Listing, SourceImage, folded
from pipelines.inputs.selection import Selection
from pipelines.masks.stamps import read_stamp
from pipelines.runner.boundary import InFlight
from pipelines.segment.options import Options
from trainer import storage
from trainer.accounts import REJECTS_FILE, Reject
from trainer.options import InputError, printable

STAGE = "segment"
REPORT_FILE = "segment.json"
PLAN_FILE = re.compile(r"images-[0-9a-f]{16}\.jsonl")
PLACES = {"masks": ("", ".png"), "overlays": ("overlays/", ".jpg"), "confidence": ("confidence/", ".png")}
"""Folder and suffix of every kind of file that is written for an image."""
CHUNK = 64
"""Most images in one element: enough that images of like sizes meet, few enough to spread and to retry."""
SAMPLES = 8
"""Files that are looked at before the work to see whose folder the output is; every one is before it is replaced."""


def kinds(options: Options) -> tuple[str, ...]:
    """What is written for every image, as the keys of PLACES."""
    return ("masks", *(kind for kind in ("overlays", "confidence") if getattr(options, kind)))


def place(folder: str, kind: str, name: str) -> str:
    """The path of the file of that kind of the image `name`. Raises InputError for names that leave `folder`."""
    below, suffix = PLACES[kind]
    return storage.join(folder, *storage.safe_relative(f"{below}{name}{suffix}").split("/"))


@dataclass(frozen=True)
class Entry:
    """An image of the plan.

    Attributes:
      source: the image.
      existing: kinds, as the keys of PLACES, of the files that are there already: they may be finished, out of date,
        or somebody else's. Under --overwrite that does not matter, and there are none.
    """

    source: SourceImage
    existing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All there is to segment.

    Attributes:
      chunks: the images, a chunk being what a worker takes at a time.
      rejects: images whose masks cannot be written: their paths are unsafe, reserved or taken.
      outdated: files in the output that have the name of a plan, of earlier runs.
      unfinished: files in the output that killed processes left.
    """

    chunks: tuple[tuple[Entry, ...], ...]
    rejects: tuple[Reject, ...]
    outdated: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def usable(self) -> int:
        """How many images are in chunks."""
        return sum(map(len, self.chunks))

    @property
    def total(self) -> int:
        """How many images there are, with a place for their masks and without."""
        return self.usable + len(self.rejects)

    @functools.cached_property
    def lines(self) -> bytes:
        """The chunks as they are written to the plan's file, one per line."""
        # Every other character is escaped: names may hold those at which lines are split elsewhere, or no UTF-8.
        return b"".join(json.dumps([asdict(entry) for entry in chunk]).encode() + b"\n" for chunk in self.chunks)

    @functools.cached_property
    def file(self) -> str:
        """The name of the plan's file, which tells its contents."""
        return plan_file(self.lines)


def plan_file(lines: bytes) -> str:
    return f"images-{hashlib.sha256(lines).hexdigest()[:16]}.jsonl"


def selected(listing: Listing, selection: Selection | None) -> Listing:
    """The images that a selection takes, with a note on it. Raises InputError when it takes none."""
    if selection is None:
        return listing
    choice = selection.choose([*(image.path for image in listing.images), *(path for path, _ in listing.unusable)])
    return Listing(
        tuple(image for image in listing.images if image.path in choice.paths),
        tuple((path, reason) for path, reason in listing.unusable if path in choice.paths),
        (*listing.notes, choice.note),
    )


def make_plan(listing: Listing, options: Options, workers: int) -> Plan:
    """Cuts the images into chunks, about four for each of the workers.

    Raises InputError where an image would be replaced by what is written.
    """
    folder = options.output
    try:
        # Where the file system takes A.png for a.png, either is in the way of the other.
        there = {folded(file.relative): file.relative for file in storage.files(folder)}
    except FileNotFoundError:
        there = {}
    entries = []
    for source in listing.images:
        files = {kind: f"{below}{source.name}{suffix}" for kind, (below, suffix) in PLACES.items()}
        existing = (kind for kind in kinds(options) if folded(files[kind]) in there)
        entries.append(Entry(source, tuple(existing)))
    check_inputs_stay(entries, folder)
    if options.overwrite:
        entries = [Entry(entry.source) for entry in entries]
    size = min(CHUNK, max(options.batch_size, -(-len(entries) // (4 * workers))))
    chunks = tuple(tuple(entries[start : start + size]) for start in range(0, len(entries), size))
    outdated = sorted(filter(PLAN_FILE.fullmatch, there.values()))
    rejects = tuple(Reject(path, path, STAGE, reason) for path, reason in listing.unusable)
    return Plan(chunks, rejects, tuple(outdated), tuple(_unfinished(there.values(), listing.images)))


def _unfinished(names: Iterable[str], images: Iterable[SourceImage]) -> Iterator[str]:
    """Which of the names in the output are what killed processes left of files that this command writes."""
    left = {name: whole for name in names if (whole := storage.unfinished(name))}
    if not left:
        return
    ours = {
        f"{below}{storage.shortened(image.name + suffix)}" for below, suffix in PLACES.values() for image in images
    }
    ours |= {REPORT_FILE, REJECTS_FILE}
    for name, whole in left.items():
        if whole in ours or PLAN_FILE.fullmatch(whole):
            yield name


def check_inputs_stay(entries: Iterable[Entry], folder: str) -> None:
    """Raises InputError where a file that is there already, and would be replaced, is one of the images."""
    entries = tuple(entries)
    targets = [(place(folder, kind, entry.source.name), entry) for entry in entries for kind in entry.existing]
    if not targets:
        return
    inputs = {key: entry.source.path for entry in entries if (key := _key(entry.source.path))}
    for target, entry in targets:
        if image := inputs.get(_key(target)):
            raise InputError(
                f"{target} would be written for {entry.source.path}, but is the image {image}; give another --output"
            )


def _key(path: str) -> object:
    """What tells files apart, through links of all kinds; None for a file that is not there."""
    if storage.is_remote(path):
        return path
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def write(folder: str, plan: Plan) -> None:
    """Writes the plan's file into `folder`."""
    storage.write(storage.join(folder, plan.file), plan.lines)


def read(folder: str, file: str) -> list[bytes]:
    """The lines of a plan's file in `folder`. Raises InputError when it is not what was written."""
    path = storage.join(folder, file)
    try:
        lines = storage.read(path)
    except FileNotFoundError:
        lines = b""
    if plan_file(lines) != file:
        raise InputError(f"{path} was changed or removed while it was worked on; run the same command again to resume")
    return lines.split(b"\n")


def read_chunk(line: bytes) -> list[Entry]:
    """A line of the plan's file."""
    return [Entry(SourceImage(**entry["source"]), tuple(entry["existing"])) for entry in json.loads(line)]


def in_flight(folder: str) -> InFlight:
    """Notes of what the workers that write to `folder` are at."""
    return InFlight(storage.join(folder, "in-flight"))


def sweep(folder: str, plan: Plan) -> None:
    """Removes the files of earlier plans, what killed processes left, and the notes: the job over `plan` is done."""
    for file in plan.unfinished:
        with contextlib.suppress(FileNotFoundError):
            storage.remove(storage.join(folder, file))
    for file in plan.outdated:
        # Whose name does not tell its contents was not written by this program.
        with contextlib.suppress(FileNotFoundError, InputError):
            if file != plan.file and read(folder, file):
                storage.remove(storage.join(folder, file))
    notes = in_flight(folder)
    notes.clear()
    if not storage.is_remote(folder):
        with contextlib.suppress(OSError):  # there is none, or something else in it
            os.rmdir(notes.folder)


def previous(options: Options, fingerprint: str) -> dict[str, Any] | None:
    """The segment.json of an earlier run into the output; None where there is none.

    Raises InputError when the output holds the masks of another model or of other options, or when a list of images
    is a file that is written.
    """
    folder = options.output
    path, rejects = (storage.join(folder, name) for name in (REPORT_FILE, REJECTS_FILE))
    for file in (path, rejects):
        storage.check_file(file)
    for flag, source in (("--input", options.input), ("--list", options.list)):
        if source and storage.real(source) in (storage.real(path), storage.real(rejects)):
            raise InputError(f"{flag} {source} would be replaced by what is written; give another --output")
    if not storage.exists(path):
        if not options.overwrite and storage.exists(rejects):
            raise InputError(
                f"{rejects} was not written by this command; give another --output, or --overwrite to replace it"
            )
        return None
    try:
        report = storage.read_json(path)
    except InputError:
        report = None
    is_ours = isinstance(report, dict) and "fingerprint" in report
    if not options.overwrite and not (is_ours and report["fingerprint"] == fingerprint):
        raise InputError(
            f"{folder} holds masks made with another model or other options (see {path}); give another --output, or "
            "--overwrite to write them again"
        )
    return report if is_ours else None


def may_lack_stamps(report: dict[str, Any] | None) -> bool:
    """Whether overlays and maps of confidence without a stamp, beside this segment.json, may be of this program."""
    return bool(report and report.get("unstamped", "plan" not in report))


def check_output_is_ours(options: Options, plan: Plan) -> None:
    """Raises InputError where files that this program did not write are in the way, as far as a few of them tell."""
    existing = ((kind, entry) for chunk in plan.chunks for entry in chunk for kind in entry.existing)
    for kind, entry in itertools.islice(existing, SAMPLES):
        path = place(options.output, kind, entry.source.name)
        with contextlib.suppress(FileNotFoundError):
            if (file := storage.read(path)) and read_stamp(file) is None:
                raise InputError(
                    f"{path} is in the way: this program did not write it; give another --output, or --overwrite to "
                    "replace such files"
                )


def crf_in_force(options: Options, model_digest: str) -> tuple[CrfOptions | None, str]:
    """The CRF's parameters: flags come first, then crf.json's, then the defaults.

    Args:
      model_digest: of the model's weights.

    Returns:
      The parameters, None for no CRF, and a note for the user where crf.json has a say, else "".

    Raises:
      InputError: --crf auto without a crf.json, or a crf.json that is damaged or was made with other weights.
    """
    if options.crf == "off":
        return None, ""
    tuning, path = load(options.model), storage.join(options.model, TUNING_FILE)
    if tuning is None:
        if options.crf == "auto":
            raise InputError(
                f"--crf auto: {path} is missing; make it with `deeplab tune-crf --model {options.model} "
                "--records DIR`, or give --crf on or off"
            )
        return options.crf_options(CrfOptions()), ""
    if tuning.model_digest != model_digest:
        raise InputError(f"{path} was made with other weights; run `deeplab tune-crf` again, or delete the file")
    if tuning.options is None and options.crf == "auto":
        return None, f"no CRF: {path} advises against it"
    crf = options.crf_options(tuning.options or CrfOptions())
    note = printable(f"CRF: {crf.words(list(tuning.per_class))}")
    if tuning.options is None:
        note = f"warning: {path} advises against the CRF, whose gain is not certain; --crf auto omits it\n{note}"
    return crf, note
