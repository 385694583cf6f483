"""Runs a Beam pipeline, locally or on a remote runner, with progress and readable errors.

    def build(pipeline, heartbeat):
        distribute(pipeline, specs, "shards") | "Write shards" >> beam.ParDo(WriteShard(heartbeat))

    run(build, beam_options(flags), total=1202, unit="records", title="prepare", folder="out/records")

Local runs use Beam's FnApiRunner directly. In Beam, `DirectRunner` stands for two runners that behave differently (one
of them is downloaded on first use); here it always means the FnApiRunner.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment, SubprocessSDKEnvironment

from pipelines.runner import remote, worker
from pipelines.runner.failures import await_death_report, quiet_beam, readable, stop_when_worker_dies
from pipelines.runner.flags import is_local
from pipelines.runner.progress import Heartbeat, beats, progress
from trainer import processes, storage
from trainer.files import scratch

THREADS = 16
"""Threads of Beam and gRPC for the runner and for each worker, fewer than are measured: 20 and 20."""
FILES = 20
"""Files that a local job opens besides those of its work, where gRPC would wait for ever without them."""
NEVER_MS = 2**31 - 1
"""Milliseconds after which Beam's threads flush their output. By default it is a second, and a flush may happen while
another thread is encoding an element: half of the element is then decoded, and the rest is taken for a length. Jobs
failed because of this, or used up all memory."""


def run(
    build: Callable[[beam.Pipeline, Heartbeat], Any],
    options: PipelineOptions,
    *,
    total: int,
    unit: str,
    title: str,
    folder: str,
) -> bool:
    """Builds a pipeline and runs it to its end.

    Args:
      build: adds the steps to the pipeline. DoFns hold the `Heartbeat`, and call `heartbeat.beat(n)` for `n` items.
      options: Beam's options, from `beam_options`.
      total: expected number of items, the final sum of all heartbeats.
      unit: name of the items, plural ("records").
      title: short name of the job, shown with the progress.
      folder: the output folder, which holds the progress of a remote job.

    Returns:
      True if the job ran to its end; False if the command did not wait for it (`--no_wait`) or the runner only stored
      a template of it (`--template_location`).

    Raises:
      InputError: the job failed. The message has the cause, in one line, and the path of the full traceback.
      storage.Unavailable: storage did not answer a worker, or this machine allows too few open files.
      MemoryError: this machine allows too few threads.
      KeyboardInterrupt: Ctrl-C while waiting for a remote job; the text says what happens to the job.
    """
    if not is_local(options):
        return remote.run(build, options, total=total, unit=unit, title=title, folder=folder)
    out, options = sys.stderr, copy.deepcopy(options)  # building the runner changes them
    _check_machine(options, title)
    with scratch.folder("run") as place:
        counts, worker_log = os.path.join(place, "beats"), os.path.join(place, "workers.log")
        os.mkdir(counts)
        with scratch.default(place):
            pipeline = beam.Pipeline(runner=_local_runner(options, worker_log), options=options)
        build(pipeline, Heartbeat(counts))
        shown = progress(functools.partial(beats, counts), total, unit, title, out)
        with quiet_beam(), stop_when_worker_dies(out, title), shown:
            try:
                pipeline.run().wait_until_finish()
            except Exception as error:  # Beam wraps whatever a DoFn raised, in most modes into a RuntimeError
                await_death_report(error)
                raise readable(error, title) from None
    return True


def _check_machine(options: PipelineOptions, title: str) -> None:
    """Raises MemoryError or storage.Unavailable if this machine allows too few threads or open files for a job."""
    processes.check_threads(THREADS * (1 + options.view_as(DirectOptions).direct_num_workers))
    try:
        processes.check_files(FILES)
    except OSError as error:
        raise storage.Unavailable(
            f"too few files may be open at a time for the {title} job ({error.strerror}); allow more (`ulimit -n "
            "256`) and run the same command again"
        ) from None


def _local_runner(options: PipelineOptions, worker_log: str) -> fn_runner.FnApiRunner:
    # Worker subprocesses receive the pipeline options only through provision_info.
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options(drop_default=True))
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    environment = None
    direct = options.view_as(DirectOptions)
    # These environments are Beam's defaults for the modes, except for one setting each.
    if direct.direct_running_mode == "multi_threading":
        environment = EmbeddedPythonGrpcEnvironment(data_buffer_time_limit_ms=NEVER_MS)
    elif direct.direct_running_mode == "multi_processing":
        # Workers print every failure to stderr, although the runner reports it too.
        environment = SubprocessSDKEnvironment.from_command_string(worker.command(worker_log))
    if environment:
        # In the other modes the runner ignores the given environment.
        direct.direct_running_mode = "in_memory"
    worker.look_often()
    worker.end_late_workers()
    return fn_runner.FnApiRunner(environment, provision_info=fn_runner.ExtendedProvisionInfo(info))
