from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest
from apache_beam.runners.portability import prism_runner
from apache_beam.utils import subprocess_server

from pipelines.runner import remote
from pipelines.runner.flags import beam_options
from tests.drawn.places import ROOT
from trainer import processes
from trainer.options import CheckedOptions, InputError

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


@pytest.mark.parametrize("runner", ["FlinkRunner", "SparkRunner"])
def test_a_job_server_without_java_is_refused_before_anything_is_read(runner):
    options = beam_options([f"--runner={runner}", "--job_server_java_launcher=/nowhere/java"])
    with pytest.raises(
        InputError, match=f"{runner} needs Java .*no program /nowhere/java; .*--job_server_java_launcher"
    ):
        remote.attach(options, CheckedOptions(), "out", "prepare")


@pytest.mark.parametrize(
    ("runner", "flag"),
    [
        ("FlinkRunner", "--flink_job_server_jar"),
        ("SparkRunner", "--spark_job_server_jar"),
        ("PrismRunner", "--prism_location"),
    ],
)
def test_a_job_server_that_cannot_be_downloaded_is_refused_with_the_flag_that_names_one(
    runner, flag, monkeypatch, tmp_path
):
    def refuse(*_):
        raise URLError("no internet")

    for module in (subprocess_server, prism_runner):
        monkeypatch.setattr(module, "urlopen", refuse)
    monkeypatch.setattr(subprocess_server.JavaJarServer, "JAR_CACHE", str(tmp_path / "jars"))
    monkeypatch.setattr(prism_runner.PrismJobServer, "BIN_CACHE", str(tmp_path / "bin"))
    options = beam_options([f"--runner={runner}", f"--job_server_java_launcher={sys.executable}"])
    with pytest.raises(
        InputError, match=rf"could not download it \(Unable .* no internet>\); give one with {flag}, or"
    ):
        remote.attach(options, CheckedOptions(), "out", "prepare")


def test_a_job_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # Beam leaves a folder
    jar, java = tmp_path / "server.jar", tmp_path / "java"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("a", "")
    java.write_text("#!/bin/sh\necho 'Picked up JAVA_TOOL_OPTIONS'; echo 'no heap'; echo '    at a.b.C'; exit 3\n")
    java.chmod(0o755)
    flags = [f"--flink_job_server_jar={jar}", f"--job_server_java_launcher={java}", "--object_reuse"]
    with pytest.raises(InputError, match=r"^the job server of FlinkRunner does not start: no heap$"):
        beam_options(["--runner=FlinkRunner", *flags])
