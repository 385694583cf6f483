"""Beam's job servers, which accept jobs for Flink, Spark and Prism: their addresses and the flags they know."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import grpc
from apache_beam.options.pipeline_options import JobServerOptions, PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability import prism_runner
from apache_beam.runners.runner import create_runner

from pipelines.runner.failures import quiet_servers
from trainer.options import InputError

ANSWER = 10.0
"""Seconds within which a job server answers."""

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
    quiet_servers()
    bind(options)
    server = create_runner(runner).default_job_server(options)
    try:
        yield server.start()
    except (OSError, RuntimeError, ValueError, grpc.RpcError) as error:
        raise InputError(f"the job server of {runner} does not start: {error}") from None
    finally:
        server.stop()
