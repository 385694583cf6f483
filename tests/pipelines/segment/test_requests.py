"""How many requests a chunk takes in Cloud Storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipelines.runner.notes import InFlight
from pipelines.segment.job import Turn
from trainer import storage


def test_a_note_around_a_piece_of_work_takes_two_requests(server):
    notes = InFlight("gs://seg/in-flight")
    with notes.watch("part") as recovery:
        assert recovery is None and len(server.requests) == 1
        with notes.watch("part") as recovery:
            assert recovery
    server.requests.clear()
    with notes.watch("other"):
        pass
    assert [method for method, _ in server.requests] == ["POST", "DELETE"]


def test_threads_that_write_ask_together_whose_turn_it_is(server):
    storage.write_json("gs://seg/out/segment.json", {"plan": "p", "fingerprint": "f"})
    server.requests.clear()
    turn, server.delay = Turn(), 0.1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: turn.check("gs://seg/out", "p", "f"), range(8)))
    assert len(server.requests) == 1
