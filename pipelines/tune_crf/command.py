"""The order of events of `deeplab tune-crf`: choose images, score two grids, decide, write crf.json and the page."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipelines.crf.options import CrfOptions
from pipelines.crf.refine import require_engine
from pipelines.crf.tuning import TUNING_FILE, Tuning
from pipelines.masks.stamps import fingerprint
from pipelines.pages import gallery
from pipelines.pages import tuning as page
from pipelines.runner.flags import beam_options, check_paths, cores_per_process
from pipelines.runner.run import run as run_job
from pipelines.tune_crf import samples, scoring, search
from pipelines.tune_crf.job import build
from pipelines.tune_crf.options import MIN_IMAGES, Options
from pipelines.tune_crf.samples import Sample
from pipelines.tune_crf.scoring import Point, Scores, TuningJob
from trainer import storage
from trainer.accounts import Accounts, write_rejects
from trainer.formats.cards import load_card, weights_digest
from trainer.formats.dataset import Dataset, load_dataset
from trainer.metrics import mean_iou
from trainer.options import InputError

SHOWN = 3
"""Images on the page that gained most, and as many that lost most."""
NAMES_FILE = "images.json"
"""Which image has which name in the work folder."""


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags)
    check_paths(beam, {"--model": options.model, "--records": options.records, "--output": options.output})
    job, dataset = prepare(options, beam)
    usable, accounts = choose(options, job, dataset)
    tuning = tune(options, job, dataset, usable, accounts, beam)
    print(page.text(tuning, output(options, ".json")))
    print(f"page: {output(options, '.html')}")
    if excess := accounts.excess(options.max_reject_rate):
        print(excess)
        return 1
    return 0


def output(options: Options, suffix: str) -> str:
    """The output file's path, with another suffix than .json for what lies beside it."""
    path = storage.join(options.model, TUNING_FILE) if options.output is None else options.output
    return path.removesuffix(".json") + suffix


def prepare(options: Options, beam: Any) -> tuple[TuningJob, Dataset]:
    """Checks model, records and options. Raises InputError when they cannot work."""
    require_engine()
    if os.path.isdir(output(options, ".json")):
        raise InputError(f"--output {output(options, '.json')} is a folder; expected the file to write")
    card, dataset = load_card(options.model), load_dataset(options.records)
    if card.palette.names != dataset.palette.names:
        raise InputError(
            f"the model's classes ({', '.join(card.palette.names)}) are not those of {options.records} "
            f"({', '.join(dataset.palette.names)}); give records of the model's classes"
        )
    if options.split not in dataset.splits:
        raise InputError(f"{options.records} has no split {options.split!r}; it has {', '.join(dataset.splits)}")
    digest = weights_digest(options.model)
    job = TuningJob(
        model=options.model,
        records=options.records,
        work=output(options, ".tuning"),
        palette=dataset.palette,
        max_side=card.max_side,
        model_digest=digest,
        fingerprint=f"{fingerprint(digest, card, card.max_side, None)}-{dataset.fingerprint}",
        threads=cores_per_process(beam),
    )
    return job, dataset


def choose(options: Options, job: TuningJob, dataset: Dataset) -> tuple[list[Sample], Accounts]:
    """The images to tune on, and the accounts of those that were chosen; both are noted in the work folder.

    Raises InputError when too few can be used, or the work folder cannot be written to.
    """
    try:
        chosen = samples.choose(options.records, dataset, options.split, options.images)
        usable, rejects = samples.sift(options.records, job.palette, chosen)
    except FileNotFoundError as error:
        raise InputError(
            f"a shard of {options.records} is missing: {error}; `deeplab records verify {options.records}` tells more"
        ) from None
    accounts = samples.accounts(chosen, usable, rejects)
    accounts.check()
    try:
        rejects_path = write_rejects(job.work, accounts.rejects)
        names = {job.name(sample): sample.key for sample in usable}
        storage.write_json(storage.join(job.work, NAMES_FILE), names)
    except OSError as error:
        raise InputError(f"cannot write to {job.work}: {error}; give another --output") from None
    print(f"{options.split}: {accounts.report(rejects_path)}", flush=True)
    if len(usable) < MIN_IMAGES:
        raise InputError(
            f"{len(usable)} usable images in the split {options.split} of {options.records}; "
            f"expected {MIN_IMAGES} or more"
        )
    return usable, accounts


