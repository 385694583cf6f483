"""Functions in several subprocesses, which return bytes through files."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.runner import partners
from pipelines.runner.subprocesses import Died
from trainer import prefetch, storage
from trainer.options import InputError

LONG = 3_000_000

# What follows runs in the subprocess.


def put_pieces(put, *pieces):
    for piece in pieces:
        put(piece)
    return os.getpid()


def put_much(put, number):
    for n in range(number):
        put(bytes([n]) * LONG)


def fail(put, text):
    put(b"of the failed call")
    raise ValueError(text)


def end(put, sign):
    os.kill(os.getpid(), sign)


def has(condition):
    """Whether the condition comes to hold within a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def come_and_wait(put, here, go_on):
    Path(here).touch()
    assert has(Path(go_on).exists)


def read(put, paths):
    for path, read in prefetch.read_ahead(paths, lambda path: (path,)):
        put(read(path))


def meet(put, folder, number):
    """Returns once as many processes as `number` are here at the same time."""
    Path(folder, str(os.getpid())).touch()
    assert has(lambda: len(os.listdir(folder)) >= number)
    return os.getpid()


@pytest.fixture
def crew(tmp_path):
    with partners.started(1, str(tmp_path)):
        yield partners.running()


def test_a_call_returns_its_result_and_bytes_of_every_length_in_order(crew):
    pieces = [b"first", b"", bytes(range(256)) * 1000, b"last"]
    process, records = crew(put_pieces, *pieces)
    assert records == pieces and process != os.getpid()
    assert crew(put_pieces, b"next") == (process, [b"next"])
    assert crew(put_pieces) == (process, [])
    _, records = crew(put_much, 5)
    assert records == [bytes([n]) * LONG for n in range(5)]


def test_partners_know_how_long_their_bytes_usually_are(crew):
    before = crew.usual
    crew(put_much, 40)
    assert before < crew.usual <= LONG
    crew(put_pieces, *[b"short"] * 200)
    assert crew.usual < 100


def test_errors_are_those_of_the_function_and_a_crash_is_one_of_its_call(crew):
    for _ in range(2):
        with pytest.raises(ValueError, match="bad image"):
            crew(fail, "bad image")
    before, _ = crew(put_pieces)
    with pytest.raises(Died, match="SIGSEGV"):
        crew(end, signal.SIGSEGV)
    after, records = crew(put_pieces, b"sound")
    assert after != before and records == [b"sound"]
    with pytest.raises(storage.Unavailable, match="asked to end; run the same command again"):
        crew(end, signal.SIGTERM)


def test_each_partner_is_a_process_of_its_own_and_ends_with_the_block(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    with partners.started(3, str(tmp_path)), ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(partners.running(), meet, str(folder), 3) for _ in range(6)]
        processes = {call.result()[0] for call in calls}
        crew = partners.running()
    assert len(processes) == 3 and partners.running() is None
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert os.listdir(tmp_path) == ["here"], "files of the partners are left"
    with pytest.raises(InputError, match="has ended"):
        crew(put_pieces)


def test_the_files_of_the_next_calls_are_read_during_a_call(server, tmp_path):
    paths = [f"gs://b/{number}" for number in range(4)]
    for path in paths:
        storage.write(path, path.encode())
    server.requests.clear()
    with partners.started(1, str(tmp_path), ahead=2), ThreadPoolExecutor(4) as pool:
        crew = partners.running()
        assert (crew.number, crew.threads) == (1, 4)
        first = pool.submit(crew, come_and_wait, tmp_path / "here", tmp_path / "go on")
        assert has((tmp_path / "here").exists)
        later = [
            pool.submit(crew, read, paths[:2], paths=paths[:2]),
            pool.submit(crew, read, paths[2:], paths=paths[2:]),
        ]
        assert has(lambda: len(server.requests) == 4)
        assert not any(call.done() for call in (first, *later))
        (tmp_path / "go on").touch()
        assert [call.result()[1] for call in later] == [[b"gs://b/0", b"gs://b/1"], [b"gs://b/2", b"gs://b/3"]]
    assert len(server.requests) == 4


def test_an_error_in_the_block_ends_the_partners_too(tmp_path):
    with contextlib.suppress(KeyError), partners.started(2, str(tmp_path)):
        process, _ = partners.running()(put_pieces)
        raise KeyError
    assert partners.running() is None
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_job_without_partners_has_none():
    with partners.started(0):
        assert partners.running() is None
