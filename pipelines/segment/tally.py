"""The results of a segmentation: counts that add up, their accounts, segment.json and rejects.jsonl."""

from __future__ import annotations

import functools
import json
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.runner.steps import ALL
from pipelines.segment.plan import REPORT_FILE
from pipelines.segment.table import Row
from trainer import prefetch, storage
from trainer.accounts import REJECTS_FILE, Accounts, Reject, merged, percent, write_rejects
from trainer.formats.labels import Palette
from trainer.options import InputError
from trainer.terminal import printable

RUNNING, DONE, INCOMPLETE = "running", "done", "incomplete"
"""Values of the status in segment.json: before the end, after it, and after it if images are unaccounted for."""
UNREAD = "unread"
"""Key of segment.json, true until a command shows what a job on another engine has published."""
_SHOWN = {"CRF": "waiting for the CRF"}
"""Name of a step -> what the workers do in it, if the name does not say it."""


@dataclass(frozen=True)
class SegmentTally:
    """The counts of some of the images. Tallies of parts are added up.

    Attributes:
      written, skipped: images whose masks were made, and images whose masks were already finished.
      rejects: images that could not be used.
      class_pixels: int64 [256], pixels of every class in the masks, in palette order.
      class_images: int64 [256], images with any pixel of the class.
      seconds: the time that the workers spent in every step, see `steps.Times`.
      processor: the time of the processor, the same.
    """

    written: int = 0
    skipped: int = 0
    rejects: tuple[Reject, ...] = ()
    class_pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    class_images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    seconds: Counter[str] = field(default_factory=Counter)
    processor: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: SegmentTally) -> SegmentTally:
        return SegmentTally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def tally_of(outcome: str, result: Row | Reject) -> SegmentTally:
    """The tally of one image: "written" or "skipped" with its row, or "rejected" with its reject."""
    if isinstance(result, Reject):
        return SegmentTally(rejects=(result,))
    pixels = np.zeros(256, np.int64)
    pixels[: len(result.pixels)] = result.pixels
    return SegmentTally(class_pixels=pixels, class_images=(pixels > 0).astype(np.int64), **{outcome: 1})


def add_up(tallies: Iterable[SegmentTally]) -> SegmentTally:
    return functools.reduce(operator.add, tallies, SegmentTally())


def publish(tally: SegmentTally, folder: str, palette: Palette, started: dict[str, Any]) -> None:
    """Writes rejects.jsonl and the final segment.json into `folder`.

    Args:
      tally: the tally of all images.
      folder: the output folder.
      palette: the palette of the masks.
      started: segment.json as it was written before the first mask; "images" is the number of images.

    Raises:
      InputError: another run into the same folder has begun since then.
    """
    check_same_run(folder, started["plan"], started["fingerprint"])
    accounts = Accounts("images", started["images"], _outputs(vars(tally)), merged(tally.rejects))
    is_balanced = sum(accounts.outputs.values()) + accounts.rejected == accounts.inputs
    report = {
        **started,
        "status": DONE if is_balanced else INCOMPLETE,
        **accounts.outputs,
        "rejected": accounts.rejected,
        "class_pixels": _by_class(tally.class_pixels, palette),
        "class_images": _by_class(tally.class_images, palette),
        "seconds": {name: round(seconds, 3) for name, seconds in tally.seconds.items()},
        "processor_seconds": {name: round(seconds, 3) for name, seconds in tally.processor.items()},
    }
    write_rejects(folder, accounts.rejects)
    storage.write_json(storage.join(folder, REPORT_FILE), report)


def check_same_run(folder: str, plan: str, fingerprint: str) -> dict[str, Any]:
    """Returns segment.json in `folder`. Raises InputError if another run, of other images or options, has begun there.

    Args:
      plan: name of the plan's file.
      fingerprint: the fingerprint of model and options.
    """
    report = storage.read_json(storage.join(folder, REPORT_FILE))
    if (report.get("plan"), report.get("fingerprint")) != (plan, fingerprint):
        raise InputError(
            f"another `deeplab segment` has begun to write to {folder} in the meantime; finished masks are kept: run "
            "the same command again once it has ended"
        )
    return report


def mark_read(folder: str, report: dict[str, Any]) -> None:
    """Notes in segment.json, which is `report`, that its results have been shown."""
    if report.get(UNREAD):
        kept = {name: value for name, value in report.items() if name != UNREAD}
        storage.write_json(storage.join(folder, REPORT_FILE), kept)


def _outputs(counts: dict[str, Any]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in ("written", "skipped")}


def _by_class(counts: np.ndarray, palette: Palette) -> dict[str, int]:
    return {name: int(count) for name, count in zip(palette.names, counts, strict=False)}


def read_accounts(folder: str, images: int, plan: str, fingerprint: str) -> tuple[Accounts, dict[str, Any]]:
    """Reads what the job with that plan and fingerprint, see `check_same_run`, has published in `folder`.

    Returns:
      Its accounts against the `images` of the plan, and segment.json.

    Raises:
      InputError: another run into the same folder has begun.
    """
    rejected = prefetch.ahead(folder, functools.partial(storage.read, storage.join(folder, REJECTS_FILE)))
    report = check_same_run(folder, plan, fingerprint)
    lines = []
    if report["status"] != RUNNING:  # rejects.jsonl may be that of an earlier run
        lines = rejected().split(b"\n")[:-1]
    rejects = tuple(Reject(**json.loads(line)) for line in lines)
    return Accounts("images", images, _outputs(report), rejects), report


def table(report: dict[str, Any]) -> str:
    """A table of the classes in segment.json: their share of the area and their number of images; "" without masks."""
    pixels, total = report["class_pixels"], sum(report["class_pixels"].values())
    # The keys of a JSON file are sorted; the palette has its own order.
    palette = [entry["name"] for entry in report.get("palette", {}).get("classes", [])]
    present = [name for name in palette or pixels if pixels[name]]
    if not present:
        return ""
    width = max(map(len, [*map(printable, present), "class"]))
    lines = [f"{'class':<{width}}  {'area %':>7}  {'images':>8}"]
    for name in present:
        lines.append(
            f"{printable(name):<{width}}  {percent(pixels[name] / total, 2):>7}  {report['class_images'][name]:>8,}"
        )
    return "\n".join(lines)


def shares(report: dict[str, Any]) -> str:
    """The share of the workers' time that each step took, from segment.json, largest first; "" if no mask was made.

    With a CRF a second line has its share of the processor's time: its threads work beside the network, so that a
    worker hardly waits for them, but takes longer for the network where both need the same cores.
    """
    seconds, processor = report.get("seconds", {}), report.get("processor_seconds", {})
    total = sum(seconds.values())
    if "network" not in seconds or not total:
        return ""
    ordered = sorted(seconds, key=lambda name: -seconds[name])
    parts = [f"{_SHOWN.get(name, name)} {_percent(seconds[name], total)}" for name in ordered]
    lines = ["workers' time: " + ", ".join(parts)]
    if crf := processor.get("CRF"):
        rest = _percent(processor[ALL] - crf, processor[ALL])
        lines.append(f"CPU time: CRF {_percent(crf, processor[ALL])}, network and the rest {rest}")
    return "\n".join(lines)


def _percent(part: float, whole: float) -> str:
    return f"{percent(part / whole, 0)} %"
