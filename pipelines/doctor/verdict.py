"""Findings, their severity, and the verdict on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from trainer.accounts import counted

NOTE, REJECT, WRONG = "note", "reject", "wrong"
STATUS = {NOTE: 0, REJECT: 1, WRONG: 2}
"""Severity of a finding -> the command's exit status: nothing needs to be done; `deeplab prepare` would reject
something; it would accept something that is then learnt wrongly."""
SHOWN = 3
"""Maximum number of examples shown for a finding."""


class Example(NamedTuple):
    """An example of a finding: the pair's number in the plan (-1: none), a path, and details.

    For copies, `other` is the number of the second pair; -1 for none.
    """

    number: int
    path: str
    detail: str
    other: int = -1


@dataclass(frozen=True)
class Finding:
    """A problem of a set.

    Attributes:
      kind: its name, such as "lossy-labels".
      grade: NOTE, REJECT or WRONG.
      count, of, unit: "3 of 512 labels"; `of` is 0 if there is no total.
      text: a description of the problem, and why it matters.
      cure: a way to solve it.
      examples: a few of them.
    """

    kind: str
    grade: str
    _: KW_ONLY
    count: int
    of: int
    unit: str
    text: str
    cure: str
    examples: tuple[Example, ...] = ()

    def to_json(self) -> dict[str, Any]:
        examples = [{"path": example.path, "found": example.detail} for example in self.examples]
        return {
            **{"kind": self.kind, "grade": self.grade, "count": self.count, "of": self.of, "unit": self.unit},
            **{"text": self.text, "cure": self.cure, "examples": examples},
        }


def status(findings: Sequence[Finding]) -> int:
    return max((STATUS[finding.grade] for finding in findings), default=0)


def sentence(findings: Sequence[Finding], looked: int, decoded: int) -> str:
    """The verdict, as a sentence."""
    seen = f"{counted(looked, 'pair')}, {decoded:,} decoded"
    heads = {
        0: "healthy: `deeplab prepare` takes all of it as intended",
        1: "ill: `deeplab prepare` would reject a part of it",
        2: "dangerous: `deeplab prepare` would take it, or a part of it, and training would learn or score it wrongly",
    }
    return f"{heads[status(findings)]} ({seen})"
