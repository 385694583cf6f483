"""The steps of `deeplab tune-crf`: choose images, search, decide, write crf.json and the page."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.crf.refine import require_engine
from pipelines.masks.stamps import fingerprint
from pipelines.pages import gallery
from pipelines.pages import tuning as page
from pipelines.runner.flags import beam_options, cores_per_process, located
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import guarded
from pipelines.runner.remote import CANCELLED, attach
from pipelines.runner.run import run as run_job
from pipelines.tune_crf import samples, scoring, search
from pipelines.tune_crf.job import build
from pipelines.tune_crf.options import MIN_IMAGES, Options
from pipelines.tune_crf.samples import Sample
from pipelines.tune_crf.scoring import Point, Scores, TuningJob
from trainer import leases, storage
from trainer.accounts import REJECTS_FILE, Accounts, counted, merged, write_rejects
from trainer.formats.cards import load_card, weights_digest
from trainer.formats.dataset import Dataset, load_dataset, unchanged
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import TUNING_FILE, WORK, Tuning
from trainer.metrics import mean_iou
from trainer.options import InputError
from trainer.terminal import printable

SHOWN = 3
"""Number of images on the page that gained most, and number of those that lost most."""
TRAINING = "train"
"""The split that `deeplab train` learns from."""
PAGE_TITLE = b"<title>CRF tuning: "
"""Identifies the page of an earlier run."""


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags, options)
    options = located(beam, options, "model", "records", "output")
    if attach(beam, options, output(options, WORK), "tune-crf", needs_result=True) == CANCELLED:
        return 0
    job, dataset = prepare(options, beam)
    # Beside crf.json, which is written last: where that cannot be, the search would be lost.
    leases.acquire_file(output(options, ".json"), "tune-crf")
    # And in the work folder: a link may lead others there, and up to version 0.34 this was the only lease.
    leases.acquire(job.work, "tune-crf")
    usable, accounts = choose(options, job, dataset)
    tuning, accounts = tune(options, job, dataset, usable, accounts, beam)
    print(page.text(tuning, output(options, ".json")))
    print(f"page: {output(options, '.html')}")
    if excess := accounts.excess(options.max_reject_rate):
        print(excess)
        return 1
    return 0


def output(options: Options, suffix: str) -> str:
    """The path of a file beside the output file, whose suffix replaces .json."""
    path = storage.join(options.model, TUNING_FILE) if options.output is None else options.output
    return path.removesuffix(".json") + suffix


def prepare(options: Options, beam: Any) -> tuple[TuningJob, Dataset]:
    """Checks model, records and options. Raises InputError if they do not fit."""
    require_engine()
    check_output(options)
    card, dataset = load_card(options.model), load_dataset(options.records)
    if card.palette.names != dataset.palette.names:
        raise InputError(
            f"the model's classes ({', '.join(card.palette.names)}) are not those of {options.records} "
            f"({', '.join(dataset.palette.names)}); give records of the model's classes"
        )
    if options.split not in dataset.splits:
        raise InputError(f"{options.records} has no split {options.split!r}; it has {', '.join(dataset.splits)}")
    if options.split == TRAINING:
        known = "was" if card.data_fingerprint == dataset.fingerprint else "may have been"
        print(
            f"warning: the model {known} trained on the split {TRAINING}; its masks there are better than on new "
            "images, which biases the verdict; tune on another --split",
            flush=True,
        )
    digest = weights_digest(options.model, card)
    job = TuningJob(
        model=options.model,
        records=options.records,
        work=output(options, WORK),
        palette=dataset.palette,
        max_side=card.max_side,
        views=options.views,
        model_digest=digest,
        fingerprint=f"{fingerprint(digest, card, card.max_side, None, views=options.views)}-{dataset.fingerprint}",
        threads=cores_per_process(beam),
    )
    return job, dataset


def check_output(options: Options) -> None:
    """Raises InputError if the output is a folder, or an existing output was not written by this command."""
    path, html, work = (output(options, suffix) for suffix in (".json", ".html", WORK))
    if os.path.isdir(path):
        raise InputError(f"--output {path} is a folder; expected the file to write")
    names = storage.join(work, scoring.NAMES_FILE)
    for file in (path, html, names, storage.join(work, REJECTS_FILE)):
        storage.check_file(file)
    is_ours = {path: holds(path, Tuning.from_json), names: holds(names, read_names)}
    if not storage.exists(names) and storage.is_dir(work):
        is_ours[work] = all(scoring.OURS.match(file.relative) for file in storage.walk(work))
    if storage.exists(html):
        is_ours[html] = PAGE_TITLE in storage.read(html)
    for file, ours in is_ours.items():
        if not ours:
            raise InputError(
                f"{file} was not written by `deeplab tune-crf` of this or an earlier version; move it away, or give "
                "another --output"
            )


def sweep(options: Options) -> None:
    """Removes the unfinished files of killed runs beside the work folder."""
    names = {os.path.basename(output(options, suffix)) for suffix in (".json", ".html")}
    storage.sweep(os.path.dirname(output(options, ".json")) or ".", names)


def holds(path: str, read: Callable[[Any], Any]) -> bool:
    """Whether `read` can read the JSON file at `path`, or there is none."""
    try:
        return not storage.exists(path) or read(storage.read_json(path)) is not None
    except InputError:
        return False


def read_names(content: Any) -> dict[str, str]:
    """Returns the contents of scoring.NAMES_FILE after a check. Raises InputError for anything else."""
    if isinstance(content, dict) and all(len(name) == 24 and isinstance(content[name], str) for name in content):
        return content
    raise InputError("expected names of images")


def choose(options: Options, job: TuningJob, dataset: Dataset) -> tuple[list[Sample], Accounts]:
    """Chooses the images to tune on, and records them in the work folder; returns them with their accounts.

    Raises:
      InputError: too few images can be used, or the work folder cannot be written to.
    """
    try:
        # The first file of the folder, which identifies it to a later run.
        storage.write_json(storage.join(job.work, scoring.NAMES_FILE), {})
        scoring.clear_failures(job)
    except OSError as error:
        raise InputError(f"cannot write to {job.work}: {error}; give another --output") from None
    try:
        with unchanged(options.records, dataset):  # whose fingerprint identifies the counts
            chosen = samples.choose(options.records, dataset, options.split, options.images)
            at_boundary = options.metric == "trimap"
            usable, rejects, labelled = samples.sift(options.records, job.palette, chosen, job.notes, at_boundary)
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise InputError(
            f"a shard of {options.records} {what}: {error}; `deeplab records verify {options.records}` has the details"
        ) from None
    accounts = samples.accounts(chosen, usable, rejects)
    names = {job.name(sample): sample.key for sample in usable}
    storage.write_json(storage.join(job.work, scoring.NAMES_FILE), names)
    report(options, job, accounts)
    check_labelled(options, accounts, labelled)
    return usable, accounts


def report(options: Options, job: TuningJob, accounts: Accounts) -> None:
    """Checks, writes and prints the accounts of the images. Raises InputError if too few can be used."""
    accounts.check()
    print(f"{options.split}: {accounts.report(write_rejects(job.work, accounts.rejects))}", flush=True)
    if accounts.outputs["usable"] < MIN_IMAGES:
        raise InputError(
            f"{counted(accounts.outputs['usable'], 'usable image')} in the split {options.split} of "
            f"{options.records}; expected {MIN_IMAGES} or more; {_more_images(options, accounts)}"
        )


def _more_images(options: Options, accounts: Accounts) -> str:
    """The cure for too few images."""
    rest = f"--images 0 for more than {options.images} of the split, " if accounts.inputs == options.images else ""
    return (
        f"give {rest}another --split, or records of which `deeplab prepare --val-fraction` holds out more, and a "
        "model trained on these"
    )


def check_labelled(options: Options, accounts: Accounts, labelled: int) -> None:
    """Raises InputError if too few images have a pixel that is scored: `labelled` of them."""
    if labelled < MIN_IMAGES:
        where = f" within {options.trimap_width} pixels of a boundary" if options.metric == "trimap" else ""
        raise InputError(
            f"of {accounts.outputs['usable']} usable images in the split {options.split} of {options.records}, "
            f"{labelled} have a labelled pixel{where}; expected {MIN_IMAGES} or more; "
            f"{_more_images(options, accounts)}"
        )


def tune(
    options: Options,
    job: TuningJob,
    dataset: Dataset,
    usable: list[Sample],
    accounts: Accounts,
    beam: Any,
) -> tuple[Tuning, Accounts]:
    """Scores the points that the search needs; decides; and writes crf.json and the page.

    Returns:
      The result, and the accounts with the images that could not be scored.
    """
    width = options.trimap_width if options.metric == "trimap" else None
    usable, accounts, before, counts = score_all(options, job, usable, accounts, beam, width)
    tuning = search.tune(
        before,
        counts,
        [sample.key for sample in usable],
        dataset.palette.names,
        metric=options.metric,
        trimap_width=width,
        split=options.split,
        images=accounts.inputs,
        rejects=tuple(reject.to_json() for reject in accounts.rejects),
        model_digest=job.model_digest,
        records_fingerprint=dataset.fingerprint,
        scales=job.views.scales,
        flip=job.views.flip,
    )
    point = search.search(before, counts, np.ones(len(usable), bool))
    entries = draw_gallery(job, usable, point, before, counts[point])
    html = page.render(tuning, dataset.palette, options.model, point, entries)
    storage.write(output(options, ".html"), html.encode())
    storage.write_json(output(options, ".json"), tuning.to_json())
    scoring.tidy(job)
    sweep(options)
    return tuning, accounts


def score_all(
    options: Options, job: TuningJob, usable: list[Sample], accounts: Accounts, beam: Any, width: int | None
) -> tuple[list[Sample], Accounts, np.ndarray, dict[Point, np.ndarray]]:
    """Scores the points that the search needs, round by round.

    Args:
      width: pixels from a boundary within which masks are scored; None: everywhere.

    Returns:
      The images that could be scored; the accounts with the others as rejects; and the counts of those images, int64
      [n, 3, C], without the CRF and at each point.

    Raises:
      InputError: too few images could be scored, or have a label.
    """
    read = functools.partial(scoring.read_scores, job, bands=scoring.bands_of(width), files={})
    points, stage = (None, *search.coarse_points()), "coarse grid"
    while True:
        usable, accounts, scores = score(options, job, usable, accounts, read, beam, points, stage)
        before, counts = stacked(job, usable, (None,), scores)[None], stacked(job, usable, points[1:], scores)
        check_labelled(options, accounts, int(np.count_nonzero(before[:, 1].any(-1))))
        lacking = search.unscored(before, counts, search.folds([sample.key for sample in usable]))
        if lacking is None:
            return usable, accounts, before, counts
        points, stage = (*points, *lacking.points), lacking.stage


def score(
    options: Options,
    job: TuningJob,
    usable: list[Sample],
    accounts: Accounts,
    read: Callable[[list[Sample]], Scores],
    beam: Any,
    points: tuple[Point, ...],
    title: str,
) -> tuple[list[Sample], Accounts, Scores]:
    """The counts of all images at all points: reads those in the work folder, and computes the others.

    Args:
      usable, accounts: the usable images so far, and their accounts.
      read: reads the counts of samples from the work folder, see `scoring.read_scores`.
      title: a name of the points, for messages.

    Returns:
      The images that could be scored, the accounts with the others as rejects, and the counts.

    Raises:
      UnbalancedError: some counts are missing after the job.
    """
    scores = read(usable)
    tasks = scoring.missing(job, usable, points, scores)
    if not tasks:
        return usable, accounts, scores
    planned = count(tasks)
    known = len(points) * len(usable) - planned
    print(f"{title}: {planned} masks to make, {known} known", flush=True)
    whole = functools.partial(build, job=job, tasks=tasks)
    run_job(whole, beam, total=planned, unit="masks", title="tune-crf", folder=job.work)
    scores = read(usable)
    reasons = scoring.failures(job, usable)
    left = scoring.missing(job, usable, points, scores)
    rejects = tuple(
        replace(samples.reject(options.records, sample, reasons[job.name(sample)]), records=len(lacking))
        for sample, lacking in left
        if job.name(sample) in reasons
    )
    Accounts("masks", known + planned, {"known": known, "scored": planned - count(left)}, rejects).check()
    if rejects:
        usable = [sample for sample in usable if job.name(sample) not in reasons]
        rejects = merged((*accounts.rejects, *(replace(reject, records=1) for reject in rejects)))
        accounts = Accounts(accounts.unit, accounts.inputs, {"usable": len(usable)}, rejects)
        report(options, job, accounts)
    return usable, accounts, scores


def count(tasks: Iterable[scoring.Task]) -> int:
    """The number of masks that the tasks will make."""
    return sum(len(points) for _, points in tasks)


def stacked(job: TuningJob, usable: list[Sample], points: Iterable[Point], scores: Scores) -> dict[Point, np.ndarray]:
    """The scores by point, int64 [n, 3, C] each, in the order of the n images."""
    return {point: np.stack([scores[job.name(sample)][point] for sample in usable]) for point in points}


def draw_gallery(
    job: TuningJob, usable: list[Sample], point: CrfOptions, before: np.ndarray, after: np.ndarray
) -> list[gallery.Entry]:
    """Draws the images that `extremes` chooses; arguments as there."""
    chosen, entries = extremes(before, after), []
    with job.notes.watch("gallery") as recovery:
        draw = guarded(draw_entry, recovery)
        for index, rank in chosen:
            mious = {"without CRF": float(mean_iou(before[index])), "with CRF": float(mean_iou(after[index]))}
            try:
                entries.append(attempt(functools.partial(draw, job, usable[index], point, rank, mious, len(chosen))))
            except Failed as failure:
                print(printable(f"page: {usable[index].key} is not shown: {failure.reason}"))
    return entries


def extremes(before: np.ndarray, after: np.ndarray) -> list[tuple[int, str]]:
    """The images whose share of correct pixels rose most, "best", and those where it rose least or fell, "worst".

    Args:
      before, after: int64 [n, 3, C] counts without the CRF and with it. Images without a labelled pixel have no share.
    """
    labelled = np.flatnonzero(before[:, 1].sum(-1))
    correct = (after[:, 0].sum(-1) - before[:, 0].sum(-1))[labelled]
    order = labelled[np.argsort(-correct / before[labelled, 1].sum(-1), kind="stable")]
    worst = order[SHOWN:][-SHOWN:]
    return [*((int(index), "best") for index in order[:SHOWN]), *((int(index), "worst") for index in worst)]


def draw_entry(
    job: TuningJob, sample: Sample, point: CrfOptions, rank: str, mious: dict[str, float], entries: int
) -> gallery.Entry:
    """Draws an image of the gallery with its two masks; `mious` are their scores."""
    image, label = job.load(sample)
    masks = [scoring.shown_mask(job, sample, image, parameters) for parameters in (None, point)]
    predictions = dict(zip(mious, masks, strict=True))
    return gallery.entry(sample.key, rank, mious, image, label, predictions, job.palette, entries)
