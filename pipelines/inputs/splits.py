"""The split of every pair: its own, else its group's, else by a hash. Without a "val", part of "train" becomes it.

Images of one group, and links to the same file, share a split, so that validation images are new to the model.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping

from pipelines.inputs.hashes import repeated
from pipelines.inputs.pairs import Pair, Pairs
from trainer import storage
from trainer.options import InputError


def split_by_group(pairs: Pairs, val_fraction: float, group_by: str, divides: bool) -> tuple[Pairs, str]:
    """Assigns a split to every pair: its own, else that of the others in its group, else by the hash of the group.

    Args:
      pairs: the pairs, with "" for splits that the set does not give.
      val_fraction: share of the groups that the hash decides on that go to "val", in [0, 1).
      group_by: regular expression, see `group_of`; "": every image is a group.
      divides: whether the hash also divides "train" into "train" and "val", if the set gives every pair a split, and
        none "val".

    Returns:
      The pairs in order, and notes for the user on what was divided, groups and links, one per line.

    Raises:
      InputError: `group_by` is not a regular expression, or matches no key.
    """
    first = _same_files(pairs)
    divided, notes = "", []
    if divides and val_fraction and lacks_val(pairs):
        divided = "train"
        notes.append(f"the set has no split val: a share of {val_fraction:g} of train is held out (--val-fraction)")
    if not group_by and not first:
        if not divided and all(pair.split for pair in pairs):
            return pairs, ""
        by_hash = lambda pair: pair._replace(split=hash_split(pair.key, val_fraction))
        return Pairs(by_hash(pair) if pair.split in ("", divided) else pair for pair in pairs), "".join(notes)

    if group_by:
        notes.append(_groups(pairs, first, group_by))

    def group(pair: Pair) -> str:
        # A key without a match is a group of its own, except that images with the same file share a group.
        key = first.get(pair.key, pair.key)
        return (group_by and group_of(key, group_by)) or key

    own: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.split:
            own.setdefault(group(pair), set()).add(pair.split)

    def split(pair: Pair) -> str:
        if pair.split not in ("", divided):
            return pair.split
        known = () if pair.split else own.get(group(pair), ())
        return next(iter(known)) if len(known) == 1 else hash_split(group(pair), val_fraction)

    return Pairs(pair._replace(split=split(pair)) for pair in pairs), "\n".join([*notes, *_links(first), *_torn(own)])


def lacks_val(pairs: Pairs) -> bool:
    """Whether the set gives every pair a split, "train" among them, but none "val"."""
    has_train = False
    for pair in pairs:
        if pair.split in ("", "val"):
            return False
        has_train = has_train or pair.split == "train"
    return has_train


def empty_splits(
    pairs: Pairs, splits: Collection[str], val_fraction: float, divides: bool, what: str
) -> Iterator[str]:
    """Warnings about empty splits.

    Args:
      pairs: the pairs with the splits that the set gives, "" if none.
      splits: the splits that have images.
      val_fraction, divides: see `split_by_group`.
      what: "image" or "group": what is assigned to a split by its hash.
    """
    for name, use, cure in (("train", "is learnt from", "lower"), ("val", "epochs are scored on", "raise")):
        if name in splits:
            continue
        may_divide = divides and name == "val" and "train" in splits
        if all(pair.split for pair in pairs) and not (may_divide and val_fraction):
            yield (
                f"warning: no image is in split {name}, which {use}: the set's own folders, lists or manifest name "
                f"only {' and '.join(sorted(splits))}{', and --val-fraction is 0' if may_divide else ''}; the column "
                "split of a manifest can name others"
            )
        elif val_fraction:
            yield (
                f"warning: no {what} is in split {name}, which {use}; {cure} --val-fraction, or list the splits in a "
                "manifest"
            )


def _groups(pairs: Pairs, first: Mapping[str, str], group_by: str) -> str:
    """A note on the groups of --group-by; `first` is from `_same_files`. Raises InputError if it matches no key."""
    names: set[str] = set()
    alone, count = "", 0
    for pair in pairs:
        if name := group_of(first.get(pair.key, pair.key), group_by):
            names.add(name)
        else:
            alone, count = alone or pair.key, count + 1
    if not names:
        raise InputError(f"--group-by {group_by!r} matches no key, such as {pairs[0].key!r}")
    others = f"; keys in which it finds nothing are groups of their own: {count}, such as {alone!r}" if count else ""
    return f"--group-by: {len(names)} groups{others}"


def _links(first: Mapping[str, str]) -> Iterator[str]:
    """A note on images that are links to the files of other images; `first` is from `_same_files`."""
    for key, other in itertools.islice(first.items(), 1):
        yield (
            f"images that are links to the files of other images: {len(first)}, such as {key}, which is {other}; "
            "they share a split if the set gives none"
        )


def _torn(own: Mapping[str, set[str]]) -> Iterator[str]:
    """A warning about groups with images in several splits.

    Args:
      own: group -> the splits of its images that the set gives.
    """
    if torn := sorted(group for group, splits in own.items() if len(splits) > 1):
        yield (
            "warning: groups that the set's own folders, lists or manifest spread over several splits: "
            f"{len(torn)}, such as {torn[0]!r} in {' and '.join(sorted(own[torn[0]]))}"
        )


def _same_files(pairs: Pairs) -> dict[str, str]:
    """For images that are links to the file of another: key -> key of the first image with that file."""
    # Resolving links is slow, so only files of equal size and time are compared.
    hashes = repeated((pair.size, pair.modified) for pair in pairs)
    candidates = lambda: (pair for pair in pairs if hashes and hash((pair.size, pair.modified)) in hashes)
    files = repeated(storage.real(pair.image) for pair in candidates() if not storage.is_remote(pair.image))
    first: dict[str, str] = {}
    keys: dict[str, str] = {}
    for pair in candidates() if files else ():
        file = storage.real(pair.image)
        if hash(file) in files and (key := keys.setdefault(file, pair.key)) != pair.key:
            first[pair.key] = key
    return first


def group_of(key: str, group_by: str) -> str | None:
    """The group of an image: the text of the regular expression's first group in its key, else of the whole match.

    Returns:
      The text; None if the expression does not match, or matches no text.

    Raises:
      InputError: `group_by` is not a regular expression.
    """
    try:
        match = re.search(group_by, key)
    except re.error as error:
        raise InputError(f"--group-by {group_by!r} is not a regular expression: {error}") from None
    # In an expression with alternatives, the first group may not take part in the match.
    return (match and next((group for group in match.groups() if group is not None), match[0])) or None


def hash_split(key: str, val_fraction: float) -> str:
    """ "train" or "val", by the MD5 of the key, so that adding images does not move the others."""
    share = int.from_bytes(hashlib.md5(key.encode()).digest()[:8], "big") / 2**64
    return "val" if share < val_fraction else "train"
