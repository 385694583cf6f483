"""Apache Beam's flags: read, refused where they cannot work, and asked how the workers share this machine."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    SparkRunnerOptions,
    StandardOptions,
    WorkerOptions,
    _BeamArgumentParser,
)

from pipelines.runner.cores import cores
from trainer import storage
from trainer.options import InputError

LOCAL_RUNNERS = ("directrunner", "fnapirunner", "switchingdirectrunner")
CLUSTER_RUNNERS = ("portablerunner", "flinkrunner", "sparkrunner")
REMOTE_WORKERS = 16
"""Workers that work is cut for where their number is the service's to choose."""
LISTS = (".csv", ".jsonl", ".txt")
"""Files that are read before the job starts; what they list may lie elsewhere."""
IMAGE_PYTHON = (3, 11)
"""Python of the worker image that the Dockerfile makes."""


def beam_options(flags: list[str]) -> PipelineOptions:
    """Beam's options from the flags a command did not know itself.

    Local runs default to `--direct_running_mode multi_threading` (OpenCV, TensorFlow and Pillow release the GIL), with
    as many workers as this process may use cores.

    Raises:
      InputError: flags that Beam does not know either, values Beam refuses, a remote job whose workers would lack this
        package or have another Python.
    """
    _refuse_unknown(flags)
    options = PipelineOptions(list(flags))
    runner = runner_name(options)
    if runner == "daskrunner":
        raise InputError(
            "--runner DaskRunner: Beam's Dask runner silently drops outputs; omit --runner to run locally, or give "
            "FlinkRunner, SparkRunner or DataflowRunner"
        )
    if is_local(options):
        names = {flag.split("=", 1)[0] for flag in flags}
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in names or direct.direct_num_workers == 0:
            direct.direct_num_workers = cores()
        if direct.direct_num_workers < 0:
            raise InputError(f"--direct_num_workers must be 0 (all cores) or more, got {direct.direct_num_workers}")
        if "--direct_running_mode" not in names:
            direct.direct_running_mode = "multi_threading"
    elif "dataflow" in runner:
        _check_dataflow(options)
    elif not shares_this_machine(options):
        _check_portable(options)
    return options


def runner_name(options: PipelineOptions) -> str:
    """The runner's class name in lower case; `directrunner` when none was named."""
    return (options.view_as(StandardOptions).runner or "DirectRunner").rsplit(".", 1)[-1].lower()


def is_local(options: PipelineOptions) -> bool:
    """Whether `run.run` uses the runner inside this process (threads or processes of this machine)."""
    return runner_name(options) in LOCAL_RUNNERS


def is_dataflow(options: PipelineOptions) -> bool:
    """Whether the job runs on Google Cloud."""
    return "dataflow" in runner_name(options)


