"""The `deeplab` command: finds the package of a command, reads its options and runs it.

Its statuses:
  0: done.
  1: it ran and found trouble: too many rejects, faults in records, accounts that do not balance, no memory.
  2: its input cannot be used, or the job failed; the message names the cause and the cure.
  70: a worker process was killed.
  75: storage did not answer, or is full, or no process could be started (EX_TEMPFAIL of sysexits.h): the same command,
    run again later, resumes.
  129: terminated by SIGHUP, as when a terminal is closed: as by SIGTERM.
  130: interrupted by Ctrl-C.
  141: the reader of its output, such as `head`, has gone before it was done.
  143: terminated by SIGTERM; `train` has written a checkpoint: the same command, run again, resumes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from pipelines import __version__
from trainer import ending, leases, processes, storage
from trainer.accounts import UnbalancedError
from trainer.attempts import FULL, meaning
from trainer.files import scratch
from trainer.options import CheckedOptions, InputError, public
from trainer.parser import overridden, parse
from trainer.startup import check_backend, importing, quiet_startup
from trainer.terminal import PrintableStream, printable

COMMANDS = {
    "demo": "pipelines.demo",
    "doctor": "pipelines.doctor",
    "prepare": "pipelines.prepare",
    "records": "pipelines.records",
    "train": "trainer.train",
    "import-weights": "trainer.weights",
    "export": "trainer.export",
    "tune-crf": "pipelines.tune_crf",
    "segment": "pipelines.segment",
    "evaluate": "pipelines.evaluate",
    "submit": "pipelines.submit",
    "plan": "pipelines.plan",
}
"""Command -> package with its modules `options` (whose docstring is the help) and `command` (which runs it)."""

WITH_KERAS = ("demo", "train", "import-weights")
"""Commands that always compute with Keras, whatever its backend."""

LACKING = "finished outputs are kept, run the same command again with more memory or threads to resume"
"""What to do where memory or threads are lacking."""
PACKAGES = ("pipelines", "trainer")
REPLACED = (
    "this program was removed or replaced while the command was at work, or is incomplete; run the same command again "
    "once it is installed"
)
"""What is wrong if one of its own modules cannot be imported, or its files changed before an unforeseen error."""

NO_PLACE = "No usable temporary directory"
"""What Python says, as of a file that is missing, where a full disk or a limit allows no temporary files."""

STREAMS = ("standard output", "standard error")


def options_of(command: str) -> ModuleType:
    """The module with the options of a command: a class `Options`, or a class for each of its `VERBS`, and `USAGE`."""
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
            "From raw images to a trained DeepLabV3+, and on to masks, at any scale.",
            _table({name: _summary(options_of(name).__doc__) for name in COMMANDS}),
            "`deeplab COMMAND --help` explains a command, `deeplab --version` prints the version.",
        ]
    )


def _verb_usage(command: str, module: ModuleType) -> str:
    summary, _, rest = inspect.cleandoc(module.__doc__).partition("\n\n")
    verbs = _table({verb: _summary(cls.__doc__) for verb, cls in module.VERBS.items()})
    explains = f"`deeplab {command} VERB --help` explains a verb."
    return "\n\n".join([f"usage: deeplab {command} VERB {module.USAGE}", summary, verbs, rest, explains])


def _here() -> str:
    """The working directory, for relative paths. Raises InputError if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise InputError("the current folder no longer exists; change to one that does") from None


def read(argv: list[str]) -> tuple[str, CheckedOptions, list[str]]:
    """Parses a command line into the name of the command, its options, and flags for Apache Beam.

    Raises:
      SystemExit: after help (0) and for wrong usage (2).
      InputError: an unknown command or verb, values out of bounds, or an argument or the working directory that is
        not UTF-8.
    """
    name, *rest = argv
    for word in (*argv, _here()):
        if not word.isascii() and any("\ud800" <= character <= "\udfff" for character in word):
            # Beam cannot send such names, not even in error messages, and would wait for ever.
            raise InputError(f"{public(word)} is not UTF-8; rename the file or folder")
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
    module, prog = options_of(name), f"deeplab {name}"
    if not hasattr(module, "VERBS"):
        return name, *_parsed(module.Options, rest, prog, module.__doc__)
    verb = rest[0] if rest else "--help"
    if verb in ("-h", "--help"):
        print(_verb_usage(name, module))
        raise SystemExit(0 if rest else 2)
    if verb not in module.VERBS:
        raise InputError(f"unknown verb {verb!r}; expected one of {', '.join(module.VERBS)}")
    cls = module.VERBS[verb]
    return name, *_parsed(cls, rest[1:], f"{prog} {verb}", cls.__doc__)


def _parsed(cls: type, argv: list[str], prog: str, text: str) -> tuple[CheckedOptions, list[str]]:
    """`parse`, with warnings about paths that do not count."""
    result = parse(cls, argv, prog=prog, text=text)
    for sentence in overridden(cls, argv):
        say(f"{prog}: warning: {printable(sentence)}")
    return result


def check_output(options: CheckedOptions) -> None:
    """Raises InputError if the output folder of a command is a file, or lies below one."""
    for field in dataclasses.fields(options):
        is_folder = field.name in ("output", "save") and field.metadata["metavar"] not in ("FILE", "PATH")
        if is_folder and getattr(options, field.name):
            storage.check_folder(getattr(options, field.name))


