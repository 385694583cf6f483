"""The steps of `deeplab doctor`: scan, decide on the coding, examine the pairs, conclude, write, print."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipelines.doctor import alignment, copies, depth, findings, holdout, job, remedy, tally, verdict
from pipelines.doctor.classes import settle
from pipelines.doctor.copies import Couples
from pipelines.doctor.drawings import draw
from pipelines.doctor.measures import likeness
from pipelines.doctor.options import SAMPLED, Options
from pipelines.doctor.pairing import find
from pipelines.doctor.plan import Plan, make_plan
from pipelines.doctor.reading import COUNTED, OWN, Reading
from pipelines.doctor.remedy import Remedy
from pipelines.doctor.tally import DoctorTally
from pipelines.doctor.verdict import Finding
from pipelines.inputs.rawset import RawSet
from pipelines.inputs.sampling import read_label
from pipelines.pages import doctor as page
from pipelines.pages.gallery import Panel
from pipelines.runner import handover
from pipelines.runner.flags import beam_options, check_paths, located
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import Recovery, guarded, guarded_each
from pipelines.runner.remote import CANCELLED, attach
from pipelines.runner.run import run as run_job
from trainer import leases, prefetch, storage
from trainer.accounts import Accounts
from trainer.formats import codings, images
from trainer.formats.images import ImageError
from trainer.formats.labels import LabelError
from trainer.options import InputError

REPORT_FILE = "doctor.json"
PAGE_FILE = "doctor.html"
CURES = (OWN, COUNTED, findings.MANIFEST)
"""Files in the output folder that prepare accepts."""
FILES = (REPORT_FILE, PAGE_FILE, *CURES)


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags, options)
    options = located(beam, options, "input", "output")
    if attach(beam, options, options.output, "doctor", needs_result=True) == CANCELLED:
        return 0
    written = check_folder(options)
    leases.acquire(options.output, "doctor")
    raw, pairing = find(
        options.input, options.layout, options.val_fraction, options.group_by, options.images, options.labels
    )
    if raw.layout == "manifest" or not storage.is_remote(options.input):  # whose files may lie elsewhere
        check_paths(beam, "DIR", (path for pair in raw.pairs for path in (pair.image, pair.label)))
    check_apart(options.output, raw)
    with handover.watch_sample(options.output, read_label, FILES) as read:
        reading = settle(raw, options.palette, options.label_coding, read)
    reading = replace(reading, findings=(*pairing, *reading.findings))
    plan = make_plan(raw.pairs, options.full, SAMPLED, options.seed)
    total = examine(options, plan, reading, beam)
    Accounts("pairs", plan.total, {"looked at": total.looked}).check()
    with handover.in_flight(options.output).watch("conclusion") as recovery:
        results, cure = conclude(options, raw, plan, total, reading, recovery)
        shown = draw_examples(results, plan, cure.reading, alignment.offset(total) or (0, 0), recovery)
    report = describe(options, raw, plan, total, results, cure)
    write(options, written, plan, cure, report, shown)
    handover.tidy(options.output, FILES)
    print(json.dumps(report, indent=2) if options.json else page.text(report))
    if not options.json:
        print(f"page: {storage.join(options.output, PAGE_FILE)}")
    return verdict.status(results)


def check_folder(options: Options) -> dict[str, str]:
    """The files that an earlier run wrote into the output folder: name -> identity.

    Raises InputError if the output is in the set, or files that this command did not write would be replaced.
    """
    folder = options.output
    if storage.is_dir(options.input) and storage.lies_in(folder, options.input):
        raise InputError(f"--output {folder} lies in the set being examined; give a folder of its own")
    path = storage.join(folder, REPORT_FILE)
    for name in FILES:
        storage.check_file(storage.join(folder, name))
    try:
        written = storage.json_object(storage.read(path)).get("written")
    except OSError:
        written = None
    if isinstance(written, dict):
        return written
    names = (*FILES, remedy.LABELS_FOLDER)
    taken = [path for name in names if storage.exists(path := storage.join(folder, name))]
    if options.mend and storage.is_dir(labels := storage.join(folder, remedy.LABELS_FOLDER)):
        taken.append(labels)
    if taken and not options.overwrite:
        raise InputError(
            f"{taken[0]} was not written by `deeplab doctor`; give another --output, or --overwrite to replace it"
        )
    return {}


def check_apart(folder: str, raw: RawSet) -> None:
    """Raises InputError if the output folder, or labels/ in it, is a folder of the set, which a manifest may name."""
    files = {pair.image.rpartition("/")[0] for pair in raw.pairs}
    # The set may be what an earlier run has mended.
    labels = {pair.label.rpartition("/")[0] for pair in raw.pairs if not remedy.is_name_of_mended(pair.label)}
    real = {storage.real(place): place for place in files | labels}
    for path in (folder, storage.join(folder, remedy.LABELS_FOLDER)):
        if place := real.get(storage.real(path)):
            raise InputError(f"--output {folder} leads into {place} of the set; give a folder of its own")


def claim(folder: str) -> None:
    """Lets a later run know that the labels in this folder are this command's, should this one not reach its end."""
    path = storage.join(folder, REPORT_FILE)
    if not storage.exists(path):
        storage.write_json(path, {"written": {}})


