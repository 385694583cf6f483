"""Apache Beam's flags: read, refused where they cannot work, and asked how the workers share this machine."""

from __future__ import annotations

import contextlib
import difflib

from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
    _BeamArgumentParser,
)

from pipelines.runner.cores import cores
from trainer.options import InputError

LOCAL_RUNNERS = ("directrunner", "fnapirunner", "switchingdirectrunner")
REMOTE_WORKERS = 16
"""Workers that work is cut for where their number is the service's to choose."""


def beam_options(flags: list[str]) -> PipelineOptions:
    """Beam's options from the flags a command did not know itself.

    Local runs default to `--direct_running_mode multi_threading` (OpenCV, TensorFlow and Pillow release the GIL), with
    as many workers as this process may use cores.

    Raises:
      InputError: flags that Beam does not know either, values Beam refuses, a Dataflow job without what it needs.
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
    return options


def runner_name(options: PipelineOptions) -> str:
    """The runner's class name in lower case; `directrunner` when none was named."""
    return (options.view_as(StandardOptions).runner or "DirectRunner").rsplit(".", 1)[-1].lower()


def is_local(options: PipelineOptions) -> bool:
    """Whether `run.run` uses the runner inside this process (threads or processes of this machine)."""
    return runner_name(options) in LOCAL_RUNNERS


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
    if not (setup.setup_file or setup.extra_packages or options.view_as(WorkerOptions).sdk_container_image):
        raise InputError(
            "--runner DataflowRunner: the workers need this package; give --setup_file ./setup.py, or "
            "--sdk_container_image with an image that has it installed"
        )
