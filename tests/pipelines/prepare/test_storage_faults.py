"""What passes is tried again or ends the run, which can be resumed; only what is wrong with a file is a reject."""

from __future__ import annotations

import errno
import re

import pytest

from tests.drawn import faults
from tests.drawn.prepared import prepare_here, read_records, shard_bytes
from tests.drawn.rawset import write_rawset
from trainer import storage


@pytest.fixture
def twelve(tmp_path):
    return write_rawset(tmp_path / "raw", {"train": 9, "val": 3})


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_an_error_that_passes_costs_nothing(number, twelve, tmp_path, monkeypatch):
    faults.impatient(monkeypatch)
    failed = faults.of_the_system(monkeypatch, number, times=3, name=f"{twelve}/images")
    assert prepare_here(twelve, tmp_path / "records") == 0
    assert len(read_records(tmp_path / "records")) == 12 and len(failed) == 3


def test_an_error_that_stays_but_is_not_the_files_ends_the_run_which_can_be_resumed(twelve, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        faults.impatient(patch)
        faults.of_the_system(patch, errno.EMFILE, times=10**6, name="images/train/a1.jpg")
        with pytest.raises(storage.Unavailable, match=r"a1\.jpg: Too many open files"):
            prepare_here(twelve, tmp_path / "records")
    assert prepare_here(twelve, tmp_path / "records") == 0
    assert len(read_records(tmp_path / "records")) == 12


@pytest.fixture
def remote(bucket, twelve, request):
    """The twelve images and a place for their records in Cloud Storage."""
    folder = f"{bucket}/{request.node.name}"
    for file in storage.files(str(twelve)):
        storage.write(f"{folder}/raw/{file.relative}", storage.read(file.path))
    return folder


def test_every_third_answer_of_cloud_storage_may_fail_and_no_byte_changes(remote, twelve, tmp_path, monkeypatch):
    faults.impatient(monkeypatch, faults.OF_MANY_THREADS)
    failed = []

    def every_third(number, request):
        if number % 3:
            return None
        failed.append(request)
        return faults.answer(request, 503)

    seen = faults.in_the_cloud(monkeypatch, every_third)
    assert prepare_here(f"{remote}/raw", f"{remote}/records") == 0
    monkeypatch.undo()
    assert prepare_here(twelve, tmp_path / "records") == 0
    for name, data in shard_bytes(tmp_path / "records").items():
        assert storage.read(f"{remote}/records/{name}") == data
    assert len(failed) == len(seen) // 3
    # What came was not asked for again: each file once, and each label once more in the sample.
    refused = {id(request) for request in failed}
    files = [
        request
        for request in seen
        if id(request) not in refused and "alt=media" in request.url and re.search("images|labels", request.url)
    ]
    assert len(files) == 12 * 3
