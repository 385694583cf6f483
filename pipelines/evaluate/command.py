"""The order of events of `deeplab evaluate`: pair labels with masks, score them, write and print the report."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pipelines.evaluate import job, tally
from pipelines.evaluate.options import Options
from pipelines.evaluate.plan import Plan, compared_names, pair
from pipelines.evaluate.sources import Sources, segment_notes
from pipelines.evaluate.tally import EvaluationTally
from pipelines.inputs import selection
from pipelines.inputs.layouts import name_of
from pipelines.pages import evaluation as page
from pipelines.pages import gallery
from pipelines.runner.flags import beam_options, check_paths
from pipelines.runner.run import run as run_job
from trainer import storage
from trainer.accounts import Accounts, write_rejects
from trainer.formats.cards import load_card
from trainer.formats.labels import Palette
from trainer.formats.palettes import resolve
from trainer.options import InputError


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags)
    check_paths(beam, {"--labels": options.labels, "--masks": options.masks, "--output": options.output})
    palette = load_card(options.model).palette if options.model is not None else resolve(options.palette)
    sources = Sources(options.labels, options.masks, palette)
    notes = [segment_notes(folder, palette) for folder in options.masks]
    chosen = selection.load(options.records, options.split, options.list)
    plan = pair(options.labels, options.masks, palette, chosen)
    if plan.note:
        print(plan.note, flush=True)
    images_folder = find_images_folder(options, notes)
    total = score(options, sources, plan, beam)
    accounts = tally.accounts(plan, total)
    accounts.check()
    evaluation = describe(options, palette, plan, notes, total, accounts)
    entries = draw_gallery(options.gallery, sources, plan, total, evaluation["compared"], images_folder)
    evaluation["gallery"] = [
        {"key": entry.key, "rank": entry.rank, "miou": {result.name: result.miou for result in entry.results}}
        for entry in entries
    ]
    page_path = storage.join(options.output, "report.html")
    rejects_path = write_rejects(options.output, accounts.rejects)
    storage.write(page_path, page.render(evaluation, entries).encode())
    storage.write_json(storage.join(options.output, "evaluation.json"), evaluation)
    print(f"{page.text(evaluation)}\n\n{accounts.report(rejects_path)}")
    for name, scores in evaluation["masks"].items():
        if scores["without_label"]:
            print(f"{name}: {scores['without_label']} masks have no label and were left out")
    print(f"report: {page_path}")
    if excess := accounts.excess(options.max_reject_rate):
        print(excess)
        return 1
    return 0


def find_images_folder(options: Options, notes: list[dict[str, Any]]) -> str | None:
    """Where the gallery's images are: --images, else the folder the masks were made from; None without a gallery."""
    if options.images is not None:
        if not storage.is_dir(options.images):
            raise InputError(f"--images {options.images}: folder not found")
        return options.images
    if not options.gallery:
        return None
    for note in notes:
        if note.get("input") and storage.is_dir(note["input"]):
            return note["input"]
    print("gallery: no images, only labels and masks (--images DIR shows them)")
    return None


def score(options: Options, sources: Sources, plan: Plan, beam: Any) -> EvaluationTally:
    """Runs the Beam job over the plan. Its files in the output folder are gone afterwards."""
    todo, result = (storage.join(options.output, name) for name in (".plan.jsonl", ".tally.npz"))
    storage.write(todo, plan.chunks())
    build = functools.partial(job.build, sources=sources, plan=todo, result=result)
    try:
        if not run_job(build, beam, total=len(plan.labels), unit="labels", title="evaluate"):
            raise InputError("evaluate reads the job's result itself; omit --template_location")
        return tally.read(result)
    finally:
        for path in (todo, result):
            if storage.exists(path):
                storage.remove(path)


def describe(
    options: Options,
    palette: Palette,
    plan: Plan,
    notes: list[dict[str, Any]],
    total: EvaluationTally,
    accounts: Accounts,
) -> dict[str, Any]:
    """The contents of evaluation.json, but for the gallery; `notes` are those of the masks folders, in their order."""
    evaluated, names = len(total.numbers), compared_names(options.masks)
    return {
        "labels": options.labels,
        "model": options.model,
        "palette": palette.to_json(),
        "images": evaluated,
        "rejected": accounts.rejected,
        "selection": plan.note or None,
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
    count: int,
    sources: Sources,
    plan: Plan,
    total: EvaluationTally,
    names: list[str],
    images_folder: str | None,
) -> list[gallery.Entry]:
    """The gallery's entries: `count` of the images that were evaluated; `names` are those of the masks folders."""
    numbers, mious = total.numbers, total.mious
    chosen = gallery.best_median_worst(mious.mean(1), count)
    entries = []
    for index, rank in chosen:
        relative = plan.labels[numbers[index]]
        label, masks = sources.read(relative)
        image = None if images_folder is None else gallery_image(images_folder, name_of(relative), label.shape)
        scores = dict(zip(names, mious[index].tolist(), strict=True))
        predictions = dict(zip(names, masks, strict=True))
        entries.append(
            gallery.entry(name_of(relative), rank, scores, image, label, predictions, sources.palette, len(chosen))
        )
    return entries


def gallery_image(folder: str, key: str, shape: tuple[int, int]) -> np.ndarray | None:
    """See `gallery.find_image`; prints why there is none."""
    try:
        return gallery.find_image(folder, key, shape)
    except gallery.NotShown as error:
        print(f"gallery: {error}")
        return None
