"""The `deeplab` command: finds the package of a command, reads its options and runs it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from types import ModuleType

from pipelines import __version__
from trainer.accounts import UnbalancedError
from trainer.options import CheckedOptions, InputError, parse
from trainer.startup import quiet_startup

COMMANDS = {
    "demo": "pipelines.demo",
    "prepare": "pipelines.prepare",
    "records": "pipelines.records",
    "train": "trainer.train",
    "import-weights": "trainer.weights",
    "tune-crf": "pipelines.tune_crf",
    "segment": "pipelines.segment",
    "evaluate": "pipelines.evaluate",
}
"""Command -> package with its rooms `options` (whose docstring is the help) and `command` (what runs)."""


def options_of(command: str) -> ModuleType:
    """The module with the options of a command: a class `Options`, or `VERBS`, one class for each verb."""
    return importlib.import_module(f"{COMMANDS[command]}.options")


def _table(entries: dict[str, str]) -> str:
    width = max(map(len, entries))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in entries.items())


def _summary(text: str | None) -> str:
    return inspect.cleandoc(text or "").splitlines()[0].rstrip(".")


def _usage() -> str:
    return "\n\n".join(
        [
            "usage: deeplab COMMAND [OPTIONS]",
            "From raw images to a trained DeepLabV3+ to masks, at any size.",
            _table({name: _summary(options_of(name).__doc__) for name in COMMANDS}),
            "`deeplab COMMAND --help` explains a command, `deeplab --version` prints the version.",
        ]
    )


def _verb_usage(command: str, module: ModuleType) -> str:
    summary, _, rest = inspect.cleandoc(module.__doc__).partition("\n\n")
    verbs = _table({verb: _summary(cls.__doc__) for verb, cls in module.VERBS.items()})
    explains = f"`deeplab {command} VERB --help` explains a verb."
    return "\n\n".join([f"usage: deeplab {command} VERB FOLDER [OPTIONS]", summary, verbs, rest, explains])


def read(argv: list[str]) -> tuple[str, CheckedOptions, list[str]]:
    """A command line -> name of the command, its options, and flags for Apache Beam.

    Raises:
      SystemExit: after help (0) and for wrong usage (2).
      InputError: an unknown command or verb, or values out of bounds.
    """
    name, *rest = argv
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
    module, prog = options_of(name), f"deeplab {name}"
    if not hasattr(module, "VERBS"):
        return name, *parse(module.Options, rest, prog=prog, text=module.__doc__)
    verb = rest[0] if rest else "--help"
    if verb in ("-h", "--help"):
        print(_verb_usage(name, module))
        raise SystemExit(0 if rest else 2)
    if verb not in module.VERBS:
        raise InputError(f"unknown verb {verb!r}; expected one of {', '.join(module.VERBS)}")
    cls = module.VERBS[verb]
    return name, *parse(cls, rest[1:], prog=f"{prog} {verb}", text=cls.__doc__)


def run(argv: list[str]) -> int:
    """Runs a command line and returns its status; what `main` turns into messages is raised."""
    name, options, flags = read(argv)
    # gRPC's notes on its start are for its developers, as TensorFlow's are; an explicit setting wins.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with quiet_startup():
        command = importlib.import_module(f"{COMMANDS[name]}.command")
    return command.run(options, flags)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line. Returns 0 when done, 1 when it ran and found trouble, 2 when its input cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"deeplab {__version__}")
        return 0
    title = f"deeplab {argv[0]}" if argv[0] in COMMANDS else "deeplab"
    try:
        return run(argv)
    except InputError as error:
        print(f"{title}: error: {error}", file=sys.stderr)
        return 2
    except UnbalancedError as error:
        print(f"{title}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\n{title}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
