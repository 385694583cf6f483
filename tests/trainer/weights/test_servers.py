"""Servers that lead elsewhere, or answer otherwise than they were asked."""

from __future__ import annotations

import functools
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drawn.web import CONTENT, served
from trainer import attempts
from trainer.attempts import Unavailable
from trainer.options import InputError
from trainer.weights import download
from trainer.weights.download import fetch


def begun(server, size: int) -> None:
    """Lets three transfers break that come to `size` bytes."""
    server.breaks = [size, 0, 0]
    with pytest.raises(Unavailable):
        fetch(server.url)
    server.ranges.clear()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_download_resumes_at_the_host_it_was_redirected_to(status, server):
    with served(CONTENT) as other:
        server.redirects = {"/weights.bin": (status, other.url)}
        other.breaks = [100_000]
        assert Path(fetch(server.url)).read_bytes() == CONTENT
        assert other.ranges == ["", "bytes=100000-"]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/weights.bin", "data:,x", "gs://b/w"])
def test_a_redirect_to_another_scheme_is_refused(target, server):
    server.redirects = {"/weights.bin": (302, target)}
    with pytest.raises(
        InputError, match=r"weights.bin cannot be fetched: .*[Rr]edirection.*check the address"
    ) as caught:
        fetch(server.url)
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in Path(download.cache()).iterdir()] == [".lock"]


def test_an_https_address_is_redirected_only_to_https():
    follow = functools.partial(download._Redirects().redirect_request, answer=None, code=302, reason="", headers={})
    request = urllib.request.Request("https://host/weights.bin?S3cret")
    assert follow(request, url="https://other/weights.bin").full_url == "https://other/weights.bin"
    with pytest.raises(InputError, match=r"https://host/weights\.bin leads to http://other/, which is not encrypted"):
        follow(request, url="http://other/?S3cret")


