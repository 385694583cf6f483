"""Finds duplicates and near-duplicates of images, within splits and across them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.doctor.findings import LEFT_OUT
from pipelines.doctor.plan import Plan
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


@dataclass(frozen=True)
class Copies:
    """Couples of pairs with the same image, by their numbers in the plan: within a split, and across two splits."""

    within: tuple[tuple[int, int], ...]
    across: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, couples: Iterable[tuple[int, int]], plan: Plan) -> Copies:
        couples = sorted(couples)
        splits = [subject.split for subject in plan.subjects]
        return cls(
            tuple((one, other) for one, other in couples if splits[one] == splits[other]),
            tuple((one, other) for one, other in couples if splits[one] != splits[other]),
        )


def exact(prints: np.ndarray) -> list[tuple[int, int]]:
    """Couples (first, other) of pairs whose image files are identical, byte for byte."""
    known = prints[prints["image"] != 0]
    order = np.argsort(known["image"], kind="stable")
    known = known[order]
    couples, first = [], 0
    for place in range(1, len(known)):
        if known["image"][place] != known["image"][first]:
            first = place
        else:
            couples.append((int(known["number"][first]), int(known["number"][place])))
    return couples


def near(prints: np.ndarray) -> list[tuple[int, int]]:
    """Couples of pairs whose images are not identical but have hashes that differ in at most NEAR bits.

    The first image stands for all with the same hash. Hashes that differ in at most NEAR of 64 bits agree in at least
    one of NEAR + 1 bands of bits, so only hashes that share a band are compared, rather than all with all.
    """
    known = prints[prints["is_hashed"]]
    _, first, group = np.unique(known["hash"], return_index=True, return_inverse=True)
    couples = {
        (int(known["number"][first[group[place]]]), int(known["number"][place]))
        for place in np.flatnonzero(first[group] != np.arange(len(known)))
        if known["image"][place] != known["image"][first[group[place]]]
    }
    hashes, numbers = known["hash"][first], known["number"][first]
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
) -> tuple[list[Finding], set[int]]:
    """Findings on duplicates, and the numbers of the pairs that should be left out because of them.

    Args:
      likeness: the likeness of the two images of each couple, -1 to 1.
      differ: whether the two labels of each couple hold different classes.
    """
    findings, left_out = [], set()
    splits = [subject.split for subject in plan.subjects]
    same = exact(prints)
    labels = dict(zip(prints["number"].tolist(), prints["label"].tolist(), strict=True))
    torn = [couple for couple in same if labels[couple[0]] != labels[couple[1]]][:LOOKED_AT]
    torn = list(itertools.compress(torn, differ(torn)))
    copies = Copies.of(same, plan)
    if torn:
        text = "images occur twice, byte for byte, with different labels"
        cure = f"keep the right label of each; {LEFT_OUT}, both of them"
        findings.append(_finding("contradictions", WRONG, torn, plan, text, cure))
        left_out |= {number for couple in torn for number in couple}
    if copies.across:
        text = (
            "images of one split are in another as well, byte for byte: the model would be scored on images "
            "it was trained on"
        )
        findings.append(_finding("leaks", WRONG, copies.across, plan, text, f"{LEFT_OUT} of the training"))
        left_out |= {_of_training(couple, splits) for couple in copies.across}
    if copies.within:
        text = "images occur twice in one split, byte for byte: they count double"
        findings.append(_finding("duplicates", NOTE, copies.within, plan, text, "leave the copies out, or keep them"))
    candidates = Copies.of(near(prints), plan)
    if across := verified(candidates.across, likeness):
        text = (
            "images of one split are near-duplicates of another's (scaled, re-encoded or the next frame): the model "
            "would be scored on images it was trained on"
        )
        findings.append(_finding("near-leaks", WRONG, across, plan, text, f"{LEFT_OUT} of the training"))
        left_out |= {_of_training(couple, splits) for couple in across}
    if within := verified(candidates.within, likeness):
        text = "images are nearly the same as another one of their split, as the frames of a film are"
        findings.append(_finding("near-duplicates", NOTE, within, plan, text, "none is needed"))
    return findings, left_out


def _of_training(couple: tuple[int, int], splits: Sequence[str]) -> int:
    """The number of the pair to leave out: the one in the training split."""
    one, other = couple
    return other if splits[other] == "train" else one


def _finding(kind: str, grade: str, couples: Sequence[tuple[int, int]], plan: Plan, text: str, cure: str) -> Finding:
    subjects = plan.subjects

    def example(one: int, other: int) -> Example:
        first, second = subjects[one], subjects[other]
        return Example(one, first.image, f"{first.split}, and in {second.split}: {second.image}", other)

    examples = tuple(example(*couple) for couple in couples[:SHOWN])
    return Finding(kind, grade, len(couples), plan.total, "images", text, cure, examples)


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
    splits = [subject.split for subject in plan.subjects]
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
    grade = WRONG if is_hashed else NOTE
    finding = _finding("films", grade, couples, plan, text, cure)
    return [Finding(finding.kind, grade, len(torn), len(of_film), "films", text, cure, finding.examples)], regex


def _below_split(film: str) -> str:
    """A film's name without the folder of its split, so that its parts in two splits count as one film."""
    return film.rpartition("/")[2] or film


def _couple(numbers: Sequence[int], splits: Sequence[str]) -> tuple[int, int]:
    """The first two consecutive frames of a film that are in different splits."""
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