def examine(options: Options, plan: Plan, reading: Reading, beam: Any) -> DoctorTally:
    """Runs the Beam job over the plan, and removes its files from the output folder afterwards."""
    output, digest = options.output, plan.digest
    build = functools.partial(
        job.build,
        palette=reading.palette,
        coding=reading.coding,
        max_pixels=options.max_pixels,
        chunks=len(plan.lines),
        output=output,
        digest=digest,
    )
    handover.write_plan(output, plan.lines)
    run_job(build, beam, total=plan.total, unit="pairs", title="doctor", folder=options.output)
    total = tally.read(output, digest)
    handover.remove(output, digest)
    return total


def conclude(
    options: Options, raw: RawSet, plan: Plan, total: DoctorTally, reading: Reading, recovery: Recovery | None
) -> tuple[list[Finding], Remedy]:
    """The findings, gravest first, and their cure."""
    report = [*findings.of_scan(raw.rejects, plan.total), *reading.findings, *findings.of_files(total)]
    report += depth.of_depth(total)
    reading, of_values = findings.of_values(total, plan, reading)
    report += of_values
    prints = total.prints
    of_films, group_by = copies.of_films(prints, plan, options.val_fraction, options.group_by)
    groups = group_by or options.group_by
    if group_by:  # copies are sought across the splits that it makes
        plan = holdout.regrouped(plan, raw.is_hashed, options.val_fraction, group_by)
    shift = (0, 0)
    if reading.palette is not None:
        reading, of_nothing = findings.of_nothing(total, plan, reading)
        report += of_nothing or findings.of_classes(total, plan, reading.palette)
        report += alignment.findings(total, plan)
        shift = alignment.offset(total) or (0, 0)
    kinds = findings.doubtful(total)
    cured = {number for number, kind in kinds.items() if findings.is_cured(kind, total, reading.palette)}
    ill = {number: kind for number, kind in kinds.items() if number not in cured}
    labels = {}
    if options.mend and reading.palette is not None:
        claim(options.output)
        labels = remedy.mend_labels(plan, ill, shift, reading, options.output, options.overwrite, recovery)
    gone = ill.keys() - labels.keys()
    of_copies, doubles = copies.of_copies(
        prints,
        plan,
        functools.partial(alike, plan, recovery),
        functools.partial(differ, plan, reading, recovery),
        gone,
    )
    report += of_copies + of_films
    left_out = frozenset(gone) | doubles
    of_val, val_fraction = holdout.of_val(plan, left_out, raw.is_hashed, options.val_fraction, groups)
    report += of_val
    splits = {}
    if reading.palette is not None and not group_by:
        splits = findings.resplit(total, plan, reading.palette, left_out)
    is_paired = bool(options.images) or any(one.kind in ("layout", "pairing") for one in reading.findings)
    is_listed = bool(left_out or labels or splits or raw.rejects or is_paired) and len(left_out) < plan.total
    if (of_val or group_by) and is_listed:  # in a manifest images have other keys, and other hashes
        splits = {**holdout.splits_by_hash(plan, val_fraction, groups), **splits}
    report += holdout.of_emptied(plan, left_out, splits)
    report.sort(key=lambda finding: -verdict.STATUS[finding.grade])
    return report, Remedy(reading, left_out, labels, splits, is_listed, group_by, val_fraction)


def alike(plan: Plan, recovery: Recovery | None, couples: Couples) -> Iterator[float]:
    """Likeness of the two images of each couple, see `measures.likeness`; 0 if one cannot be read."""
    paths = ([plan.subjects[number].image for number in couple] for couple in couples)
    for _, call in guarded_each(_likeness, paths, lambda couple: couple, recovery):
        try:
            yield attempt(call, known=(OSError, ImageError))
        except (OSError, ImageError, Failed):
            yield 0.0


def _likeness(paths: list[str], read: prefetch.Read = storage.read) -> float:
    return likeness(*(images.decode_image(read(path)) for path in paths))


