"""Runs a Beam pipeline, locally or on a remote runner, with progress and readable errors.

    def build(pipeline, heartbeat):
        spread(pipeline, specs, "shards") | "Write shards" >> beam.ParDo(WriteShard(heartbeat))

    run(build, beam_options(["--direct_num_workers", "4"]), total=1202, unit="records", title="prepare")

Local runs use Beam's FnApiRunner directly. The name `DirectRunner` stands for two runners of different behaviour (one
of them is downloaded from the network at its first use), so here it means the FnApiRunner as well.
"""

from __future__ import annotations

import copy
import functools
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment, SubprocessSDKEnvironment

from pipelines.runner import remote
from pipelines.runner.failures import let_death_be_told, quiet_beam, readable, stop_when_worker_dies
from pipelines.runner.flags import is_local
from pipelines.runner.progress import Heartbeat, beats, progress
from trainer.files import scratch

NEVER_MS = 2**31 - 1
"""When Beam's threads send incomplete output. They would do it every second, also in the middle of an element that
another thread is encoding; half an element is then decoded, and what follows is read as if it were a length: jobs
failed, or took all the memory there was."""


def run(
    build: Callable[[beam.Pipeline, Heartbeat], Any],
    options: PipelineOptions,
    *,
    total: int,
    unit: str,
    title: str,
    folder: str = "",
) -> bool:
    """Builds a pipeline and runs it to its end.

    Args:
      build: gets the pipeline and a `Heartbeat` that DoFns keep and call as `heartbeat.beat(n)` for `n` items done.
      options: from `beam_options`.
      total: items expected, in `unit`s; what the heartbeats will sum up to.
      unit: name of an item, plural ("records").
      title: short name of the job, put before the progress.
      folder: what the job writes to, which a job elsewhere shows its progress in.

    Returns:
      True when the job ran to its end; False when it was not waited for (`--no_wait`), or the runner only stored a
      template of it (`--template_location`).

    Raises:
      InputError: the job failed. The message says the cause in one line and where the full traceback was kept.
      storage.Unavailable: storage did not answer a worker.
      KeyboardInterrupt: by Ctrl-C while waiting for a job elsewhere; its text says what becomes of the job.
    """
    if not is_local(options):
        return remote.run(build, options, total=total, unit=unit, title=title, folder=folder)
    out, options = sys.stderr, copy.deepcopy(options)  # building the runner changes them
    with scratch.folder("run") as place:
        counts, worker_log = os.path.join(place, "beats"), os.path.join(place, "workers.log")
        os.mkdir(counts)
        with scratch.default(place):
            pipeline = beam.Pipeline(runner=_local_runner(options, worker_log), options=options)
        build(pipeline, Heartbeat(counts))
        shown = progress(functools.partial(beats, counts), total, unit, title, out)
        with quiet_beam(), stop_when_worker_dies(out, title, place), shown:
            try:
                pipeline.run().wait_until_finish()
            except Exception as error:  # Beam wraps whatever a DoFn raised, in most modes into a RuntimeError
                let_death_be_told(error)
                raise readable(error, title) from None
    return True


def _local_runner(options: PipelineOptions, worker_log: str) -> fn_runner.FnApiRunner:
    # Only with provision_info do worker subprocesses receive the pipeline options.
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options(drop_default=True))
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    environment = None
    direct = options.view_as(DirectOptions)
    # The environments are what Beam takes in these modes but for one setting each.
    if direct.direct_running_mode == "multi_threading":
        environment = EmbeddedPythonGrpcEnvironment(data_buffer_time_limit_ms=NEVER_MS)
    elif direct.direct_running_mode == "multi_processing":
        # Workers print every failure to stderr, and the runner reports it again.
        command = f"{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
        environment = SubprocessSDKEnvironment.from_command_string(f"{command} 2>> {shlex.quote(worker_log)}")
    if environment:
        # The runner keeps an environment it was given only "in_memory".
        direct.direct_running_mode = "in_memory"
    return fn_runner.FnApiRunner(environment, provision_info=fn_runner.ExtendedProvisionInfo(info))
