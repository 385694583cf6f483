"""The output folder as a whole: made ready for a job, and described when the job is done."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipelines.prepare import workarea
from pipelines.prepare.options import Options
from pipelines.prepare.plan import Plan, ShardPlan, Spec, Todo, finished
from pipelines.prepare.workarea import Area
from pipelines.runner import progress
from trainer import storage
from trainer.accounts import REJECTS_FILE, Accounts, Reject, merged
from trainer.formats.dataset import DATASET_FILE, Dataset, Shard, fingerprint_of, load_dataset, save_dataset
from trainer.formats.labels import Palette
from trainer.options import InputError, to_json

STAGES = ("scan", "prepare", "repair")
"""Whose rejects this command replaces."""


class Contents(NamedTuple):
    """What the folder holds: the shards that have records, in order of name, and why other records are missing."""

    shards: tuple[Shard, ...]
    rejects: tuple[Reject, ...]


def strangers(area: Area, plan: Plan) -> list[str]:
    """Files that this program did not write and a job would replace, in order of path.

    A shard is this program's if it has a sidecar or a plan, or if this program's dataset.json lists it.
    """
    listed = _listed(area)
    known = area.planned() | {name for name, outcome in area.outcomes.items() if outcome.shard.records}
    names = []
    for shard in plan.shards:
        name = shard.spec.name
        if name in area.files and name not in known and name not in (listed or ()):
            names.append(name)
        if workarea.sidecar_name(name) in area.files and name not in area.outcomes:
            names.append(workarea.sidecar_name(name))
    if DATASET_FILE in area.files and listed is None:
        names.append(DATASET_FILE)
    if REJECTS_FILE in area.files and not _holds_rejects(area.files[REJECTS_FILE].path):
        names.append(REJECTS_FILE)
    return [area.files[name].path for name in sorted(names)]


def _listed(area: Area) -> frozenset[str] | None:
    """The shards that dataset.json lists; None where there is none, or not one of this program."""
    if DATASET_FILE not in area.files:
        return None
    try:
        return frozenset(shard.name for shard in load_dataset(area.folder).shards)
    except InputError:
        return None


def _holds_rejects(path: str) -> bool:
    """Whether a file is the rejects.jsonl of an earlier run, and not another command's."""
    *lines, rest = storage.read(path).split(b"\n")
    try:
        return not rest and all(Reject(**json.loads(line)).stage in STAGES for line in lines)
    except (TypeError, ValueError):
        return False


def make_ready(area: Area, plan: Plan, todo: Todo) -> list[Spec]:
    """Writes the plans of the shards, then removes what would describe them wrongly if the run were stopped.

    Returns:
      The shards with the digests of their plans.
    """
    notes = workarea.notes(area.folder)

    def ready(shard: ShardPlan) -> Spec:
        spec = shard.spec
        if spec.name in todo.again and area.outcomes[spec.name].failed:
            notes.start(spec.name)  # what may have ended a process before is worked on with care
        digest = workarea.write_plan(area.folder, spec.name, plan.entries(shard))
        # Only now: a shard with neither plan nor sidecar would be taken for somebody else's.
        _remove(area, workarea.sidecar_name(spec.name))
        return spec._replace(plan=digest)

    _remove(area, DATASET_FILE)
    with ThreadPoolExecutor(workarea.REQUESTS) as pool:
        return list(pool.map(ready, todo.shards))


def _remove(area: Area, name: str) -> None:
    if name in area.files:
        with contextlib.suppress(FileNotFoundError):
            storage.remove(area.files[name].path)


def collect(area: Area, plan: Plan, plans: Collection[str]) -> Contents:
    """What came of every shard of the plan.

    Args:
      plans: paths below the folder of those that may be there: of this run, and of others before it.

    Raises:
      InputError: another run has written into the folder.
      UnbalancedError: a shard is missing, or its records and rejects are not the planned ones.
    """
    outcomes = finished(area, plan)
    # Its run has removed the sidecars of shards that it is to write.
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
        f"{shard} in {folder} was replaced by another `deeplab prepare` that works on this folder; wait for it to "
        "end, and run this command again"
    )


def check_unchanged(area: Area, contents: Contents) -> None:
    """Raises InputError where another run has replaced one of the shards since then."""
    files = {file.relative: file for file in storage.files(area.folder, within=())}
    for shard in contents.shards:
        if files.get(shard.name) != area.files[shard.name]:
            raise _replaced(area.folder, shard.name)


def sweep(area: Area, plan: Plan) -> int:
    """Removes what this program left: plans, notes, unfinished files, and shards of earlier runs with other counts.

    What it did not write stays, whatever it is called: a shard is removed with its sidecar, or if it was planned.

    Returns:
      How many shards were removed.
    """
    names = {shard.spec.name for shard in plan.shards}
    own = {name for name, outcome in area.outcomes.items() if outcome.shard.records} | area.planned()
    stale = [name for name in area.files if name in own and name not in names]
    sidecars = [workarea.sidecar_name(name) for name in area.outcomes if name not in names]
    plans, unfinished = filter(workarea.shard_of_plan, area.files), filter(workarea.is_leftover, area.files)
    with ThreadPoolExecutor(workarea.REQUESTS) as pool:
        # Shards before their sidecars, by which they are known, and plans before what is being written: another run
        # that finds its own gone writes no more shards.
        for kind in (stale, sidecars, plans, unfinished):
            list(pool.map(functools.partial(_remove, area), kind))
    workarea.notes(area.folder).clear()
    progress.forget(area.folder)
    return len(stale)


def describe(folder: str, shards: Sequence[Shard], palette: Palette, options: Options, rejected: int) -> Dataset:
    """Writes dataset.json and returns what it says.

    Args:
      rejected: how many records could not be made.
    """
    dataset = Dataset(
        palette=palette,
        shards=tuple(shards),
        options=to_json(options),
        fingerprint=fingerprint_of(shards),
        max_side=options.max_side,
        rejected=rejected,
    )
    save_dataset(folder, dataset)
    return dataset