def differ(plan: Plan, reading: Reading, recovery: Recovery | None, couples: Couples) -> Iterator[bool]:
    """Whether the two labels of each couple hold different classes; False if one cannot be read."""
    paths = ([plan.subjects[number].label for number in couple] for couple in couples)
    for _, call in guarded_each(functools.partial(_differ, reading), paths, lambda couple: couple, recovery):
        try:
            yield attempt(call, known=(OSError, ImageError, LabelError))
        except (OSError, ImageError, LabelError, Failed):
            yield False


def _differ(reading: Reading, paths: list[str], read: prefetch.Read = storage.read) -> bool:
    if reading.palette is None:
        return False
    first, second = (codings.decode_ids(read(path), reading.palette, coding=reading.coding) for path in paths)
    return first.shape != second.shape or bool((first != second).any())


def draw_examples(
    results: Collection[Finding], plan: Plan, reading: Reading, shift: tuple[int, int], recovery: Recovery | None
) -> dict[str, tuple[tuple[Panel, ...], ...]]:
    """Draws the examples: kind of a finding -> the panels of each of its examples."""
    total = sum(len(finding.examples) for finding in results)
    call = guarded(draw, recovery)
    shown: dict[str, tuple[tuple[Panel, ...], ...]] = {}
    for finding in results:
        panels = []
        for example in finding.examples:
            make = functools.partial(call, finding, example, plan.subjects, reading, shift, total)
            try:
                panels.append(attempt(make))
            except Failed:
                panels.append(())
        shown[finding.kind] = tuple(panels)
    return shown


def describe(
    options: Options, raw: RawSet, plan: Plan, total: DoctorTally, results: list[Finding], cure: Remedy
) -> dict[str, Any]:
    """The contents of doctor.json, except the list of files written."""
    palette = cure.reading.palette
    shift, kinds = alignment.offset(total), findings.doubtful(total).values()
    cures = {finding.cure for finding in results}
    can_learn = cures.isdisjoint({depth.CURE, holdout.REFILL, *findings.BY_HAND})
    can_learn &= bool(cure.labels) or findings.NEW_LABELS not in cures
    is_some = palette is not None and len(cure.left_out) < plan.total
    can_prepare = is_some and can_learn and (shift is None or options.mend)
    can_mend = palette is not None and not options.mend and (shift or not findings.MENDABLE.isdisjoint(kinds))
    pixels = {split: counts.tolist() for split, counts in findings.class_pixels(total, palette).items()}
    return {
        "input": options.input,
        "layout": raw.layout,
        "pairs": plan.total,
        "decoded": total.decoded,
        "palette": palette.to_json() if palette else None,
        "label_coding": cure.reading.coding,
        "evidence": [*raw.summary.split("\n"), *cure.reading.reasons],
        "findings": [finding.to_json() for finding in results],
        "pixels": pixels,
        "status": verdict.status(results),
        "verdict": verdict.sentence(results, total.looked, total.decoded),
        "left_out": len(cure.left_out),
        "mended": len(cure.labels),
        "prepare": remedy.command(options, cure, raw.root) if can_prepare else "",
        "mend": remedy.mend_command(options) if can_mend else "",
    }


def write(
    options: Options,
    written: Mapping[str, str],
    plan: Plan,
    cure: Remedy,
    report: dict[str, Any],
    shown: Mapping[str, tuple[tuple[Panel, ...], ...]],
) -> None:
    """Writes the report, the page and the remedy's files, and removes those of an earlier run that are obsolete.

    Raises InputError if such a file was changed since then, or is an input.
    """
    folder, contents = options.output, remedy.files(plan, cure)
    inputs = {storage.real(path) for path in (options.input, options.palette)}
    for name in CURES:
        path = storage.join(folder, name)
        identity = storage.identity(storage.read(path)) if storage.exists(path) else ""
        if identity in ("", storage.identity(contents.get(name, b""))):
            continue
        is_input = storage.real(path) in inputs
        is_ours = written.get(name) == identity
        if name in contents and (is_input or not (is_ours or options.overwrite)):
            what = "is an input" if is_input else "was changed since this command wrote it"
            raise InputError(f"{path} {what} and would be replaced; give another --output")
        if is_ours and not is_input:
            storage.remove(path)
    # This file comes first: it identifies the others as this command's.
    report["written"] = {name: storage.identity(data) for name, data in contents.items()}
    storage.write_json(storage.join(folder, REPORT_FILE), report)
    for name, data in contents.items():
        storage.write(storage.join(folder, name), data)
    # File names need not be UTF-8.
    html = page.render(report, shown).encode("utf-8", "backslashreplace")
    storage.write(storage.join(folder, PAGE_FILE), html)
    remedy.sweep(folder, plan, set(cure.labels.values()))
