"""What is tried again of the requests to Cloud Storage, and what its answers come to."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import requests
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from tests.drawn import faults
from trainer import storage
from trainer.attempts import CorruptError
from trainer.files import cloud
from trainer.options import InputError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    faults.impatient(monkeypatch)


@pytest.fixture
def gs(bucket, tmp_path):
    root = f"{bucket}/{tmp_path.name}"
    storage.write(f"{root}/a.bin", b"contents")
    return root


OBJECT_REQUESTS = 12
"""What `everything` takes at least; with every second one failing, it is twice that."""


def everything(root: str) -> None:
    """Every operation there is on the objects below `root`."""
    storage.write(f"{root}/b.bin", b"2" * 100)
    with storage.writer(f"{root}/c/d.bin") as file:
        file.write(b"3")
    assert storage.read(f"{root}/b.bin") == b"2" * 100
    assert [file.relative for file in storage.files(root)] == ["a.bin", "b.bin", "c/d.bin"]
    assert [file.relative for file in storage.glob(f"{root}/**/*.bin")] == ["a.bin", "b.bin", "c/d.bin"]
    assert storage.exists(f"{root}/b.bin") and storage.is_dir(f"{root}/c") and not storage.exists(f"{root}/e")
    with storage.reader(f"{root}/c/d.bin") as file:
        assert file.read() == b"3"
    storage.remove(f"{root}/b.bin")
    storage.remove(f"{root}/c/d.bin")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_every_second_answer_of_the_cloud_may_fail(gs, monkeypatch, status):
    fault = lambda number, request: faults.answer(request, status) if number % 2 else None
    requests_sent = faults.in_the_cloud(monkeypatch, fault)
    everything(gs)
    assert len(requests_sent) >= 2 * OBJECT_REQUESTS


@pytest.mark.parametrize(
    "error",
    [requests.ConnectionError("cut"), requests.Timeout("late"), requests.exceptions.ChunkedEncodingError("cut")],
    ids=lambda error: type(error).__name__,
)
def test_every_second_connection_may_be_cut(gs, monkeypatch, error):
    requests_sent = faults.in_the_cloud(monkeypatch, lambda number, request: error if number % 2 else None)
    everything(gs)
    assert len(requests_sent) >= 2 * OBJECT_REQUESTS


OPERATIONS = {
    "read": lambda root: storage.read(f"{root}/a.bin"),
    "write": lambda root: storage.write(f"{root}/a.bin", b"1"),
    "files": storage.files,
    "exists": lambda root: storage.exists(f"{root}/a.bin"),
    "is_dir": storage.is_dir,
    "glob": lambda root: storage.glob(f"{root}/*"),
    "localize": lambda root: storage.localize(f"{root}/a.bin"),
    "remove": lambda root: storage.remove(f"{root}/a.bin"),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_answers_of_the_cloud_mean_the_same_for_every_operation(gs, monkeypatch, operation):
    for status, kind, requests_sent in ((403, PermissionError, 1), (503, storage.Unavailable, 5), (400, OSError, 1)):
        with monkeypatch.context() as patch:
            seen = faults.in_the_cloud(patch, lambda _, request, status=status: faults.answer(request, status))
            with pytest.raises(kind, match=f"gs://seg/.*{status}|{status}.*gs://seg/"):
                operation(gs)
            # Where an object does not come, its bucket is asked as well.
            assert len(seen) - requests_sent in (0, status == 503)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("may_list", [True, False])
def test_an_object_that_alone_does_not_come_is_at_fault_itself(gs, monkeypatch, status, may_list):
    def fault(_, request):
        if "a.bin" in request.url or request.method == "POST":
            return faults.answer(request, status)
        return None if may_list else faults.answer(request, 403)

    faults.in_the_cloud(monkeypatch, fault)
    for operation in (storage.read, storage.reader, storage.localize):
        with pytest.raises(OSError, match=rf"answered {status} .*, despite several attempts: 'gs://seg/.*/a\.bin'"):
            operation(f"{gs}/a.bin")
    with pytest.raises(storage.Unavailable):
        storage.write(f"{gs}/a.bin", b"1")


@pytest.mark.parametrize(
    ("status", "headers"),
    [(401, {}), (200, {"X-Goog-Stored-Content-Encoding": "gzip"}), (200, {"X-Goog-Hash": "md5=1"})],
)
def test_credentials_codings_and_checksums_of_other_kinds_are_left_to_googles_client(gs, monkeypatch, status, headers):
    answer = lambda request: faults.answer(request, status, b"coded", headers)
    seen = faults.in_the_cloud(monkeypatch, lambda number, request: answer(request) if number == 1 else None)
    assert storage.read(f"{gs}/a.bin") == b"contents" and len(seen) == 2


def test_a_folder_whose_objects_may_not_be_listed_is_not_said_to_be_missing(gs, monkeypatch):
    lists = lambda request: request.method == "GET" and "/o?" in request.url
    faults.in_the_cloud(monkeypatch, lambda _, request: faults.answer(request, 403) if lists(request) else None)
    for operation in (storage.is_dir, storage.files, lambda root: storage.glob(f"{root}/*/*.bin")):
        with pytest.raises(PermissionError, match="403 Forbidden: 'gs://seg/"):
            operation(gs)
    assert storage.read(f"{gs}/a.bin") == b"contents"


def test_an_answer_403_that_means_too_fast_is_tried_again(gs, monkeypatch):
    body = (
        b'{"error": {"code": 403, "message": "slow", "errors": [{"reason": "rateLimitExceeded", "message": "slow"}]}}'
    )
    fault = lambda number, request: faults.answer(request, 403, body) if number < 3 else None
    faults.in_the_cloud(monkeypatch, fault)
    assert storage.exists(f"{gs}/a.bin")


def test_the_service_says_why_it_refuses(gs, monkeypatch):
    body = b'{"error": {"code": 403, "errors": [{"reason": "forbidden", "message": "x lacks storage.objects.get"}]}}'
    faults.in_the_cloud(monkeypatch, lambda _, request: faults.answer(request, 403, body))
    for operation in (storage.exists, storage.read, storage.localize, lambda path: storage.write(path, b"1")):
        with pytest.raises(PermissionError, match=r"403 Forbidden, x lacks storage\.objects\.get: 'gs://"):
            operation(f"{gs}/a.bin")


@pytest.mark.parametrize("change", [lambda body: body[:-3], lambda body: b"X" + body[1:]], ids=["short", "changed"])
@pytest.mark.parametrize("operation", [storage.read, lambda path: Path(storage.localize(path)).read_bytes()])
def test_a_damaged_download_is_tried_again(gs, monkeypatch, change, operation):
    path, send = f"{gs}/a.bin", requests.Session.send
    damaged: list[int] = []

    def fault(number, request):
        if "alt=media" not in request.url or len(damaged) == times:
            return None
        damaged.append(number)
        return faults.with_body(request, change, send)

    faults.in_the_cloud(monkeypatch, fault)
    times = 2
    assert operation(path) == b"contents"
    storage.write(path, b"other contents")
    times = 99
    with pytest.raises(CorruptError, match="their checksums differ: 'gs://"):
        operation(path)


CHECKSUM = b'{"error": {"code": 400, "errors": [{"message": "Provided CRC32C does not match calculated CRC32C"}]}}'


def test_an_upload_that_arrives_damaged_is_tried_again(gs, monkeypatch):
    def damage(number, request):
        if number < 3:
            request.body = request.body.replace(b"contents", b"c0ntents")
        return faults.answer(request, 400, CHECKSUM) if number == 3 else None

    seen = faults.in_the_cloud(monkeypatch, damage)
    storage.write(f"{gs}/b.bin", b"contents")
    assert len(seen) == 4 and storage.read(f"{gs}/b.bin") == b"contents"


def test_an_upload_that_always_arrives_damaged_is_no_fault_of_the_file(gs, monkeypatch):
    faults.in_the_cloud(monkeypatch, lambda _, request: faults.answer(request, 400, CHECKSUM))
    with pytest.raises(storage.Unavailable, match="does not match"):
        storage.write(f"{gs}/b.bin", b"contents")


@pytest.mark.parametrize("at_once", [cloud.AT_ONCE, 1 << 20], ids=["in one request", "in parts"])
def test_large_objects_go_up_and_come_down_whole(gs, monkeypatch, at_once):
    monkeypatch.setattr(cloud, "AT_ONCE", at_once)
    seen = faults.in_the_cloud(
        monkeypatch, lambda number, request: None if number % 4 else faults.answer(request, 503)
    )
    data = bytes(range(256)) * (36 << 10)  # 9 MB
    with storage.writer(f"{gs}/big.bin") as file:
        file.write(data[:1000])
        file.write(data[1000:])
    assert ("uploadType=resumable" in seen[0].url) == (at_once < len(data))
    assert storage.read(f"{gs}/big.bin") == data
    assert storage.files(gs)[1].identity == storage.identity(data)


def test_a_deletion_whose_answer_was_lost_counts(gs, monkeypatch):
    send = requests.Session.send

    def fault(number, request):
        if number == 1:
            send(requests.Session(), request)
            return requests.ConnectionError("cut")
        return None

    faults.in_the_cloud(monkeypatch, fault)
    storage.remove(f"{gs}/a.bin")
    with pytest.raises(FileNotFoundError):
        storage.remove(f"{gs}/a.bin")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            DefaultCredentialsError("secret"),
            InputError,
            "gcloud auth application-default login",
        ),
        (RefreshError("secret"), InputError, "no valid credentials for Google Cloud"),
        (RefreshError("secret", retryable=True), storage.Unavailable, "again"),
        (TransportError("secret"), storage.Unavailable, "again"),
    ],
)
def test_credentials_that_are_missing_are_told_with_the_cure_and_no_secret(monkeypatch, error, kind, message):
    def fails():
        raise error

    monkeypatch.setattr(cloud, "client", fails)
    with pytest.raises(kind, match=message) as caught:
        storage.read("gs://bucket/a.bin")
    assert "secret" not in str(caught.value)


def test_a_file_of_credentials_that_may_not_be_read_is_no_fault_of_the_object(monkeypatch):
    def fails():
        raise PermissionError(13, "Permission denied", "/key.json")

    monkeypatch.setattr(cloud, "client", fails)
    with pytest.raises(InputError, match=r"gs://bucket/a.bin cannot be reached: .*/key\.json'; fix that first"):
        storage.read("gs://bucket/a.bin")


def test_errors_of_what_is_done_while_an_object_is_written_stay_what_they_are(gs, tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), storage.writer(f"{gs}/b.bin"):
        (tmp_path / "other").read_bytes()
    with pytest.raises(storage.Unavailable, match="make room"), storage.writer(f"{gs}/b.bin"):
        raise OSError(errno.ENOSPC, "full")
    assert not storage.exists(f"{gs}/b.bin")


@pytest.mark.parametrize("path", ["gs://", "gs:///a", "gs://-b/a", "gs://b_/a"])
def test_an_address_without_a_bucket_is_an_input_error(path):
    for operation in (storage.read, storage.files, storage.exists, storage.is_dir, storage.glob):
        with pytest.raises(InputError, match="names no bucket"):
            operation(path)


def test_a_bucket_is_no_object(bucket):
    assert not storage.exists(bucket) and not storage.exists(f"{bucket}/")
    with pytest.raises(IsADirectoryError):
        storage.read(bucket)


def test_no_project_need_be_named(monkeypatch):
    import google.auth
    from google.auth.credentials import AnonymousCredentials

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), None))
    assert cloud.client.__wrapped__().bucket("b").name == "b"


@pytest.mark.parametrize("path", ["a\0b", "gs://bucket/a\ud800", "a\ud800"])
def test_a_name_that_no_file_can_have_is_not_found(bucket, path):
    assert not storage.exists(path) and not storage.is_dir(path)
    with pytest.raises(FileNotFoundError):
        storage.read(path)
