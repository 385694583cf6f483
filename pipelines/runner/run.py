"""Runs a Beam pipeline, locally or on a remote runner, with a progress bar and errors people can read.

    def build(pipeline, heartbeat):
        pipeline | beam.Create(specs) | beam.Reshuffle() | beam.ParDo(Work(heartbeat))

    run(build, beam_options(["--direct_num_workers", "4"]), total=1202, unit="records", title="prepare")

Local runs use Beam's FnApiRunner directly. The name `DirectRunner` stands for two runners of different behaviour (one
of them is downloaded from the network at its first use), so here it means the FnApiRunner as well.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
    _BeamArgumentParser,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms.environments import SubprocessSDKEnvironment
from tqdm import tqdm

from trainer.options import InputError

LOCAL_RUNNERS = ("directrunner", "fnapirunner", "switchingdirectrunner")
PLAIN_SECONDS = 10.0  # between two progress lines where stderr is no terminal
WATCH_SECONDS = 0.25
STATUS_WORKER_DIED = 70
STATUS_INTERRUPTED = 130


class Heartbeat:
    """Counts finished items from any worker thread or process of a local run.

    Every (unpickled) copy appends to a file of its own in `folder`; one byte is one item, so that the sum of the file
    sizes is the count and no lock is needed. A heartbeat without a folder (remote runners) does nothing.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self._file: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_file": None}

    def beat(self, n: int = 1) -> None:
        """Adds `n` finished items."""
        if not self.folder or n < 1:
            return
        if self._file is None:
            path = os.path.join(self.folder, uuid.uuid4().hex)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._file, b"." * n)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


def beats(folder: str) -> int:
    """Items counted so far by all heartbeats of `folder`."""
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def beam_options(rest: list[str]) -> PipelineOptions:
    """Beam's options from the flags a command did not know itself.

    Local runs default to `--direct_running_mode multi_threading` (OpenCV, TensorFlow and Pillow release the GIL), with
    as many workers as this process may use cores.

    Raises:
      InputError: flags that Beam does not know either, values Beam refuses, a Dataflow job without what it needs.
    """
    _refuse_unknown(rest)
    options = PipelineOptions(list(rest))
    runner = runner_name(options)
    if runner == "daskrunner":
        raise InputError(
            "--runner DaskRunner: Beam's Dask runner silently drops outputs; leave --runner out to run locally, or "
            "take FlinkRunner, SparkRunner or DataflowRunner"
        )
    if is_local(options):
        given = {flag.split("=", 1)[0] for flag in rest}
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in given or direct.direct_num_workers == 0:
            direct.direct_num_workers = len(os.sched_getaffinity(0))
        if direct.direct_num_workers < 0:
            raise InputError(f"--direct_num_workers must be 0 (all cores) or more, got {direct.direct_num_workers}")
        if "--direct_running_mode" not in given:
            direct.direct_running_mode = "multi_threading"
    elif "dataflow" in runner:
        _check_dataflow(options)
    return options


def runner_name(options: PipelineOptions) -> str:
    """The runner's class name in lower case; `directrunner` when none was asked for."""
    return (options.view_as(StandardOptions).runner or "DirectRunner").rsplit(".", 1)[-1].lower()


def is_local(options: PipelineOptions) -> bool:
    """Whether `run` uses the runner inside this process (threads or processes of this machine)."""
    return runner_name(options) in LOCAL_RUNNERS


def run(
    build: Callable[[beam.Pipeline, Heartbeat], Any], options: PipelineOptions, *, total: int, unit: str, title: str
) -> bool:
    """Builds a pipeline and runs it to its end.

    Args:
      build: gets the pipeline and a `Heartbeat` that DoFns keep and call as `heartbeat.beat(n)` for `n` items done.
      options: from `beam_options`.
      total: items expected, in `unit`s; what the heartbeats will sum up to.
      unit: name of an item, plural ("records").
      title: short name of the job, put before the progress.

    Returns:
      True when the job ran to its end; False when the runner only stored a job template (`--template_location`).

    Raises:
      InputError: the job failed. The message says the cause in one line and where the full traceback was kept.
    """
    if not is_local(options):
        return _run_remote(build, options, title)
    out, options = sys.stderr, copy.deepcopy(options)  # building the runner changes them
    with tempfile.TemporaryDirectory(prefix="deeplab-run-") as folder:
        counts, worker_log = os.path.join(folder, "beats"), os.path.join(folder, "workers.log")
        os.mkdir(counts)
        pipeline = beam.Pipeline(runner=_local_runner(options, worker_log), options=options)
        build(pipeline, Heartbeat(counts))
        with _quiet_beam(), _stop_when_worker_dies(out, title, folder), _progress(counts, total, unit, title, out):
            try:
                pipeline.run().wait_until_finish()
            except Exception as error:  # Beam wraps whatever a DoFn raised, in most modes into a RuntimeError
                raise _readable(error, title) from None
    return True


