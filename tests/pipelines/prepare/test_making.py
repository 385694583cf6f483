"""Records that partners make are those that threads make, whatever becomes of an image."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from unittest import mock

import pytest

from pipelines.prepare import making, workarea
from pipelines.runner import partners
from pipelines.runner.handover import LABELS
from tests.drawn.places import ROOT
from tests.drawn.prepared import prepare_here, read_records, read_rejects, shard_bytes
from tests.pipelines.prepare.test_resilience import PLANTED
from trainer import storage

FLAGS = ("--copies", "2", "--max-reject-rate", "1", "--direct_num_workers", "2")


@pytest.fixture
def calls(monkeypatch):
    """Lets every set be a large one; yields the images of the calls of partners."""
    sent, call = [], partners.Partners.__call__

    def recorded(crew, function, images, *others, **more):
        sent.append([entries[0].key for entries in images])
        return call(crew, function, images, *others, **more)

    monkeypatch.setattr(partners, "MANY", 1)
    monkeypatch.setattr(partners.Partners, "__call__", recorded)
    return sent


def test_partners_make_the_bytes_and_the_rejects_that_threads_make(spoilt, tmp_path, calls):
    assert prepare_here(spoilt, tmp_path / "threads", *FLAGS[:-1], "1") == 0
    assert not calls
    assert prepare_here(spoilt, tmp_path / "partners", *FLAGS) == 0
    assert calls
    assert shard_bytes(tmp_path / "partners") == shard_bytes(tmp_path / "threads")
    rejects = read_rejects(tmp_path / "partners")
    assert rejects == read_rejects(tmp_path / "threads") and len(rejects) > 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_partners_make_the_shards_on_which_an_earlier_run_was_ended(source, tmp_path, calls, monkeypatch, workers):
    """They are as safe as a subprocess of one image at a time, and faster, also where the rest has none."""
    assert prepare_here(source, tmp_path / "whole", *FLAGS[:-1], "1") == 0
    for shard in (tmp_path / "whole").glob("*.tfrecord"):
        workarea.notes(str(tmp_path / "ended")).start(shard.name)
    monkeypatch.setattr(making, "_isolated", None)
    assert not calls and prepare_here(source, tmp_path / "ended", *FLAGS[:-1], workers) == 0
    assert sum(map(len, calls)) == 11 and shard_bytes(tmp_path / "ended") == shard_bytes(tmp_path / "whole")


def test_a_resumed_job_has_partners_however_small(source, tmp_path, monkeypatch):
    """Or one that has only a shard left would keep one core busy."""
    numbers, start = [], partners.started
    monkeypatch.setattr(partners, "started", lambda number, *more: numbers.append(number) or start(number, *more))
    output = tmp_path / "records"
    assert prepare_here(source, output, *FLAGS) == 0
    (output / "shards/val-00000-of-00001.tfrecord.json").unlink()
    assert prepare_here(source, output, *FLAGS) == 0
    (output / "shards/val-00000-of-00001.tfrecord.json").unlink()
    workarea.notes(str(output)).start(LABELS)  # a command that was ended before its job began
    assert prepare_here(source, output, *FLAGS) == 0
    assert numbers == [0, 0, 0]
    (output / "shards/val-00000-of-00001.tfrecord.json").unlink()
    workarea.notes(str(output)).start("val-00000-of-00001.tfrecord")
    assert prepare_here(source, output, *FLAGS) == 0
    assert numbers[3:] == [2] and not list((output / "shards").glob("*.started"))


def test_a_partner_is_given_a_few_images_at_a_time_each_of_them_once(source, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(making, "RECORDS", 4)
    assert prepare_here(source, tmp_path / "records", *FLAGS[:3], "1", "--direct_num_workers", "2") == 0
    assert sorted(map(len, calls)) == [2, 2, 2, 2, 3], "8 images of 3 records each, and 3 of one"
    images = [key for keys in calls for key in keys]
    assert len(images) == len(set(images)) == 11


def test_a_partner_is_given_fewer_images_the_larger_their_records_are(source, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(making, "PIECE", 1)
    assert prepare_here(source, tmp_path / "records", *FLAGS) == 0
    assert list(map(len, calls)) == [1] * 11
    crew = mock.Mock(usual=1 << 20)
    assert list(making._pieces([[1]] * 5, crew)) == [[[1]]] * 5
    monkeypatch.setattr(making, "PIECE", 4 << 20)
    monkeypatch.setattr(making, "RECORDS", 16)
    sizes = []
    for piece in making._pieces([[1, 2]] * 40, crew):
        sizes.append(len(piece))
        crew.usual //= 2  # as the partner's answer says
    assert sizes == [2, 4, 8, 8, 8, 8, 2]


def test_partners_read_from_cloud_storage_and_an_object_that_is_refused_is_a_reject(source, tmp_path, calls, server):
    for file in storage.files(str(source)):
        storage.write(f"gs://b/raw/{file.relative}", storage.read(file.path))
    server.fault = lambda number, method, path: 403 if method == "GET" and "a5.jpg" in path else None
    reads = []
    for workers in ("1", "2"):
        server.requests.clear()
        assert prepare_here("gs://b/raw", f"gs://b/{workers}", *FLAGS[:-1], workers) == 0
        reads.append(sorted(address for _, address in server.requests if "alt=media" in address and "raw" in address))
        for file in storage.files(f"gs://b/{workers}", within=()):
            storage.write(str(tmp_path / workers / file.relative), storage.read(file.path))
    assert calls and shard_bytes(tmp_path / "2") == shard_bytes(tmp_path / "1")
    assert reads[0] == reads[1]
    (reject,) = read_rejects(tmp_path / "2").values()
    assert reject == read_rejects(tmp_path / "1")["train/a5"]
    assert reject["reason"].startswith("cannot be read: ")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            "the process that worked on it ended with signal 11 (SIGSEGV); tried alone",
        ),
        ("raise MemoryError('planted')", "MemoryError: planted; tried alone"),
    ],
)
def test_an_image_on_which_a_partner_fails_is_rejected_and_the_job_goes_on(source, tmp_path, trouble, reason):
    raw = tmp_path / "raw"
    shutil.copytree(source, raw)
    assert prepare_here(raw, tmp_path / "sound", *FLAGS) == 0
    image = raw / "images/train/a2.jpg"
    data = image.read_bytes()
    image.write_bytes(data[:-2] + b"planted" + data[-2:])
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(PLANTED).replace("os.kill(os.getpid(), signal.SIGSEGV)", trouble)
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pipelines import cli\n"
        "from pipelines.runner import partners\n"
        "partners.MANY = 1\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    program = [sys.executable, script, "prepare", "--input", raw, "--output", tmp_path / "records", *FLAGS]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    (reject,) = read_rejects(tmp_path / "records").values()
    assert (reject["key"], reject["reason"], reject["records"]) == ("train/a2", reason, 3)
    sound = [record for record in read_records(tmp_path / "sound") if record.key != "train/a2"]
    assert read_records(tmp_path / "records") == sound
