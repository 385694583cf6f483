"""Matches the classes of a model with those of another set by their names."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.terminal import some_and_more


def class_order(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """The class, of as many others, whose weights each of our classes takes.

    It is the one of the same name; else one that lacks its name among ours, in the same place if possible.
    """
    free = [number for number, name in enumerate(theirs) if name not in ours]
    order = [theirs.index(name) if name in theirs else number for number, name in enumerate(ours)]
    new = [number for number, name in enumerate(ours) if name not in theirs]
    moved = iter(sorted({*free} - {*new}))
    return [next(moved) if number in new and number not in free else other for number, other in enumerate(order)]


def described(theirs: Sequence[str], ours: Sequence[str], order: Sequence[int]) -> str:
    """A sentence on classes with other names or places; "" if there are none."""
    if tuple(theirs) == tuple(ours):
        return ""
    pairs = [(theirs[other], name) for other, name in zip(order, ours, strict=True)]
    renamed = [f"{name} from {other}" for other, name in pairs if other != name]
    text = "its classes are in another order, and matched by name" if [*order] != sorted(order) else ""
    others = f"classes of other names: {some_and_more(renamed, 20)}" if renamed else ""
    return "; ".join(filter(None, (text, others)))