def tune(
    options: Options,
    job: TuningJob,
    dataset: Dataset,
    usable: list[Sample],
    accounts: Accounts,
    beam: Any,
) -> Tuning:
    """Scores the coarse and the fine grid, decides, and writes crf.json and the page."""
    keys = [sample.key for sample in usable]
    width = options.trimap_width if options.metric == "trimap" else None
    score_grid = functools.partial(score, job, usable, scoring.bands_of(width), beam)
    coarse = search.coarse_points()
    counts = stacked(job, usable, coarse, score_grid((None, *coarse), "coarse grid"))
    fine = search.fine_points_to_score(counts, search.folds(keys))
    scores = score_grid((None, *coarse, *fine), "fine grid")
    counts = stacked(job, usable, dict.fromkeys((*coarse, *fine)), scores)
    before = stacked(job, usable, (None,), scores)[None]
    tuning = search.tune(
        before,
        counts,
        keys,
        dataset.palette.names,
        metric=options.metric,
        trimap_width=width,
        split=options.split,
        images=accounts.inputs,
        rejects=tuple(reject.to_json() for reject in accounts.rejects),
        model_digest=job.model_digest,
        records_fingerprint=dataset.fingerprint,
    )
    point = search.best(counts, counts, np.ones(len(usable), bool))
    entries = draw_gallery(job, usable, point, before, counts[point])
    html = page.render(tuning, dataset.palette, options.model, entries)
    storage.write(output(options, ".html"), html.encode())
    storage.write_json(output(options, ".json"), tuning.to_json())
    scoring.forget(job)
    return tuning


def score(job: TuningJob, usable: list[Sample], bands: int, beam: Any, points: Iterable[Point], title: str) -> Scores:
    """Counts of all images at all points: those in the work folder are read, the others are computed.

    Raises UnbalancedError when some are missing after the job.
    """
    points = tuple(dict.fromkeys(points))
    scores = scoring.read_scores(job, usable, bands)
    tasks = scoring.missing(job, usable, points, scores)
    if not tasks:
        return scores
    planned = count(tasks)
    known = len(points) * len(usable) - planned
    print(f"{title}: {planned} masks to make, {known} known", flush=True)
    whole = functools.partial(build, job=job, tasks=tasks)
    if not run_job(whole, beam, total=planned, unit="masks", title="tune-crf"):
        raise InputError("tune-crf reads the job's result itself; omit --template_location")
    scores = scoring.read_scores(job, usable, bands)
    scored = planned - count(scoring.missing(job, usable, points, scores))
    accounts = Accounts("masks", known + planned, {"known": known, "scored": scored})
    accounts.check()
    return scores


def count(tasks: Iterable[scoring.Task]) -> int:
    """Masks that the tasks make."""
    return sum(len(points) for _, points in tasks)


def stacked(job: TuningJob, usable: list[Sample], points: Iterable[Point], scores: Scores) -> dict[Point, np.ndarray]:
    """Scores by point, int64 [n, 3, C] each, in the order of the n images."""
    return {point: np.stack([scores[job.name(sample)][point] for sample in usable]) for point in points}


def draw_gallery(
    job: TuningJob, usable: list[Sample], point: CrfOptions, before: np.ndarray, after: np.ndarray
) -> list[gallery.Entry]:
    """The images whose share of right pixels rose most under `point`, and those where it fell most.

    Args:
      before, after: int64 [n, 3, C] counts without CRF and at `point`.
    """

    def accuracy(counts: np.ndarray) -> np.ndarray:
        return counts[:, 0].sum(-1) / np.maximum(counts[:, 1].sum(-1), 1)

    order = np.argsort(accuracy(before) - accuracy(after), kind="stable")
    chosen = [*((index, "best") for index in order[:SHOWN]), *((index, "worst") for index in order[-SHOWN:])]
    entries = []
    for index, rank in chosen:
        sample = usable[index]
        image, label = job.load(sample)
        masks, mious = {}, {}
        for name, parameters, counts in (("without CRF", None, before), ("with CRF", point, after)):
            masks[name] = scoring.shown_mask(job, sample, image, parameters)
            mious[name] = float(mean_iou(counts[index]))
        entries.append(gallery.entry(sample.key, rank, mious, image, label, masks, job.palette, len(chosen)))
    return entries
