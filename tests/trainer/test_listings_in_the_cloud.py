"""Listings of Cloud Storage come in pages, and those of many objects folder by folder."""

from __future__ import annotations

import json

import pytest
import requests

from benchmarks import objects
from tests.drawn import faults
from trainer import storage


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    faults.impatient(monkeypatch)


def in_pages(monkeypatch, fault=lambda number: None) -> list[requests.PreparedRequest]:
    """Lets listings come in pages of three; returns the requests, of which `fault` may answer some."""
    send = requests.Session.send

    def answer(number, request):
        if outcome := fault(number):
            return faults.answer(request, outcome)
        query = dict(part.split("=") for part in request.url.split("?")[1].split("&"))
        token = int(query.get("pageToken", 0))

        def page(body):
            whole = json.loads(body)
            rows = [("items", item) for item in whole.get("items", ())]
            rows += [("prefixes", prefix) for prefix in whole.get("prefixes", ())]
            content = {"nextPageToken": str(token + 3)} if token + 3 < len(rows) else {}
            for kind, row in rows[token : token + 3]:
                content.setdefault(kind, []).append(row)
            return json.dumps(content).encode()

        return faults.with_body(request, page, send)

    return faults.in_the_cloud(monkeypatch, answer)


def test_long_listings_come_in_pages_each_of_which_may_fail(bucket, tmp_path, monkeypatch):
    root = f"{bucket}/{tmp_path.name}"
    for name in "abcdefg":
        storage.write(f"{root}/{name}", b"1")
    seen = in_pages(monkeypatch, lambda number: 503 if number % 2 else None)
    assert [file.relative for file in storage.files(root)] == list("abcdefg")
    assert len(seen) == 2 * 4  # three pages, and whether there are folders


def test_folders_with_many_objects_are_listed_side_by_side(bucket, tmp_path, monkeypatch):
    root = f"{bucket}/{tmp_path.name}"
    names = ["top", *(f"{folder}/{number}" for folder in ("x", "y") for number in range(5)), "y/deep/er"]
    for name in names:
        storage.write(f"{root}/{name}", b"1")
    seen = in_pages(monkeypatch)
    assert sorted(file.relative for file in storage.files(root)) == sorted(names)
    assert [file.relative for file in storage.files(root, within=())] == ["top"]
    assert [file.relative for file in storage.files(root, within=("y",))] == ["top", *sorted(names)[6:]]
    prefixes = {query.split("=")[1] for request in seen for query in request.url.split("&") if "prefix=" in query}
    assert any(prefix.endswith("x%2F") for prefix in prefixes) and any(p.endswith("y%2F") for p in prefixes)
    assert [file.relative for file in storage.glob(f"{root}/y/*")] == list("01234")


def test_deep_folders_take_as_many_answers_one_after_another_as_there_are_levels(server, monkeypatch):
    monkeypatch.setattr(objects, "PAGE", 3)
    names = [f"{first}/{second}/{number}" for first in "abc" for second in "xyz" for number in range(5)]
    for name in names:
        storage.write(f"gs://b/raw/{name}", b"1")
    server.spans.clear()
    server.delay = 0.1
    assert [file.relative for file in storage.files("gs://b/raw")] == names
    # Three levels, each with its objects and then its folders, and the second page of the last; on a busy machine some
    # requests are late. One after another they would be 19.
    assert 7 <= objects.one_after_another(server.spans) <= 12
