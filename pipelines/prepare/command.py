"""The steps of `deeplab prepare`: scan, plan, write the unfinished shards, describe all of them in dataset.json."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pipelines.inputs.coding import recognise
from pipelines.inputs.rawset import RawSet, scan
from pipelines.inputs.sampling import read_label
from pipelines.inputs.tiling import LARGE, TILED
from pipelines.prepare import folder as output
from pipelines.prepare import making, workarea
from pipelines.prepare.job import build
from pipelines.prepare.options import Options
from pipelines.prepare.plan import Plan, ShardPlan, Todo, plan_for, shards_to_write
from pipelines.prepare.workarea import Area, survey
from pipelines.runner import partners
from pipelines.runner.flags import JobOptions, beam_options, check_paths, located, threads_per_process
from pipelines.runner.handover import LABELS
from pipelines.runner.notes import guarded
from pipelines.runner.remote import CANCELLED, FOLLOWED, attach
from pipelines.runner.run import run as run_job
from trainer import leases, prefetch, storage
from trainer.accounts import REJECTS_FILE, Accounts, counted, merged, write_rejects
from trainer.formats.dataset import DATASET_FILE, Dataset
from trainer.formats.labels import Palette
from trainer.options import InputError
from trainer.terminal import printable


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags, options)
    options = located(beam, options, "input", "output")  # before dataset.json records them
    source, folder = options.input, options.output
    if options.overwrite and beam.view_as(JobOptions).no_wait:
        raise InputError(
            "--no_wait with --overwrite: the command that is to finish the job would write all shards again; omit "
            "--no_wait, or give an empty --output and omit --overwrite"
        )
    attached = attach(beam, options, folder, "prepare")
    if attached == CANCELLED:
        return 0
    if storage.lies_in(source, folder) and storage.lies_in(folder, source):
        raise InputError(f"--output {options.output} is the input folder; give a folder of its own")
    leases.acquire(folder, "prepare")
    surveyed = prefetch.ahead(folder, functools.partial(survey, folder))
    raw = scan(source, options.layout, options.val_fraction, options.group_by)
    if raw.layout == "manifest" or not storage.is_remote(source):  # whose files may lie elsewhere
        check_paths(beam, "--input", (path for pair in raw.pairs for path in (pair.image, pair.label)))
    palette, coding, reasons, is_fatal = recognise_labels(raw, options)
    options = replace(options, label_coding=coding)
    print("\n".join(filter(None, (raw.summary, *reasons))), flush=True)
    area = surveyed()
    plan = plan_for(area, raw, palette, options)
    refuse_strangers(area, plan, raw, options)
    todo = shards_to_write(area, plan, options.overwrite and attached != FOLLOWED, is_fatal)
    announce(todo, plan, folder)
    plans = {name for name in area.files if workarea.shard_of_plan(name)}
    if todo.shards:
        written = write_shards(area, plan, todo, options, beam)
        if written is None:
            return 0
        plans |= written
        area = survey(folder, [shard.spec.name for shard in plan.shards])
    return finish(area, plan, todo.shards, plans, raw, options)


def announce(todo: Todo, plan: Plan, folder: str) -> None:
    """Prints which shards an earlier run has finished, and which of these are written again."""
    if todo.older:
        print(
            f"{counted(todo.older, 'shard')} in {folder} were written by an older version of this program, and may "
            "differ; all are written again"
        )
    if todo.again:
        print(f"written again, since the cause of their rejects may have passed: {counted(len(todo.again), 'shard')}")
    if finished := len(plan.shards) - len(todo.shards):
        print(f"{finished} of {len(plan.shards)} shards are finished already and kept", flush=True)


def recognise_labels(raw: RawSet, options: Options) -> tuple[Palette, str, tuple[str, str], bool]:
    """Recognises palette and coding from a sample of the labels; see `pipelines.inputs.coding`.

    Returns:
      The palette; the coding, one of `trainer.formats.options.CODINGS`; a sentence about each, for the user; and
      whether reading a label has ended its process, so that the set must be prepared with isolation.
    """
    is_new = not (storage.is_remote(options.output) or storage.is_dir(options.output))
    try:
        with workarea.notes(options.output).watch(LABELS) as recovery:
            read = guarded(read_label, recovery)
            palette, why_palette, coding, why_coding = recognise(raw, options.palette, options.label_coding, read)
    finally:
        workarea.remove_empty(options.output, is_new)
    return palette, coding, (why_palette, why_coding), recovery is not None and recovery.isolated.ended


def write_shards(area: Area, plan: Plan, todo: Todo, options: Options, beam: Any) -> set[str] | None:
    """Runs the job that writes shards; returns the plan files that it was given, None if it was not waited for."""
    folder, threads = area.folder, threads_per_process(beam)
    total = sum(shard.spec.records for shard in todo.shards)
    near = None if storage.is_remote(folder) else folder
    number = partners.number(threads, total, is_suspicious=bool(todo.isolated) or area.is_interrupted)
    with partners.started(number, near, making.ahead(options.input)):
        specs = output.make_ready(area, plan, todo)
        job = functools.partial(
            build, specs=specs, folder=folder, palette=plan.palette, options=options, threads=threads
        )
        if not run_job(job, beam, total=total, unit="records", title="prepare", folder=folder):
            return None
    return {workarea.plan_name(spec.name, spec.plan) for spec in specs}


def refuse_strangers(area: Area, plan: Plan, raw: RawSet, options: Options) -> None:
    """Raises InputError if a file would be replaced that is an input, or, without --overwrite, not this command's."""
    for name in (DATASET_FILE, REJECTS_FILE, *(shard.spec.name for shard in plan.shards)):
        storage.check_file(storage.join(area.folder, name))
    strangers = output.strangers(area, plan)
    places = {storage.real(path): path for path in strangers}
    files = (path for pair in raw.pairs for path in (pair.image, pair.label))
    for source in itertools.chain((options.input, options.palette), files) if places else ():
        if path := places.get(storage.real(source)):
            raise InputError(f"{path} is one of the inputs and would be replaced; give another --output")
    if not options.overwrite:
        output.refuse_newer(area, strangers)
    if strangers and not options.overwrite:
        others = f" and {counted(len(strangers) - 1, 'more file')}" if len(strangers) > 1 else ""
        was, it = ("were", "them") if others else ("was", "it")
        raise InputError(
            f"{strangers[0]}{others} would be replaced and {was} not written by this command; give another --output, "
            f"or --overwrite to replace {it}"
        )


