"""What there is to segment, with what, and what is done already. No image is opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from pipelines.crf.options import CrfOptions
from pipelines.crf.tuning import TUNING_FILE, load
from pipelines.inputs.collection import Listing, SourceImage
from pipelines.segment.options import Options
from trainer import storage
from trainer.accounts import Reject
from trainer.options import InputError

STAGE = "segment"
PLAN_FILE = "images.jsonl"
REPORT_FILE = "segment.json"
PLACES = {"masks": ("", ".png"), "overlays": ("overlays/", ".jpg"), "confidence": ("confidence/", ".png")}
"""Folder and suffix of every kind of file that is written for an image."""
CHUNK = 64
"""Most images in one element: enough that images of like sizes meet, few enough to spread and to retry."""


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
      done: whether files of all kinds are there and newer than the image, so that its mask may be finished.
    """

    source: SourceImage
    done: bool


@dataclass(frozen=True)
class Plan:
    """All there is to segment.

    Attributes:
      chunks: the images, a chunk being what a worker takes at a time.
      rejects: images whose masks cannot be written: their paths are unsafe, reserved or taken.
    """

    chunks: tuple[tuple[Entry, ...], ...]
    rejects: tuple[Reject, ...]

    @property
    def usable(self) -> int:
        """How many images are in chunks."""
        return sum(map(len, self.chunks))

    @property
    def total(self) -> int:
        """How many images there are, with a place for their masks and without."""
        return self.usable + len(self.rejects)


def make_plan(listing: Listing, options: Options, workers: int) -> Plan:
    """Cuts the images into chunks, about four for each of the workers."""
    try:
        times = {file.relative: _nanoseconds(file) for file in storage.files(options.output)}
    except FileNotFoundError:
        times = {}
    places = [PLACES[kind] for kind in kinds(options)]

    def done(source: SourceImage) -> bool:
        files = [f"{folder}{source.name}{suffix}" for folder, suffix in places]
        return not options.overwrite and all(times.get(file, -1) >= source.modified for file in files)

    entries = tuple(Entry(source, done(source)) for source in listing.images)
    size = min(CHUNK, max(options.batch_size, -(-len(entries) // (4 * workers))))
    chunks = tuple(entries[start : start + size] for start in range(0, len(entries), size))
    return Plan(chunks, tuple(Reject(path, path, STAGE, reason) for path, reason in listing.unusable))


def _nanoseconds(file: storage.File) -> int:
    """When the file was made. Generation numbers of Cloud Storage are microseconds."""
    return file.modified * 1000 if storage.is_remote(file.path) else file.modified


def write(folder: str, chunks: Iterable[Iterable[Entry]]) -> str:
    """Writes the plan's chunks, one per line, to PLAN_FILE in `folder`; returns the digest of the file."""
    lines = "".join(json.dumps([asdict(entry) for entry in chunk], ensure_ascii=False) + "\n" for chunk in chunks)
    storage.write(storage.join(folder, PLAN_FILE), lines.encode())
    return hashlib.sha256(lines.encode()).hexdigest()


def read_chunk(line: bytes) -> list[Entry]:
    """A line of PLAN_FILE."""
    return [Entry(SourceImage(**entry["source"]), entry["done"]) for entry in json.loads(line)]


def check_output(options: Options, fingerprint: str) -> None:
    """Raises InputError when the output is a file, or holds the masks of another model or of other options."""
    folder = options.output
    if not storage.is_remote(folder) and os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"--output {folder} is a file; expected a folder")
    path = storage.join(folder, REPORT_FILE)
    if options.overwrite or not storage.exists(path):
        return
    previous = storage.read_json(path)
    if not isinstance(previous, dict) or previous.get("fingerprint") != fingerprint:
        raise InputError(
            f"{folder} holds masks made with another model or other options (see {path}); give another --output, or "
            "--overwrite to write them again"
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
    note = f"CRF: {', '.join(f'{name} {value:g}' for name, value in asdict(crf).items())}"
    if tuning.options is None:
        note = f"warning: {path} advises against the CRF, whose gain is not certain; --crf auto omits it\n{note}"
    return crf, note
