"""How many requests a chunk takes in Cloud Storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks.objects import one_after_another
from pipelines.runner.notes import InFlight
from pipelines.segment.job import NOTED, Turn
from pipelines.segment.table import FOLDER
from tests.drawn.segmenting import SIZES, draw, save, segment
from trainer import leases, storage

LATE = 5
"""Requests that a busy machine may send only when those beside them have been answered."""


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


def test_requests_wait_only_for_answers_that_they_depend_on(server, model, photos, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 3600.0)
    for file in storage.files(str(photos)):
        storage.write(f"gs://seg/in/{file.relative}", storage.read(file.path))
    server.delay = 0.1  # far longer than what is done between two answers

    def taken() -> tuple[int, int]:
        server.requests.clear()
        server.spans.clear()
        flags = ("--input", "gs://seg/in", "--model", model, "--output", "gs://seg/out")
        assert segment(*flags, "--direct_num_workers", 1) == 0
        return len(server.requests), one_after_another(server.spans)

    # Collection 2, lease 2, output 2, plan 2, what the only chunk needs to know 2, images, masks, its part and note 2,
    # results 5; and, if the network took a second or longer, the question whose turn it is.
    requests, waits = taken()
    assert requests <= 26 + 2 * len(SIZES)
    assert waits <= 21 + LATE
    requests, waits = taken()
    assert requests == 26
    assert waits <= 17 + LATE


def test_a_chunk_that_an_ended_run_has_begun_is_noted_a_few_images_at_a_time(server, model, tmp_path):
    names = [f"{number:02}" for number in range(2 * NOTED)]
    for number, name in enumerate(names):
        save(tmp_path / f"{name}.png", draw(24, 32, number))
        storage.write(f"gs://seg/in/{name}.png", (tmp_path / f"{name}.png").read_bytes())
    server.delay, requests, waits = 0.02, {}, {}
    for output in ("whole", "ended"):
        for part in storage.glob("gs://seg/whole/images.parquet/*") if output == "ended" else ():
            InFlight("gs://seg/ended/in-flight").start(f"{FOLDER}/{part.relative}")
        server.requests.clear()
        server.spans.clear()
        flags = ("--batch-size", len(names), "--direct_num_workers", 1)
        assert segment("--input", "gs://seg/in", "--model", model, "--output", f"gs://seg/{output}", *flags) == 0
        requests[output], waits[output] = len(server.requests), one_after_another(server.spans)
    # Masks that may be there are looked up, together; notes are looked at and written, and written for each piece.
    assert requests["ended"] <= requests["whole"] + len(names) + 2 * (2 + 2) + LATE
    assert waits["ended"] <= waits["whole"] + 2 * (1 + 2 + 2) + 2 * LATE
    for name in names:
        assert storage.read(f"gs://seg/ended/{name}.png") == storage.read(f"gs://seg/whole/{name}.png")
