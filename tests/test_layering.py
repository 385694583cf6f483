"""The rules of the house: who may import whom, who may print, and that every command has its rooms.

Every rule is a function over the sources, and is seen to fail on sources in which one line breaks it.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from pipelines.cli import COMMANDS
from tests.drawn.places import ROOT

Sources = Mapping[str, str]
"""Module -> its source; the names of packages end in ".__init__"."""

PARTS = ("runner", "inputs", "entries", "scores", "crf", "masks", "pages")
"""Parts of `pipelines`, lowest first: each may import those before it, and trainer."""
FLOORS = (
    ("limits",),
    ("options", "processes", "terminal"),
    ("startup",),
    ("attempts", "parser"),
    ("files",),
    ("storage",),
    ("accounts", "prefetch", "leases", "metrics"),
    ("ending",),
    ("formats",),
    ("network",),
    ("weights", "export"),
    ("train",),
)
"""Floors of `trainer`, lowest first."""
STAIR = ("options", "plan", "tally", "job", "command")
"""Rooms of a command, lowest first; whatever else its folder holds lies between options and job."""
LIGHT = (
    "trainer.limits",
    "trainer.options",
    "trainer.parser",
    "trainer.terminal",
    "trainer.startup",
    "trainer.processes",
    "trainer.attempts",
    "trainer.files",
    "trainer.storage",
    "trainer.prefetch",
    "trainer.leases",
    "trainer.ending",
    "trainer.metrics",
    "trainer.accounts",
    "trainer.formats",
)
HEAVY = ("keras", "tensorflow", "apache_beam", "jax", "torch")
NOT_FOR_HELP = (*HEAVY, "numpy", "cv2", "PIL", "google.cloud.storage", "google.protobuf", "jinja2")


@pytest.fixture(scope="module")
def sources() -> Sources:
    paths = [path for package in ("pipelines", "trainer") for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text() for path in paths}


@functools.cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """Every node of a source; each source is parsed once for all rules."""
    return tuple(ast.walk(ast.parse(source)))


def imports(module: str, source: str, known: Sources) -> Iterator[str]:
    """Every module that `source` imports, those inside of functions too; names of ours down to the module."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


def edges(sources: Sources) -> Iterator[tuple[str, str]]:
    for module, source in sources.items():
        for name in imports(module, source, sources):
            yield module, name


def package(module: str) -> str:
    """The folder below pipelines or trainer, or the module itself: "pipelines.crf.engine.builds" -> "crf"."""
    return module.split(".")[1] if "." in module else ""


def room(module: str) -> str:
    return module.rsplit(".", 1)[-1]


def is_ours(module: str) -> bool:
    return module.split(".")[0] in ("pipelines", "trainer")


def commands(sources: Sources) -> set[str]:
    return {module.removesuffix(".command") for module in sources if module.endswith(".command")}


def upward_imports_of_trainer(sources: Sources) -> Iterator[str]:
    for module, name in edges(sources):
        if module.startswith("trainer.") and name.split(".")[0] in ("pipelines", "apache_beam"):
            yield f"{module} imports {name}"


def imports_between_stages(sources: Sources) -> Iterator[str]:
    stages = {package(name) for name in commands(sources) if name.startswith("pipelines.")}
    for module, name in edges(sources):
        if not module.startswith("pipelines.") or not name.startswith("pipelines."):
            continue
        here, there = package(module), package(name)
        if there in stages and there != here:
            yield f"{module} imports {name} of another stage"
        if here in PARTS and there != here and there not in PARTS[: PARTS.index(here)]:
            yield f"{module} imports {name}, which is not below it"
        if here in stages and there == "cli" and here not in ("demo", "plan", "submit"):
            yield f"{module} imports the command line"


def imports_up_the_tower(sources: Sources) -> Iterator[str]:
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    for module, name in edges(sources):
        if module.startswith("trainer.") and name.startswith("trainer.") and package(module) != package(name):
            if package(module) not in floor_of or package(name) not in floor_of:
                yield f"{module} or {name} is on no floor"
            elif floor_of[package(name)] >= floor_of[package(module)]:
                yield f"{module} imports {name}, which is not below it"


def imports_up_the_stair(sources: Sources) -> Iterator[str]:
    for module, name in edges(sources):
        folder = module.rpartition(".")[0]
        if folder not in commands(sources) or name.rpartition(".")[0] != folder:
            continue
        here, there = (STAIR.index(room(m)) if room(m) in STAIR else None for m in (module, name))
        if here is not None and there is not None and there >= here:
            yield f"{module} imports {name}, which is not below it"
        elif (here is None and room(name) in ("job", "command")) or room(module) == "options":
            yield f"{module} imports {name}"


