"""What passes is tried again or ends the run, which can be resumed; only what is wrong with a file is a reject."""

from __future__ import annotations

import errno
import os
import re

import pytest

from tests.drawn import faults
from tests.drawn.prepared import prepare, read_records, read_rejects, shard_bytes
from tests.drawn.rawset import write_rawset
from trainer import storage
from trainer.formats.dataset import load_dataset


@pytest.fixture
def twelve(tmp_path):
    return write_rawset(tmp_path / "raw", {"train": 9, "val": 3})


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_an_error_that_passes_costs_nothing(number, twelve, tmp_path, monkeypatch):
    faults.impatient(monkeypatch)
    failed = faults.of_the_system(monkeypatch, number, times=3, name=f"{twelve}/images")
    assert prepare(twelve, tmp_path / "records") == 0
    assert len(read_records(tmp_path / "records")) == 12 and len(failed) == 3


def test_an_error_that_stays_but_is_not_the_files_ends_the_run_which_can_be_resumed(twelve, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        faults.impatient(patch)
        faults.of_the_system(patch, errno.EMFILE, times=10**6, name="images/train/a1.jpg")
        with pytest.raises(storage.Unavailable, match=r"a1\.jpg: Too many open files"):
            prepare(twelve, tmp_path / "records")
    assert prepare(twelve, tmp_path / "records") == 0
    assert len(read_records(tmp_path / "records")) == 12


def test_links_that_lead_nowhere_and_fifos_are_rejects(twelve, tmp_path):
    folder = twelve / "images/train"
    os.remove(folder / "a1.jpg")
    (folder / "a1.jpg").symlink_to(tmp_path / "nowhere")
    os.remove(folder / "a2.jpg")
    os.mkfifo(folder / "a2.jpg")
    assert prepare(twelve, tmp_path / "records") == 1
    assert sorted(read_rejects(tmp_path / "records")) == ["train/a1", "train/a2"]
    assert len(read_records(tmp_path / "records")) == 10


@pytest.fixture
def remote(bucket, twelve, request):
    """The twelve images and a place for their records in Cloud Storage."""
    folder = f"{bucket}/{request.node.name}"
    for file in storage.files(str(twelve)):
        storage.write(f"{folder}/raw/{file.relative}", storage.read(file.path))
    return folder


def test_every_third_answer_of_cloud_storage_may_fail_and_no_byte_changes(remote, twelve, tmp_path, monkeypatch):
    faults.impatient(monkeypatch)
    seen = faults.in_the_cloud(
        monkeypatch, lambda number, request: faults.answer(request, 503) if not number % 3 else None
    )
    assert prepare(f"{remote}/raw", f"{remote}/records") == 0
    monkeypatch.undo()
    assert prepare(twelve, tmp_path / "records") == 0
    for name, data in shard_bytes(tmp_path / "records").items():
        assert storage.read(f"{remote}/records/{name}") == data
    # Each once, and each label once more in the sample, and a third of them in vain.
    files = [
        request for request in seen if re.search(r"alt=media", request.url) and re.search("images|labels", request.url)
    ]
    assert len(files) <= 12 * 3 * 3 / 2


def test_an_object_that_may_not_be_read_is_a_reject(remote, monkeypatch):
    of_a1 = lambda request: request.method == "GET" and re.search(r"images(/|%2F)train(/|%2F)a1\.jpg", request.url)
    faults.in_the_cloud(monkeypatch, lambda _, request: faults.answer(request, 403) if of_a1(request) else None)
    assert prepare(f"{remote}/raw", f"{remote}/records") == 1
    dataset = load_dataset(f"{remote}/records")
    assert (sum(shard.records for shard in dataset.shards), dataset.rejected) == (11, 1)
