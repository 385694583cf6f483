"""Apache Beam's flags: parses them, refuses what cannot work, and determines how the workers share this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
import shlex
import zipfile
from collections.abc import Iterable
from typing import Any, TypeVar

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
    StandardOptions,
    _BeamArgumentParser,
)

from pipelines.runner import jobserver, needs
from trainer import storage
from trainer.limits import cores
from trainer.options import CheckedOptions, InputError
from trainer.parser import did_you_mean, flags_of

RUNNERS = ("DirectRunner", "PrismRunner", "FlinkRunner", "SparkRunner", "PortableRunner", "DataflowRunner")
"""The runners that run every command, see docs/engines.md; others of Beam's break off or lose what was written."""
LOCAL_RUNNERS = ("directrunner", "fnapirunner", "switchingdirectrunner")
CLUSTER_RUNNERS = ("portablerunner", "flinkrunner", "sparkrunner")
NEAR = 0.8
"""The least similarity, from 0 to 1, of a runner that is proposed for an unknown one, see difflib."""
REMOTE_WORKERS = 16
"""Number of workers to plan for if the service chooses it."""
LISTS = (".csv", ".jsonl", ".txt")
"""Suffixes of files that are read before the job starts, so they may be local even when the workers are not."""
EMBEDDED = ("[auto]", "[local]", "[collection]")
"""Flink masters that run inside the job server rather than on a cluster."""
JOB_SERVERS = ("flinkrunner", "sparkrunner", "prismrunner")
"""Runners that start a job server if the user names none."""
ENGINES = {
    "--prism_location": ("PrismRunner",),
    "--flink_master": ("FlinkRunner", "PortableRunner"),
    "--flink_job_server_jar": ("FlinkRunner",),
    "--spark_master_url": ("SparkRunner", "PortableRunner"),
    "--spark_job_server_jar": ("SparkRunner",),
    "--job_endpoint": ("PortableRunner", "FlinkRunner", "SparkRunner", "PrismRunner"),
    "--environment_type": ("PortableRunner", "FlinkRunner", "SparkRunner", "PrismRunner"),
}
"""Flags of Beam that others than these runners would ignore, so that the job would run elsewhere than was meant."""
T = TypeVar("T")


class JobOptions(PipelineOptions):
    """Our own flags for jobs on other machines, in addition to Beam's."""

    @classmethod
    def _add_argparse_args(cls, parser: _BeamArgumentParser) -> None:
        parser.add_argument("--no_wait", action="store_true", help="end as soon as the job is sent")
        parser.add_argument("--cancel", action="store_true", help="end the job that writes to the output folder")
        parser.add_argument("--worker_accelerator", default=None, help="GPU of every worker on Dataflow")


def beam_options(flags: list[str], own: CheckedOptions | None = None) -> PipelineOptions:
    """Parses Beam's options from the flags that the command itself does not know.

    Local runs default to `--direct_running_mode multi_threading` (OpenCV, libjpeg-turbo and TensorFlow release the
    GIL), with one worker for each core that this process may use.

    Args:
      flags: as `trainer.parser.parse` returns them.
      own: the options of the command, whose flags an unknown one may resemble.

    Raises:
      InputError: a flag is unknown to Beam too, Beam refuses a value, or the workers of a remote job would lack this
        package or have another Python.
    """
    _refuse_unknown(flags, own)
    options = PipelineOptions(list(flags))
    _check_runner(options)
    _refuse_for_others(flags, options)
    job = options.view_as(JobOptions)
    if job.worker_accelerator and not is_dataflow(options):
        raise InputError("--worker_accelerator is for --runner DataflowRunner")
    if is_local(options) and (job.no_wait or job.cancel):
        raise InputError(f"--{'cancel' if job.cancel else 'no_wait'} is for remote jobs; give their --runner too")
    if is_local(options):
        names = {flag.split("=", 1)[0] for flag in flags}
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in names or direct.direct_num_workers == 0:
            direct.direct_num_workers = cores()
        if direct.direct_num_workers < 0:
            raise InputError(f"--direct_num_workers must be 0 (all cores) or more, got {direct.direct_num_workers}")
        if "--direct_running_mode" not in names:
            direct.direct_running_mode = "multi_threading"
    elif is_dataflow(options):
        needs.check_dataflow(options, job.worker_accelerator)
    elif not shares_this_machine(options):
        needs.check_cluster(options)
    return options


