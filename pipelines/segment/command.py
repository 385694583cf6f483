"""The steps of `deeplab segment`: list the images, plan, segment, check the accounts and print them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from pipelines.crf.refine import require_engine
from pipelines.inputs import collection
from pipelines.inputs.lists import is_list
from pipelines.inputs.selection import load as load_selection
from pipelines.masks import segmenter
from pipelines.runner.flags import beam_options, check_paths, cores_per_process, is_local, located
from pipelines.runner.remote import CANCELLED, attach
from pipelines.runner.run import run as run_job
from pipelines.segment import plan as planning
from pipelines.segment import tally
from pipelines.segment.job import build
from pipelines.segment.mask import SegmentJob, made_by
from pipelines.segment.options import Options
from pipelines.segment.plan import Plan, make_plan
from pipelines.segment.previous import (
    check_output_is_ours,
    chunk_size_of,
    is_unread,
    left_behind,
    may_lack_stamps,
    no_longer_taken,
    outdated,
    previous_report,
    still_there,
)
from pipelines.segment.refinement import crf_in_force
from pipelines.segment.tally import SegmentTally
from trainer import leases, storage
from trainer.accounts import REJECTS_FILE, counted
from trainer.formats import exports
from trainer.formats.cards import ModelCard
from trainer.network.options import bytes_per_pixel
from trainer.options import InputError, to_json


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags, options)
    options = located(beam, options, "input", "model", "output")
    if attach(beam, options, options.output, "segment") == CANCELLED:
        return 0
    job, card = prepare(options, cores_per_process(beam))
    selection = load_selection(options.records, options.split, options.list)
    listing = planning.selected(collection.find(options.input, options.output), selection)
    if is_list(options.input):  # whose images may lie elsewhere
        check_paths(beam, "--input", (image.path for image in listing.images))
    leases.acquire(options.output, "segment")
    previous = previous_report(options, job.fingerprint)
    job = replace(job, unstamped=may_lack_stamps(previous))
    plan = make_plan(listing, options, chunk_size_of(previous))
    if previous is None:
        check_output_is_ours(plan)
    elif "plan" not in previous and not options.overwrite:
        print("masks from version 0.2 and earlier do not record their image; those in the output are made again")
    is_other = bool(previous) and previous["fingerprint"] != job.fingerprint  # else it was said when they became stale
    for note in (*listing.notes, *(left_behind(options, job.fingerprint) if is_other else ())):
        print(note)
    is_again = bool(previous) and not is_other
    if is_unread(previous, options, job.fingerprint):
        return finish(options, sent(options.output, plan, previous), job.fingerprint, is_again)
    images = counted(plan.total, "image")
    print(f"segment: {images} in {options.input} with {options.model} -> {options.output}", flush=True)
    report = started(job, card, plan) | ({} if is_local(beam) else {tally.UNREAD: True})
    if not segment(job, plan, report, beam):
        return 0
    return finish(options, plan, job.fingerprint, is_again)


def prepare(options: Options, cores: int) -> tuple[SegmentJob, ModelCard]:
    """Checks model and options. Raises InputError if they do not fit.

    Args:
      cores: the number of cores that a worker process may use; 0 if it has its machine to itself.
    """
    card = exports.load_card(options.model)
    digest = exports.model_digest(options.model, card)
    crf, note = crf_in_force(options, digest)
    if note:
        print(note)
    if crf:
        require_engine(options.crf_engine)
    max_side = card.max_side if options.max_side is None else options.max_side
    exported = bool(exports.kind(options.model))
    if exported and card.max_side and not 0 < max_side <= card.max_side:
        raise InputError(
            f"--max-side {max_side}: {options.model} itself shrinks images to {card.max_side} pixels; give no more "
            "than that, or the model folder it was made from"
        )
    if exported and card.max_side and options.views.area > 1:
        raise InputError(
            f"--scales {max(options.scales):g}: {options.model} itself shrinks images to {card.max_side} pixels; give "
            "none above 1, or the model folder it was made from"
        )
    job = SegmentJob(
        options=options,
        palette=card.palette,
        max_side=max_side,
        model_digest=digest,
        fingerprint=made_by(options, digest, card, max_side, crf),
        cores=cores,
        crf=crf,
        network_bytes=bytes_per_pixel(card.architecture) + exported * card.palette.num_classes * exports.CLASS_BYTES,
    )
    return job, card


def started(job: SegmentJob, card: ModelCard, plan: Plan) -> dict[str, Any]:
    """segment.json as it is written before the first mask."""
    return {
        "status": tally.RUNNING,
        "input": job.options.input,
        "model": job.options.model,
        "images": plan.total,
        "plan": plan.file,
        "chunk": plan.size,
        "fingerprint": job.fingerprint,
        "unstamped": job.unstamped,
        "palette": job.palette.to_json(),
        "architecture": card.architecture,
        "head": card.architecture.get("head", ""),
        "max_side": job.max_side,
        "crf": job.crf.to_json(job.palette.names) if job.crf else None,
        "options": to_json(job.options),
    }


def sent(folder: str, plan: Plan, report: dict[str, Any]) -> Plan:
    """The plan of the job whose results are in segment.json; what that job has written is not swept."""
    images = report["images"]
    if images != plan.total or planning.has_other_images(folder, report["plan"], plan):
        print(
            f"the images have changed since the job was sent, {images:,} then, {plan.total:,} now: run the same "
            "command again for those of today"
        )
    return replace(plan, file=report["plan"], usable=images - len(plan.rejects), outdated=())


def segment(job: SegmentJob, plan: Plan, report: dict[str, Any], beam: Any) -> bool:
    """Runs the Beam job over the plan; False if it was not waited for.

    Args:
      report: segment.json, which is written before the job.
    """
    folder = job.options.output
    try:
        planning.write(folder, plan)
        storage.write_json(storage.join(folder, planning.REPORT_FILE), report)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from None
    whole = functools.partial(
        build,
        job=job,
        chunks=plan.chunks,
        plan=plan.file,
        unplaced=SegmentTally(rejects=plan.rejects),
        started=report,
    )
    try:
        return run_job(whole, beam, total=plan.usable, unit="images", title="segment", folder=folder)
    finally:
        segmenter.release()


def finish(options: Options, plan: Plan, fingerprint: str, is_again: bool) -> int:
    """Checks and prints the accounts of the results that the job has published; returns the exit status.

    Args:
      is_again: whether an earlier run with the same model and options has left files.

    Raises:
      UnbalancedError: images of the plan are neither written, skipped nor rejected.
    """
    accounts, report = tally.read_accounts(options.output, plan.total, plan.file, fingerprint)
    accounts.check()
    gone = no_longer_taken(options.output, plan)
    planning.sweep(options.output, plan)
    print(accounts.report(storage.join(options.output, REJECTS_FILE)))
    for warning in filter(None, (still_there(options.output, accounts.rejects), gone)):
        print(warning)
    for warning in outdated(options, accounts.outputs["written"]) if is_again else ():
        print(warning)
    if table := tally.table(report):
        print(table)
    if shares := tally.shares(report):
        print(shares)
    tally.mark_read(options.output, report)
    if excess := accounts.excess(options.max_reject_rate):
        print(excess)
        return 1
    return 0