def _run_remote(build: Callable[[beam.Pipeline, Heartbeat], Any], options: PipelineOptions, title: str) -> bool:
    pipeline = beam.Pipeline(options=options)
    build(pipeline, Heartbeat())
    template = options.view_as(GoogleCloudOptions).template_location
    try:
        result = pipeline.run()
        if template:
            print(f"{title}: job template written to {template}; when its job is done, run this command without")
            print("--runner and --template_location: it finds what the job wrote, and finishes it")
            return False
        state = result.wait_until_finish()
    except Exception as error:
        raise _readable(error, title) from None
    if state not in ("DONE", None):
        raise InputError(f"{title}: the {runner_name(options)} job ended in state {state}; its own log has the cause")
    return True


def _local_runner(options: PipelineOptions, worker_log: str) -> fn_runner.FnApiRunner:
    # Only with provision_info do worker subprocesses receive the pipeline options.
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options(drop_default=True))
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    environment = None
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        # What Beam does in this mode, but for where the workers' stderr goes: they print every failure there, and the
        # runner reports it again. The runner keeps an environment it was given only "in_memory".
        command = f"{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
        environment = SubprocessSDKEnvironment.from_command_string(f"{command} 2>> {shlex.quote(worker_log)}")
        direct.direct_running_mode = "in_memory"
    return fn_runner.FnApiRunner(environment, provision_info=fn_runner.ExtendedProvisionInfo(info))


def _beam_parser() -> _BeamArgumentParser:
    parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for cls in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        with contextlib.suppress(Exception):  # two libraries may register the same flag
            cls._add_argparse_args(parser)
    return parser


def _refuse_unknown(rest: list[str]) -> None:
    parser = _beam_parser()

    def refuse(message: str) -> None:
        raise InputError(message)

    parser.error = refuse
    _, unknown = parser.parse_known_args(rest)
    if not unknown:
        return
    known = [flag for action in parser._actions for flag in action.option_strings]
    flags = [flag.split("=", 1)[0] for flag in unknown if flag.startswith("-")]
    hints = {
        flag: difflib.get_close_matches(flag.replace("-", "_").replace("__", "--", 1), known, 1) for flag in flags
    }
    said = [f"{flag} (did you mean {hints[flag][0]}?)" if hints[flag] else flag for flag in flags]
    raise InputError(
        f"unknown arguments: {', '.join(said) if said else ' '.join(unknown)}; "
        "neither this command nor Apache Beam knows them (see --help)"
    )


def _check_dataflow(options: PipelineOptions) -> None:
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    missing = [f"--{name}" for name in ("project", "region") if not getattr(cloud, name)]
    if missing:
        raise InputError(f"--runner DataflowRunner needs {' and '.join(missing)}")
    # Beam itself only warns, and then looks for or creates a bucket of its own.
    if not (cloud.temp_location or "").startswith("gs://"):
        raise InputError(f"--runner DataflowRunner needs --temp_location gs://BUCKET/..., got {cloud.temp_location!r}")
    if not (setup.setup_file or setup.extra_packages or options.view_as(WorkerOptions).sdk_container_image):
        raise InputError(
            "--runner DataflowRunner: the workers need this package; give --setup_file ./setup.py, or "
            "--sdk_container_image with an image that has it installed"
        )


