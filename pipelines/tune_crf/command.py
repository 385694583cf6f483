"""Model + records -> the parameters of the dense CRF that suit this model, or the advice to leave the CRF off.

    deeplab tune-crf --model out/model --records out/records        # writes out/model/crf.json and out/model/crf.html
    deeplab segment --input photos --model out/model --output out/masks --crf auto

Weight and widths of the bilateral kernel are searched coarse to fine on labelled pictures that the model was not
trained on, and the gain is measured on pictures other than those the parameters were chosen by (see
`pipelines.tune_crf.search`). Two Beam jobs do the work, one per grid. Their counts lie in a folder beside the output,
where an interrupted run goes on and a repeated one, also with another metric, finds them; it may be deleted.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipelines.crf.refine import CrfOptions, require_engine
from pipelines.masks.stamps import fingerprint
from pipelines.pages import gallery
from pipelines.pages import tuning as tune_report
from pipelines.runner import run as runner
from pipelines.scores.trimap import BANDS
from pipelines.tune_crf import scoring as tune_job
from pipelines.tune_crf import search as crf_search
from pipelines.tune_crf.scoring import Job, Picture, Scores
from pipelines.tune_crf.search import TUNING_FILE, Tuning
from trainer import storage
from trainer.formats import images
from trainer.formats.cards import load_card, weights_digest
from trainer.formats.records import Dataset, Reject, load_dataset
from trainer.options import InputError, option, parse_known

SHOWN = 3
"""Pictures on the page that gained most, and as many that lost most."""


@dataclass(frozen=True)
class TuneOptions:
    """Options of `deeplab tune-crf`; further flags go to Apache Beam."""

    model: str = option(help="model folder, from `deeplab train` or `deeplab import-weights`", metavar="DIR")
    records: str = option(help="folder of records with pictures the model was not trained on", metavar="DIR")
    output: str | None = option(
        None, "JSON file to write, with a page beside it (default: crf.json in the model folder)", metavar="FILE"
    )
    split: str = option("val", "split of the records to tune on")
    pictures: int = option(100, "most pictures to tune on, 0 for all of the split")
    metric: str = option(
        "miou", "score to raise: mIoU of the whole pictures, or of the pixels near borders", choices=("miou", "trimap")
    )
    trimap_width: int = option(4, "trimap: how far from a border in the label, in pixels", choices=BANDS)
    max_reject_rate: float = option(0.01, "share of damaged records above which the exit status is 1")

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".json"):
            raise InputError(f"--output must name a .json file, got {self.output}")
        least = crf_search.MIN_PICTURES
        if self.pictures and self.pictures < least:
            raise InputError(f"--pictures must be 0 for all, or {least} or more, got {self.pictures}")
        if not 0 <= self.max_reject_rate <= 1:
            raise InputError(f"--max-reject-rate must be 0 to 1, got {self.max_reject_rate}")

    def beside(self, suffix: str) -> str:
        """The output file's path with another suffix than .json."""
        output = storage.join(self.model, TUNING_FILE) if self.output is None else self.output
        return output.removesuffix(".json") + suffix

    @property
    def width(self) -> int | None:
        return self.trimap_width if self.metric == "trimap" else None


