"""What is tried again of work on local files, and what their errors come to."""

from __future__ import annotations

import errno
import json
import os

import pytest

from pipelines import cli
from tests.drawn import faults
from trainer import attempts, storage
from trainer.files import cloud


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    faults.impatient(monkeypatch)


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ESTALE", "EIO", "ETIMEDOUT", "ECONNRESET"])
def test_a_passing_error_of_the_system_is_tried_again(tmp_path, monkeypatch, name):
    path = str(tmp_path / "a.bin")
    storage.write(path, b"1")
    failed = faults.of_the_system(monkeypatch, getattr(errno, name), 2)
    assert storage.read(path) == b"1"
    assert len(failed) == 2
    failed.clear()
    storage.write(path, b"2")
    assert len(failed) == 2 and storage.read(path) == b"2"


@pytest.mark.parametrize("name", ["EMFILE", "ENOMEM", "ESTALE", "ETIMEDOUT"])
def test_an_error_of_the_system_that_stays_is_no_fault_of_the_file(tmp_path, monkeypatch, name):
    path = str(tmp_path / "a.bin")
    storage.write(path, b"1")
    faults.of_the_system(monkeypatch, getattr(errno, name), 99)
    for work in (lambda: storage.read(path), lambda: storage.write(path, b"2"), lambda: storage.reader(path)):
        with pytest.raises(storage.Unavailable, match=r"a\.bin: .* run the same command again") as caught:
            work()
        assert not isinstance(caught.value, OSError)


@pytest.mark.parametrize("name", ["EACCES", "EPERM", "ENOENT", "EISDIR", "ENAMETOOLONG", "ELOOP", "EIO"])
def test_what_is_wrong_with_a_file_is_an_oserror(tmp_path, monkeypatch, name):
    path = str(tmp_path / "a.bin")
    storage.write(path, b"1")
    failed = faults.of_the_system(monkeypatch, getattr(errno, name), 99)
    with pytest.raises(OSError, match=r"a\.bin") as caught:
        storage.read(path)
    assert caught.value.errno == getattr(errno, name)
    assert len(failed) == (5 if name == "EIO" else 1)


@pytest.mark.parametrize(
    ("name", "cure"),
    [("ENOSPC", "make room"), ("EDQUOT", "make room"), ("EROFS", "make it writable"), ("EFBIG", "allow larger files")],
)
def test_a_full_disk_ends_the_run_at_once(tmp_path, monkeypatch, name, cure):
    failed = faults.of_the_system(monkeypatch, getattr(errno, name), 99)
    with pytest.raises(storage.Unavailable, match=cure):
        storage.write(str(tmp_path / "a.bin"), b"1")
    with pytest.raises(storage.Unavailable, match=cure), storage.writer(str(tmp_path / "a.bin")):
        pass
    assert len(failed) == 2


def test_a_disk_that_fills_while_a_file_is_written_is_no_fault_of_the_file(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(storage.Unavailable, match="make room"), storage.writer(str(path)) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "full")
    assert list(tmp_path.iterdir()) == []


def test_an_oserror_of_what_is_done_while_a_file_is_written_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), storage.writer(str(tmp_path / "a.bin")):
        (tmp_path / "other").read_bytes()


def test_listings_and_tests_for_existence_are_tried_again(tmp_path, monkeypatch):
    path = str(tmp_path / "a.bin")
    storage.write(path, b"1")
    for module, work in (("scandir", storage.files), ("stat", storage.exists), ("stat", storage.is_dir)):
        true, failed = getattr(attempts.os, module), []

        def fails(*arguments, true=true, failed=failed, **named):
            if len(failed) < 2:
                failed.append(1)
                raise OSError(errno.EMFILE, "too many")
            return true(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(attempts.os, module, fails)
            assert work(path if work is storage.exists else str(tmp_path))
        assert len(failed) == 2


def test_slow_calls_are_still_tried_three_times(monkeypatch):
    monkeypatch.setattr(attempts, "PATIENCE", -1.0)
    calls = []
    with pytest.raises(storage.Unavailable):
        attempts.attempt("a", lambda: calls.append(1) or (_ for _ in ()).throw(OSError(errno.EMFILE, "too many")))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "holds no usable credentials (AttributeError)"),
        ("S3cret", "holds no usable credentials (AttributeError)"),
        ({"type": "S3cret"}, "holds no usable credentials (DefaultCredentialsError)"),
        ({"type": "service_account", "private_key": 7, "client_email": "a", "token_uri": "b"}, "holds no usable cred"),
        ({"type": "authorized_user", "refresh_token": []}, "holds no usable credentials ("),
        ("no JSON", "holds no usable credentials (DefaultCredentialsError)"),
        ("FIFO", "is not a regular file"),
        ("folder", "is not a regular file"),
        ("missing", "does not exist"),
    ],
)
def test_a_file_of_credentials_that_is_none_is_named_in_one_line(content, found, tmp_path, monkeypatch, capsys):
    key = tmp_path / "key.json"
    if content == "FIFO":
        os.mkfifo(key)
    elif content == "folder":
        key.mkdir()
    elif content != "missing":
        key.write_text("{S3cret" if content == "no JSON" else json.dumps(content))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    cloud.client.cache_clear()
    arguments = ["segment", "--input", "gs://bucket/x", "--model", "gs://bucket/model", "--output"]
    assert cli.main([*arguments, str(tmp_path / "masks")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: GOOGLE_APPLICATION_CREDENTIALS names {key}, which {found}" in line and "S3cret" not in line
    assert line.endswith("or unset the variable and run `gcloud auth application-default login`")
