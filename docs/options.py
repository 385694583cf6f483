"""Prints docs/options.md from the options of every command; `make docs` writes it."""

from __future__ import annotations

from pipelines.cli import COMMANDS, options_of
from trainer.options import CheckedOptions
from trainer.parser import markdown

HEAD = """# Options

Every flag of every command, as `deeplab COMMAND --help` has it. This file is made by `make docs`; a test compares it
with the commands. Commands that run on Apache Beam (marked below) hand flags they do not know on to Beam;
[engines.md](engines.md) has those for jobs elsewhere: `--runner`, `--no_wait`, `--cancel`, `--worker_accelerator`.
"""


def section(title: str, cls: type[CheckedOptions]) -> str:
    beam = "\n\nTakes Apache Beam's flags too." if cls.takes_beam_flags else ""
    return f"## `deeplab {title}`{beam}\n\n{markdown(cls)}\n"


def page() -> str:
    """The whole of docs/options.md."""
    sections = []
    for command in COMMANDS:
        module = options_of(command)
        verbs = getattr(module, "VERBS", None)
        classes = {f"{command} {verb}": cls for verb, cls in verbs.items()} if verbs else {command: module.Options}
        sections += [section(title, cls) for title, cls in classes.items()]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    print(page(), end="")
