"""The order of events of `deeplab prepare`: scan, plan, write the shards that are not finished, describe them all."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from pipelines.inputs.coding import detect_palette
from pipelines.inputs.rawset import RawSet, scan
from pipelines.prepare import folder as output
from pipelines.prepare.job import build
from pipelines.prepare.options import Options
from pipelines.prepare.plan import Plan, ShardPlan, plan_shards, unfinished
from pipelines.runner.flags import beam_options, check_paths
from pipelines.runner.run import run as run_job
from trainer import storage
from trainer.accounts import Accounts, merged, write_rejects
from trainer.formats.dataset import DATASET_FILE, Dataset
from trainer.formats.labels import Palette
from trainer.options import InputError


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    beam = beam_options(flags)
    check_paths(beam, {"--input": options.input, "--output": options.output})
    source, folder = storage.absolute(options.input), storage.absolute(options.output)
    if source.rstrip("/") == folder.rstrip("/"):
        raise InputError(f"--output {options.output} is the input folder; give a folder of its own")
    raw = scan(source, options.layout, options.val_fraction, options.group_by)
    palette, reason = detect_palette(raw, options.palette)
    print(f"{raw.summary}\n{reason}", flush=True)
    plan = plan_shards(raw, palette, options)
    todo = unfinished(folder, plan)
    if len(todo) < len(plan.shards):
        finished = len(plan.shards) - len(todo)
        print(f"{finished} of {len(plan.shards)} shards are finished already and kept", flush=True)
    if todo:
        output.make_ready(folder, plan, todo)
        specs = [shard.spec for shard in todo]
        job = functools.partial(build, specs=specs, folder=folder, palette=palette, options=options)
        total = sum(spec.records for spec in specs)
        if not run_job(job, beam, total=total, unit="records", title="prepare"):
            return 0
    return finish(folder, plan, todo, raw, palette, options)


def finish(folder: str, plan: Plan, todo: Sequence[ShardPlan], raw: RawSet, palette: Palette, options: Options) -> int:
    """Checks the accounts, writes rejects.jsonl and dataset.json, and prints them; returns the exit status.

    Args:
      plan, todo: all shards, and those that this run has written.

    Raises:
      UnbalancedError: records of the plan are neither in shards nor rejected.
    """
    contents = output.collect(folder, plan)
    new = {shard.spec.name for shard in todo}
    records = {"written": sum(shard.records for shard in contents.shards if shard.name in new)}
    if len(todo) < len(plan.shards):
        records["kept"] = sum(shard.records for shard in contents.shards if shard.name not in new)
    inputs = plan.records + sum(reject.records for reject in raw.rejects)
    accounts = Accounts("records", inputs, records, merged([*raw.rejects, *contents.rejects]))
    accounts.check()
    rejects_path = write_rejects(folder, accounts.rejects)
    removed = output.sweep(folder, plan)
    if removed:
        print(f"removed {_count(removed, 'shard')} of an earlier run that do not belong to this set")
    print(accounts.report(rejects_path))
    if not contents.shards:
        print(f"none of {_count(len(raw.pairs), 'image')} could be used; no {DATASET_FILE} was written")
        return 1
    dataset = output.describe(folder, contents.shards, palette, options, accounts.rejected)
    for split in sorted({shard.spec.split for shard in plan.shards} - set(dataset.splits)):
        print(f"split {split} is left out: all its images were rejected")
    for split in dataset.splits:
        print(f"  {split}: {_sum(dataset, [split])}")
    print(f"{_sum(dataset, dataset.splits)}, written to {folder}")
    if excess := accounts.excess(options.max_reject_rate):
        print(excess)
        return 1
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _sum(dataset: Dataset, splits: Iterable[str]) -> str:
    images, records, shards = (
        sum(of(split) for split in splits)
        for of in (dataset.images, dataset.count, lambda split: len(dataset.of_split(split)))
    )
    return f"{images} images + {records - images} copies = {records} records in {_count(shards, 'shard')}"
