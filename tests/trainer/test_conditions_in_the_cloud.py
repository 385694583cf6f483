"""Of several jobs that write an object at once, one succeeds, as Cloud Storage's conditions on generations hold it."""

from __future__ import annotations

import threading

import pytest

from trainer import leases, storage
from trainer.options import InputError


def at_once(server, works) -> list[object]:
    """What the functions return, of which each has read before any of them writes."""
    barrier, answers = threading.Barrier(len(works)), [None] * len(works)

    def together(number, method, address):
        if method in ("POST", "DELETE"):
            barrier.wait(60)

    def run(number, work):
        try:
            answers[number] = work()
        except InputError as error:
            answers[number] = error

    server.fault = together
    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.fault = None
    return answers


@pytest.mark.parametrize("before", [None, b"old"])
def test_one_of_several_makes_or_replaces_an_object(server, before):
    path = "gs://b/out/a.json"
    if before is not None:
        storage.write(path, before)
    works = [lambda data=data: storage.exchange(path, before, data) for data in (b"1", b"2", b"3")]
    answers = at_once(server, works)
    assert sorted(answers) == [False, False, True]
    assert storage.read(path) == (b"1", b"2", b"3")[answers.index(True)]


def test_what_was_replaced_meanwhile_is_not_removed(server):
    path = "gs://b/out/a.json"
    storage.write(path, b"old")
    works = [lambda: storage.exchange(path, b"old", None), lambda: storage.exchange(path, b"old", b"new")]
    removed, replaced = at_once(server, works)
    assert removed != replaced and storage.exists(path) == replaced


def test_an_exchange_whose_answer_was_lost_counts(server, monkeypatch):
    monkeypatch.setattr("trainer.attempts.WAITS", (0.0, 0.0))
    store, lost = server.store, []

    def loses(*arguments):
        about = store(*arguments)
        if not lost:
            lost.append(about)
            raise ConnectionResetError
        return about

    server.store = loses
    assert storage.exchange("gs://b/a.json", None, b"mine")
    assert not storage.exchange("gs://b/a.json", None, b"another") and len(lost) == 1


def test_one_of_two_jobs_that_begin_at_once_holds_the_folder(server):
    with leases.scope(print, print):
        works = [lambda name=name: leases.acquire("gs://b/out", name) for name in ("prepare", "segment")]
        answers = at_once(server, works)
        (refusal,) = [answer for answer in answers if answer]
        assert "gs://b/out is being written by `deeplab " in str(refusal)
    assert not storage.exists(f"gs://b/out/{leases.FILE}")


def test_large_objects_and_listings_are_as_in_cloud_storage(server):
    data = bytes(range(256)) * (36 << 10)  # 9 MB, which is sent in parts
    with storage.writer("gs://b/x/big") as file:
        file.write(data)
    storage.write("gs://b/x/y/small", b"1")
    assert storage.read("gs://b/x/big") == data
    assert [(file.relative, file.size) for file in storage.files("gs://b/x")] == [("big", len(data)), ("y/small", 1)]
    assert storage.files("gs://b/x")[0].identity == storage.identity(data)


def test_a_new_object_takes_one_request_and_is_made_once(server):
    assert storage.create("gs://seg/note", b"first") and len(server.requests) == 1
    assert not storage.create("gs://seg/note", b"second") and storage.read("gs://seg/note") == b"first"


def test_a_free_folder_is_leased_kept_and_released_in_a_request_each(server, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 3600.0)
    with leases.scope(print, print):
        leases.acquire("gs://b/out", "prepare")
        (lease,) = leases._held
        assert lease._renew() and lease._renew()
    assert [method for method, _ in server.requests] == ["POST", "POST", "POST", "DELETE"]
    assert not storage.exists(f"gs://b/out/{leases.FILE}")
