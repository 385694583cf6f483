"""Masks against labels: scores of one or several masks folders side by side, and a report.

    deeplab evaluate --masks out/masks out/masks-crf --labels data/labels/val --model out/model --output out/report

    deeplab evaluate --masks gs://bucket/masks --labels gs://bucket/labels --palette camvid \\
        --output gs://bucket/report --runner DataflowRunner --project my-project --region europe-west1 \\
        --temp_location gs://bucket/tmp --setup_file ./setup.py

A label and its masks have the same path below their folders but for the suffix. Only names cross Beam's shuffle, and
one sum of confusion matrices comes back, with one float32 per picture and masks folder: 16 MB for a million pictures
in four folders. The process that starts the job holds the list of names, some hundred bytes a label and folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.evaluate.job import (
    CITYSCAPES_LABELS,
    STAGE,
    EvaluateChunk,
    Inputs,
    SumTallies,
    Tally,
    key_of,
    read_tally,
    write_tally,
)
from pipelines.pages import evaluation as report
from pipelines.pages import gallery
from pipelines.runner import run as runner
from pipelines.scores.trimap import BANDS
from trainer import metrics, storage
from trainer.formats.cards import load_card
from trainer.formats.labels import Palette
from trainer.formats.palettes import resolve
from trainer.formats.records import Reject
from trainer.options import InputError, option, parse_known

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")
BESIDE_MASKS = ("overlays", "confidence")
"""Folders that `deeplab segment` writes beside the masks."""

_CHUNK = 64  # labels per element at most: a few seconds of work


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `deeplab evaluate`; further flags go to Apache Beam."""

    masks: tuple[str, ...] = option(
        help="folders of masks to compare, local or gs://; the first is the reference", metavar="DIR"
    )
    labels: str = option(help="folder of true labels: class ids, palette PNGs or colours", metavar="DIR")
    output: str = option(help="folder for evaluation.json, report.html and rejects.jsonl", metavar="DIR")
    model: str | None = option(None, "model folder to take the classes from", metavar="DIR")
    palette: str | None = option(
        None, "classes instead of --model: a palette's name or its JSON file", metavar="NAME|FILE"
    )
    images: str | None = option(
        None,
        "folder of the photographs, for the gallery; left out: the pictures the masks were made from",
        metavar="DIR",
    )
    gallery: int = option(6, "pictures in the report's gallery: best, median and worst, a third each")
    max_reject_rate: float = option(0.01, "share of rejected labels above which the exit status is 1")

    def __post_init__(self) -> None:
        folders = [folder.rstrip("/") for folder in self.masks]
        if len(set(folders)) < len(folders):
            raise InputError(f"--masks names a folder twice: {' '.join(self.masks)}")
        if (self.model is None) == (self.palette is None):
            raise InputError("give the classes by one of --model DIR and --palette NAME|FILE, not by both or none")
        if self.output.rstrip("/") in [*folders, self.labels.rstrip("/")]:
            raise InputError(f"--output {self.output} is an input folder; give a folder of its own")
        if self.gallery < 0:
            raise InputError(f"--gallery must be 0 or more, got {self.gallery}")
        if not 0 <= self.max_reject_rate <= 1:
            raise InputError(f"--max-reject-rate must be 0 to 1, got {self.max_reject_rate}")


