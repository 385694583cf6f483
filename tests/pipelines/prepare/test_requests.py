"""How many requests `prepare` takes in Cloud Storage, and how many of them wait for the answer to another one."""

from __future__ import annotations

import pytest

from benchmarks.objects import one_after_another
from pipelines.prepare import workarea
from tests.drawn.prepared import prepare_here
from trainer import storage

LATE = 5
"""Requests that a busy machine may send only when those beside them have been answered."""


@pytest.fixture
def remote(server, source):
    """A Cloud Storage that takes its time, with the raw set of `source`."""
    for file in storage.files(str(source)):
        storage.write(f"gs://b/raw/{file.relative}", storage.read(file.path))
    server.delay = 0.1  # far longer than what is done between two answers
    return server


def taken(server, copies: int = 0, output: str = "") -> tuple[int, int]:
    """The number of requests of a run, and of those that came one after the other."""
    server.requests.clear()
    server.spans.clear()
    output = output or f"gs://b/{copies}"
    assert prepare_here("gs://b/raw", output, "--shards", "1", "--copies", str(copies)) == 0
    return len(server.requests), one_after_another(server.spans)


def test_requests_wait_only_for_answers_that_they_depend_on(remote):
    images, shards = 11, 2
    requests, waits = taken(remote)
    # A shard: plan (written, read twice, removed), note (made, removed), shard, sidecar (looked for, written, read).
    assert requests == 19 + 2 * images + images + 10 * shards  # some labels, here all of them, are read beforehand
    # Lease 2, raw set 2, labels 2 and palette 1 with their note 1, plans 1, output 4. Here the shards take turns, each
    # with what it needs to know, images, plan, shard, and the sidecar while the note is removed.
    assert waits <= 13 + 5 * shards + LATE
    requests, waits = taken(remote)
    assert requests == 20 + images + shards
    assert waits <= 12 + LATE


def test_copies_of_an_image_take_no_requests(remote):
    assert taken(remote, copies=3)[0] == taken(remote, copies=0)[0]


def test_a_shard_that_an_ended_run_has_begun_takes_as_many_requests_again_and_reads_its_images_together(remote):
    remote.delay = 0.05
    whole, waits = taken(remote, copies=3)
    for name in ("train-00000-of-00001.tfrecord", "val-00000-of-00001.tfrecord"):
        workarea.notes("gs://b/ended").start(name)
    again, resumed = taken(remote, copies=3, output="gs://b/ended")
    # A note is looked at, and written again; a file that replaces another one is asked for first.
    assert again <= whole + 2 * 4 and resumed <= waits + 2 * 3 + LATE
    shards = [storage.read(f"gs://b/{folder}/train-00000-of-00001.tfrecord") for folder in ("3", "ended")]
    assert shards[0] == shards[1]
