"""Finds duplicates and near-duplicates of images, within splits and across them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from pipelines.doctor.findings import LEFT_OUT
from pipelines.doctor.plan import Plan
from pipelines.doctor.tally import FAULTS
from pipelines.doctor.verdict import NOTE, SHOWN, WRONG, Example, Finding
from pipelines.inputs.splits import group_of, hash_split

NEAR = 4
"""Maximum bits in which the hashes of near-duplicates differ; neighbours in CamVid's films typically differ in 12."""
ALIKE = 0.98
"""Minimum correlation of two images with similar hashes that counts as a near-duplicate."""
LOOKED_AT = 256
"""Maximum number of candidate near-duplicates to compare; if nearly all of these are alike, the others count too."""
SURE = 0.95
"""Share of the compared candidates that counts as nearly all."""
MIN_FRAMES = 8
FILM = 0.6
"""Median hash distance of neighbours, relative to that of any two images, below which names count frames of a film."""

Couples = Sequence[tuple[int, int]]
"""The numbers of two pairs each."""


def exact(prints: np.ndarray) -> list[list[int]]:
    """Groups of the numbers of pairs whose image files are identical, byte for byte, and images."""
    damaged = prints["image"][prints["fault"] == 1 + FAULTS.index("damaged-images")]
    known = prints[~np.isin(prints["image"], [0, *damaged.tolist()])]
    known = known[np.argsort(known["image"], kind="stable")]
    groups = np.split(known["number"], np.flatnonzero(np.diff(known["image"])) + 1)
    return sorted(group.tolist() for group in groups if len(group) > 1)


def hashed(prints: np.ndarray) -> np.ndarray:
    """The PRINTs with a hash: identical copies of a decoded image get its hash even if they were not decoded."""
    known = prints[prints["is_hashed"]]
    hashes = dict(zip(known["image"].tolist(), known["hash"].tolist(), strict=True))
    kept = prints[np.isin(prints["image"], known["image"])].copy()
    kept["hash"], kept["is_hashed"] = [hashes[image] for image in kept["image"].tolist()], True
    return kept


