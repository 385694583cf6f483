"""Processes of the engines, and clusters of them on this machine, of Flink and of Spark."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 600.0
"""Seconds within which an engine starts, or a job of these tests comes so far, on a busy machine."""
PACKAGES = (
    *("java.lang", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.text", "java.time", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch"),
)
"""Of Java 17, which Flink 1.19 and Spark 3.5 reach into."""
JAVA = [
    *("java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in PACKAGES),
]
SERVERS = {
    "flink": "org.apache.beam.runners.flink.FlinkJobServerDriver",
    "spark": "org.apache.beam.runners.spark.SparkJobServerDriver",
}
"""Engine -> the main class of Beam's job server for it."""
SHORT_LIVED = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
"""Environment of commands, whose job servers start in half the time then."""
SETTINGS = """
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc}
rest.address: localhost
rest.port: {rest}
rest.bind-address: localhost
taskmanager.host: localhost
taskmanager.numberOfTaskSlots: 2
taskmanager.cpu.cores: 2.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.jvm-metaspace.size: 128m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.managed.size: 128m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
heartbeat.interval: 1000
heartbeat.timeout: 30000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 10
restart-strategy.fixed-delay.delay: 1s
io.tmp.dirs: {folder}
"""
"""What scripts of Flink's own distribution would work out from `taskmanager.memory.process.size` is written out."""

EXECUTOR = 600
"""MiB of memory of an executor of Spark, which begins with no less than 450."""


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_for(what: str, is_so: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Fails where `is_so` stays false, or raises OSError, too long, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if is_so():
                return
        assert process is None or process.poll() is None, f"{what}: the process ended with {process.poll()}"
        assert time.monotonic() < deadline, f"{what}: not in {PATIENCE:.0f} s"
        time.sleep(0.05)


def answers(port: int) -> bool:
    socket.create_connection(("localhost", port)).close()
    return True


@contextlib.contextmanager
def started(command: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen]:
    """A process that is ended, with all that it has started, when the block ends."""
    with open(log, "wb") as file, _heeding_interrupts():
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, **options)
    try:
        yield process
    finally:
        kill(process)


@contextlib.contextmanager
def _heeding_interrupts() -> Iterator[None]:
    """Undoes what a shell does to commands in its background, whose children would ignore Ctrl-C as well.

    Not by a function that runs in the child: with gRPC in this process, it can crash there.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def kill(process: subprocess.Popen) -> None:
    """Kills a process of `started` and its children, as a machine that fails would."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def fetched() -> Path:
    """The folder of what `make test-engines` fetches. Fails where something lacks."""
    folder = os.environ.get("DEEPLAB_ENGINES", "")
    missing = [
        name for name in ("bin/prism", "bin/container", "flink", "spark") if not os.path.exists(f"{folder}/{name}")
    ]
    assert not missing, f"DEEPLAB_ENGINES={folder!r} lacks {', '.join(missing)}: run `make test-engines`"
    return Path(folder)


def write_boot(engines: Path, folder: Path) -> Path:
    """Beam's program that starts a worker, in the environment of these tests and another working directory."""
    path = folder / "boot"
    python = os.path.dirname(sys.executable)
    path.write_text(
        "#!/bin/sh\n"
        f"export PATH={python}:$PATH RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1\n"
        f'cd / && exec {engines}/bin/container "$@"\n'
    )
    path.chmod(0o755)
    return path


def write_jar(engines: Path, folder: Path, engine: str) -> Path:
    """One jar that stands for all of an engine ("flink", "spark") and its job server."""
    path = folder / f"{engine}.jar"
    jars = " ".join(jar.as_uri() for jar in sorted((engines / engine).glob("*.jar")))
    text = f"Class-Path: {jars}"
    lines = [text[:70], *(f" {text[start : start + 69]}" for start in range(70, len(text), 69))]
    head = ["Manifest-Version: 1.0", f"Main-Class: {SERVERS[engine]}"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "\n".join([*head, *lines, ""]))
    return path


def temporary(folder: Path) -> dict[str, str]:
    """Environment of processes that put their temporary files, and those of Java, into `folder`.

    A killed one leaves them behind: an executor of Spark 200 MB of jars.
    """
    return {"TMPDIR": str(folder), "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={folder}"}


