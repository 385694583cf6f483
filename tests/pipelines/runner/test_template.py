"""What a job for Dataflow is made of, as it is staged, and that workers who have nothing else write the same bytes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from tests.drawn.places import ROOT
from tests.drawn.prepared import prepare, shard_bytes
from tests.drawn.rawset import write_rawset
from trainer import storage

pytestmark = pytest.mark.slow

CLOUD = [
    *("--runner=DataflowRunner", "--project=drawn", "--region=r", "--temp_location=gs://seg/tmp", "--no_auth"),
    *("--staging_location=gs://seg/staging", "--worker_accelerator=nvidia-tesla-t4", "--job_name=mine"),
]
REPLAY = textwrap.dedent(
    """
    import sys
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    pipeline = beam_runner_api_pb2.Pipeline.FromString(open(sys.argv[1], "rb").read())
    command = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
    local = SubprocessSDKEnvironment.from_command_string(command).to_runner_api(None)
    for environment in pipeline.components.environments.values():
        environment.urn, environment.payload = local.urn, local.payload
        del environment.dependencies[:]
        environment.resource_hints.clear()
    assert "pipelines" not in sys.modules
    result = fn_runner.FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([]))
    import pipelines
    print(result.wait_until_finish(), pipelines.__file__)
    """
)
"""Runs a staged pipeline with workers of its own on this machine, in place of those in an image."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this program as `pip wheel` builds it; the engine is not in it, for no compiler is found."""
    folder = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")
    for name in ("constraints.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"):
        os.symlink(ROOT / name, source / name)
    for name in ("pipelines", "trainer"):
        os.symlink(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(source)]
    environment = os.environ | {"CC": "no-compiler", "CXX": "no-compiler"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def staged(bucket, wheel, tmp_path_factory):
    """A raw set in the bucket, and the job that would prepare it, in the folder of its template."""
    folder = tmp_path_factory.mktemp("set")
    for path in write_rawset(folder / "raw", {"train": 3, "val": 1}, 64).rglob("*.*"):
        storage.write(f"{bucket}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    template = folder / "template"
    template.mkdir()
    flags = [*CLOUD, f"--extra_package={wheel}", f"--template_location={template}/job.json"]
    assert prepare(f"{bucket}/raw", f"{bucket}/records", "--shards=2", "--copies=1", *flags) == 0
    return template


def test_the_template_asks_for_what_the_job_needs(staged, wheel):
    job = json.loads((staged / "job.json").read_text())
    environment = job["environment"]
    (pool,) = [pool for pool in environment["workerPools"] if pool["kind"] != "shuffle"]
    assert (pool["machineType"], pool["diskSizeGb"]) == ("n1-standard-8", 50)
    assert "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver" in environment["serviceOptions"]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert wheel.name in [package["name"] for package in pool["packages"]]
    assert re.fullmatch(r"mine-[0-9a-f]{12}-[0-9a-f]{8}", job["name"])


def test_nothing_of_the_submitting_machine_is_in_the_job(staged):
    """But for the flags that the job was sent with, which Dataflow shows and no worker reads as paths."""
    pipeline = storage.read("gs://seg/" + pipeline_path(staged))
    assert beam_runner_api_pb2.Pipeline.FromString(pipeline).root_transform_ids
    job = json.loads((staged / "job.json").read_text())
    del job["environment"]["sdkPipelineOptions"]
    for data in (pipeline, json.dumps(job).encode()):
        for path in (ROOT, staged.parent, Path.home()):
            assert f"{path}/".encode() not in data


def pipeline_path(staged: Path) -> str:
    """Where the pipeline was staged, below the bucket."""
    options = json.loads((staged / "job.json").read_text())["environment"]["sdkPipelineOptions"]["options"]
    return options["pipelineUrl"].removeprefix("gs://seg/")


def test_workers_with_the_staged_wheel_alone_write_the_bytes_of_a_local_run(staged, bucket, wheel, tmp_path, capsys):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    (package,) = [file.path for file in storage.files(f"{bucket}/staging") if file.path.endswith(wheel.name)]
    (tmp_path / wheel.name).write_bytes(storage.read(package))
    subprocess.run([*install, str(tmp_path / wheel.name)], check=True, capture_output=True)
    (tmp_path / "pipeline.pb").write_bytes(storage.read("gs://seg/" + pipeline_path(staged)))
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, str(tmp_path / "pipeline.pb")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DONE", str(site / "pipelines" / "__init__.py")]
    capsys.readouterr()
    assert prepare(f"{bucket}/raw", f"{bucket}/records", "--shards=2", "--copies=1") == 0
    assert "3 of 3 shards are finished already and kept" in capsys.readouterr().out
    assert prepare(f"{bucket}/raw", tmp_path / "local", "--shards=2", "--copies=1") == 0
    names = [file.relative for file in storage.files(f"{bucket}/records") if file.relative.endswith(".tfrecord")]
    assert {name: storage.read(f"{bucket}/records/{name}") for name in names} == shard_bytes(tmp_path / "local")
