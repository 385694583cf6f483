"""Standing job servers, whose jobs a later command finds; and those of a command, which end with it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipelines import cli
from tests.drawn.outputs import finished_shards
from tests.drawn.rawset import write_rawset
from tests.engines.cluster import answers, free_ports, started, temporary, wait_for
from tests.engines.road import arguments, deeplab, environment
from trainer import processes
from trainer.options import InputError

pytestmark = pytest.mark.engines

LONG = ("--input", "many", "--copies", 80, "--shards", 24)
"""Of `prepare`: so much work that something can happen in the middle."""


@pytest.fixture(scope="module")
def prism(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Flags for a Prism that was started by hand, with a worker pool."""
    jobs, workers = free_ports(2)
    folder = tmp_path_factory.mktemp("prism")
    commands = {
        jobs: [f"{engines}/bin/prism", "--job_port", str(jobs), "--serve_http=false"],
        workers: [
            *(sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"),
            *("--service_port", str(workers)),
        ],
    }
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    with ExitStack() as stack:
        for port, command in commands.items():
            log, environment = folder / f"{port}.log", os.environ | temporary(folder) | {"PATH": path}
            process = stack.enter_context(started(command, log, cwd=folder, env=environment))
            wait_for(command[0], lambda port=port: answers(port), process)
        yield [
            *("--runner", "PortableRunner", "--job_endpoint", f"localhost:{jobs}"),
            *("--environment_type", "EXTERNAL", "--environment_config", f"localhost:{workers}"),
        ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rawset(tmp_path / "many", {"train": 60}, 64)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("server", ["prism", "pool"])
def test_a_job_at_a_standing_server_is_found_ended_and_followed(server, place, request, capsys):
    flags = (*LONG, "--output", server, *request.getfixturevalue(server))
    for expected in ("is being cancelled", "which is already working on this"):
        deeplab(place, "prepare", *flags, "--no_wait")
        with pytest.raises(InputError, match="is already working on this; omit --no_wait to follow it"):
            cli.run(arguments("prepare", *flags, "--no_wait")[3:])
        how = ["--cancel"] if "cancel" in expected else []
        assert cli.run(arguments("prepare", *flags, *how)[3:]) == 0
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_prism_ends_with_a_command_however_that_ends(place, engines, end):
    program, number = place / "prism", place / "number"
    program.write_text(
        f'#!/bin/sh\necho $$ > {number}.part; mv {number}.part {number}; exec {engines}/bin/prism "$@"\n'
    )
    program.chmod(0o755)
    (place / "many/images/train/a7.jpg").write_bytes(b"no image, so that the status is not 0")
    flags = ("--input", "many", "--output", "out", "--runner", "PrismRunner", "--prism_location", program)
    with started(arguments("prepare", *flags), place / "log", cwd=place, env=environment()) as process:
        wait_for("Prism", number.exists, process)
        server = processes.name(int(number.read_text()))
        if end:
            wait_for("the first shard", lambda: finished_shards(place / "out"), process)
            process.send_signal(end)
        assert process.wait() != 0
        wait_for("the end of Prism", lambda: not processes.is_alive(server))
