"""Prints docs/zoo.md from the tables of tests/zoo; `make docs` writes it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.zoo.areas import AREAS
from tests.zoo.engine import PASSING, REFUSED, TROUBLE, Area, Case

HEAD = """# What happens to broken and odd inputs

`make test` runs every row of these tables (`tests/zoo/`). It checks the status and the words below, that the message
is one line without a traceback, that inputs = outputs + rejects, that the good images are processed, and that no
existing file has changed. This file is made by `make docs`; a test compares it with the cases. The rules behind it are
in [inputs.md](inputs.md).

- **refused**: the command ends with status 2 before the work begins; nothing has been written.
- **reject**: this file is left out, with the reason in `rejects.jsonl`; all others are processed.
- **status 1**: the work is done, but there is trouble. **status 75**: storage failed; run the command again.
"""
WORDS = {REFUSED: "refused", TROUBLE: "status 1", PASSING: "status 75", 130: "interrupted", 0: "done"}


def cell(text: str) -> str:
    """Text as it can stand in a table: what cannot be seen, or would end a cell, is escaped."""
    return ascii(text)[1:-1].replace("|", "\\|") if not text.isprintable() or "|" in text else text


def outcome(case: Case) -> str:
    """What comes of a case, in words."""
    if case.rejects and not case.rows and case.status != REFUSED:
        return "reject: " + "; ".join(dict.fromkeys(words for words in case.rejects.values() if words))
    said = " ... ".join(words for words in case.says if words not in ("/out", "fault", "records = "))
    return f"{WORDS[case.status]}: {said}" if said else WORDS[case.status]


def rows(area: Area) -> Iterator[str]:
    for case in area.cases:
        for name, what in case.rows.items():
            yield f"| {cell(name)} | {case.command} | {cell(what)} |"
        yield f"| {cell(case.name)} | {case.command} | {cell(outcome(case))} |"


def page() -> str:
    """The whole of docs/zoo.md."""
    parts = [HEAD]
    for area in AREAS:
        table = ["| what | command | what happens |", "|---|---|---|", *rows(area)]
        parts.append(f"## {area.title}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
