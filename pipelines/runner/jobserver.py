"""Beam's job servers, which accept jobs for Flink, Spark and Prism: their addresses and the flags they know."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability import prism_runner
from apache_beam.runners.runner import create_runner

from pipelines.runner.failures import quiet_servers, said
from trainer.files import scratch
from trainer.options import InputError

ANSWER = 10.0
"""Seconds within which a job server answers."""
LOCATIONS = {"flink": "--flink_job_server_jar", "spark": "--spark_job_server_jar", "prism": "--prism_location"}
"""Engine -> the flag that says where its job server is."""
UNSTARTED = "Service failed to start up"
"""What Beam says of a job server that has ended instead of answering."""
LAST_LINES = 3
"""Lines of its log to show then, other than those of tracebacks."""

BOUND = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execve(sys.argv[2], sys.argv[2:], os.environ | {"LC_ALL": "C.UTF-8"})  # in which Java reads names of files
"""
"""Program that executes a command in UTF-8 and ends with its parent. Arguments: the parent's id, and the command."""


def endpoint(options: PipelineOptions) -> str:
    """HOST:PORT of a job server that the user started; "" if Beam starts one for the job, or needs none."""
    named = options.view_as(PortableOptions).job_endpoint or ""
    return "" if named == "embed" else named


def connect(address: str) -> beam_job_api_pb2_grpc.JobServiceStub:
    """Connects to a job server. Raises InputError if none answers at HOST:PORT."""
    channel = grpc.insecure_channel(address)
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWER)
    except grpc.FutureTimeoutError:
        channel.close()
        raise InputError(
            f"--job_endpoint {address}: no job server answers there; start it, or give the address of one"
        ) from None
    return beam_job_api_pb2_grpc.JobServiceStub(channel)


class PrismJobServer(prism_runner.PrismJobServer):
    """Beam's, which hides its binary behind downloads; its log has the name of the class."""

    def subprocess_cmd_and_endpoint(self) -> tuple[list[Any], str]:
        command, address = super().subprocess_cmd_and_endpoint()
        return [sys.executable, *_bound(), *command], address


def bind(options: PipelineOptions) -> None:
    """Makes the job server that Beam starts for these options end with this process.

    Otherwise Flink's would outlive a killed process, and still forward a job it was given; and Prism would outlive
    every command with a status other than 0, since Beam stops it only if Python ends in order. Works on Linux only.
    """
    if sys.platform != "linux":
        return
    prism_runner.PrismJobServer = PrismJobServer
    server = options.view_as(JobServerOptions)
    java = shutil.which(server.job_server_java_launcher)
    if java and server.job_server_java_launcher != sys.executable:
        # Spark leaves files there when it is killed, as here; the folder of this command is removed.
        temporary = f"-Djava.io.tmpdir={tempfile.gettempdir()}"
        server.job_server_jvm_properties = [*_bound(), java, temporary, *server.job_server_jvm_properties]
        server.job_server_java_launcher = sys.executable


def _bound() -> list[str]:
    """The arguments that make Python execute the command that follows, until this process ends."""
    return ["-c", BOUND, str(os.getpid())]


def obtain(options: PipelineOptions) -> None:
    """Has Beam download the job server that it starts for these options, if it is not here.

    Raises InputError if it cannot, or if there is no Java for it.
    """
    runner = options.view_as(StandardOptions).runner or ""
    engine = next((name for name in LOCATIONS if name in runner.lower()), "")
    location = options.view_as(PrismRunnerOptions).prism_location or ""
    is_built = options.view_as(FlinkRunnerOptions).flink_submit_uber_jar  # for the job, and sent to the cluster
    is_built = is_built or options.view_as(SparkRunnerOptions).spark_submit_uber_jar
    if endpoint(options) or not engine or is_built or "://" in location:  # which Beam would download twice
        return
    java = options.view_as(JobServerOptions).job_server_java_launcher
    if engine != "prism" and not shutil.which(java):
        raise InputError(
            f"--runner {runner} needs Java for its job server, and there is no program {java}; install it, or name it "
            "with --job_server_java_launcher"
        )
    quiet_servers()
    bind(options)
    server = create_runner(runner).default_job_server(options)
    try:
        with scratch.folder("server") as place, scratch.default(place):
            server._job_server.subprocess_cmd_and_endpoint()
    except (OSError, RuntimeError, ValueError) as error:
        cause = re.split(r"\. (?:Also failed|If no Internet)", str(error))[0]
        raise InputError(
            f"--runner {runner}: its job server is not here, and Beam could not download it ({cause}); give one with "
            f"{LOCATIONS[engine]}, or run the command where the internet can be reached"
        ) from None


def unstarted(error: Exception, options: PipelineOptions) -> str:
    """What to say if a job server has ended instead of answering; "" for other errors."""
    if UNSTARTED not in str(error):
        return ""
    lines = dict.fromkeys(line for line in said if not re.match(r"\s|Picked up ", line))  # it was started three times
    last = "; ".join([*lines][-LAST_LINES:])
    return f"the job server of {options.view_as(StandardOptions).runner} does not start{last and f': {last}'}"


def flags(options: PipelineOptions, runner: str) -> frozenset[str]:
    """The flags that the job server for these options knows: "--object_reuse", ...

    Args:
      runner: name of the runner; if the user started no job server, its own is started, queried and stopped.

    Raises:
      InputError: the job server does not answer.
    """
    with _server(options, runner) as service:
        answer = service.DescribePipelineOptions(beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=ANSWER)
    return frozenset(f"--{option.name}" for option in answer.options)


@contextlib.contextmanager
def _server(options: PipelineOptions, runner: str) -> Iterator[Any]:
    if address := endpoint(options):
        yield connect(address)
        return
    obtain(options)
    server = create_runner(runner).default_job_server(options)
    try:
        yield server.start()
    except (OSError, RuntimeError, ValueError, grpc.RpcError) as error:
        known = unstarted(error, options)
        raise InputError(known or f"the job server of {runner} does not start: {error}") from None
    finally:
        server.stop()
