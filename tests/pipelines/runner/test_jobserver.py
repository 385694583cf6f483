from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import JobServerOptions

from pipelines.runner import jobserver
from pipelines.runner.flags import beam_options
from tests.drawn.places import ROOT
from trainer import processes

JAVA = """
import os, subprocess, sys, time
from pipelines.runner import jobserver
from pipelines.runner.flags import beam_options
from apache_beam.options.pipeline_options import JobServerOptions
java = ["--job_server_java_launcher=" + sys.argv[1], "--job_server_jvm_property=-Xmx1g"]
options = beam_options(["--runner=FlinkRunner", *java])
for _ in range(2):
    jobserver.bind(options)
server = options.view_as(JobServerOptions)
command = [server.job_server_java_launcher, *server.job_server_jvm_properties, "-jar", "x.jar"]
subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
time.sleep(600)
"""
PRISM = """
import sys
from apache_beam.runners.runner import create_runner
from pipelines.runner import jobserver
from pipelines.runner.flags import beam_options
options = beam_options(["--runner=PrismRunner", "--prism_location=" + sys.argv[1], "--job_port=12345"])
for _ in range(2):
    jobserver.bind(options)
create_runner("PrismRunner").default_job_server(options).start()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is not told that its parent has ended")
@pytest.mark.parametrize(
    ("program", "expected"),
    [(JAVA, ["-Djava.io.tmpdir={}", "-Xmx1g", "-jar", "x.jar"]), (PRISM, ["--job_port", "12345", "--log_level"])],
)
def test_a_job_server_ends_with_a_command_that_alone_is_killed(tmp_path: Path, program: str, expected: list[str]):
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\necho $$ $LC_ALL "$@" > "$0.part" && mv "$0.part" "$0.ran"\nexec sleep 600\n')
    engine.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", program, engine], cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as command:
        while not (tmp_path / "engine.ran").exists():
            assert command.poll() is None
            time.sleep(0.01)
        number, locale, *words = (tmp_path / "engine.ran").read_text().split()
        server = processes.name(int(number))
        command.kill()
    assert (locale, words[: len(expected)]) == ("C.UTF-8", [word.format(tmp_path) for word in expected])
    for _ in range(500):
        if not processes.is_alive(server):
            break
        time.sleep(0.02)
    assert not processes.is_alive(server)


def test_java_that_is_not_there_is_left_for_beam_to_tell():
    options = beam_options(["--runner=FlinkRunner", "--job_server_java_launcher=/nowhere/java"])
    jobserver.bind(options)
    assert options.view_as(JobServerOptions).job_server_java_launcher == "/nowhere/java"