def prepare(options: TuneOptions, beam_options: PipelineOptions) -> tuple[Job, Dataset]:
    """Looks at model, records and options. Raises InputError when they cannot work."""
    require_engine()
    if os.path.isdir(options.beside(".json")):
        raise InputError(f"--output {options.beside('.json')} is a folder; expected the file to write")
    card, dataset = load_card(options.model), load_dataset(options.records)
    if card.palette.names != dataset.palette.names:
        raise InputError(
            f"the model's classes ({', '.join(card.palette.names)}) are not those of {options.records} "
            f"({', '.join(dataset.palette.names)}); give records of the model's classes"
        )
    if options.split not in dataset.splits:
        raise InputError(f"{options.records} has no split {options.split!r}; it has {', '.join(dataset.splits)}")
    digest = weights_digest(options.model)
    made_from = f"{fingerprint(digest, card, card.max_side, None)}-{dataset.fingerprint}"
    direct, threads = beam_options.view_as(DirectOptions), 0
    if runner.is_local(beam_options) and direct.direct_running_mode == "multi_processing":
        threads = max(1, len(os.sched_getaffinity(0)) // direct.direct_num_workers)
    job = Job(
        options.model,
        options.records,
        options.beside(".tuning"),
        dataset.palette,
        card.max_side,
        digest,
        made_from,
        threads,
    )
    return job, dataset


def sample(options: TuneOptions, job: Job, dataset: Dataset) -> tuple[list[Picture], list[Reject]]:
    """The pictures to tune on and the rejects among them; says which to people and to the work folder."""
    try:
        pictures, rejects = tune_job.sample(options.records, dataset, options.split, options.pictures)
    except FileNotFoundError as error:
        raise InputError(
            f"a shard of {options.records} is missing: {error}; `deeplab records verify {options.records}` tells more"
        ) from None
    total = len(pictures) + len(rejects)
    print(f"{options.split}: {total} pictures = {len(pictures)} usable + {len(rejects)} rejected", flush=True)
    for reject in rejects[:5]:
        print(f"rejected: {reject.path}: {reject.reason}")
    if len(pictures) < crf_search.MIN_PICTURES:
        raise InputError(
            f"{len(pictures)} usable pictures in the split {options.split} of {options.records}; "
            f"expected {crf_search.MIN_PICTURES} or more"
        )
    try:
        storage.write_json(storage.join(job.work, "pictures.json"), {job.name(one): one.key for one in pictures})
    except OSError as error:
        raise InputError(f"cannot write to {job.work}: {error}; give another --output") from None
    return pictures, rejects


def score(
    job: Job,
    pictures: list[Picture],
    points: Iterable[CrfOptions | None],
    bands: int,
    beam_options: PipelineOptions,
    title: str,
) -> Scores:
    """Counts of all pictures at all points: those in the work folder are read, the others are computed."""
    points = tuple(points)

    def lacking(scores: Scores) -> list[tune_job.Task]:
        tasks = [(one, tuple(p for p in points if p not in scores[job.name(one)])) for one in pictures]
        return [task for task in tasks if task[1]]

    scores = tune_job.read_scores(job, pictures, bands)
    tasks = lacking(scores)
    if not tasks:
        return scores
    total = sum(len(missing) for _, missing in tasks)
    print(f"{title}: {total} masks to make, {len(points) * len(pictures) - total} known", flush=True)
    build = functools.partial(tune_job.build, job=job, tasks=tasks)
    if not runner.run(build, beam_options, total=total, unit="masks", title="tune-crf"):
        raise InputError("tune-crf reads the job's result itself; leave --template_location out")
    scores = tune_job.read_scores(job, pictures, bands)
    if tasks := lacking(scores):
        raise InputError(f"{job.work} lacks results of {len(tasks)} pictures; run the same command again to go on")
    return scores


def stacked(job: Job, pictures: list[Picture], points: Iterable[CrfOptions], scores: Scores) -> crf_search.Counts:
    """Scores by point, int64 [n, 3, C] each, in the order of `pictures`."""
    return {point: np.stack([scores[job.name(one)][point] for one in pictures]) for point in points}


def tune(options: TuneOptions, beam_options: PipelineOptions) -> Tuning:
    """Runs the whole search and writes crf.json and the page."""
    job, dataset = prepare(options, beam_options)
    pictures, rejects = sample(options, job, dataset)
    keys, bands = [picture.key for picture in pictures], tune_job.bands_of(options.width)
    coarse = crf_search.coarse_points()
    scores = score(job, pictures, (None, *coarse), bands, beam_options, "coarse grid")
    counts = stacked(job, pictures, coarse, scores)
    fine = crf_search.wanted_fine_points(counts, crf_search.folds(keys))
    scores = score(job, pictures, (None, *coarse, *fine), bands, beam_options, "fine grid")
    counts = stacked(job, pictures, dict.fromkeys((*coarse, *fine)), scores)
    before = np.stack([scores[job.name(picture)][None] for picture in pictures])
    tuning = crf_search.tune(
        before,
        counts,
        keys,
        dataset.palette.names,
        metric=options.metric,
        trimap_width=options.width,
        split=options.split,
        pictures=len(pictures) + len(rejects),
        rejects=tuple(asdict(reject) for reject in rejects),
        model_digest=job.digest,
        records_fingerprint=dataset.fingerprint,
    )
    point = crf_search.best(counts, counts, np.ones(len(pictures), bool))
    entries = draw_gallery(job, pictures, point, before, counts[point])
    page = tune_report.render(tuning, dataset.palette, options.model, entries)
    storage.write(options.beside(".html"), page.encode())
    storage.write_json(options.beside(".json"), tuning.to_json())
    tune_job.forget(job)
    return tuning


def draw_gallery(
    job: Job, pictures: list[Picture], point: CrfOptions, before: np.ndarray, after: np.ndarray
) -> list[gallery.Entry]:
    """The pictures whose share of right pixels rose most under `point`, and those where it fell most."""

    def accuracy(counts: np.ndarray) -> np.ndarray:
        return counts[:, 0].sum(-1) / np.maximum(counts[:, 1].sum(-1), 1)

    order = np.argsort(accuracy(before) - accuracy(after), kind="stable")
    chosen = [*((index, "best") for index in order[:SHOWN]), *((index, "worst") for index in order[-SHOWN:])]
    entries = []
    for index, rank in chosen:
        picture = pictures[index]
        image, label = tune_job.load(job.records, job.palette, picture)
        found, mious = {}, {}
        for name, parameters, counts in (("without CRF", None, before), ("with CRF", point, after)):
            found[name] = shown_mask(job, picture, image, parameters)
            mious[name] = float(crf_search.miou(counts[index]))
        entries.append(gallery.entry(picture.key, rank, mious, image, label, found, job.palette, len(chosen)))
    return entries


def shown_mask(job: Job, picture: Picture, image: np.ndarray, point: CrfOptions | None) -> np.ndarray:
    """A mask, kept in the work folder."""
    path = job.result(picture, [point], ".png")
    try:
        return images.decode_label(storage.read(path))
    except (FileNotFoundError, images.ImageError):
        (ids,) = tune_job.make_masks(job, picture, image, [point])
        storage.write(path, job.palette.encode_mask(ids))
        return ids


def main(argv: list[str]) -> int:
    """The command; returns the exit status."""
    options, rest = parse_known(
        TuneOptions,
        argv,
        prog="deeplab tune-crf",
        description="Search the CRF's parameters for a model, and find out whether the CRF is worth using at all.",
        epilog="Other options go to Apache Beam, such as --direct_num_workers 4 or --runner DataflowRunner.",
    )
    tuning = tune(options, runner.beam_options(rest))
    print(tune_report.text(tuning, options.beside(".json")))
    print(f"page: {options.beside('.html')}")
    rate = len(tuning.rejects) / tuning.pictures
    if rate > options.max_reject_rate:
        print(f"{100 * rate:.1f} % were rejected, more than --max-reject-rate {options.max_reject_rate:g} allows")
        return 1
    return 0