def listing(folder: str, flag: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths below `folder` of the files with these suffixes, but for hidden ones. Raises InputError without any."""
    try:
        found = storage.files(folder)
    except FileNotFoundError:
        raise InputError(f"{flag} {folder}: there is no such folder") from None
    names = [file.relative for file in found if file.relative.lower().endswith(suffixes)]
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise InputError(f"{flag} {folder}: none of its {len(found)} files ends in {' or '.join(suffixes)}")
    return names


def list_labels(folder: str, palette: Palette) -> dict[str, str]:
    """Key -> path below `folder` of every label. Raises InputError for two labels of one key."""
    names = listing(folder, "--labels", LABEL_SUFFIXES)
    if any(name.endswith(tuple(CITYSCAPES_LABELS)) for name in names):
        # Cityscapes keeps several codings of a label beside each other; the palette tells which one it reads.
        ending = CITYSCAPES_LABELS[bool(palette.source_ids)]
        names = [name for name in names if name.endswith(ending)]
        if not names:
            raise InputError(f"--labels {folder}: no file ends in {ending}, which palette {palette.name} reads")
    labels: dict[str, str] = {}
    for name in names:
        if labels.setdefault(key_of(name), name) != name:
            raise InputError(
                f"--labels {folder}: {labels[key_of(name)]} and {name} differ in their suffix alone; keep one"
            )
    return labels


def list_masks(folder: str) -> set[str]:
    """Keys of the masks in a folder."""
    names = listing(folder, "--masks", (".png",))
    return {key_of(name) for name in names if name.split("/")[0] not in BESIDE_MASKS}


@dataclass(frozen=True)
class Plan:
    """What will be compared: label files with a mask in every folder, sorted; those without; masks without label."""

    labels: tuple[str, ...]
    rejects: tuple[Reject, ...]
    without_label: dict[str, int]

    def chunks(self) -> bytes:
        """One JSON line per chunk of labels."""
        size = max(1, min(_CHUNK, len(self.labels) // 32))
        starts = range(0, len(self.labels), size)
        lines = [json.dumps({"first": first, "labels": self.labels[first : first + size]}) for first in starts]
        return "\n".join(lines).encode()


def plan(options: EvaluateOptions, palette: Palette) -> Plan:
    """Pairs labels with masks by name. Raises InputError when a folder is missing or empty, or nothing pairs up."""
    labels = list_labels(options.labels, palette)
    masks = {folder: list_masks(folder) for folder in options.masks}
    lacking = {key: [folder for folder in masks if key not in masks[folder]] for key in labels}
    matched = tuple(labels[key] for key in sorted(labels) if not lacking[key])
    if not matched:
        raise InputError(
            f"no label in {options.labels} has a mask of the same path in {' and '.join(options.masks)}: the first "
            f"label is {min(labels.values())}, the first mask {min(masks[options.masks[0]], default='(none)')}.png"
        )
    rejects = tuple(
        Reject(key, storage.join(options.labels, labels[key]), STAGE, f"no mask {key}.png in {', '.join(folders)}")
        for key, folders in sorted(lacking.items())
        if folders
    )
    return Plan(matched, rejects, {folder: len(masks[folder] - labels.keys()) for folder in masks})


def run_job(options: EvaluateOptions, palette: Palette, labels: Plan, beam_options: Any) -> Tally:
    """Runs the Beam job over the plan. Its files in the output folder are gone afterwards."""
    todo, done = (storage.join(options.output, name) for name in (".plan.jsonl", ".tally.npz"))
    storage.write(todo, labels.chunks())
    inputs = Inputs(options.labels, options.masks, palette)

    def build(pipeline: beam.Pipeline, heartbeat: runner.Heartbeat) -> None:
        _ = (
            pipeline
            | "read plan" >> beam.io.ReadFromText(todo)
            | "spread" >> beam.Reshuffle()
            | "evaluate" >> beam.ParDo(EvaluateChunk(inputs, heartbeat))
            | "sum" >> beam.CombineGlobally(SumTallies()).without_defaults()
            | "write" >> beam.Map(write_tally, done)
        )

    try:
        if not runner.run(build, beam_options, total=len(labels.labels), unit="pictures", title="evaluate"):
            raise InputError("evaluate reads the job's result itself; leave --template_location out")
        return read_tally(done)
    finally:
        for path in (todo, done):
            if storage.exists(path):
                storage.remove(path)


def compared_names(folders: tuple[str, ...]) -> list[str]:
    """What the folders are called in the report: their last parts, as many as it takes to tell them apart."""
    paths = [folder.rstrip("/").split("/") for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def segment_info(folder: str, palette: Palette) -> dict[str, Any]:
    """What `deeplab segment` says of a masks folder; empty for masks made otherwise. InputError for other classes."""
    path = storage.join(folder, "segment.json")
    if not storage.exists(path):
        return {}
    info = storage.read_json(path)
    written = [entry["name"] for entry in info.get("palette", {}).get("classes", [])]
    if written and written != list(palette.names):
        raise InputError(
            f"{path}: the masks have {len(written)} classes ({', '.join(written)}), but the evaluation has "
            f"{palette.num_classes} ({', '.join(palette.names)}); give the --model or --palette of the masks"
        )
    return info


def summarize(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Scores of one masks folder from int64 [bands + 1, classes, classes] confusion matrices by band."""
    whole = confusion.sum(0)
    bands = [metrics.scores(cumulated, names) for cumulated in np.cumsum(confusion, 0)[:-1]]
    return {
        **metrics.scores(whole, names),
        "confusion": whole.tolist(),
        "trimap": {str(width): band["miou"] for width, band in zip(BANDS, bands, strict=True)},
        "trimap_scores": {str(width): band for width, band in zip(BANDS, bands, strict=True)},
    }


def photo_folder(options: EvaluateOptions, infos: list[dict[str, Any]]) -> str | None:
    """Where the photographs are: --images, else the folder the masks were made from."""
    if options.images is not None:
        if not storage.is_dir(options.images):
            raise InputError(f"--images {options.images}: there is no such folder")
        return options.images
    for info in infos:
        if info.get("input") and storage.is_dir(info["input"]):
            return info["input"]
    print("gallery: no photographs, only labels and masks (--images DIR shows them)")
    return None


def draw_gallery(
    inputs: Inputs, labels: Plan, total: Tally, names: list[str], photos: str | None, count: int
) -> list[gallery.Entry]:
    """The gallery's entries: `count` of the pictures that were evaluated."""
    ((numbers, mious),) = total.pictures
    chosen = gallery.choose(mious.mean(1), count)
    entries = []
    for index, rank in chosen:
        relative = labels.labels[numbers[index]]
        label, masks = inputs.read(relative)
        photo = None if photos is None else gallery.find_photo(photos, key_of(relative), label.shape)
        scores = dict(zip(names, mious[index].tolist(), strict=True))
        predictions = dict(zip(names, masks, strict=True))
        entries.append(
            gallery.entry(key_of(relative), rank, scores, photo, label, predictions, inputs.palette, len(chosen))
        )
    return entries


def evaluate(options: EvaluateOptions, beam_options: Any) -> dict[str, Any]:
    """Runs the whole evaluation, writes its files and returns what is in evaluation.json."""
    palette = load_card(options.model).palette if options.model is not None else resolve(options.palette)
    infos = [segment_info(folder, palette) for folder in options.masks]
    labels, names = plan(options, palette), compared_names(options.masks)
    photos = photo_folder(options, infos) if options.gallery else None
    total = run_job(options, palette, labels, beam_options)
    rejects = sorted([*labels.rejects, *total.rejects], key=lambda reject: reject.key)
    evaluated = len(total.pictures[0][0])
    evaluation = {
        "labels": options.labels,
        "model": options.model,
        "palette": palette.to_json(),
        "images": evaluated,
        "rejected": len(rejects),
        "compared": names,
        "masks": {
            name: {
                "folder": folder,
                "head": info.get("head"),
                "crf": info.get("crf"),
                "images": evaluated,
                "without_label": labels.without_label[folder],
                **summarize(confusion, palette.names),
            }
            for name, folder, info, confusion in zip(names, options.masks, infos, total.confusion, strict=True)
        },
    }
    entries = draw_gallery(
        Inputs(options.labels, options.masks, palette), labels, total, names, photos, options.gallery
    )
    evaluation["gallery"] = [
        {"key": entry.key, "rank": entry.rank, "miou": {result.name: result.miou for result in entry.results}}
        for entry in entries
    ]
    lines = "".join(json.dumps(asdict(reject)) + "\n" for reject in rejects)
    storage.write(storage.join(options.output, "rejects.jsonl"), lines.encode())
    storage.write(storage.join(options.output, "report.html"), report.render(evaluation, entries).encode())
    storage.write_json(storage.join(options.output, "evaluation.json"), evaluation)
    return evaluation


def main(argv: list[str]) -> int:
    """The command; returns the exit status."""
    options, rest = parse_known(
        EvaluateOptions, argv, prog="deeplab evaluate", description="Score masks against labels and write a report."
    )
    evaluation = evaluate(options, runner.beam_options(rest))
    print(report.text(evaluation))
    evaluated, rejected = evaluation["images"], evaluation["rejected"]
    print(f"\n{evaluated + rejected} labels = {evaluated} evaluated + {rejected} rejected")
    for name, scores in evaluation["masks"].items():
        if scores["without_label"]:
            print(f"{name}: {scores['without_label']} masks have no label and were left out")
    print(f"report: {storage.join(options.output, 'report.html')}")
    rate = rejected / (evaluated + rejected)
    if rate > options.max_reject_rate:
        print(
            f"rejected {100 * rate:.1f} % of the labels, more than --max-reject-rate {options.max_reject_rate:g}; "
            f"{storage.join(options.output, 'rejects.jsonl')} says why"
        )
        return 1
    return 0
