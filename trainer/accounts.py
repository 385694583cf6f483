"""The accounts of a stage: what went in is what came out plus what was rejected.

Every command counts its inputs before the work, from its plan, and its outputs and rejects after it, from what was
written. `Accounts.check` compares the two, so that an element that is lost on the way ends the command with an error
instead of a smaller number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer import storage
from trainer.options import option, printable

REJECTS_FILE = "rejects.jsonl"
EXAMPLES = 5
"""Rejects that are printed; all of them are in REJECTS_FILE."""


class UnbalancedError(RuntimeError):
    """Inputs are not outputs + rejects: the program has lost elements, or made some up."""


@dataclass(frozen=True)
class Reject:
    """An input that could not be used.

    Attributes:
      key, path: which one.
      stage: the command that refused it.
      reason: in words, with what was found and what was expected.
      records: how many planned outputs are missing because of it.
    """

    key: str
    path: str
    stage: str
    reason: str
    records: int = 1

    @property
    def place(self) -> str:
        """The path, and the key where the path does not tell it, as that of a shard does not."""
        return self.path if self.key in self.path else f"{self.path}, {self.key}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Accounts:
    """What went into a stage and what came of it.

    Attributes:
      unit: what is counted, plural: "images".
      inputs: how many there were to do, counted from the plan.
      outputs: how many there are of each kind of output, such as {"written": 40, "skipped": 2}.
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
        """Share of the inputs that were rejected, 0 to 1."""
        return self.rejected / self.inputs if self.inputs else 0.0

    def check(self) -> None:
        """Raises UnbalancedError unless inputs = outputs + rejects."""
        difference = self.inputs - sum(self.outputs.values()) - self.rejected
        if difference:
            what = f"{difference:,} lost" if difference > 0 else f"{-difference:,} too many"
            raise UnbalancedError(
                f"the accounts do not balance: {self.line().replace(' = ', ' != ')}; {what}. "
                "Finished outputs are kept; run the same command again, and report this if it stays"
            )

    def line(self) -> str:
        """The equation: "9 images = 6 written + 2 skipped + 1 rejected"."""
        parts = [f"{count:,} {name}" for name, count in {**self.outputs, "rejected": self.rejected}.items()]
        return f"{self.inputs:,} {self.unit} = {' + '.join(parts)}"

    def report(self, rejects_path: str) -> str:
        """The equation, and the first rejects with their reasons; `rejects_path` is where all of them are listed."""
        lines = [self.line()]
        lines += [printable(f"rejected: {reject.place}: {reject.reason}") for reject in self.rejects[:EXAMPLES]]
        if self.rejects:
            more = len(self.rejects) - EXAMPLES
            lines.append(f"{f'{more:,} more, ' if more > 0 else ''}see {printable(rejects_path)}")
        return "\n".join(lines)

    def excess(self, max_reject_rate: float) -> str | None:
        """Why the exit status is 1: more was rejected than `max_reject_rate` (0 to 1) allows. None where it is 0."""
        if self.rate <= max_reject_rate:
            return None
        return (
            f"{self.rate:.1%} of the {self.unit} were rejected, more than --max-reject-rate {max_reject_rate:g} allows"
        )


def merged(rejects: Iterable[Reject]) -> tuple[Reject, ...]:
    """Rejects in order of key and path, those of one file and reason as one."""
    records: dict[Reject, int] = {}
    for reject in rejects:
        bare = Reject(reject.key, reject.path, reject.stage, reject.reason)
        records[bare] = records.get(bare, 0) + reject.records
    whole = (Reject(bare.key, bare.path, bare.stage, bare.reason, count) for bare, count in records.items())
    return tuple(sorted(whole, key=lambda reject: (reject.key, reject.path, reject.reason)))


def write_rejects(folder: str, rejects: Iterable[Reject]) -> str:
    """Writes REJECTS_FILE into `folder` (local or gs://), one JSON object per line; returns its path.

    All of it is ASCII: names that are not UTF-8, or hold separators of lines, come back from it as they were.
    """
    path = storage.join(folder, REJECTS_FILE)
    lines = [json.dumps(reject.to_json(), sort_keys=True) + "\n" for reject in rejects]
    storage.write(path, "".join(lines).encode())
    return path


def max_reject_rate(unit: str) -> Any:
    """The option --max-reject-rate of a command that works on `unit`."""
    return option(0.01, f"exit with status 1 when a larger share of the {unit} is rejected", low=0, high=1)