def runner_name(options: PipelineOptions) -> str:
    """The runner's class name in lower case, flinkrunner for Flink too; `directrunner` when none was named."""
    named = (options.view_as(StandardOptions).runner or "DirectRunner").rpartition(".")[2].lower()
    return named if named.endswith("runner") else f"{named}runner"


def is_local(options: PipelineOptions) -> bool:
    """Whether the job runs in threads or processes of this machine, started by this process."""
    return runner_name(options) in LOCAL_RUNNERS


def is_dataflow(options: PipelineOptions) -> bool:
    """Whether the job runs on Google Cloud."""
    return runner_name(options) == "dataflowrunner"


def shares_this_machine(options: PipelineOptions) -> bool:
    """Whether the workers are threads or children of this process, so that they run on this machine and end with it.

    True for local runs, for `--environment_type LOOPBACK`, and for runners that choose it by default.
    """
    runner, environment = runner_name(options), options.view_as(PortableOptions).environment_type
    if is_local(options) or is_dataflow(options) or environment:
        return is_local(options) or (not is_dataflow(options) and environment == "LOOPBACK")
    flink, spark = options.view_as(FlinkRunnerOptions), options.view_as(SparkRunnerOptions)
    is_small = {
        "flinkrunner": flink.flink_master in ("[auto]", "[local]"),
        "sparkrunner": spark.spark_master_url.startswith("local"),
    }
    return is_small.get(runner, runner not in CLUSTER_RUNNERS)


def located(options: PipelineOptions, command: T, *names: str) -> T:
    """The options of a command with absolute paths, since workers may have another working directory.

    Args:
      options: Beam's options of the job.
      command: options of the command, a frozen dataclass.
      names: the fields with paths that workers read or write: one path, several, or None.

    Raises:
      InputError: a local path, for workers on Dataflow.
    """
    paths: dict[str, Any] = {}
    for name in names:
        value = getattr(command, name)
        (field,) = (field for field in dataclasses.fields(command) if field.name == name)
        flag = field.metadata["metavar"] if field.metadata["positional"] else f"--{name.replace('_', '-')}"
        check_paths(options, flag, [value] if isinstance(value, str) else value or ())
        if value is not None:
            paths[name] = storage.absolute(value) if isinstance(value, str) else tuple(map(storage.absolute, value))
    return dataclasses.replace(command, **paths)


def check_paths(options: PipelineOptions, flag: str, paths: Iterable[str]) -> None:
    """Raises InputError if workers on Dataflow cannot see one of the paths that were given with `flag`."""
    if not is_dataflow(options):
        return
    is_output = flag == "--output"
    cure = "copy the files to Cloud Storage (`gcloud storage cp --recursive`) and give"
    for path in paths:
        if not storage.is_remote(path) and (is_output or not path.lower().endswith(LISTS)):
            raise InputError(
                f"{flag} {path} is a local path, which workers on Dataflow cannot see; "
                f"{'give' if is_output else cure} a gs:// address"
            )


def workers(options: PipelineOptions) -> int:
    """The number of workers, at least 1; a guess for remote runners."""
    return max(1, options.view_as(DirectOptions).direct_num_workers) if is_local(options) else REMOTE_WORKERS


def threads_per_process(options: PipelineOptions) -> int:
    """Number of workers that are threads of one process: all of a local job's, unless each has a process."""
    is_shared = is_local(options) and options.view_as(DirectOptions).direct_running_mode == "multi_threading"
    return workers(options) if is_shared else 1


