"""Every command with workers refuses what they could not find, before anything is read, written or sent."""

from __future__ import annotations

import sys

import pytest

from pipelines import cli
from tests.drawn.dataflow import FLAGS, WORKERS, dataflow
from tests.drawn.rawset import touch
from trainer import storage

CLOUD = [
    "--runner=DataflowRunner",
    "--project=p",
    "--region=r",
    "--temp_location=gs://b/tmp",
    f"--sdk_container_image={WORKERS}",
]
CLUSTER = ["--runner=PortableRunner", "--job_endpoint=h:1", "--environment_type=PROCESS", "--environment_config={}"]
COMMANDS = {
    "prepare": ("--input", "--output"),
    "segment": ("--input", "--model", "--output"),
    "evaluate": ("--labels", "--masks", "--output"),
    "tune-crf": ("--model", "--records", "--output"),
}
CASES = [(command, flag) for command, flags in COMMANDS.items() for flag in flags]


def arguments(command, flag, path):
    paths = {other: f"gs://b/{other[2:]}.json" for other in COMMANDS[command]} | {flag: path}
    classes = ["--palette", "voc"] if command == "evaluate" else []
    return [command, *(word for pair in paths.items() for word in pair), *classes]


@pytest.mark.parametrize(("command", "flag"), CASES)
def test_a_path_of_this_machine_is_refused_for_workers_on_dataflow(command, flag, tmp_path, capsys):
    assert cli.main([*arguments(command, flag, f"{tmp_path}/x.json"), *CLOUD]) == 2
    assert f"{flag} {tmp_path}/x.json is a local path" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_image_of_another_python_is_refused_by_every_command(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    flags = [*CLOUD[:-1], "--sdk_container_image", "image:python3.11"]
    assert cli.main([*arguments(command, "--output", "gs://b/o.json"), *flags]) == 2
    assert "the image has Python 3.11, and this is Python 3.13" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["here", "bucket"])
@pytest.mark.parametrize(("command", "flag"), [("prepare", "--input="), ("doctor", "")])
def test_a_list_that_names_files_of_this_machine_is_refused(command, flag, place, tmp_path, bucket, capsys):
    """A list of gs:// addresses would do."""
    touch(tmp_path, "a.png", "b.png")
    path = storage.join(bucket if place == "bucket" else str(tmp_path), "set.csv")
    storage.write(path, f"image,label\n{tmp_path}/a.png,{tmp_path}/b.png\n".encode())
    with dataflow() as service:
        flags = [f"{flag}{path}", f"--output={bucket}/out", *FLAGS, service.endpoint]
        assert cli.main([command, *flags]) == 2
    assert f"{flag.strip('=') or 'DIR'} {tmp_path}/a.png is a local path" in capsys.readouterr().err


def test_a_list_in_cloud_storage_of_images_of_this_machine_is_refused(tmp_path, bucket, capsys, monkeypatch):
    touch(tmp_path, "a.png")
    storage.write(f"{bucket}/list.txt", f"{tmp_path}/a.png\n".encode())
    monkeypatch.setattr("pipelines.segment.command.prepare", lambda options, cores: (None, None))
    with dataflow() as service:
        flags = [f"--input={bucket}/list.txt", f"--model={bucket}/model", f"--output={bucket}/masks", *FLAGS]
        assert cli.main(["segment", *flags, service.endpoint]) == 2
    assert f"--input {tmp_path}/a.png is a local path" in capsys.readouterr().err


def test_a_job_that_would_overwrite_what_it_has_written_is_not_sent_without_waiting(capsys):
    assert cli.main([*arguments("prepare", "--output", "gs://b/o"), *CLOUD, "--no_wait", "--overwrite"]) == 2
    assert "--no_wait with --overwrite: the command that is to finish the job would" in capsys.readouterr().err
