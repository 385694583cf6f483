"""The output folder as a whole: made ready for a job, and described when the job is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.prepare import workarea
from pipelines.prepare.options import Options
from pipelines.prepare.plan import Plan, ShardPlan, finished
from trainer import storage
from trainer.accounts import Accounts, Reject, merged
from trainer.formats.dataset import DATASET_FILE, SHARD_PATTERN, Dataset, Shard, save_dataset
from trainer.formats.labels import Palette
from trainer.options import to_json


class Contents(NamedTuple):
    """What the folder holds: the shards that have records, in order of name, and why other records are missing."""

    shards: tuple[Shard, ...]
    rejects: tuple[Reject, ...]


def make_ready(folder: str, plan: Plan, todo: Sequence[ShardPlan]) -> None:
    """Removes what would describe the shards about to be written wrongly if the run were stopped; writes their plans.

    Args:
      todo: shards of `plan`.
    """
    existing = {file.relative for file in workarea.list_files(folder)}
    stale = [workarea.sidecar_name(shard.spec.name) for shard in todo] + [DATASET_FILE]
    for name in stale:
        if name in existing:
            storage.remove(storage.join(folder, *name.split("/")))
    for shard in todo:
        workarea.write_plan(folder, shard.spec.name, plan.entries(shard))


def collect(folder: str, plan: Plan) -> Contents:
    """What came of every shard of the plan.

    Raises:
      UnbalancedError: a shard is missing, or its records and rejects are not the planned ones.
    """
    outcomes = finished(folder, plan.shards)
    for shard in plan.shards:
        name, outcome = shard.spec.name, outcomes.get(shard.spec.name)
        written, rejects = (outcome.shard.records, outcome.rejects) if outcome else (0, ())
        Accounts(f"records of {name}", shard.spec.records, {"written": written}, rejects).check()
    shards = sorted((outcome.shard for outcome in outcomes.values()), key=lambda shard: shard.name)
    rejects = merged(reject for outcome in outcomes.values() for reject in outcome.rejects)
    return Contents(tuple(shard for shard in shards if shard.records), rejects)


def sweep(folder: str, plan: Plan) -> int:
    """Removes plans, what a killed run left, and shards of earlier runs with other counts; returns how many shards."""
    names, removed = {shard.spec.name for shard in plan.shards}, 0
    for file in workarea.list_files(folder):
        below, _, base = file.relative.rpartition("/")
        # Temporary files of `storage.writer` are called ".NAME.SUFFIX.tmp".
        is_leftover = base.startswith(".") and base.endswith(".tmp")
        name = base[1:].rsplit(".", 2)[0] if is_leftover else base
        is_plan = name.startswith("plan-") and name.endswith(".jsonl")
        name = name.removeprefix("plan-").removesuffix(".jsonl") if is_plan else name.removesuffix(".json")
        if below not in ("", workarea.FOLDER) or not SHARD_PATTERN.fullmatch(name):
            continue
        if is_leftover or is_plan or name not in names:
            storage.remove(file.path)
            removed += not is_leftover and base == name
    return removed


def describe(folder: str, shards: Sequence[Shard], palette: Palette, options: Options, rejected: int) -> Dataset:
    """Writes dataset.json and returns what it says.

    Args:
      rejected: how many records could not be made.
    """
    digest = hashlib.md5(json.dumps([[shard.name, shard.crc32c] for shard in shards]).encode())
    dataset = Dataset(
        palette=palette,
        shards=tuple(shards),
        options=to_json(options),
        fingerprint=digest.hexdigest(),
        max_side=options.max_side,
        rejected=rejected,
    )
    save_dataset(folder, dataset)
    return dataset