def cores_per_process(options: PipelineOptions) -> int:
    """Cores that each worker process of this machine may use; 0 if a process has the machine to itself."""
    direct = options.view_as(DirectOptions)
    if is_local(options) and direct.direct_running_mode == "multi_processing":
        return max(1, cores() // direct.direct_num_workers)
    return 0


def _check_runner(options: PipelineOptions) -> None:
    """Raises InputError for a runner that cannot run the commands, or lacks the address of its job server."""
    given, name = options.view_as(StandardOptions).runner or "", runner_name(options)
    if name == "daskrunner":
        raise InputError(
            "--runner DaskRunner: Beam's Dask runner silently drops outputs; omit --runner to run locally, or give "
            "FlinkRunner, SparkRunner or DataflowRunner"
        )
    known = {runner.lower(): runner for runner in RUNNERS}
    is_beams = "." not in given or given.startswith("apache_beam.")
    if name not in (*known, *LOCAL_RUNNERS) or not is_beams:
        last = given.rpartition(".")[2].lower()
        spellings = known | {short.removesuffix("runner"): runner for short, runner in known.items()}
        near = difflib.get_close_matches(last, spellings, 1, NEAR)
        hint = f" (did you mean {spellings[near[0]]}?)" if near else ""
        raise InputError(f"--runner {given} is not a runner of this program{hint}; expected {', '.join(RUNNERS)}")
    if name == "portablerunner" and not options.view_as(PortableOptions).job_endpoint:
        raise InputError(
            "--runner PortableRunner needs --job_endpoint HOST:PORT, of a job server; to have one started, give "
            "FlinkRunner or PrismRunner"
        )
    master = options.view_as(FlinkRunnerOptions).flink_master.strip()
    if master not in EMBEDDED and not re.fullmatch(r"(https?://)?[^\s/]+:\d+/?", master):
        raise InputError(
            f"--flink_master {master!r} is not a Flink JobManager; expected HOST:PORT of its REST interface, usually "
            "of port 8081"
        )


def _refuse_for_others(flags: list[str], options: PipelineOptions) -> None:
    """Raises InputError for a flag that the runner would ignore, and for a job server that cannot be started."""
    for name in (flag.partition("=")[0] for flag in flags):
        runners = ENGINES.get(name, ())
        if runners and runner_name(options) not in map(str.lower, runners):
            raise InputError(
                f"{name} is for --runner {' or '.join(runners)}, and this is a job for "
                f"{options.view_as(StandardOptions).runner or 'this machine'}; give that runner, or omit the flag"
            )
    flink, spark = options.view_as(FlinkRunnerOptions), options.view_as(SparkRunnerOptions)
    jars = {"flink_job_server_jar": flink.flink_job_server_jar, "spark_job_server_jar": spark.spark_job_server_jar}
    for name, jar in jars.items():
        if jar and "://" not in jar and not zipfile.is_zipfile(jar):
            engine = name.partition("_")[0].title()
            raise InputError(f"--{name} {jar} is not a jar; expected Beam's job server for {engine}, or its address")
    prism = options.view_as(PrismRunnerOptions).prism_location or ""
    is_file = os.path.isfile(prism) and (os.access(prism, os.X_OK) or zipfile.is_zipfile(prism))
    if prism and "://" not in prism and not is_file:
        cure = f"; if it is Beam's prism, make it executable: chmod +x {shlex.quote(prism)}"
        raise InputError(
            f"--prism_location {prism} is not a program; expected Beam's prism, or a ZIP of it or the address of one"
            f"{cure if os.path.isfile(prism) else ''}"
        )


def _beam_parser() -> _BeamArgumentParser:
    parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for cls in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        with contextlib.suppress(Exception):  # two libraries may register the same flag
            cls._add_argparse_args(parser)
    return parser


def _has_job_server(options: PipelineOptions) -> bool:
    """Whether the job is sent to a job server, which has flags of its own."""
    own = runner_name(options) in JOB_SERVERS
    return own or (runner_name(options) == "portablerunner" and bool(jobserver.endpoint(options)))


def _refuse_unknown(flags: list[str], own: CheckedOptions | None) -> None:
    parser = _beam_parser()

    def refuse(message: str) -> None:
        raise InputError(message)

    parser.error = refuse
    _, unknown = parser.parse_known_args(flags)
    if not unknown:
        return
    known = [flag for action in parser._actions for flag in action.option_strings]
    names = [flag.split("=", 1)[0] for flag in unknown if flag.startswith("-")]
    options = PipelineOptions(list(flags))
    if names and _has_job_server(options):
        theirs = jobserver.flags(options, options.view_as(StandardOptions).runner)
        names = [name for name in names if name not in theirs]
        if not names:
            return
        known += theirs
    known += flags_of(type(own)) if own else []
    shown = [name + did_you_mean(name, known) for name in names]
    raise InputError(
        f"unknown arguments: {', '.join(shown) if shown else ' '.join(unknown)}; "
        "neither this command nor Apache Beam knows them (see --help)"
    )
