"""The `deeplab` command: finds the stage and runs it."""

from __future__ import annotations

import importlib
import os
import sys

from pipelines import __version__
from trainer.options import InputError

COMMANDS = {
    "demo": ("pipelines.demo.command", "draw a small set and run the whole road on it"),
    "prepare": ("pipelines.prepare.command", "raw pictures and labels -> augmented TFRecords"),
    "records": ("pipelines.records.command", "look into records: ls, show, verify, stats, export"),
    "train": ("trainer.train.command", "records -> trained model"),
    "import-weights": ("trainer.weights.checkpoints", "published DeepLab weights -> model"),
    "tune-crf": ("pipelines.tune_crf.command", "model + records -> the CRF's best parameters, or advice against it"),
    "segment": ("pipelines.segment.command", "pictures + model -> masks"),
    "evaluate": ("pipelines.evaluate.command", "masks + labels -> scores and a report"),
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: deeplab COMMAND [OPTIONS]",
            "",
            "From raw pictures to a trained DeepLabV3+ to masks, at any size.",
            "",
            *lines,
            "",
            "`deeplab COMMAND --help` tells a command's options; `deeplab --version` the version.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0 when done, 1 when it ran and found trouble, 2 when the input cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"deeplab {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"deeplab: there is no command {name!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    # TensorFlow's C++ start-up messages are for its developers; an explicit setting wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    module = importlib.import_module(COMMANDS[name][0])
    try:
        return module.main(rest)
    except InputError as error:
        print(f"deeplab {name}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\ndeeplab {name}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