def test_capitals_in_the_scheme_do_not_lead_around_the_encryption():
    request = urllib.request.Request(download._asked_for("HTTPS://host/weights.bin"))
    follow = functools.partial(download._Redirects().redirect_request, request, None, 302, "", {})
    assert follow("HTTPS://other/weights.bin").full_url == "https://other/weights.bin"
    with pytest.raises(InputError, match="which is not encrypted"):
        follow("HTTP://other/")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("a b.bin", "/a%20b.bin"),
        ("gewichte ü.bin", "/gewichte%20%C3%BC.bin"),
        ("gewichte%20%C3%BC.bin", "/gewichte%20%C3%BC.bin"),
        ("100%.bin?of=ü b&%2F", "/100%25.bin?of=%C3%BC%20b&%2F"),
        ("x/\udcfc.bin", "/x/%FC.bin"),
    ],
)
def test_an_address_is_asked_for_percent_encoded(given, asked, server):
    with served(CONTENT[::-1]) as other:
        server.redirects = {asked: (302, other.url)}
        address = server.url.replace("http", "HTTP").replace("weights.bin", given)
        assert Path(fetch(address)).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:abc/x.bin", "http://127.0.0.1:99999/x.bin", "http://a..b/x.bin", "http://[::1/x.bin",
     "http://user:word@127.0.0.1/x.bin", "http:///x.bin", "http://a b/x.bin", f"http://{'ü' * 99}/x.bin",
     "http://\udcfc/x.bin"],
)  # fmt: skip
def test_an_address_that_no_server_can_have_is_refused_at_once(address, monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
    seconds = slept(monkeypatch)
    with pytest.raises(InputError, match=r"cannot be (fetched|reached)") as caught:
        fetch(address)
    assert not seconds and "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["missing", "login", "checksum", "breaks", "refused", "nowhere"])
def test_no_message_has_the_signature_of_an_address(fault, server, monkeypatch, tmp_path):
    server.status = {"missing": 404, "breaks": 503}.get(fault, 0)
    address = f"{server.url}?Signature=S3cret"
    if fault == "login":
        address = address.replace(".bin", ".h5")
    elif fault == "refused":
        server.server_close()
    elif fault == "nowhere":
        address = "http://nowhere.invalid/weights.bin?S3cret"
    with pytest.raises((InputError, Unavailable)) as caught:
        fetch(address, "0" * 32)
    assert address.partition("?")[0] in str(caught.value) and "S3cret" not in str(caught.value)


@pytest.mark.parametrize("target", ["http://user:S3cret@127.0.0.1/x.bin", "s3://user:S3cret@bucket/x.bin?S3cret"])
def test_a_redirect_to_an_address_with_a_secret_is_refused_without_naming_it(target, server):
    server.redirects = {"/weights.bin": (302, target)}
    with pytest.raises(InputError, match=r"/x\.bin") as caught:
        fetch(server.url)
    assert "S3cret" not in str(caught.value)


def test_files_in_the_cache_do_not_have_the_signature_of_their_address(server):
    server.breaks = [1000]
    first, second = (fetch(f"{server.url}?Signature=S3cret{number}") for number in range(2))
    assert first != second
    for path in Path(download.cache()).iterdir():
        assert "S3cret" not in path.name and b"S3cret" not in path.read_bytes()


@pytest.mark.parametrize("paths", [["/weights.bin"], ["/weights.bin", "/other.bin"]])
def test_an_address_that_leads_back_to_itself_is_refused(paths, server):
    onward = zip(paths, [*paths[1:], paths[0]], strict=True)
    server.redirects = {path: (302, target) for path, target in onward}
    with pytest.raises(InputError, match=r"weights.bin cannot be fetched: .*redirect") as caught:
        fetch(server.url)
    assert "\n" not in str(caught.value) and len(server.ranges) < 15


def slept(monkeypatch, act: Callable[[], object] = lambda: None) -> list[float]:
    """Waits no longer, but calls `act`; returns the seconds that would have been waited, a list that grows."""
    seconds = []
    monkeypatch.setattr(attempts, "WAITS", (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0))
    monkeypatch.setattr(time, "sleep", lambda wait: (seconds.append(wait), act()))
    return seconds


def test_a_server_that_is_not_there_is_given_up_after_a_few_seconds(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
    with served(CONTENT) as server:
        server.server_close()
        seconds = slept(monkeypatch)
        with pytest.raises(Unavailable, match=f"^{server.url}: Connection refused; check the address, or start the "):
            fetch(server.url)
    assert 1 <= sum(seconds) <= 5


def test_a_server_that_has_answered_is_waited_for_when_it_refuses(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
    with served(CONTENT) as server:
        server.breaks = [100_000]
        seconds = slept(monkeypatch, server.server_close)
        with pytest.raises(Unavailable, match="Connection refused, despite several attempts; run the same command"):
            fetch(server.url)
    assert sum(seconds) > 30


def test_a_complete_download_of_a_killed_run_is_not_fetched_again(server, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download, "_accept", lambda *_: None)
        with pytest.raises(FileNotFoundError):
            fetch(server.url)
    server.ranges.clear()
    assert Path(fetch(server.url)).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"], "answered with 416"


def test_more_than_the_file_has_is_dropped(server):
    """The server tells no file from another by its date, and the one of now is shorter."""
    server.headers = {"ETag": '"same"'}
    begun(server, 200_000)
    server.content = CONTENT[:100_000]
    assert Path(fetch(server.url)).read_bytes() == CONTENT[:100_000]
    assert server.ranges == ["bytes=200000-", ""]


def test_the_rest_of_another_file_is_not_appended(server):
    """By a server that does not look at If-Range."""
    begun(server, 1000)
    server.heeds, server.content = False, CONTENT[::-1]
    assert Path(fetch(server.url)).read_bytes() == CONTENT[::-1]
    assert server.ranges == ["bytes=1000-", ""]


def test_a_server_without_range_support_sends_the_file_again(server):
    begun(server, 1000)
    server.gives_parts = False
    assert Path(fetch(server.url)).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_part_that_ends_before_the_file_does_is_not_taken_for_all_of_it(server):
    begun(server, 1000)
    server.most = 120_000
    assert Path(fetch(server.url)).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", "bytes=121000-", "bytes=241000-"]


def test_a_wrong_content_length_is_reported(server):
    server.headers, server.gives_parts = {"Content-Length": 400_000}, False
    with pytest.raises(Unavailable, match="the connection ended after 300,000 of 400,000 bytes"):
        fetch(server.url)


@pytest.mark.parametrize("length", ["", "many", "-5"])
def test_an_invalid_content_length_is_ignored(length, server):
    server.headers = {"Content-Length": length}
    assert Path(fetch(server.url)).read_bytes() == CONTENT


@pytest.mark.parametrize(("length", "bound"), [(10**18, download.LARGEST), ("unknown", 100_000)])
def test_what_is_larger_than_any_weights_is_not_kept(length, bound, server, monkeypatch):
    """Some servers send without end, which would fill the disk."""
    monkeypatch.setattr(download, "LARGEST", bound)
    server.headers = {"Content-Length": length}
    with pytest.raises(
        InputError, match=rf"weights.bin sends [\d,]+ bytes or more; expected at most {bound:,}, so it was"
    ):
        fetch(server.url)
    assert [path.suffix for path in Path(download.cache()).iterdir()] == [".lock"]