def finish(
    area: Area,
    plan: Plan,
    todo: Sequence[ShardPlan],
    plans: Collection[str],
    raw: RawSet,
    options: Options,
) -> int:
    """Checks the accounts, writes rejects.jsonl and dataset.json, and prints a summary; returns the exit status.

    Args:
      area: the contents of the output folder, with all shards.
      plan: all shards.
      todo: the shards that this run has written.
      plans: see `folder.collect`.

    Raises:
      InputError: another run has written into the folder meanwhile.
      UnbalancedError: records of the plan are neither in shards nor rejected.
    """
    folder = options.output
    contents = output.collect(area, plan, plans)
    new = {shard.spec.name for shard in todo}
    records = {"written": sum(shard.records for shard in contents.shards if shard.name in new)}
    if len(todo) < len(plan.shards):
        records["kept"] = sum(shard.records for shard in contents.shards if shard.name not in new)
    inputs = plan.records + sum(reject.records for reject in raw.rejects)
    accounts = Accounts("records", inputs, records, merged([*raw.rejects, *contents.rejects]))
    accounts.check()
    with ThreadPoolExecutor(1) as pool:
        rejects = pool.submit(write_rejects, folder, accounts.rejects)
        removed = output.sweep(area, plan)
    rejects_path = rejects.result()
    output.check_unchanged(area, contents)
    if removed:
        print(f"removed {counted(removed, 'shard')} of an earlier run, not of this set")
    print(accounts.report(rejects_path))
    if not contents.shards:
        print(f"none of {counted(len(raw.pairs), 'image')} could be used; no {DATASET_FILE} was written")
        return 1
    dataset = output.describe(contents.shards, plan.palette, options, accounts.rejected)
    summarise(dataset, plan, folder)
    if excess := accounts.excess(options.max_reject_rate):
        print(excess)
        return 1
    return 0


def summarise(dataset: Dataset, plan: Plan, folder: str) -> None:
    """Prints what is in the splits, and what makes them doubtful."""
    for split in sorted({shard.spec.split for shard in plan.shards} - set(dataset.splits)):
        print(f"split {split} is left out: all its images were rejected")
    for split in dataset.splits:
        print(f"  {split}: {_sum(dataset, [split])}")
    print(f"{_sum(dataset, dataset.splits)}, written to {folder}")
    if tip := large_images(dataset):
        print(tip)
    for doubt in (doubt for split in dataset.splits for doubt in dataset.doubts(split)):
        print(f"warning: {printable(doubt)}")


def _sum(dataset: Dataset, splits: Iterable[str]) -> str:
    images, records, shards = (
        sum(of(split) for split in splits)
        for of in (dataset.images, dataset.count, lambda split: len(dataset.of_split(split)))
    )
    copies = records - images
    sources = counted(images, "image")
    if dataset.options.get("tile") and TILED in splits:
        sources = counted(images, "tile") if [*splits] == [TILED] else f"{images} images and tiles"
    counts = f"{sources} + {copies} cop{'y' if copies == 1 else 'ies'} = {counted(records, 'record')}"
    return f"{counts} in {counted(shards, 'shard')}"


def large_images(dataset: Dataset) -> str:
    """What to do about images of which a training would see little, as a sentence; "" if there are none."""
    classes, ignored = dataset.pixels(TILED)
    mean = (sum(classes) + ignored) / max(1, dataset.count(TILED))
    if mean <= LARGE**2:
        return ""
    return (
        f"note: the records of {TILED} have {mean / 1e6:.1f} megapixels on average, and an epoch takes one crop of "
        "each; --tile 1024 makes a record of every tile, --max-side 2048 shrinks the images"
    )
