"""The steps of `deeplab evaluate`: pair labels with masks, score them, write and print the report."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.evaluate import job, tally
from pipelines.evaluate.options import Options
from pipelines.evaluate.plan import Plan, compared_names, pair
from pipelines.evaluate.sources import Comparison, Sources, Unusable, segment_notes
from pipelines.evaluate.tally import EvaluationTally
from pipelines.inputs import selection
from pipelines.inputs.coding import settle_coding
from pipelines.inputs.sampling import read_label
from pipelines.pages import evaluation as page
from pipelines.pages import gallery
from pipelines.runner import handover
from pipelines.runner.flags import beam_options, located
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import Recovery, guarded
from pipelines.runner.remote import CANCELLED, FOLLOWED, attach
from pipelines.runner.run import run as run_job
from trainer import leases, prefetch, storage
from trainer.accounts import REJECTS_FILE, Accounts, counted, write_rejects
from trainer.formats.cards import ModelCard, load_card
from trainer.formats.dataset import load_dataset
from trainer.formats.labels import Palette
from trainer.formats.palettes import resolve
from trainer.options import InputError
from trainer.terminal import printable

REPORT_FILE = "evaluation.json"
PAGE_FILE = "report.html"
FILES = (REPORT_FILE, PAGE_FILE, REJECTS_FILE)


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags, options)
    options = located(beam, options, "labels", "masks", "output")
    earlier = attach(beam, options, options.output, "evaluate", needs_result=True)
    if earlier == CANCELLED:
        return 0
    check_folders(options)
    leases.acquire(options.output, "evaluate")
    card = load_card(options.model) if options.model is not None else None
    palette = card.palette if card else resolve(options.palette)
    notes = [segment_notes(folder, palette) for folder in options.masks]
    made_by = tuple(note.get("fingerprint") or "" for note in notes)
    sources = Sources(options.labels, options.masks, palette, options.label_coding, options.label_coding, made_by)
    plan = pair(sources, selection.load(options.records, options.split, options.list))
    doubts = [*unfinished(options.masks, notes), *self_comparisons(options), training_images(plan, card)]
    say(note for note in (plan.selection, *plan.notes, *doubts) if note)
    images_folder = find_images_folder(options, notes)
    plan = settle(plan, options)
    total = score(options, plan, beam, earlier == FOLLOWED)
    check_unchanged(options.masks, notes, palette)
    handover.tidy(options.output, FILES)
    accounts = tally.accounts(plan, total)
    accounts.check()
    evaluation = describe(options, palette, plan, notes, total, accounts)
    entries = draw_gallery(options, plan, total, evaluation["compared"], images_folder)
    evaluation["gallery"] = [
        {"key": entry.key, "rank": entry.rank, "miou": {result.name: result.miou for result in entry.results}}
        for entry in entries
    ]
    handover.tidy(options.output, FILES)
    page_path, rejects_path = write(options.output, evaluation, entries, accounts)
    print(f"{page.text(evaluation)}\n\n{accounts.report(rejects_path)}")
    for name, scores in evaluation["masks"].items():
        if count := scores["without_label"]:
            print(f"{name}: masks without a label, which were left out: {count:,}")
    if len(total.numbers) and not total.confusion.any():
        print(
            f"warning: every pixel of the labels is ignored (id {palette.ignore_id} of palette {palette.name}), so "
            "there is nothing to score; check --labels, and --model or --palette"
        )
    print(f"report: {page_path}")
    if excess := accounts.excess(options.max_reject_rate):
        print(excess)
        return 1
    return 0


def write(
    folder: str, evaluation: dict[str, Any], entries: list[gallery.Entry], accounts: Accounts
) -> tuple[str, str]:
    """Writes evaluation.json, the rejects and the page; returns the paths of the page and of the rejects."""
    # This file comes first: it identifies the others as this command's.
    storage.write_json(storage.join(folder, REPORT_FILE), evaluation)
    rejects_path = write_rejects(folder, accounts.rejects)
    page_path = storage.join(folder, PAGE_FILE)
    # File names need not be UTF-8.
    storage.write(page_path, page.render(evaluation, entries).encode("utf-8", "backslashreplace"))
    return page_path, rejects_path


def settle(plan: Plan, options: Options) -> Plan:
    """The plan with the coding of its labels, which is decided from a sample as in `deeplab prepare`.

    Raises InputError if they can be read in two ways.
    """
    paths = [plan.sources.label_path(comparison) for comparison in plan.comparisons]
    with handover.watch_sample(options.output, read_label, FILES) as read:
        coding, reason = settle_coding(paths, plan.sources.palette, options.label_coding, read)
    say([reason] if reason else [])
    return replace(plan, sources=replace(plan.sources, coding=coding))


def say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(printable(sentence), flush=True)


def check_folders(options: Options) -> None:
    """Raises InputError if two folders are the same through links, or the report would replace other files."""
    masks = [storage.real(folder) for folder in options.masks]
    if len(set(masks)) < len(masks):
        raise InputError(f"--masks names a folder twice: {' '.join(options.masks)}; name each once")
    inputs = {storage.real(options.labels), *masks, *([storage.real(options.images)] if options.images else [])}
    if storage.real(options.output) in inputs:
        raise InputError(f"--output {options.output} is an input folder; give a folder of its own")
    reports = [storage.real(storage.join(options.output, name)) for name in FILES]
    if options.list and storage.real(options.list) in reports:
        raise InputError(f"--list {options.list} would be replaced by what is written; give another --output")
    for path in (storage.join(options.output, name) for name in FILES):
        storage.check_file(path)
    if options.overwrite or is_ours(options.output):
        return
    for name in FILES:
        if storage.exists(path := storage.join(options.output, name)):
            raise InputError(
                f"{path} was not written by `deeplab evaluate`; give another --output, or --overwrite to replace it"
            )


def is_ours(folder: str) -> bool:
    """Whether this command wrote the report in a folder."""
    try:
        report = storage.json_object(storage.read(storage.join(folder, REPORT_FILE)))
    except OSError:
        return False
    return {"compared", "masks", "palette"} <= report.keys()


def unfinished(folders: Iterable[str], notes: Iterable[dict[str, Any]]) -> list[str]:
    """Warnings about folders of masks that `deeplab segment` has not finished, or in which it last wrote no mask."""
    doubts = []
    for folder, note in zip(folders, notes, strict=True):
        if owner := leases.writer(folder):
            doubts.append(f"warning: {owner}; {leases.ONCE_ENDED}")
        elif note.get("status") in ("running", "incomplete"):
            doubts.append(
                f"warning: {folder} is unfinished, according to its segment.json; run `deeplab segment` again to "
                "finish it"
            )
        options = note.get("options")
        if isinstance(options, dict) and options.get("masks") is False:
            doubts.append(
                f"warning: the last `deeplab segment` into {folder} wrote no masks (--no-masks): those there are "
                "older, and their images may have changed since; run it again without the flag"
            )
    return doubts


def check_unchanged(folders: Iterable[str], notes: Iterable[dict[str, Any]], palette: Palette) -> None:
    """Raises InputError if `deeplab segment` has begun to write other masks since `notes` were read."""
    for folder, note in zip(folders, notes, strict=True):
        if segment_notes(folder, palette).get("fingerprint") != note.get("fingerprint"):
            owner = leases.writer(folder)
            raise InputError(
                f"{folder} holds masks of another model or other options than when this command began"
                + (f": {owner}; {leases.ONCE_ENDED}" if owner else "; run this command again")
            )


def self_comparisons(options: Options) -> list[str]:
    """Warnings about folders of masks that are the folder of labels, also by links."""
    return [
        f"warning: --labels {options.labels} and --masks {folder} are the same folder: it is scored against itself"
        for folder in options.masks
        if storage.real(folder) == storage.real(options.labels)
    ]


def find_images_folder(options: Options, notes: list[dict[str, Any]]) -> str | None:
    """The folder of the images in the gallery: --images, else what was segmented, of a pattern its folder; or None."""
    if options.images is not None:
        if not storage.is_dir(options.images):
            found = storage.absence(options.images, "folder not found")
            raise InputError(f"--images {options.images}: {found}; expected a folder")
        if not options.gallery:
            print("--images has no effect with --gallery 0")
        return options.images
    if not options.gallery:
        return None
    for note in notes:
        # The masks may have been made on another machine, whose folder need not be reachable from here.
        with contextlib.suppress(InputError, OSError):
            given = note.get("input") or ""
            folder = storage.fixed_folder(given) if storage.is_pattern(given) and not storage.exists(given) else given
            if folder and storage.is_dir(folder):
                return folder
    print("gallery: no images, only labels and masks (--images DIR shows them)")
    return None


def score(options: Options, plan: Plan, beam: Any, is_scored: bool) -> EvaluationTally:
    """Runs the Beam job over the plan, and removes its files from the output folder afterwards.

    They are kept if it fails or the command does not wait for it, as a remote job may continue and needs them.

    Args:
      is_scored: whether a job of an earlier run was followed to its end; if it had the same plan, its result exists.
    """
    output, digest = options.output, plan.digest
    if not (is_scored and storage.exists(handover.tally_path(output, digest))):
        build = functools.partial(job.build, sources=plan.sources, chunks=plan.chunks, output=output, digest=digest)
        handover.write_plan(output, plan.lines)
        run_job(build, beam, total=len(plan.comparisons), unit="labels", title="evaluate", folder=output)
    total = tally.read(output, digest)
    handover.remove(output, digest)
    return total


def training_images(plan: Plan, card: ModelCard | None) -> str:
    """A warning if more labels are evaluated than the validation split of the model's records has; else "".

    Args:
      card: the card of the model; None if the classes come from a palette.
    """
    folder = card.training.get("records") if card and not plan.selection else None
    if not folder or not isinstance(folder, str):
        return ""
    try:
        dataset = load_dataset(folder)
    except (InputError, OSError):
        return ""
    images = dataset.images("val")
    if dataset.fingerprint != card.data_fingerprint or plan.total <= images:
        return ""
    return (
        f"warning: {counted(plan.total, 'label')}, but split val of {folder}, with which the model was trained, has "
        f"{counted(images, 'image')}: others may be of images it was trained on; give --records {folder} to keep "
        "these out"
    )


def describe(
    options: Options,
    palette: Palette,
    plan: Plan,
    notes: list[dict[str, Any]],
    total: EvaluationTally,
    accounts: Accounts,
) -> dict[str, Any]:
    """The contents of evaluation.json; `notes` are the `segment_notes` of the folders of masks, in order."""
    evaluated, names = len(total.numbers), compared_names(options.masks)
    return {
        "labels": options.labels,
        "model": options.model,
        "palette": palette.to_json(),
        "images": evaluated,
        "rejected": accounts.rejected,
        "selection": plan.selection or None,
        "compared": names,
        "masks": {
            name: {
                "folder": folder,
                "head": note.get("head"),
                "crf": note.get("crf"),
                "images": evaluated,
                "without_label": plan.without_label[folder],
                **tally.summarize(confusion, palette.names),
            }
            for name, folder, note, confusion in zip(names, options.masks, notes, total.confusion, strict=True)
        },
    }


def draw_gallery(
    options: Options, plan: Plan, total: EvaluationTally, names: Sequence[str], images_folder: str | None
) -> list[gallery.Entry]:
    """Draws the gallery's entries for some of the evaluated images; `names` are the names of the folders of masks.

    Prints the images that cannot be shown: files may have changed since the evaluation, and images are read only here.
    """
    mious = total.mious
    chosen = gallery.best_median_worst(mious.mean(1), options.gallery)
    entries = []
    with handover.in_flight(options.output).watch("gallery") as recovery:
        paths = lambda one: plan.sources.paths(plan.comparisons[total.numbers[one[0]]])
        for (index, rank), read in prefetch.read_ahead(chosen, paths):
            comparison = plan.comparisons[total.numbers[index]]
            scores = dict(zip(names, mious[index].tolist(), strict=True))
            draw = functools.partial(
                draw_entry, plan.sources, comparison, rank, scores, images_folder, len(chosen), recovery, read
            )
            try:
                entries.append(attempt(draw, known=Unusable))
            except (Unusable, Failed) as fault:
                path = fault.path if isinstance(fault, Unusable) else comparison.key
                say([f"gallery: {path}: {fault.reason}"])
    return entries


def draw_entry(
    sources: Sources,
    comparison: Comparison,
    rank: str,
    scores: dict[str, float],
    images_folder: str | None,
    entries: int,
    recovery: Recovery | None,
    read: prefetch.Read,
) -> gallery.Entry:
    """Draws one of `entries` entries; see `gallery.entry`. Raises Unusable if its label or a mask cannot be read."""
    label, masks = sources.read(comparison, read)
    image = None if images_folder is None else gallery_image(images_folder, comparison.key, label.shape, recovery)
    predictions = dict(zip(scores, masks, strict=True))
    return gallery.entry(comparison.key, rank, scores, image, label, predictions, sources.palette, entries)


def gallery_image(folder: str, key: str, shape: tuple[int, int], recovery: Recovery | None) -> np.ndarray | None:
    """See `gallery.find_image`; prints the reason if there is none."""
    find = guarded(gallery.find_image, recovery)
    try:
        return attempt(functools.partial(find, folder, key, shape), known=(gallery.NotShown, OSError))
    except (gallery.NotShown, OSError, Failed) as error:
        say([f"gallery: {error}"])
        return None