def shares_this_machine(options: PipelineOptions) -> bool:
    """Whether the workers are parts of this process or its children, so that they work where it does and end with it.

    That is so for local runs, for `--environment_type LOOPBACK`, and where Beam's runners choose that by themselves.
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


def check_paths(options: PipelineOptions, paths: Mapping[str, str | Sequence[str] | None]) -> None:
    """Refuses paths that the workers could not find, before the job is sent to them.

    Args:
      paths: of all that workers read and write, one or several under the flag they were given with:
        {"--output": "out/records"}; None for a flag that was not given.

    Raises:
      InputError: a path on this machine for workers on Dataflow, or a relative one for workers that have another
        working directory.
    """
    for flag, values in paths.items():
        for path in [values] if isinstance(values, str) else values or ():
            _check_path(options, flag, path)


def _check_path(options: PipelineOptions, flag: str, path: str) -> None:
    if storage.is_remote(path):
        return
    if is_dataflow(options) and not path.lower().endswith(LISTS):
        raise InputError(
            f"{flag} {path} is a path of this machine, which workers on Dataflow cannot see; copy the files to "
            "Cloud Storage (`gcloud storage cp --recursive`) and give a gs:// address"
        )
    if not os.path.isabs(path) and not shares_this_machine(options) and not is_dataflow(options):
        raise InputError(
            f"{flag} {path} is a relative path, and the workers have another working directory than this command; "
            f"give the absolute path, of a folder that all workers see there, such as {os.path.abspath(path)}"
        )


def workers(options: PipelineOptions) -> int:
    """How many workers there will be, at least 1; a guess for remote runners."""
    return max(1, options.view_as(DirectOptions).direct_num_workers) if is_local(options) else REMOTE_WORKERS


def cores_per_process(options: PipelineOptions) -> int:
    """Cores that each worker process of this machine has to itself; 0 where a process has the machine to itself."""
    direct = options.view_as(DirectOptions)
    if is_local(options) and direct.direct_running_mode == "multi_processing":
        return max(1, cores() // direct.direct_num_workers)
    return 0


def _beam_parser() -> _BeamArgumentParser:
    parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for cls in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        with contextlib.suppress(Exception):  # two libraries may register the same flag
            cls._add_argparse_args(parser)
    return parser


def _refuse_unknown(flags: list[str]) -> None:
    parser = _beam_parser()

    def refuse(message: str) -> None:
        raise InputError(message)

    parser.error = refuse
    _, unknown = parser.parse_known_args(flags)
    if not unknown:
        return
    known = [flag for action in parser._actions for flag in action.option_strings]
    names = [flag.split("=", 1)[0] for flag in unknown if flag.startswith("-")]
    hints = {
        name: difflib.get_close_matches(name.replace("-", "_").replace("__", "--", 1), known, 1) for name in names
    }
    shown = [f"{name} (did you mean {hints[name][0]}?)" if hints[name] else name for name in names]
    raise InputError(
        f"unknown arguments: {', '.join(shown) if shown else ' '.join(unknown)}; "
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
    image = options.view_as(WorkerOptions).sdk_container_image
    if not (setup.setup_file or setup.extra_packages or image):
        raise InputError(
            "--runner DataflowRunner: the workers need this package; give --setup_file ./setup.py, or "
            "--sdk_container_image with an image that has it installed"
        )
    if image:  # without one, Dataflow takes Beam's image for the Python of this process
        _check_image("--sdk_container_image", image)


def _check_portable(options: PipelineOptions) -> None:
    portable, setup = options.view_as(PortableOptions), options.view_as(SetupOptions)
    if portable.environment_type not in (None, "DOCKER"):  # PROCESS and EXTERNAL have what the user put there
        return
    image = portable.lookup_environment_option("docker_container_image") or portable.environment_config
    if not (image or setup.setup_file or setup.extra_packages):
        raise InputError(
            f"--runner {options.view_as(StandardOptions).runner}: the workers need this package; give "
            "--environment_type DOCKER --environment_config IMAGE with an image that has it installed, or PROCESS or "
            "EXTERNAL for workers of your own"
        )
    if image:
        _check_image("--environment_config", image)


def _check_image(flag: str, image: str) -> None:
    """Refuses an image of another Python: one cannot read what the other pickles; workers fail or wait for ever."""
    named = re.search(r"py(?:thon)?[-_]?3\.?(\d+)", image.rsplit("/", 1)[-1])
    python = (3, int(named.group(1))) if named else IMAGE_PYTHON
    here = sys.version_info[:2]
    if python == here:
        return
    (major, minor), (here_major, here_minor) = python, here
    known = "by its name" if named else "if it was built from this package's Dockerfile"
    raise InputError(
        f"{flag} {image}: {known} the image has Python {major}.{minor}, and this is Python {here_major}.{here_minor}; "
        f"run deeplab with Python {major}.{minor}, or build the image with this Python and say so in its tag, as in "
        f"IMAGE:python{here_major}.{here_minor}"
    )
