"""The output folder as a whole: its preparation for a job, and its description after the job."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipelines.prepare import workarea
from pipelines.prepare.options import Options
from pipelines.prepare.plan import FORMAT_VERSION, Plan, ShardPlan, Spec, Todo, finished_shards
from pipelines.prepare.workarea import Area
from pipelines.runner import progress
from trainer import prefetch, storage
from trainer.accounts import REJECTS_FILE, Accounts, Reject, merged
from trainer.formats.dataset import (
    DATASET_FILE,
    Dataset,
    NewerDataset,
    Shard,
    fingerprint_of,
    load_dataset,
    save_dataset,
)
from trainer.formats.labels import Palette
from trainer.options import InputError, to_json

STAGES = ("scan", "prepare", "repair")
"""A rejects.jsonl with rejects of these stages only may be replaced."""


class Contents(NamedTuple):
    """The contents of the folder.

    Attributes:
      shards: the shards that have records, in order of name.
      rejects: the planned records that are in no shard.
    """

    shards: tuple[Shard, ...]
    rejects: tuple[Reject, ...]


def strangers(area: Area, plan: Plan) -> list[str]:
    """The paths of files that this program did not write and a job would replace, sorted.

    A shard is this program's if it has a sidecar or a plan, or if this program's dataset.json lists it.
    """
    with ThreadPoolExecutor(1) as pool:
        are_rejects = pool.submit(_holds_rejects, area)
        listed = _listed(area)
    known = area.planned_shards() | {name for name, outcome in area.outcomes.items() if outcome.shard.records}
    names = []
    for shard in plan.shards:
        name = shard.spec.name
        if name in area.files and name not in known and name not in (listed or ()):
            names.append(name)
        if workarea.sidecar_name(name) in area.files and name not in area.outcomes:
            names.append(workarea.sidecar_name(name))
    if DATASET_FILE in area.files and listed is None:
        names.append(DATASET_FILE)
    if not are_rejects.result():
        names.append(REJECTS_FILE)
    return [area.files[name].path for name in sorted(names)]


def refuse_newer(area: Area, strangers: Sequence[str]) -> None:
    """Raises InputError if a later version of this program wrote the records, which this one would replace.

    Args:
      strangers: see `strangers`.
    """
    newest = max((outcome.format for outcome in area.outcomes.values()), default=0)
    found = f"holds shards of format {newest}, and this version writes format {FORMAT_VERSION}"
    if DATASET_FILE in area.files and area.files[DATASET_FILE].path in strangers:
        try:
            load_dataset(area.folder)
        except NewerDataset:
            newest, found = FORMAT_VERSION + 1, f"has a {DATASET_FILE} that this version cannot read"
        except InputError:
            pass
    if newest > FORMAT_VERSION:
        raise InputError(
            f"{area.folder} {found}: a later version of this program wrote the records; update this program, give "
            "another --output, or --overwrite to write all of them as this version does"
        )


def _listed(area: Area) -> frozenset[str] | None:
    """The names of the shards that dataset.json lists; None if there is none, or not one of this program."""
    if DATASET_FILE not in area.files:
        return None
    try:
        return frozenset(shard.name for shard in load_dataset(area.folder).shards)
    except InputError:
        return None


def _holds_rejects(area: Area) -> bool:
    """Whether the rejects.jsonl, if there is one, is of this command."""
    if REJECTS_FILE not in area.files:
        return True
    *lines, rest = storage.read(area.files[REJECTS_FILE].path).split(b"\n")
    try:
        return not rest and all(Reject(**json.loads(line)).stage in STAGES for line in lines)
    except (TypeError, ValueError):
        return False


def make_ready(area: Area, plan: Plan, todo: Todo) -> list[Spec]:
    """Writes the plans of the shards, and removes what would be wrong about them if the run were killed.

    Returns:
      The shards to write, with the digests of their plans.
    """
    notes = workarea.notes(area.folder)

    def ready(shard: ShardPlan) -> Spec:
        spec = shard.spec
        if spec.name in todo.isolated:
            notes.start(spec.name)  # as if it had ended a process
        digest = workarea.write_plan(area.folder, spec.name, plan.entries(shard))
        # After the plan: a shard with neither would be taken for one that this program did not write.
        _remove(area, workarea.sidecar_name(spec.name))
        return spec._replace(plan=digest)

    _remove(area, DATASET_FILE)
    with ThreadPoolExecutor(workarea.REQUESTS) as pool:
        return list(pool.map(ready, todo.shards))


def _remove(area: Area, name: str) -> None:
    if name in area.files:
        storage.discard(area.files[name].path)


def collect(area: Area, plan: Plan, plans: Collection[str]) -> Contents:
    """The shards and rejects of the plan.

    Args:
      plans: the plan files, as paths below the folder, that this run wrote or found at its start.

    Raises:
      InputError: another run has written into the folder.
      UnbalancedError: a shard is missing, or its records and rejects do not add up to the planned ones.
    """
    outcomes = finished_shards(area, plan)
    # The shards that another run has begun: it has removed their sidecars.
    begun = {workarea.shard_of_plan(name) for name in area.files if name not in plans}
    for shard in plan.shards:
        name, outcome = shard.spec.name, outcomes.get(shard.spec.name)
        if not outcome and (name in area.outcomes or name in begun):
            raise _replaced(area.folder, name)
        written, rejects = (outcome.shard.records, outcome.rejects) if outcome else (0, ())
        Accounts(f"records of {name}", shard.spec.records, {"written": written}, rejects).check()
    shards = sorted((outcome.shard for outcome in outcomes.values()), key=lambda shard: shard.name)
    rejects = merged(reject for outcome in outcomes.values() for reject in outcome.rejects)
    return Contents(tuple(shard for shard in shards if shard.records), rejects)


def _replaced(folder: str, shard: str) -> InputError:
    return InputError(
        f"{shard} in {folder} was replaced by another `deeplab prepare`, which is working on this folder; wait for it "
        "to end, and run this command again"
    )


def check_unchanged(area: Area, contents: Contents) -> None:
    """Raises InputError if another run has replaced one of the shards since `area` was surveyed."""
    files = {file.relative: file for file in storage.files(area.folder, within=())}
    for shard in contents.shards:
        if files.get(shard.name) != area.files[shard.name]:
            raise _replaced(area.folder, shard.name)


def sweep(area: Area, plan: Plan) -> int:
    """Removes this program's leftovers: plans, notes, unfinished files, and shards that are not in the plan.

    Shards without a sidecar or a plan are kept, since this program did not write them.

    Returns:
      The number of shards removed.
    """
    names = {shard.spec.name for shard in plan.shards}
    own = {name for name, outcome in area.outcomes.items() if outcome.shard.records} | area.planned_shards()
    stale = [name for name in area.files if name in own and name not in names]
    sidecars = [workarea.sidecar_name(name) for name in area.outcomes if name not in names]
    plans, unfinished = filter(workarea.shard_of_plan, area.files), filter(workarea.is_leftover, area.files)
    works = workarea.notes(area.folder).clear, functools.partial(progress.forget, area.folder)
    done = [prefetch.ahead(area.folder, work) for work in works]
    with ThreadPoolExecutor(workarea.REQUESTS) as pool:
        # Shards before their sidecars, by which they are recognised; plans before unfinished files, since another run
        # whose plans are gone stops writing.
        for kind in (stale, sidecars, plans, unfinished):
            list(pool.map(functools.partial(_remove, area), kind))
    for result in done:
        result()
    return len(stale)


def describe(shards: Sequence[Shard], palette: Palette, options: Options, rejected: int) -> Dataset:
    """Writes dataset.json into the output folder and returns its contents.

    Args:
      shards: the shards that have records.
      palette: the palette of the labels.
      options: the options they were written with.
      rejected: the number of rejected records.
    """
    dataset = Dataset(
        palette=palette,
        shards=tuple(shards),
        options=to_json(options),
        fingerprint=fingerprint_of(shards),
        max_side=options.max_side,
        rejected=rejected,
    )
    save_dataset(options.output, dataset)
    return dataset
