"""The engines that `make test-engines` has fetched, started and stopped; and the drawn road that they are held to."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drawn.rawset import write_rawset
from tests.drawn.records import PALETTE
from tests.engines.cluster import (
    Flink,
    Spark,
    answers,
    fetched,
    free_ports,
    started,
    temporary,
    wait_for,
    write_boot,
    write_jar,
)
from tests.engines.road import COMMANDS, walk


@pytest.fixture(scope="session")
def engines() -> Path:
    """The folder of what was fetched."""
    try:
        return fetched()
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def boot(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_boot(engines, tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="session")
def jar(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jar(engines, tmp_path_factory.mktemp("jar"), "flink")


@pytest.fixture(scope="module")
def flink(jar: Path, boot: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flink]:
    with contextlib.ExitStack() as stack:
        yield Flink(stack, jar, boot, tmp_path_factory.mktemp("flink"))


@pytest.fixture(scope="module")
def spark(engines: Path, boot: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    with contextlib.ExitStack() as stack:
        yield Spark(stack, engines, boot, tmp_path_factory.mktemp("spark"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Flags for Beam's portable runner, whose job server and worker pool are processes of their own."""
    jobs, workers = free_ports(2)
    folder = tmp_path_factory.mktemp("pool")
    modules = {
        "portability.local_job_service_main": ["--port", str(jobs)],
        "worker.worker_pool_main": ["--service_port", str(workers)],
    }
    # The pool starts whatever Python is found first.
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    with contextlib.ExitStack() as stack:
        for port, (module, flags) in zip((jobs, workers), modules.items(), strict=True):
            command = [sys.executable, "-m", f"apache_beam.runners.{module}", *flags]
            log, environment = folder / f"{module}.log", os.environ | temporary(folder) | {"PATH": path}
            process = stack.enter_context(started(command, log, cwd=folder, env=environment))
            wait_for(module, lambda port=port: answers(port), process)
        yield [
            *("--runner", "PortableRunner", "--job_endpoint", f"localhost:{jobs}"),
            *("--environment_type", "EXTERNAL", "--environment_config", f"localhost:{workers}"),
        ]


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a raw set, a tiny model, and in `local` what the commands make of both on this machine."""
    from tests.drawn.networks import write_model

    folder = tmp_path_factory.mktemp("road")
    write_rawset(folder / "raw", {"train": 10, "val": 4}, 64)
    write_model(folder / "model", PALETTE)
    walk(folder, "local", [], COMMANDS)
    return folder
