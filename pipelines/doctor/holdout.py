"""The share of the images to hold out where the hash of the names, on which the proposed command relies, has none."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import replace

from pipelines.doctor.plan import Plan
from pipelines.doctor.verdict import WRONG, Finding
from pipelines.inputs.splits import group_of, hash_split

REFILL = "mend or replace its images and labels, or list others in a manifest with a column split"
FRACTIONS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Shares that are proposed; the smallest that leaves an image in both splits."""


def splits_by_hash(plan: Plan, val_fraction: float, group_by: str) -> Mapping[int, str]:
    """Number of a pair -> the split that prepare's hash assigns to it, where it decides."""
    decided = [subject for subject in plan.subjects if subject.split in ("train", "val")]
    return {
        one.number: hash_split((group_by and group_of(one.key, group_by)) or one.key, val_fraction) for one in decided
    }


def regrouped(plan: Plan, is_hashed: bool, val_fraction: float, group_by: str) -> Plan:
    """The plan with the splits that prepare makes with this --group-by, and the share that `of_val` proposes."""
    _, share = of_val(plan, (), is_hashed, val_fraction, group_by)
    splits = splits_by_hash(plan, share, group_by)
    subjects = tuple(replace(one, split=splits.get(one.number, one.split)) for one in plan.subjects)
    return replace(plan, subjects=subjects)


def of_val(
    plan: Plan, left_out: Collection[int], is_hashed: bool, val_fraction: float, group_by: str
) -> tuple[list[Finding], float]:
    """The finding that no image is held out, and the share to give prepare as --val-fraction.

    Args:
      left_out: numbers of the pairs that are not to be prepared; if it is all of them, other findings say so.
      is_hashed: whether the hash decides at all, see `RawSet`.
      val_fraction: the share given, in [0, 1); 0 holds out none on purpose.
      group_by: prepare's --group-by; "" for none.
    """
    is_divided = functools.partial(_is_divided, plan, left_out, group_by)
    if not is_hashed or not val_fraction or len(left_out) == plan.total or is_divided(val_fraction):
        return [], val_fraction
    fits = [share for share in FRACTIONS if share > val_fraction and is_divided(share)]
    of = f"groups of --group-by '{group_by}'" if group_by else "images"
    text = (
        f"no image is held out: of so few {of}, the hash of the names puts none into split val, and `deeplab train` "
        "refuses records without one"
    )
    cure = f"--val-fraction {fits[0]:g}" if fits else "list the splits in a manifest"
    return [Finding("no-validation", WRONG, count=plan.total, of=plan.total, unit="images", text=text, cure=cure)], [
        *fits,
        val_fraction,
    ][0]


def of_emptied(plan: Plan, left_out: Collection[int], splits: Mapping[int, str]) -> list[Finding]:
    """The findings that nothing remains of a split that `deeplab train` needs.

    Args:
      left_out: numbers of the pairs that are not to be prepared; if it is all of them, other findings say so.
      splits: number of a pair -> its new split.
    """
    remaining = {splits.get(one.number, one.split) for one in plan.subjects if one.number not in left_out}
    findings = []
    for split in ("train", "val") if remaining else ():
        lost = sum(one.split == split for one in plan.subjects)
        if lost and split not in remaining:
            text = f"no pair of split {split} can be prepared, and `deeplab train` refuses records without that split"
            findings.append(
                Finding("emptied-split", WRONG, count=lost, of=plan.total, unit="pairs", text=text, cure=REFILL)
            )
    return findings


def _is_divided(plan: Plan, left_out: Collection[int], group_by: str, val_fraction: float) -> bool:
    splits = splits_by_hash(plan, val_fraction, group_by)
    return {"train", "val"} <= {split for number, split in splits.items() if number not in left_out}
