"""What comes next is read while one works, what is made is written meanwhile, and both are bounded."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest

from trainer import prefetch, storage


def stored(count: int) -> list[str]:
    paths = [f"gs://b/{number:02d}" for number in range(count)]
    for path in paths:
        storage.write(path, path.encode())
    return paths


def downloads(server) -> int:
    return sum("alt=media" in address for _, address in server.requests)


def test_files_come_in_order_and_many_at_a_time(server):
    paths = stored(20)
    server.requests.clear()
    many = threading.Barrier(8, timeout=60)

    def fault(number, method, address):
        if address.endswith(tuple(f"{path[-2:]}?alt=media" for path in paths[:8])):
            many.wait()  # which they all do, or the test fails

    server.fault = fault
    assert [read(path) for path, read in prefetch.read_ahead(paths, lambda path: (path,))] == [
        path.encode() for path in paths
    ]
    assert prefetch._buffer.held == 0 and downloads(server) == 20


def test_expected_files_are_read_once_and_in_advance(server):
    paths = stored(6)
    server.requests.clear()
    prefetch.expect([*paths[:4], "/a/local/file"])
    prefetch.expect(paths[2:4])  # as for an image whose copies are two items
    deadline = time.monotonic() + 60
    while downloads(server) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [read(path) for path, read in prefetch.read_ahead(paths, lambda path: (path,))] == [
        path.encode() for path in paths
    ]
    assert downloads(server) == 6 and prefetch._buffer.held == 0 and not prefetch._expected


def test_no_more_is_expected_than_there_is_room_for(server, monkeypatch):
    paths = stored(9)
    with monkeypatch.context() as patch:
        patch.setattr(prefetch, "BUDGET", 3 * prefetch._buffer.usual)
        go_on = threading.Event()
        server.fault = lambda *request: go_on.wait(20) and None  # or files that have come would make room for others
        prefetch.expect(paths)
        assert list(prefetch._expected) == paths[:3]
        go_on.set()
    assert [read(path) for path, read in prefetch.read_ahead(paths, lambda path: (path,))] == [
        path.encode() for path in paths
    ]
    assert prefetch._buffer.held == 0


def test_expected_files_that_nobody_reads_make_room(server, monkeypatch):
    monkeypatch.setattr(prefetch, "EXPECTED", 3)
    paths = stored(5)
    prefetch.expect(paths)
    assert list(prefetch._expected) == paths[2:]
    for path, read in prefetch.read_ahead(paths, lambda path: (path,)):
        assert read(path) == path.encode()
    assert prefetch._buffer.held == 0


def test_errors_come_with_their_item_and_a_second_reading_asks_again(server):
    paths = stored(3)
    storage.remove(paths[1])
    outcomes = []
    for path, read in prefetch.read_ahead(paths, lambda path: (path,)):
        try:
            outcomes.append(read(path))
        except FileNotFoundError:
            storage.write(path, b"back")
            outcomes.append(read(path))
    assert outcomes == [paths[0].encode(), b"back", paths[2].encode()]


def test_no_more_is_read_ahead_than_there_is_room_for_and_what_is_left_is_given_back(server, monkeypatch):
    paths = stored(30)
    server.requests.clear()
    monkeypatch.setattr(prefetch, "BUDGET", 3 * prefetch._buffer.usual)
    go_on = threading.Event()

    def fault(number, method, address):
        go_on.wait(20)  # or files that have come would make room for others

    server.fault = fault
    items = prefetch.read_ahead(paths, lambda path: (path,))
    next(items)
    assert downloads(server) <= 3
    go_on.set()
    items.close()  # as where an item ends the job
    assert prefetch._buffer.held == 0
    monkeypatch.setattr(prefetch, "BUDGET", 0)
    few = paths[:3]
    assert [read(path) for path, read in prefetch.read_ahead(few, lambda path: (path,))] == [
        path.encode() for path in few
    ]


def test_local_files_are_read_where_they_are_needed(tmp_path):
    (tmp_path / "a").write_bytes(b"first")
    ((path, read),) = prefetch.read_ahead([str(tmp_path / "a")], lambda path: (path,))
    (tmp_path / "a").write_bytes(b"second")
    assert read(path) == b"second"


def test_writes_run_in_the_background_and_raise_their_errors_in_order():
    started, go_on = [], threading.Event()

    def write(item: int) -> int:
        started.append(item)
        go_on.wait(60)
        if item == 1:
            raise OSError("of 1")
        return 10 * item

    written = prefetch.write_behind(range(3 * prefetch.DEPTH), "gs://b", write, lambda item: 1)
    _, result = next(written)
    while len(started) < prefetch.DEPTH:
        time.sleep(0.001)
    go_on.set()
    assert result() == 0
    _, result = next(written)
    with pytest.raises(OSError, match="of 1"):
        result()
    assert [result() for _, result in written] == [10 * item for item in range(2, 3 * prefetch.DEPTH)]
    assert prefetch._buffer.held == 0


def test_what_is_not_written_after_a_failure_is_no_longer_held():
    def write(item: int) -> None:
        if item == 1:
            raise OSError("of 1")

    with pytest.raises(OSError, match="of 1"):
        for _, result in prefetch.write_behind(range(9), "gs://b", write, lambda item: 1 << 20):
            result()
    assert prefetch._buffer.held == 0


def test_large_items_are_written_one_by_one(monkeypatch):
    monkeypatch.setattr(prefetch, "BUDGET", 0)
    most, at_work = [], []

    def write(item: int) -> None:
        at_work.append(item)
        most.append(len(at_work))
        at_work.remove(item)

    for _, result in prefetch.write_behind(range(5), "gs://b", write, lambda item: 1 << 30):
        result()
    assert max(most) == 1


def test_local_files_are_written_by_who_asks():
    for _, result in prefetch.write_behind(
        range(2), "/local", lambda item: threading.current_thread(), lambda item: 1
    ):
        assert result() is threading.current_thread()


def no_files(item: int) -> tuple[str, ...]:
    return ()


def test_one_list_keeps_all_threads_at_work_and_its_results_come_in_order():
    together, started = threading.Barrier(3, timeout=60), itertools.count()

    def work(item: int, read: prefetch.Read) -> int:
        if next(started) < 3:
            together.wait()  # which all three do at once, or the test fails
        if item == 5:
            raise OSError("of 5")
        time.sleep(0.001 * (item % 3))
        return 10 * item

    outcomes = []
    for item, result in prefetch.work_ahead(range(30), no_files, work, threads=3):
        try:
            outcomes.append(result())
        except OSError as error:
            outcomes.append(str(error))
        assert len(outcomes) == item + 1
    assert outcomes == [10 * item if item != 5 else "of 5" for item in range(30)]


def test_a_helper_goes_on_while_the_thread_with_the_list_is_at_its_own_item():
    busy, helped, here = threading.Event(), threading.Semaphore(0), threading.current_thread()

    def work(item: int, read: prefetch.Read) -> bool:
        if threading.current_thread() is not here:
            helped.release(busy.wait(60))
        elif not busy.is_set():
            busy.set()
            return helped.acquire(timeout=60) and helped.acquire(timeout=60)
        return True

    assert [result() for _, result in prefetch.work_ahead(range(9), no_files, work, threads=2)] == 9 * [True]


def test_what_ends_a_helper_reaches_who_asks_for_the_result():
    here, helped = threading.current_thread(), threading.Event()

    def work(item: int, read: prefetch.Read) -> None:
        if threading.current_thread() is not here:
            helped.set()
            raise SystemExit(3)
        helped.wait(20)

    with contextlib.closing(prefetch.work_ahead(range(4), no_files, work, threads=2)) as results:
        _, result = next(results)
        with pytest.raises(SystemExit):
            result()


def test_who_has_a_list_works_on_it_alone_while_all_have_one():
    def work(item: int, read: prefetch.Read) -> threading.Thread:
        time.sleep(0.001)
        return threading.current_thread()

    here = threading.current_thread()
    other = prefetch.work_ahead(range(2), no_files, work, threads=2)
    next(other)
    assert {result() for _, result in prefetch.work_ahead(range(9), no_files, work, threads=2)} == {here}
    other.close()
    assert {result() for _, result in prefetch.work_ahead(range(99), no_files, work, threads=2)} > {here}
    assert {result() for _, result in prefetch.work_ahead(range(9), no_files, work, threads=1)} == {here}


def test_work_is_done_ahead_of_a_slow_item_up_to_a_bound():
    started, go_on = [], threading.Event()

    def work(item: int, read: prefetch.Read) -> int:
        started.append(item)
        if len(started) == 8:
            go_on.set()
        if item == 0:
            go_on.wait(60)
        return item

    results = prefetch.work_ahead(range(99), no_files, work, threads=4)
    assert next(results)[1]() == 0 and sorted(started) == [*range(8)]
    assert [result() for _, result in results] == list(range(1, 99))


def test_items_whose_results_nobody_takes_give_back_what_they_hold(server):
    paths = stored(30)
    go_on = threading.Event()

    def work(path: str, read: prefetch.Read) -> bytes:
        if path == paths[1]:
            go_on.wait(60)
        return read(path)

    results = prefetch.work_ahead(paths, lambda path: (path,), work, threads=5)
    assert next(results)[1]() == paths[0].encode()
    results.close()  # as where an item ends the job
    go_on.set()
    again = prefetch.work_ahead(paths, lambda path: (path,), work, threads=5)
    assert [result() for _, result in again] == [path.encode() for path in paths]
    while prefetch._buffer.held or prefetch._crew(5)._free < 5:
        time.sleep(0.001)