@contextlib.contextmanager
def _no_empty_folder(options: CheckedOptions) -> Iterator[None]:
    """Removes the output folder, and those above it, if the block has created them and left them empty."""
    output, new = getattr(options, "output", None) or "", []
    place = os.path.abspath(output)
    while not storage.is_remote(output) and not os.path.lexists(place):
        new.append(place)
        place = os.path.dirname(place)
    try:
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def run(argv: list[str]) -> int:
    """Runs a command line and returns its status; raises the errors that `main` turns into messages."""
    name, options, flags = read(argv)
    check_output(options)
    # gRPC's start-up log, like TensorFlow's, is for its developers; an explicit setting takes precedence.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if name in WITH_KERAS:
        check_backend()
    with quiet_startup(), importing():
        command = importlib.import_module(f"{COMMANDS[name]}.command")
    with scratch.of_command(), _no_empty_folder(options), leases.scope(lambda message: _stop(name, message), say):
        return command.run(options, flags)


def _stop(name: str, message: str) -> None:
    """Ends this process from any thread, without waiting for the others."""
    ending.leave(2, f"deeplab {name}: error: {printable(message)}")


def main(argv: list[str] | None = None) -> int:
    """Runs a command line and returns its status, see above; without `argv` that of this process, which ends here."""
    with contextlib.ExitStack() as streams:
        streams.enter_context(contextlib.redirect_stdout(PrintableStream(sys.stdout, STREAMS[0])))
        streams.enter_context(contextlib.redirect_stderr(PrintableStream(sys.stderr, STREAMS[1])))
        if argv is not None:
            return _said(argv)
        processes.keep_memory()  # before there are other threads
        try:
            ending.watch_interrupts(_title(sys.argv[1:]))
            status = _said(sys.argv[1:])
        except KeyboardInterrupt:  # before the command, or another one while the first was being answered
            _, status = ending.cause()
        if status:
            # Threads of a failed job may still be running, in C++ that aborts the process if Python ends them, or in
            # `print`, which crashes Python 3.11 where its stream is gone meanwhile.
            ending.leave(status)
        return status


def _said(argv: list[str]) -> int:
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the stream would raise once more when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not {"records", "help", "-h", "--help", "-V", "--version"} & {*argv}:  # their reader has seen enough
            say("deeplab: stopped, because the reader of its output has gone; run the same command again to resume")
        return 141
    except OSError as error:  # of what was still to be written
        return _of_the_system(_title(argv), error)


def _title(argv: list[str]) -> str:
    return f"deeplab {argv[0]}" if argv and argv[0] in COMMANDS else "deeplab"


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"deeplab {__version__}")
        return 0
    title = _title(argv)
    try:
        with _interrupts_that_became_errors():
            return run(argv)
    except KeyboardInterrupt as interrupt:
        ending.received()
        word, status = ending.cause()
        say(f"\n{title}: {word}; {str(interrupt) or ending.RESUME}")
        return status
    except UnbalancedError as error:
        return failure(title, error, 1)
    except storage.Unavailable as error:
        return failure(title, error, 75)
    except BrokenPipeError:
        raise
    except InputError as error:
        return failure(title, error, 2)
    except (MemoryError, RuntimeError, ImportError) as error:
        refused = processes.refused(error)
        if not refused and not isinstance(error, MemoryError):
            return _unforeseen(title, error)
        return failure(title, f"{refused or f'there is not enough memory ({error})'}; {LACKING}", 1)
    except OSError as error:
        return _of_the_system(title, error)
    except Exception as error:
        return _unforeseen(title, error)


def _unforeseen(title: str, error: Exception) -> int:
    """Prints the message of an error that is due to another installation of this program; raises any other."""
    is_missing = isinstance(error, ImportError) and (error.name or "").partition(".")[0] in PACKAGES
    if is_missing or _identity() != _BEGUN:
        return failure(title, f"{str(error).rstrip('.')}: {REPLACED}", 2)
    raise error


def _identity() -> tuple[int, ...] | None:
    """What differs where this file was replaced; None if it is gone."""
    with contextlib.suppress(OSError):
        info = os.stat(__file__)
        return info.st_ino, info.st_size, info.st_mtime_ns
    return None


_BEGUN = _identity()


@contextlib.contextmanager
def _interrupts_that_became_errors() -> Iterator[None]:
    """Raises KeyboardInterrupt in place of what libraries make of it.

    C++ that calls Python when the signal comes raises a SystemError of its own; and what leaves the block of a lock
    that was just being given back, a RuntimeError: the lock is not held.
    """
    try:
        yield
    except (InputError, storage.Unavailable, UnbalancedError):
        raise
    except Exception as error:
        causes, one = [], error.__context__
        while one is not None and one not in causes:
            causes.append(one)
            one = one.__context__
        is_one = isinstance(error, SystemError) or any(isinstance(cause, KeyboardInterrupt) for cause in causes)
        if is_one and ending.has_come():
            raise KeyboardInterrupt from None
        raise


def _of_the_system(title: str, error: OSError) -> int:
    """Prints the message of an error that nobody has given a meaning; returns the status."""
    if NO_PLACE in str(error.strerror):
        cure = "make room in one, allow files (`ulimit -f`) or name another in TMPDIR, and run the same command again"
        return failure(title, f"no folder for temporary files can be written to; {cure} ({error.strerror})", 75)
    place = error.filename2 or error.filename  # of a new name, that is
    # Of temporary files, libraries do not tell where they are; an input of a name may be too large to be read.
    if error.errno in FULL and (error.errno != errno.EFBIG or place in (None, *STREAMS)):
        _, full = meaning(error, scratch.place(), writing=True)
        return failure(title, full, 75)
    is_told = place is not None and error.strerror
    return failure(title, f"{place}: {error.strerror}; fix that, and run it again" if is_told else error, 2)


def failure(title: str, error: object, status: int) -> int:
    """Prints the message of an error; returns the `status`."""
    say(f"{title}: error: {printable(str(error))}")
    return status


def say(text: str) -> None:
    """Prints a line to standard error, if anybody still reads it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