def near(prints: np.ndarray, splits: Sequence[str]) -> list[tuple[int, int]]:
    """Couples of pairs whose images are not identical but have hashes that differ in at most NEAR bits.

    The first image of a split stands for all of that split with the same hash. Hashes that differ in at most NEAR of
    64 bits agree in at least one of NEAR + 1 bands of bits, so only hashes that share a band are compared, rather than
    all with all.

    Args:
      prints: PRINTs with hashes; no image file may be in two splits.
      splits: the split of every pair.
    """
    keys = np.zeros(len(prints), [("hash", "<u8"), ("split", "<i8")])
    names = sorted(set(splits))
    keys["hash"], keys["split"] = prints["hash"], [names.index(splits[number]) for number in prints["number"]]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    couples = {
        (int(prints["number"][first[group[place]]]), int(prints["number"][place]))
        for place in np.flatnonzero(first[group] != np.arange(len(prints)))
        if prints["image"][place] != prints["image"][first[group[place]]]
    }
    hashes, numbers = prints["hash"][first], prints["number"][first]
    edges = np.linspace(0, 64, NEAR + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for place, one in enumerate(members[:-1]):
                others = members[place + 1 :]
                close = others[np.bitwise_count(hashes[others] ^ hashes[one]) <= NEAR]
                couples.update(tuple(sorted((int(numbers[one]), int(numbers[other])))) for other in close)
    return sorted(couples)


def verified(couples: Couples, likeness: Callable[[Couples], Iterable[float]]) -> list[tuple[int, int]]:
    """The couples whose images are alike. Checks only the first LOOKED_AT; if nearly all of them are, returns all."""
    first = couples[:LOOKED_AT]
    alike = [couple for couple, value in zip(first, likeness(first), strict=True) if value >= ALIKE]
    return alike + list(couples[LOOKED_AT:] if len(alike) >= SURE * LOOKED_AT else ())


def of_copies(
    prints: np.ndarray,
    plan: Plan,
    likeness: Callable[[Couples], Iterable[float]],
    differ: Callable[[Couples], Iterable[bool]],
    gone: Collection[int],
) -> tuple[list[Finding], set[int]]:
    """Findings on duplicates, and the numbers of the pairs that should be left out because of them.

    Args:
      gone: the numbers of pairs that are left out for other reasons, and whose copies may stay, as their labels
        contradict none.
      likeness: the likeness of the two images of each couple, -1 to 1.
      differ: whether the two labels of each couple hold different classes.
    """
    findings, left_out = _of_identical(prints, plan, differ, gone)
    # Each file is now in one split only, so those that are near to each other across splits are not the same.
    kept = hashed(prints[~np.isin(prints["number"], list(left_out))])
    of_similar, others = _of_similar(kept, plan, likeness, gone)
    return findings + of_similar, left_out | others


def _of_identical(
    prints: np.ndarray, plan: Plan, differ: Callable[[Couples], Iterable[bool]], gone: Collection[int]
) -> tuple[list[Finding], set[int]]:
    """The part of `of_copies` on images whose files are identical."""
    findings, left_out, splits = [], set(), plan.splits
    same = exact(prints)
    labels = dict(zip(prints["number"].tolist(), prints["label"].tolist(), strict=True))
    held = [[number for number in group if number not in gone] for group in same]
    torn = [(group[0], other) for group in held for other in group[1:] if labels[group[0]] != labels[other]]
    torn = list(itertools.compress(torn[:LOOKED_AT], differ(torn[:LOOKED_AT])))
    if torn:
        firsts = {first for first, _ in torn}
        members = {number for group in held if group and group[0] in firsts for number in group}
        text = "images occur twice, byte for byte, with different labels"
        cure = f"keep the right label of each; {LEFT_OUT}, all of them"
        findings.append(_finding("contradictions", WRONG, torn, members, plan, text, cure))
        left_out |= members
    if leaks := [group for group in same if len({splits[number] for number in group}) > 1]:
        text = (
            "images of one split are in another as well, byte for byte: the model would be scored on images "
            "it was trained on"
        )
        couples = [_couple(group, splits) for group in leaks]
        members = {number for group in leaks for number in group}
        findings.append(_finding("leaks", WRONG, couples, members, plan, text, f"{LEFT_OUT} of the training"))
        left_out |= {number for group in leaks for number in _surplus(group, splits, gone)}
    parts = [[number for number in group if splits[number] == split] for group in same for split in set(splits)]
    if doubles := sorted(part for part in parts if len(part) > 1):
        text = "images occur twice in one split, byte for byte: they count double"
        cure = "leave the copies out, or keep them"
        members = {number for part in doubles for number in part}
        couples = [(part[0], part[1]) for part in doubles]
        findings.append(_finding("duplicates", NOTE, couples, members, plan, text, cure))
    return findings, left_out


def _of_similar(
    prints: np.ndarray, plan: Plan, likeness: Callable[[Couples], Iterable[float]], gone: Collection[int]
) -> tuple[list[Finding], set[int]]:
    """The part of `of_copies` on images that are alike, from PRINTs with hashes."""
    findings, left_out, splits = [], set(), plan.splits
    candidates = near(prints, splits)
    is_across = [splits[one] != splits[other] for one, other in candidates]
    if across := verified(list(itertools.compress(candidates, is_across)), likeness):
        text = (
            "images of one split are near-duplicates of another's (scaled, re-encoded or the next frame): the model "
            "would be scored on images it was trained on"
        )
        alike = _stood_for(prints, splits)
        members = {number for couple in across for one in couple for number in alike[one]}
        findings.append(_finding("near-leaks", WRONG, across, members, plan, text, f"{LEFT_OUT} of the training"))
        groups = [[number for one in couple for number in alike[one]] for couple in across]
        left_out = {number for group in groups for number in _surplus(group, splits, gone)}
    if within := verified([one for one, across in zip(candidates, is_across, strict=True) if not across], likeness):
        text = "images are nearly the same as another one of their split, as the frames of a film are"
        members = {number for couple in within for number in couple}
        findings.append(_finding("near-duplicates", NOTE, within, members, plan, text, "none is needed"))
    return findings, left_out


def _surplus(numbers: Sequence[int], splits: Sequence[str], gone: Collection[int]) -> list[int]:
    """The numbers of the same image to leave out, so that one split holds it: best test, and last the training."""
    held = [splits[number] for number in numbers if number not in gone]
    kept = max(held, key=lambda split: (split != "train", split == "test", split), default="")
    return [number for number in numbers if splits[number] != kept]


def _stood_for(prints: np.ndarray, splits: Sequence[str]) -> dict[int, list[int]]:
    """Number of a pair -> the numbers of all in its split with the same hash, see `near`."""
    groups: dict[tuple[int, str], list[int]] = {}
    for number, value in zip(prints["number"].tolist(), prints["hash"].tolist(), strict=True):
        groups.setdefault((value, splits[number]), []).append(number)
    return {number: group for group in groups.values() for number in group}


def _finding(
    kind: str, grade: str, couples: Couples, members: Collection[int], plan: Plan, text: str, cure: str
) -> Finding:
    """The finding on these members, with a few couples of them as examples."""
    return Finding(
        kind,
        grade,
        count=len(members),
        of=plan.total,
        unit="images",
        text=text,
        cure=cure,
        examples=_examples(couples, plan),
    )


def _examples(couples: Couples, plan: Plan) -> tuple[Example, ...]:
    def example(one: int, other: int) -> Example:
        first, second = plan.subjects[one], plan.subjects[other]
        return Example(one, first.image, f"{first.split}, and in {second.split}: {second.image}", other)

    return tuple(example(*couple) for couple in couples[:SHOWN])


def of_films(prints: np.ndarray, plan: Plan, val_fraction: float, group_by: str) -> tuple[list[Finding], str]:
    """Findings on films whose frames are in several splits, and the regular expression that keeps them together.

    Numbers at the end of names may count anything; they count frames if neighbours look alike. If the set has its own
    splits, the finding is only a note; splits by hash, which prepare makes, separate the frames of every film.
    """
    keys = [subject.key for subject in plan.subjects]
    films = [re.sub(r"\d+$", "", key) for key in keys]
    if group_by or not _are_films(prints, films):
        return [], ""
    of_film: dict[str, list[int]] = {}
    for number, film in enumerate(films):
        if film != keys[number]:
            of_film.setdefault(_below_split(film), []).append(number)
    splits = plan.splits
    torn = {film: numbers for film, numbers in of_film.items() if len({splits[n] for n in numbers}) > 1}
    if not torn:
        return [], ""
    is_hashed = all(split == hash_split(key, val_fraction) for key, split in zip(keys, splits, strict=True))
    regex = _regex(keys, of_film) if is_hashed else ""
    text = f"films lie in several splits: names count frames, and neighbours look alike: {', '.join(sorted(torn)[:4])}"
    cure = "none is needed if this is an established split; a manifest with a column split changes it"
    if is_hashed:
        text += "; the model would be scored on frames whose neighbours it was trained on"
        cure = f"--group-by '{regex}'" if regex else "list the splits in a manifest"
    couples = [_couple(numbers, splits) for numbers in torn.values()]
    grade, examples = WRONG if is_hashed else NOTE, _examples(couples, plan)
    return [
        Finding(
            "films", grade, count=len(torn), of=len(of_film), unit="films", text=text, cure=cure, examples=examples
        )
    ], regex


def _below_split(film: str) -> str:
    """A film's name without the folder of its split, so that its parts in two splits count as one film."""
    return film.rpartition("/")[2] or film


def _couple(numbers: Sequence[int], splits: Sequence[str]) -> tuple[int, int]:
    """The first two consecutive pairs, such as frames of a film, that are in different splits."""
    for one, other in itertools.pairwise(numbers):
        if splits[one] != splits[other]:
            return one, other
    return numbers[0], numbers[-1]


def _are_films(prints: np.ndarray, films: Sequence[str]) -> bool:
    known = prints[prints["is_hashed"]]
    numbers, hashes = known["number"], known["hash"]
    if len(known) < MIN_FRAMES:
        return False
    beside = np.flatnonzero(np.diff(numbers) == 1)
    beside = np.array([place for place in beside if films[numbers[place]] == films[numbers[place + 1]]], int)
    if len(beside) < MIN_FRAMES // 2:
        return False
    neighbours = np.bitwise_count(hashes[beside] ^ hashes[beside + 1])
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, len(known), (2, 4 * len(known)))
    others = np.bitwise_count(hashes[one] ^ hashes[other])[one != other]
    return bool(np.median(neighbours) < FILM * np.median(others))


def _regex(keys: Sequence[str], of_film: dict[str, list[int]]) -> str:
    """A regular expression that matches the film in a key, or a part of it if there are too few films; "" for none."""
    if len(of_film) >= 5:
        return r"^(.*?)\d+$"
    for digits in (1, 2, 3, 4):
        regex = rf"^(.*?\d*?)\d{{1,{digits}}}$"
        groups = {group_of(key, regex) for key in keys}
        if 5 <= len(groups) <= len(keys) / 4:
            return regex
    return ""
