"""Errors of failing runs: turns Beam's nested tracebacks into one line, and the death of a worker into an error."""

from __future__ import annotations

import collections
import contextlib
import logging
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from apache_beam.runners.worker import sdk_worker

from trainer import ending, processes, storage
from trainer.files import scratch
from trainer.options import InputError

STATUS_WORKER_DIED = 70
SERVERS = ("PrismJobServer", "FlinkJarJobServer", "SparkJarJobServer")
"""Loggers of what the job servers print that Beam starts."""
STARTERS = ("apache_beam.utils.subprocess_server", "")
"""Loggers of what Beam says of them; the last is the root logger."""
said: collections.deque[str] = collections.deque(maxlen=20)
"""The last lines that a job server has printed."""
NAMED = re.compile(r"/\w|\w:\d")
"""What names a file or an address."""
REPORT_SECONDS = 10.0
"""Seconds within which a thread of Beam reports that a worker process has ended."""


def readable(error: Exception, title: str) -> InputError | storage.Unavailable | MemoryError:
    """Turns a failure that Beam reports as nested tracebacks into an error with a one-line message."""
    if refused := processes.refused(error):
        return refused
    # Lines that Java adds to a Python traceback.
    text = re.sub(r"\n\s+(?:at [^\n]*\([^\n]*\)|\.\.\. \d+ (?:more|common frames omitted))(?=\n|\Z)", "", str(error))
    for known in (InputError, storage.Unavailable):
        # The last error in the text, to its end: file names may contain line breaks.
        name = rf"(?:\A|.*^)(?:\w+\.)*{known.__name__}: "
        before = re.match(name, text, re.MULTILINE | re.DOTALL)
        if isinstance(error, known) or (before and "\nTraceback (" not in text[before.end() :]):
            message = text if isinstance(error, known) else text[before.end() :]
            return known(re.sub(r"(?: \[while running '[^']*'\])?\s*\Z", "", message))
    line = r"^(?:Caused by: )?([A-Za-z_][\w.]*): (.*?)(?: \[while running '(.*?)'\])?$"
    causes = re.findall(line, text, re.MULTILINE)
    if causes and causes[-1][0].startswith("java."):
        # "No such file or directory": which one is said by the exception that this is the cause of.
        causes += [cause for cause in causes if NAMED.search(cause[1])][-1:]
    kind, message, step = causes[-1] if causes else (type(error).__name__, text.split("\n", 1)[0], "")
    while inner := re.fullmatch(r"([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)): (.*)", message):
        kind, message = inner.groups()
    step = step or next(iter(re.findall(r"\[while running '(.*?)'\]", text)), "")
    shown = {"prefix": "deeplab-error-", "suffix": ".txt", "dir": scratch.place(), "delete": False}
    with tempfile.NamedTemporaryFile("wb", **shown) as file:
        file.write(text.encode(errors="backslashreplace"))
    step = re.sub(r"-ptransform-\d+\Z", "", step)  # job servers number the steps
    where = f" in step {step!r}" if step else ""
    return InputError(
        f"the {title} job failed{where}: {kind}: {message} (full traceback: {file.name}). "
        "Finished outputs are kept; run the same command again to resume"
    )


def await_death_report(error: Exception) -> None:
    """If the connection to a worker broke, waits for the thread that reports how the worker ended.

    That thread ends the program, see `stop_when_worker_dies`.
    """
    if "Channel closed prematurely" in str(error):
        time.sleep(REPORT_SECONDS)


