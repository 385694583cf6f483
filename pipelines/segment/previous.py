"""The results of an earlier run with the same output, and whether this run may continue or replace them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.inputs.mask_names import folded
from pipelines.masks.stamps import read_stamp
from pipelines.runner import progress
from pipelines.segment import table
from pipelines.segment.options import Options
from pipelines.segment.plan import IN_FLIGHT, PLACES, PLAN_FILE, REPORT_FILE, SWEEPERS, Plan, place
from pipelines.segment.tally import DONE, UNREAD
from trainer import leases, prefetch, storage
from trainer.accounts import REJECTS_FILE, Reject, counted
from trainer.options import InputError, to_json
from trainer.terminal import printable

LOOKED_UP = 10_000
"""Bound on the images whose masks are looked up, which takes a request each in Cloud Storage."""


def previous_report(options: Options, fingerprint: str) -> dict[str, Any] | None:
    """The segment.json of an earlier run with this output; None if there is none, or that run produced nothing.

    Args:
      options: the options of this run.
      fingerprint: the fingerprint of its model and options.

    Raises:
      InputError: the output holds masks made with another model or other options, or rejects of another command, or
        an input would be overwritten.
    """
    folder = options.output
    path, rejects = (storage.join(folder, name) for name in (REPORT_FILE, REJECTS_FILE))
    for file in (path, rejects):
        storage.check_file(file)
    for name in (table.FOLDER, *(kind for kind in ("overlays", "confidence") if getattr(options, kind))):
        storage.check_folder(storage.join(folder, name))
    for flag, source in (("--input", options.input), ("--list", options.list)):
        if source and storage.real(source) in (storage.real(path), storage.real(rejects)):
            raise InputError(f"{flag} {source} would be replaced by what is written; give another --output")
    has_rejects = prefetch.ahead(folder, functools.partial(storage.exists, rejects))
    read = prefetch.ahead(folder, functools.partial(storage.read_json, path))
    if not storage.exists(path):
        if not options.overwrite and has_rejects():
            raise InputError(
                f"{rejects} was not written by this command; give another --output, or --overwrite to replace it"
            )
        return None
    try:
        report = read()
    except InputError:
        report = None
    is_ours = isinstance(report, dict) and "fingerprint" in report
    if not options.overwrite and not (is_ours and report["fingerprint"] == fingerprint):
        if is_ours and not _has_results(folder):
            return None
        raise InputError(
            f"{folder} holds masks made with another model or other options (see {path}); give another --output, or "
            "--overwrite to write them again"
        )
    return report if is_ours else None


def is_unread(report: dict[str, Any] | None, options: Options, fingerprint: str) -> bool:
    """Whether a job that was sent with these options has ended since, and no command has shown its results.

    Args:
      report: the segment.json of the output.
      options, fingerprint: as in `previous_report`.
    """
    return bool(
        report
        and report.get(UNREAD)
        and (report.get("status"), report["fingerprint"]) == (DONE, fingerprint)
        and report.get("options") == json.loads(json.dumps(to_json(options)))
    )


def _has_results(folder: str) -> bool:
    """Whether the folder contains files that a run writes only after it has finished its first chunk."""
    notes = (f"{IN_FLIGHT}/", f"{progress.FOLDER}/")
    for file in storage.walk(folder):
        name = storage.unfinished(file.relative) or file.relative
        if not (name in (REPORT_FILE, leases.FILE) or PLAN_FILE.fullmatch(name) or name.startswith(notes)):
            return True
    return False


def left_behind(options: Options, fingerprint: str) -> Iterator[str]:
    """Warnings about masks, overlays and confidence maps of another model or other options, from an earlier run.

    Args:
      options: the options of this run, by which it does not make them again.
      fingerprint: the fingerprint of its model and options.
    """
    for kind, folder, made_by in _not_made(options):
        if made_by not in ("", fingerprint):
            yield (
                f"warning: {folder} is of an earlier run with another model or other options; give --{kind} to "
                "make it again, or remove it"
            )


def outdated(options: Options, written: int) -> Iterator[str]:
    """Warnings about files of an earlier run that may be of earlier contents of the images.

    Args:
      options: the options of this run, by which it has not made them again.
      written: number of images that it has segmented.
    """
    for kind, folder, _ in _not_made(options) if written else ():
        now = counted(written, "image")
        yield (
            f"warning: {kind} in {folder} are of an earlier run; those of the {now} written now may show earlier "
            f"contents of these: give --{kind} to make them again, or remove them"
        )


def _not_made(options: Options) -> Iterator[tuple[str, str, str]]:
    """(kind, folder, fingerprint of the first file) of what this run does not make and an earlier one has left."""
    for kind, (below, suffix) in PLACES.items():
        folder = storage.join(options.output, *below.split("/")[:1] if below else ())
        if getattr(options, kind) or not storage.is_dir(folder):
            continue
        with contextlib.suppress(OSError):
            names = (file for file in storage.walk(folder) if below or _is_mask(file.relative, suffix))
            file = next(names, None)
            if stamp := read_stamp(storage.read(file.path)) if file else None:
                yield kind, folder, stamp.fingerprint


def _is_mask(relative: str, suffix: str) -> bool:
    return relative.endswith(suffix) and not relative.startswith(tuple(below for below, _ in PLACES.values() if below))


def still_there(folder: str, rejects: Collection[Reject]) -> str:
    """A warning about this program's masks in `folder` of images that were rejected; "" if there are none.

    Args:
      rejects: those of this run. The masks of some may have no place.
    """

    keys = [reject.key for reject in sorted(rejects, key=lambda reject: reject.key)[:LOOKED_UP]]
    found = _existing(folder, keys, ("masks",))
    with ThreadPoolExecutor(SWEEPERS) as pool:
        paths = list(itertools.compress(found, pool.map(_is_ours, found)))
    if not paths:
        return ""
    return printable(
        f"warning: {len(paths):,} of the {'first ' * (len(rejects) > LOOKED_UP)}{len(keys):,} rejected images "
        f"still have masks in {folder} that are not from this run, such as {paths[0]}; mend the images and run this "
        "command again, or remove these masks"
    )


def _is_ours(path: str) -> bool:
    """Whether this program wrote a file. One that it did not may be the reason of a reject; it is to stay."""
    try:
        return read_stamp(storage.read(path)) is not None
    except OSError:
        return False


def no_longer_taken(folder: str, plan: Plan) -> str:
    """A warning about files of images that an earlier run into `folder` took, and this one did not; "" without any.

    These images are in the parts of the table that are no longer those of a chunk, so this comes before the sweep.
    """
    same = folded if storage.folds_case(folder) else str
    parts = (file for file in plan.outdated if table.PART.fullmatch(file) and file not in plan.parts)
    keys = itertools.chain.from_iterable(table.keys(folder, part) for part in parts)
    gone = {same(key): key for key in itertools.islice(keys, LOOKED_UP)}
    for source in plan.sources() if gone else ():
        gone.pop(same(source.name), None)
    paths = _existing(folder, sorted(gone.values()), tuple(PLACES))
    if not paths:
        return ""
    images = counted(len(paths), "image")
    return printable(
        f"warning: {folder} still holds what an earlier run wrote for {images} that this one did not take, such as "
        f"{paths[0]}; if the images are gone or renamed, remove these files"
    )


def _existing(folder: str, keys: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """For each of the images `keys` that has such files in `folder`, the path of one."""

    def existing(key: str) -> str:
        try:
            paths = [place(folder, kind, key) for kind in kinds]
        except InputError:
            return ""
        return next(filter(storage.exists, paths), "")

    with ThreadPoolExecutor(SWEEPERS) as pool:
        return [path for path in pool.map(existing, keys) if path]


def may_lack_stamps(report: dict[str, Any] | None) -> bool:
    """Whether overlays and confidence maps without a stamp beside this segment.json may be from this program."""
    return bool(report and report.get("unstamped", "plan" not in report))


def chunk_size_of(report: dict[str, Any] | None) -> int:
    """The approximate number of images per chunk in the run that wrote this segment.json; 0 if it is not recorded."""
    size = (report or {}).get("chunk")
    return size if isinstance(size, int) and size > 0 else 0


def check_output_is_ours(plan: Plan) -> None:
    """Raises InputError if one of a few existing files that may be replaced was not written by this program."""
    for path in plan.samples:
        with contextlib.suppress(FileNotFoundError):
            if (file := storage.read(path)) and read_stamp(file) is None:
                raise InputError(
                    f"{path} is in the way: this program did not write it; give another --output, or --overwrite to "
                    "replace such files"
                )
