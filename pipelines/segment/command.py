"""Pictures + model -> masks: one palette PNG per picture, at the picture's own size.

    deeplab segment --input photos --model out/model --output out/masks
    deeplab segment --input "photos/**/*.jpg" --model out/model --output out/masks-crf --crf --overlays
    deeplab segment --input photos --model out/model --output out/masks-auto --crf auto
    deeplab segment --input gs://BUCKET/photos --model gs://BUCKET/model --output gs://BUCKET/masks \\
        --runner DataflowRunner --project PROJECT --region europe-west1 --temp_location gs://BUCKET/tmp \\
        --sdk_container_image IMAGE --experiments=no_use_multiple_sdk_containers

(The last flag makes the threads of one machine share one model.) Pictures never pass from one step to another: an
element is the number of a chunk of the list in `pictures.jsonl`, and one DoFn reads, predicts, refines, encodes and
writes. Masks that are there and carry this run's fingerprint are skipped, so an interrupted run goes on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import asdict

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipelines.crf.refine import CrfOptions, require_engine
from pipelines.inputs import images as pictures
from pipelines.inputs.images import Listing, Picture
from pipelines.masks import segmenter as masks
from pipelines.masks.stamps import fingerprint
from pipelines.runner import run as runner
from pipelines.segment.job import PLACES, PLAN, Job, SegmentChunk, SegmentOptions, Tally, add_up
from pipelines.tune_crf import search as crf_search
from trainer import storage
from trainer.formats.cards import ModelCard, load_card, weights_digest
from trainer.formats.palettes import Palette
from trainer.formats.records import Reject
from trainer.options import InputError, parse_known, to_json

REPORT, REJECTS = "segment.json", "rejects.jsonl"
CHUNK = 64
"""Most pictures in one element: enough that pictures of like sizes meet, few enough to share out and to retry."""


def publish(tally: Tally, job: Job, report: dict) -> dict:
    """Writes rejects.jsonl and the finished segment.json; returns the latter's contents. Checks the accounts."""
    report = {
        **report,
        "status": "done",
        "written": tally.written,
        "skipped": tally.skipped,
        "rejected": len(tally.rejects),
        "class_pixels": _by_class(tally.class_pixels, job.palette),
        "class_pictures": _by_class(tally.class_pictures, job.palette),
    }
    accounted = report["written"] + report["skipped"] + report["rejected"]
    if accounted != report["images"]:
        raise RuntimeError(f"{report['images']} pictures went in but {accounted} are accounted for")
    rejects = sorted(tally.rejects, key=lambda reject: (reject.path, reject.key))
    lines = [json.dumps(asdict(reject), ensure_ascii=False, sort_keys=True) + "\n" for reject in rejects]
    storage.write(storage.join(job.options.output, REJECTS), "".join(lines).encode())
    storage.write_json(storage.join(job.options.output, REPORT), report)
    return report


def _by_class(counts: np.ndarray, palette: Palette) -> dict[str, int]:
    return {name: int(count) for name, count in zip(palette.names, counts, strict=False)}


def build(
    pipeline: beam.Pipeline,
    heartbeat: runner.Heartbeat,
    *,
    job: Job,
    chunks: int,
    plan_digest: str,
    unusable: Tally,
    report: dict,
) -> beam.PCollection:
    """The whole job; what comes out is one `report`, when it is written."""
    return (
        pipeline
        | "Chunks" >> beam.Create(range(chunks))
        | beam.Reshuffle()
        | "Segment" >> beam.ParDo(SegmentChunk(job, plan_digest, heartbeat))
        | "Count" >> beam.CombineGlobally(add_up)
        | "Report" >> beam.Map(lambda tally: publish(unusable + tally, job, report))
    )


