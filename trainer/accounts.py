"""The accounts of a stage: inputs = outputs + rejects.

Every command counts its inputs before the work, from its plan, and its outputs and rejects after it, from what was
written. `Accounts.check` compares the two, so that a lost element ends the command with an error instead of silently
reducing a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer import storage
from trainer.options import option
from trainer.terminal import printable

REJECTS_FILE = "rejects.jsonl"
EXAMPLES = 5
"""Rejects that are printed; all of them are in REJECTS_FILE."""


class UnbalancedError(RuntimeError):
    """Inputs are not outputs + rejects: the program has lost elements, or invented some."""


def counted(number: int, noun: str) -> str:
    """The number with the noun, singular or plural: "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def percent(share: float, decimals: int) -> str:
    """A share from 0 to 1 in percent, which only none and all of it round to 0 and 100: "12.3", "<0.1", ">99.9"."""
    least = 10.0**-decimals
    if 0 < 100 * share < least:
        return f"<{least:.{decimals}f}"
    if 100 - least < 100 * share < 100:
        return f">{100 - least:.{decimals}f}"
    return f"{100 * share:.{decimals}f}"


@dataclass(frozen=True)
class Reject:
    """An input that could not be used.

    Attributes:
      key: the key of the input.
      path: the path of the input.
      stage: the command that rejected it.
      reason: for humans, with what was found and what was expected.
      records: number of planned outputs that are missing because of it.
    """

    key: str
    path: str
    stage: str
    reason: str
    records: int = 1

    @property
    def place(self) -> str:
        """The path, and the key if the path does not contain it, such as that of a shard."""
        return self.path if self.key in self.path else f"{self.path}, {self.key}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Accounts:
    """The inputs and outputs of a stage.

    Attributes:
      unit: what is counted, plural: "images".
      inputs: number of inputs, counted from the plan.
      outputs: number of each kind of output, such as {"written": 40, "skipped": 2}.
      rejects: the inputs that could not be used; each counts as its `records`.
    """

    unit: str
    inputs: int
    outputs: Mapping[str, int]
    rejects: tuple[Reject, ...] = field(default=())

    @property
    def rejected(self) -> int:
        return sum(reject.records for reject in self.rejects)

    @property
    def rate(self) -> float:
        """The share of the inputs that were rejected, 0 to 1."""
        return self.rejected / self.inputs if self.inputs else 0.0

    def check(self) -> None:
        """Raises UnbalancedError unless inputs = outputs + rejects."""
        difference = self.inputs - sum(self.outputs.values()) - self.rejected
        if difference:
            what = f"{difference:,} lost" if difference > 0 else f"{-difference:,} too many"
            raise UnbalancedError(
                f"the accounts do not balance: {self.line().replace(' = ', ' != ')}; {what}. "
                "Finished outputs are kept; run the same command again, and report this if it happens again"
            )

    def line(self) -> str:
        """The equation: "9 images = 6 written + 2 skipped + 1 rejected"."""
        parts = [f"{count:,} {name}" for name, count in {**self.outputs, "rejected": self.rejected}.items()]
        noun, _, more = self.unit.partition(" ")
        unit = f"{noun.removesuffix('s') if self.inputs == 1 else noun} {more}".rstrip()
        return f"{self.inputs:,} {unit} = {' + '.join(parts)}"

    def report(self, rejects_path: str) -> str:
        """The equation and the first rejects with their reasons; `rejects_path` is the file that lists them all."""
        lines = [self.line()]
        lines += [printable(f"rejected: {reject.place}: {reject.reason}") for reject in self.rejects[:EXAMPLES]]
        if self.rejects:
            more = len(self.rejects) - EXAMPLES
            lines.append(f"{f'{more:,} more, ' if more > 0 else ''}see {printable(rejects_path)}")
        return "\n".join(lines)

    def excess(self, max_reject_rate: float) -> str | None:
        """The message if the share rejected exceeds `max_reject_rate` (0 to 1; the status is then 1), else None."""
        if self.rate <= max_reject_rate:
            return None
        share = f"{self.rejected:,} of {counted(self.inputs, self.unit.removesuffix('s'))}"
        return f"{share} rejected, more than --max-reject-rate {max_reject_rate:g} allows"


def merged(rejects: Iterable[Reject]) -> tuple[Reject, ...]:
    """Rejects sorted by key and path; those with the same file and reason are merged."""
    records: dict[Reject, int] = {}
    for reject in rejects:
        bare = Reject(reject.key, reject.path, reject.stage, reject.reason)
        records[bare] = records.get(bare, 0) + reject.records
    whole = (Reject(bare.key, bare.path, bare.stage, bare.reason, count) for bare, count in records.items())
    return tuple(sorted(whole, key=lambda reject: (reject.key, reject.path, reject.reason)))


def write_rejects(folder: str, rejects: Iterable[Reject]) -> str:
    """Writes REJECTS_FILE into `folder` (local or gs://), one JSON object per line; returns its path.

    It is pure ASCII, so names that are not UTF-8, or contain line separators, can be read back unchanged.
    """
    path = storage.join(folder, REJECTS_FILE)
    lines = [json.dumps(reject.to_json(), sort_keys=True) + "\n" for reject in rejects]
    storage.write(path, "".join(lines).encode())
    return path


def max_reject_rate(unit: str) -> Any:
    """The option --max-reject-rate of a command that works on `unit`."""
    return option(0.01, f"exit with status 1 when a larger share of the {unit} is rejected", low=0, high=1)