@contextlib.contextmanager
def _progress(folder: str, total: int, unit: str, title: str, out: TextIO) -> Iterator[None]:
    """Shows the sum of the heartbeats while the block runs: a bar on a terminal, else a line every few seconds."""
    done = threading.Event()
    start = time.monotonic()
    show = _bar if out.isatty() else _lines
    watcher = threading.Thread(target=show, args=(folder, total, unit, title, out, start, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _bar(folder: str, total: int, unit: str, title: str, out: TextIO, start: float, done: threading.Event) -> None:
    with tqdm(total=total, unit=f" {unit}", desc=title, file=out, dynamic_ncols=True, smoothing=0.1) as bar:
        running = True
        while running:
            running = not done.wait(WATCH_SECONDS)
            bar.update(beats(folder) - bar.n)


def _lines(folder: str, total: int, unit: str, title: str, out: TextIO, start: float, done: threading.Event) -> None:
    running = True
    while running:
        running = not done.wait(PLAIN_SECONDS)
        count, seconds = beats(folder), time.monotonic() - start
        rate = count / seconds if seconds else 0.0
        left = f", {(total - count) / rate:.0f} s left" if running and rate else ""
        print(f"{title}: {count}/{total} {unit}, {rate:.1f}/s, {seconds:.0f} s{left}", file=out, flush=True)


@contextlib.contextmanager
def _stop_when_worker_dies(out: TextIO, title: str, folder: str) -> Iterator[None]:
    """Ends the program when a worker process was killed (out of memory): Beam itself would wait for it for ever.

    Beam says so only in one of its helper threads. Its non-daemon threads would also keep an interrupted program
    alive, therefore both that and Ctrl-C end with `os._exit`. What had been published by then is whole and is kept.
    """
    cause = []
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        found = re.search(r"Worker subprocess exited with return code (-?\d+)", str(args.exc_value))
        if not found:
            if args.exc_type.__module__ != "grpc":  # connections to a dead or finished worker
                before(args)
        elif not cause:
            cause.append(found.group(1))
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)  # what follows are its consequences
            os.kill(os.getpid(), signal.SIGINT)

    threading.excepthook = hook
    try:
        yield
    except KeyboardInterrupt:
        if cause:
            text = f"a worker process ended with status {cause[0]} (killed? 137 and -9 mean out of memory, as a rule)"
        else:
            text = "interrupted"
        print(f"deeplab {title}: error: {text}; finished outputs are kept, run the command again to go on", file=out)
        out.flush()
        sys.stdout.flush()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(STATUS_WORKER_DIED if cause else STATUS_INTERRUPTED)
    finally:
        threading.excepthook = before


class _NoTracebacks:
    """stderr without the tracebacks that Beam's workers print before the runner reports the same failure."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        line_end, self._dropped = self._dropped and text == "\n", False
        if line_end or text.startswith("Traceback (most recent call last)"):
            self._dropped = not line_end
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _not_repeated(record: logging.LogRecord) -> bool:
    # The failure of a DoFn comes back to `run` as an exception and is said there, once.
    text = record.getMessage()
    repeated = ("Error processing instruction", "[while running ", "Failed to read inputs in the data plane")
    return not any(words in text for words in repeated)


@contextlib.contextmanager
def _quiet_beam() -> Iterator[None]:
    """Hides Beam's informational log while the block runs unless the user asked for it; errors stay."""
    beam_log = logging.getLogger("apache_beam")
    level = beam_log.level
    names = ("common", "worker.sdk_worker", "worker.data_plane", "portability.local_job_service")
    loggers = [logging.getLogger(f"apache_beam.runners.{name}") for name in names]
    if logging.getLogger().getEffectiveLevel() > logging.INFO:
        beam_log.setLevel(logging.ERROR)
    for logger in loggers:
        logger.addFilter(_not_repeated)
    try:
        with contextlib.redirect_stderr(_NoTracebacks(sys.stderr)):
            yield
    finally:
        beam_log.setLevel(level)
        for logger in loggers:
            logger.removeFilter(_not_repeated)


def _readable(error: Exception, title: str) -> InputError:
    """One line for people from a failure that Beam hands over as text of nested tracebacks."""
    text = str(error)
    causes = re.findall(r"^([A-Za-z_][\w.]*): (.*?)(?: \[while running '(.*?)'\])?$", text, re.MULTILINE)
    kind, message, step = causes[-1] if causes else (type(error).__name__, text.split("\n", 1)[0], "")
    while inner := re.fullmatch(r"([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)): (.*)", message):
        kind, message = inner.groups()
    step = step or next(iter(re.findall(r"\[while running '(.*?)'\]", text)), "")
    if kind.rsplit(".", 1)[-1] == "InputError":
        return InputError(message)
    with tempfile.NamedTemporaryFile("w", prefix="deeplab-error-", suffix=".txt", delete=False) as file:
        file.write(text)
    where = f" in step {step!r}" if step else ""
    return InputError(
        f"the {title} job failed{where}: {kind}: {message} (full traceback: {file.name}). "
        "Finished outputs are kept; run the command again to go on"
    )