def imports_of_options(sources: Sources) -> Iterator[str]:
    allowed = {*sys.stdlib_module_names, "trainer.options", "trainer.accounts"}
    for module, name in edges(sources):
        is_allowed = name in allowed or name.split(".")[0] in allowed or room(name) == "options"
        if room(module) == "options" and not is_allowed:
            yield f"{module} imports {name}"


def beam_outside_of_jobs(sources: Sources) -> Iterator[str]:
    for module, name in edges(sources):
        if name.split(".")[0] == "apache_beam" and room(module) != "job" and package(module) != "runner":
            yield f"{module} imports {name}"


def prints_elsewhere(sources: Sources) -> Iterator[str]:
    for module, source in sources.items():
        if room(module) in ("command", "cli") or module == "pipelines.runner.progress":
            continue
        for node in nodes(source):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{module} prints in line {node.lineno}"


def circles(sources: Sources) -> Iterator[str]:
    below = {module: set() for module in sources}
    for module, name in edges(sources):
        if name in below:
            below[module].add(name)
    state: dict[str, str] = {}

    def visit(module: str, path: tuple[str, ...]) -> Iterator[str]:
        if state.get(module) == "open":
            yield " -> ".join((*path[path.index(module) :], module))
        if module in state:
            return
        state[module] = "open"
        for name in sorted(below[module]):
            yield from visit(name, (*path, module))
        state[module] = "done"

    for module in sorted(sources):
        yield from visit(module, ())


def commands_without_rooms(sources: Sources) -> Iterator[str]:
    folders = commands(sources)
    yield from (f"{name}.command is no command of the command line" for name in folders - set(COMMANDS.values()))
    yield from (f"{name} has no room `command`" for name in set(COMMANDS.values()) - folders)
    yield from (f"{name} has no room `options`" for name in folders if f"{name}.options" not in sources)


def full_packages(sources: Sources) -> Iterator[str]:
    for module, source in sources.items():
        if room(module) == "__init__" and source.strip() and module != "pipelines.__init__":
            yield f"{module} is not empty"


RULES = {
    upward_imports_of_trainer: ("trainer.metrics", "import apache_beam as beam"),
    imports_between_stages: ("pipelines.segment.plan", "from pipelines.prepare import plan"),
    imports_up_the_tower: ("trainer.formats.images", "from trainer.network import layers"),
    imports_up_the_stair: ("pipelines.segment.plan", "from pipelines.segment import job"),
    imports_of_options: ("pipelines.prepare.options", "import numpy as np"),
    beam_outside_of_jobs: ("pipelines.crf.refine", "def f():\n    import apache_beam"),
    prints_elsewhere: ("pipelines.inputs.rawset", "def f():\n    print('found')"),
    circles: ("trainer.storage", "from trainer.formats import palettes"),
    commands_without_rooms: ("pipelines.undo.command", ""),
    full_packages: ("pipelines.crf.__init__", "from pipelines.crf import refine"),
}
"""Rule -> a module, and a line in it that breaks the rule."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_to_the_rule(rule, sources):
    assert sorted(set(rule(sources))) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_line_that_breaks_the_rule_is_found(rule, sources):
    module, line = RULES[rule]
    broken = {**sources, module: f"{sources.get(module, '')}\n{line}\n"}
    assert any(module in fault for fault in rule(broken))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_must_not_import_a_later_part(part, sources):
    above = [name for name in (*PARTS, "segment") if name not in PARTS[: PARTS.index(part)] and name != part]
    broken = {**sources, f"pipelines.{part}.new": f"import pipelines.{above[0]}.options"}
    assert any(f"pipelines.{part}.new" in fault for fault in imports_between_stages(broken))


def loaded(modules: list[str], forbidden: tuple[str, ...]) -> list[str]:
    """Which of the forbidden modules a new process has loaded after importing `modules`."""
    program = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    program += f"print([name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout)


def test_formats_and_what_lies_below_load_no_framework(sources):
    modules = [m for m in sources if m.startswith(LIGHT) and room(m) != "__init__"]
    assert len(modules) > len(LIGHT) and loaded(modules, HEAVY) == []


def test_help_loads_nothing_but_options(sources):
    modules = ["pipelines.cli", *(m for m in sources if room(m) == "options")]
    assert len(modules) > len(COMMANDS) and loaded(modules, NOT_FOR_HELP) == []


def test_workers_and_commands_without_a_network_start_without_tensorflow(sources):
    """They start in a second, and take a tenth of the memory."""
    modules = [m for m in sources if m.startswith("pipelines.") and room(m) in ("job", "command")]
    assert len(modules) > 8 and loaded(modules, ("tensorflow", "keras", "jax", "torch")) == []