def plan(job: Job, listing: Listing, workers: int) -> list[list[dict]]:
    """Cuts the pictures into chunks, each a list of {"picture": ..., "done": whether to look for a finished mask}."""
    try:
        there = {file.relative: _nanoseconds(file) for file in storage.files(job.options.output)}
    except FileNotFoundError:
        there = {}

    def done(picture: Picture) -> bool:
        paths = [f"{folder}{picture.name}{suffix}" for folder, suffix in map(PLACES.get, job.kinds)]
        return all(there.get(path, -1) >= picture.modified for path in paths) and not job.options.overwrite

    entries = [{"picture": asdict(picture), "done": done(picture)} for picture in listing.pictures]
    size = min(CHUNK, max(job.options.batch_size, -(-len(entries) // (4 * workers))))
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def _nanoseconds(file: storage.File) -> int:
    """When the file was made. Generation numbers of Cloud Storage are microseconds."""
    return file.modified * 1000 if storage.is_remote(file.path) else file.modified


def check_output(job: Job) -> None:
    """Raises InputError when the output folder holds the masks of another model or of other options."""
    path = storage.join(job.options.output, REPORT)
    if job.options.overwrite or not storage.exists(path):
        return
    previous = storage.read_json(path)
    if not isinstance(previous, dict) or previous.get("fingerprint") != job.fingerprint:
        raise InputError(
            f"{job.options.output} holds masks made with another model or other options (see {path}); give another "
            "--output, or --overwrite to write them anew"
        )


def crf_in_force(options: SegmentOptions, digest: str) -> CrfOptions | None:
    """The CRF's parameters, None for no CRF; says so to people where the model folder's crf.json decides.

    Flags come first, then crf.json's parameters, then the defaults. Raises InputError when --crf auto finds no
    crf.json, and for one that was made with other weights than those of `digest`.
    """
    if options.crf == "off":
        return None
    tuning, path = crf_search.load(options.model), storage.join(options.model, crf_search.TUNING_FILE)
    if tuning is None:
        if options.crf == "auto":
            raise InputError(
                f"--crf auto: {path} is missing; make it with `deeplab tune-crf --model {options.model} "
                "--records DIR`, or give --crf on or off"
            )
        return options.crf_options(CrfOptions())
    if tuning.model_digest != digest:
        raise InputError(f"{path} was made with other weights; run `deeplab tune-crf` again, or delete the file")
    if tuning.options is None and options.crf == "auto":
        print(f"no CRF: {path} advises against it")
        return None
    if tuning.options is None:
        print(f"warning: {path} advises against the CRF, whose gain is not certain; --crf auto leaves it off")
    crf = options.crf_options(tuning.options or CrfOptions())
    print(f"CRF: {', '.join(f'{name} {value:g}' for name, value in asdict(crf).items())}")
    return crf


def prepare_job(options: SegmentOptions, pipeline_options: PipelineOptions) -> tuple[Job, ModelCard]:
    """Looks at model and options. Raises InputError when they cannot work."""
    if not storage.is_remote(options.output) and os.path.exists(options.output) and not os.path.isdir(options.output):
        raise InputError(f"--output {options.output} is a file; expected a folder")
    card = load_card(options.model)
    digest = weights_digest(options.model)
    crf = crf_in_force(options, digest)
    if crf:
        require_engine(options.crf_engine)
    max_side = card.max_side if options.max_side is None else options.max_side
    direct = pipeline_options.view_as(DirectOptions)
    own_processes = runner.is_local(pipeline_options) and direct.direct_running_mode == "multi_processing"
    processes = direct.direct_num_workers if own_processes else 1
    made_with = fingerprint(digest, card, max_side, crf, options.crf_engine)
    return Job(options, card.palette, max_side, digest, made_with, processes, crf), card


def started_report(job: Job, card: ModelCard, listing: Listing) -> dict:
    """segment.json as it is written before the first mask."""
    options = job.options
    return {
        "status": "running",
        "input": options.input,
        "model": options.model,
        "images": len(listing.pictures) + len(listing.unusable),
        "fingerprint": job.fingerprint,
        "palette": job.palette.to_json(),
        "architecture": card.architecture,
        "head": card.architecture.get("head", ""),
        "max_side": job.max_side,
        "crf": asdict(job.crf) if job.crf else None,
        "options": to_json(options),
    }


def main(argv: list[str]) -> int:
    """`deeplab segment`. Returns 0, or 1 when more than --max-reject-rate of the pictures were rejected."""
    options, rest = parse_known(
        SegmentOptions,
        argv,
        prog="deeplab segment",
        description="Segment pictures: one palette PNG per picture, at its own size.",
        epilog="Other options go to Apache Beam, such as --direct_num_workers 4 or --runner DataflowRunner.",
    )
    pipeline_options = runner.beam_options(rest)
    job, card = prepare_job(options, pipeline_options)
    listing = pictures.find(options.input, options.output)
    check_output(job)
    workers = pipeline_options.view_as(DirectOptions).direct_num_workers if runner.is_local(pipeline_options) else 16
    chunks = plan(job, listing, max(1, workers))
    lines = "".join(json.dumps(chunk, ensure_ascii=False) + "\n" for chunk in chunks).encode()
    report = started_report(job, card, listing)
    for note in listing.notes:
        print(note)
    print(
        f"segment: {report['images']} pictures in {options.input} with {options.model} -> {options.output}", flush=True
    )
    try:
        storage.write(storage.join(options.output, PLAN), lines)
        storage.write_json(storage.join(options.output, REPORT), report)
    except OSError as error:
        raise InputError(f"cannot write to {options.output}: {error}") from None
    unusable = Tally(rejects=tuple(Reject(path, path, "segment", reason) for path, reason in listing.unusable))
    whole = functools.partial(
        build,
        job=job,
        chunks=len(chunks),
        plan_digest=hashlib.sha256(lines).hexdigest(),
        unusable=unusable,
        report=report,
    )
    try:
        ran = runner.run(whole, pipeline_options, total=len(listing.pictures), unit="pictures", title="segment")
    finally:
        masks.release()
    return summarise(options) if ran else 0


def summarise(options: SegmentOptions) -> int:
    """Prints what segment.json says; returns the exit status."""
    report = storage.read_json(storage.join(options.output, REPORT))
    print(
        f"{report['images']} pictures = {report['written']} written + {report['skipped']} skipped "
        f"+ {report['rejected']} rejected"
    )
    pixels, total = report["class_pixels"], sum(report["class_pixels"].values())
    present = [name for name in pixels if pixels[name]]
    width = max(map(len, [*present, "class"]))
    if present:
        print(f"{'class':<{width}}  {'area %':>7}  {'pictures':>8}")
    for name in present:
        print(f"{name:<{width}}  {100 * pixels[name] / total:7.2f}  {report['class_pictures'][name]:8d}")
    rate = report["rejected"] / report["images"]
    if report["rejected"]:
        rejects = [json.loads(line) for line in storage.read(storage.join(options.output, REJECTS)).splitlines()]
        for reject in rejects[:5]:
            print(f"rejected: {reject['path']}: {reject['reason']}")
        more = f"{len(rejects) - 5} more, " if len(rejects) > 5 else ""
        print(f"{more}see {storage.join(options.output, REJECTS)}")
    if rate > options.max_reject_rate:
        print(f"{100 * rate:.1f} % were rejected, more than --max-reject-rate {options.max_reject_rate} allows")
        return 1
    return 0