@contextlib.contextmanager
def stop_when_worker_dies(out: TextIO, title: str) -> Iterator[None]:
    """Ends the program when a worker process was killed (out of memory); Beam itself would wait for it for ever.

    Beam reports the death only in one of its helper threads, so the program is ended from there: an interrupt would
    not reach the waiting thread where SIGINT is ignored, as in programs that a script starts with `&`. Ctrl-C, SIGTERM
    and SIGHUP also end the program with `os._exit`, because Beam's non-daemon threads would keep it alive; and they do
    so at once, because after an exception Beam waits for its workers: for ever if it was just starting them, or if
    they wait for a lock that this thread held when the signal came. Files published by then are complete and are kept.
    """
    before = threading.excepthook

    def end(text: str, cure: str, status: int) -> None:
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)  # further errors are consequences of this one
        bar = "\n" * out.isatty()  # ends the line of the progress bar
        ending.leave(status, f"{bar}deeplab {title}: {text}; finished outputs are kept, {cure}", out)

    def hook(args: threading.ExceptHookArgs) -> None:
        death = re.search(r"Worker subprocess exited with return code (-?\d+)", str(args.exc_value))
        if death:
            text = f"error: a worker process ended with status {death[1]} (137 or -9: killed, usually out of memory)"
            cure = "run the command again, which resumes, and rejects the image if one is the cause"
            end(text, cure, STATUS_WORKER_DIED)
        elif refused := processes.refused(args.exc_value):
            end(f"error: {refused}", "run the same command again with more memory or threads to resume", 1)
        elif args.exc_type.__module__ != "grpc":  # connections to a dead or finished worker
            before(args)

    def interrupt(number: int | None = None, _: FrameType | None = None) -> None:
        word, status = ending.cause(number)
        end(word, ending.RESUME, status)

    # Only if nobody else handles or ignores a signal, and only in the main thread: others may not set a handler.
    is_main = threading.current_thread() is threading.main_thread()
    ours = (signal.default_int_handler, ending.terminate) if is_main else ()
    handlers = {number: handler for number in ending.SIGNALS if (handler := signal.getsignal(number)) in ours}
    threading.excepthook = hook
    for number in handlers:
        signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        interrupt()
        raise
    finally:
        threading.excepthook = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _print_nothing(*_: object, **__: object) -> None:
    """Takes the place of `print` in Beam's workers, which print every traceback that they report to the runner."""


def _not_repeated(record: logging.LogRecord) -> bool:
    # `run` receives the failure of a DoFn as an exception, and reports it once.
    text = record.getMessage()
    repeated = ("Error processing instruction", "[while running ", "Failed to read inputs in the data plane")
    return not any(words in text for words in repeated)


def quiet_servers() -> None:
    """Hides the log of job servers that Beam starts, except errors, unless the user's log level shows it.

    The filter is never removed: job servers log until this process ends, at levels of their own.
    """
    if logging.getLogger().getEffectiveLevel() > logging.INFO:
        for name in STARTERS:
            logging.getLogger(name).addFilter(_is_grave)
        for name in SERVERS:
            logging.getLogger(name).setLevel(logging.INFO)
            logging.getLogger(name).addFilter(_listen)


def _is_grave(record: logging.LogRecord) -> bool:
    # Of a job server that does not start, an exception tells as well.
    return record.levelno >= logging.ERROR and not record.getMessage().startswith("Failed to start job service")


def _listen(record: logging.LogRecord) -> bool:
    said.append(record.getMessage())
    return record.levelno >= logging.ERROR


@contextlib.contextmanager
def quiet_beam() -> Iterator[None]:
    """Hides Beam's log, except errors, while the block runs, unless the user's log level shows it.

    What workers say of failures stays hidden for good: a thread that outlives a failed run reports how it ended after
    the block, often with a KeyError, since Beam has forgotten its bundle by then.
    """
    beam_log = logging.getLogger("apache_beam")
    level = beam_log.level
    if logging.getLogger().getEffectiveLevel() > logging.INFO:
        beam_log.setLevel(logging.ERROR)
    for name in ("common", "worker.sdk_worker", "worker.data_plane", "portability.local_job_service"):
        logging.getLogger(f"apache_beam.runners.{name}").addFilter(_not_repeated)
    sdk_worker.print = _print_nothing
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not args.exc_type.__module__.startswith("grpc."):  # the connection to a job server that has ended
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
        beam_log.setLevel(level)
