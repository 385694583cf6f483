"""Files from a web server on loopback."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.drawn.web import CONTENT, served
from trainer.attempts import CorruptError, Unavailable
from trainer.options import InputError
from trainer.weights import download
from trainer.weights.checkpoints import open_published
from trainer.weights.download import fetch

MD5 = hashlib.md5(CONTENT)


def cached(suffix: str) -> list[Path]:
    return [path for path in Path(download.cache()).iterdir() if path.name.endswith(suffix)]


def test_a_file_is_fetched_once_and_its_checksum_recorded_beside_it(server):
    path = fetch(server.url, MD5.hexdigest())
    assert Path(path).read_bytes() == CONTENT and path.endswith("-weights.bin")
    assert Path(f"{path}.sha256").read_text().split() == [hashlib.sha256(CONTENT).hexdigest(), Path(path).name]
    assert fetch(server.url, MD5.hexdigest()) == path and len(server.ranges) == 1
    assert cached(".part") == cached(".json") == []


def test_a_broken_download_resumes_where_it_stopped(server):
    server.breaks = [100_000, 150_000]
    assert Path(fetch(server.url)).read_bytes() == CONTENT
    assert server.ranges == ["", "bytes=100000-", "bytes=250000-"]


def test_a_download_that_keeps_breaking_resumes_in_the_next_run(server):
    server.breaks = [1000] * 3
    with pytest.raises(Unavailable, match=r"the connection ended after 3,000 of 300,000 bytes.*again to continue"):
        fetch(server.url)
    assert Path(fetch(server.url)).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=3000-"


def test_a_partial_download_of_another_file_is_discarded(server):
    server.breaks = [1000] * 3
    with pytest.raises(Unavailable):
        fetch(server.url)
    server.content = CONTENT[::-1]
    assert Path(fetch(server.url)).read_bytes() == CONTENT[::-1]


def test_a_file_with_another_checksum_than_published_is_not_kept(server):
    with pytest.raises(
        InputError, match=f"has the MD5 {MD5.hexdigest()}, but {'0' * 32} was published.*by other means"
    ):
        fetch(server.url, "0" * 32)
    assert len(server.ranges) == 1 and cached(".bin") == cached(".part") == []


def test_a_checksum_that_the_server_sends_is_compared(server):
    server.headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={base64.b64encode(MD5.digest()).decode()}"}
    assert Path(fetch(server.url)).read_bytes() == CONTENT
    server.content = CONTENT[1:]
    with pytest.raises(CorruptError, match="checksums differ"):
        fetch(f"{server.url}?again")
    assert len(server.ranges) == 4, "it is tried again"


def test_a_file_that_was_changed_in_the_cache_is_refused(server):
    path = fetch(server.url)
    Path(path).write_bytes(CONTENT[1:])
    with pytest.raises(InputError, match=r"was changed since it was fetched.*delete it"):
        fetch(server.url)
    os.remove(path)
    assert Path(fetch(server.url)).read_bytes() == CONTENT


def test_a_disk_that_fills_up_keeps_what_came_for_the_next_run(server, monkeypatch):
    true, size = download._copy, 120_000

    class Disk:
        """A file on a disk with room for `size` bytes."""

        def __init__(self, file):
            self.file, self.name = file, file.name

        def write(self, data):
            room = size - self.file.tell()
            self.file.write(data[:room])
            if len(data) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "CHUNK", 50_000)
    with monkeypatch.context() as patch:
        patch.setattr(download, "_copy", lambda response, file, *rest: true(response, Disk(file), *rest))
        with pytest.raises(Unavailable, match="No space left on device; make room and run the same command again"):
            fetch(server.url)
    assert len(server.ranges) == 1, "room does not come by itself"
    assert Path(fetch(server.url)).read_bytes() == CONTENT
    assert server.ranges[1] == "bytes=120000-"


def test_a_disk_with_too_little_room_is_seen_before_the_transfer(server, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Unavailable, match=r"300,000 bytes are to be fetched but 1,000 are free.*DEEPLAB_CACHE"):
        fetch(server.url)


def test_two_processes_fetch_a_file_once(server):
    paths: list[str] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server.url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 3 and len(server.ranges) == 1


@pytest.mark.parametrize("name", ["weights.tar.gz", "weights.h5", "WEIGHTS.TAR.GZ"])
def test_a_page_in_place_of_the_file_is_not_kept(name, server):
    """As networks that want a login answer, with status 200."""
    server.content = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(InputError, match=r"not return a \.(gz|h5) file: the answer begins with b'<!.*it was not kept"):
        fetch(server.url.replace("weights.bin", name))
    assert not [path for path in Path(download.cache()).iterdir() if path.suffix != ".lock"]
    server.content = {"weights.h5": b"\x89HDF\r\n\x1a\nrest"}.get(name, b"\x1f\x8brest")
    assert Path(fetch(server.url.replace("weights.bin", name))).read_bytes() == server.content


def test_a_cache_that_has_the_file_is_not_written_to(server, monkeypatch):
    path = fetch(server.url)
    before = {entry.name: entry.stat().st_mtime_ns for entry in Path(download.cache()).iterdir()}
    monkeypatch.setattr(os, "makedirs", pytest.fail)
    monkeypatch.setattr(download, "_alone", pytest.fail)
    assert fetch(server.url) == path
    assert {entry.name: entry.stat().st_mtime_ns for entry in Path(download.cache()).iterdir()} == before


@pytest.mark.parametrize("cache", ["/proc/deeplab", "/dev/null/deeplab"])
def test_a_cache_that_cannot_be_written_is_named(cache, server, monkeypatch):
    monkeypatch.setenv("DEEPLAB_CACHE", cache)
    with pytest.raises(OSError, match=cache):
        fetch(server.url)


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("missing", InputError, "the server answered 404 Not Found; check the address"),
        ("busy", Unavailable, "the server answered 503 Service Unavailable"),
        ("refused", Unavailable, "Connection refused"),
        ("unknown", InputError, "fetch it by other means and give the path"),
    ],
)
def test_servers_that_do_not_answer(case, error, message, server):
    url = server.url.replace("weights.bin", "missing") if case == "missing" else server.url
    url = "http://deeplab.invalid/weights.bin" if case == "unknown" else url
    server.status = 503 if case == "busy" else 0
    if case == "refused":
        server.shutdown()
        server.server_close()
    with pytest.raises(error, match=message) as caught:
        fetch(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights.h5", "weights.tar.gz"])
def test_a_downloaded_file_that_is_damaged_is_to_be_deleted(name, tmp_path, monkeypatch):
    """The next run would take it from the cache again."""
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    begin = download.BEGINNINGS[os.path.splitext(name)[1]]
    with served(begin + bytes(100)) as server, pytest.raises(InputError) as refusal:
        open_published(server.url.replace("weights.bin", name))
    assert str(tmp_path / "cache") in str(refusal.value)
    assert str(refusal.value).endswith("; delete it, so that it is fetched again")
    (tmp_path / name).write_bytes(begin + bytes(100))
    with pytest.raises(InputError, match=r"; fetch it again$"):
        open_published(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".part", ".part.lock"])
@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_the_cache_writes_into_no_file_of_others(suffix, kind, server, tmp_path):
    other = tmp_path / "other"
    other.write_text("precious")
    path = fetch(server.url)
    os.remove(path)
    place = Path(f"{path}{suffix}")
    place.unlink(missing_ok=True)
    os.symlink(other, place) if kind == "link" else os.mkfifo(place)
    with pytest.raises(OSError, match=r"Too many levels of symbolic links|No such device or address"):
        fetch(server.url)
    assert other.read_text() == "precious"