class Flink:
    """A cluster of one JobManager and two TaskManagers.

    Attributes:
      flags: of a job for it, whose TaskManagers start their workers themselves.
      managers: processes of the TaskManagers.
    """

    def __init__(self, stack: contextlib.ExitStack, jar: Path, boot: Path, folder: Path) -> None:
        rpc, rest = free_ports(2)
        (folder / "flink-conf.yaml").write_text(SETTINGS.format(rpc=rpc, rest=rest, folder=folder))
        self._stack, self._jar, self._folder, self._master = stack, jar, folder, f"localhost:{rest}"
        self.managers: list[subprocess.Popen] = []
        self.flags = [
            *("--runner", "FlinkRunner", "--flink_master", self._master, "--flink_job_server_jar", str(jar)),
            *("--environment_type", "PROCESS", "--environment_config", json.dumps({"command": str(boot)})),
            *("--parallelism", "2", "--environment_cache_millis", "60000"),
        ]
        process = self._start("entrypoint.StandaloneSessionClusterEntrypoint", "master.log")
        wait_for("the JobManager", lambda: self.ask("/overview"), process)
        self.fill()

    def _start(self, main: str, log: str) -> subprocess.Popen:
        program = ["-cp", str(self._jar), f"org.apache.flink.runtime.{main}", "--configDir", str(self._folder)]
        environment = os.environ | temporary(self._folder)
        return self._stack.enter_context(started([*JAVA, *program], self._folder / log, env=environment))

    def fill(self) -> None:
        """Starts as many TaskManagers as two lack."""
        self.managers = [process for process in self.managers if process.poll() is None]
        while len(self.managers) < 2:
            log = f"worker-{time.monotonic_ns()}.log"
            self.managers.append(self._start("taskexecutor.TaskManagerRunner", log))
        wait_for("the TaskManagers", lambda: self.ask("/overview")["taskmanagers"] >= 2, self.managers[-1])

    def ask(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://{self._master}{path}", timeout=10) as answer:
            return json.load(answer)

    def states(self) -> list[str]:
        """Of all its jobs, the newest last."""
        jobs = sorted(self.ask("/jobs/overview")["jobs"], key=lambda job: job["start-time"])
        return [job["state"] for job in jobs]


class Spark:
    """A cluster of one master and two workers, on each of which a job gets an executor of one core.

    Attributes:
      flags: of a job for it, whose executors start Beam's workers themselves.
      workers: processes of the workers.
    """

    def __init__(self, stack: contextlib.ExitStack, engines: Path, boot: Path, folder: Path) -> None:
        port, page = free_ports(2)
        (folder / "jars").symlink_to(engines / "spark")
        (folder / "RELEASE").touch()  # so that Spark takes the folder for its own
        self._stack, self._folder, self._page = stack, folder, f"http://localhost:{page}/json/"
        self._master = f"spark://localhost:{port}"
        self.workers: list[subprocess.Popen] = []
        jar = write_jar(engines, folder, "spark")
        self.flags = [
            *("--runner", "SparkRunner", "--spark_master_url", self._master, "--spark_job_server_jar", str(jar)),
            *("--environment_type", "PROCESS", "--environment_config", json.dumps({"command": str(boot)})),
            f"--job_server_jvm_properties=-Dspark.executor.memory={EXECUTOR}m",
        ]
        place = ["--host", "localhost", "--port", str(port), "--webui-port", str(page)]
        process = self._start("master.Master", "master.log", *place)
        wait_for("the master", self.applications_and_workers, process)
        self.fill()

    def _start(self, main: str, log: str, *flags: str) -> subprocess.Popen:
        program = ["-cp", f"{self._folder}/jars/*", f"org.apache.spark.deploy.{main}", *flags]
        spark = {"SPARK_HOME": str(self._folder), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_SCALA_VERSION": "2.12"}
        environment = os.environ | spark | temporary(self._folder)
        return self._stack.enter_context(started([*JAVA, *program], self._folder / log, env=environment))

    def fill(self) -> None:
        """Starts as many workers as two lack."""
        self.workers = [process for process in self.workers if process.poll() is None]
        while len(self.workers) < 2:
            name = f"worker-{time.monotonic_ns()}"
            flags = ["--cores", "1", "--memory", f"{EXECUTOR}m", "--work-dir", str(self._folder / name)]
            self.workers.append(self._start("worker.Worker", f"{name}.log", *flags, self._master))
        wait_for("the workers", lambda: self.applications_and_workers()[1] >= 2, self.workers[-1])

    def applications_and_workers(self) -> tuple[list[str], int]:
        """The states of all jobs, and the number of workers that are alive."""
        with urllib.request.urlopen(self._page, timeout=10) as answer:
            content = json.load(answer)
        states = [job["state"] for job in (*content["activeapps"], *content["completedapps"])]
        return states, content["aliveworkers"]
