"""One record from its source files."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from threading import Barrier, Event
from typing import Any
from unittest import mock

import google_crc32c
import numpy as np
import pytest
from PIL import Image

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry, load, make_record
from pipelines.prepare import making, shards
from pipelines.prepare.job import WriteShard
from pipelines.prepare.options import Options
from pipelines.prepare.plan import Spec
from pipelines.prepare.shards import make_shard
from pipelines.prepare.workarea import Outcome, read_sidecar, sidecar_name, write_plan, write_sidecar
from pipelines.runner.progress import Heartbeat
from tests.drawn.prepared import read_records, read_shard
from tests.drawn.rawset import write_pair
from tests.drawn.records import PALETTE, draw_image
from trainer import storage
from trainer.formats import images
from trainer.formats.examples import decode


def test_a_copy_follows_from_seed_key_and_number_alone(prepared, source):
    options = Options(input=str(source), output=str(prepared), copies=2)
    record = next(record for record in read_records(prepared) if (record.key, record.copy) == ("train/a3", 2))
    entry = Entry("train/a3", record.filename, f"{source}/images/train/a3.jpg", f"{source}/labels/train/a3.png", 2)
    assert make_record(entry, load([entry], PALETTE, options), PALETTE, options)[0] == record


@pytest.mark.parametrize(
    ("name", "mode", "image_format", "channels", "untouched"),
    [
        ("a.png", "RGB", "png", 3, True),
        ("a.png", "L", "png", 1, True),
        ("a.jpg", "L", "jpeg", 1, True),
        ("a.png", "RGBA", "png", 3, False),
        ("a.bmp", "RGB", "png", 3, False),
        ("a.jpg", "CMYK", "jpeg", 3, False),
    ],
)
def test_only_plain_jpegs_and_pngs_stay_as_they_are(tmp_path, name, mode, image_format, channels, untouched):
    image, label = draw_image(1)
    write_pair(tmp_path, "train", name, image, label)
    path = tmp_path / "images/train" / name
    Image.fromarray(image).convert(mode).save(path)
    entry = Entry("train/a", f"images/train/{name}", str(path), str(tmp_path / "labels/train/a.png"), 0)
    source = load([entry], PALETTE, RecordOptions())
    record, _ = make_record(entry, source, PALETTE, RecordOptions())
    assert (record.image_format, record.channels) == (image_format, channels)
    assert (record.image == path.read_bytes()) == untouched
    if image_format == "png" and mode != "L":
        np.testing.assert_array_equal(images.decode_image(record.image), image)


def write_shard(*arguments: Any, **named: Any) -> Outcome:
    return make_shard(*arguments, **named)()


def test_a_shard_is_written_and_described_and_every_entry_is_finished(tmp_path):
    write_pair(tmp_path, "train", "a.png", *draw_image(1, 96, 100))
    paths = [str(tmp_path / folder / "train/a.png") for folder in ("images", "labels")]
    entries = [
        Entry("a", "a.png", *paths, 0),
        Entry("b", "b.png", "gone.png", paths[1], 0),
        Entry("a", "a.png", *paths, 1),
    ]
    spec, outcomes = Spec("train-00000-of-00001.tfrecord", "train", "f", 3), []
    outcome = write_shard(str(tmp_path / "out"), spec, entries, PALETTE, RecordOptions(), outcomes.append)
    assert outcomes == ["written", "written", "rejected"]  # image by image
    write_sidecar(str(tmp_path / "out"), outcome)
    assert read_sidecar(str(tmp_path / "out"), spec.name) == outcome
    shard, (reject,) = outcome.shard, outcome.rejects
    assert (shard.records, shard.images, shard.fingerprint) == (2, 1, "f")
    assert (shard.min_size, shard.max_size) == ((96, 100), (96, 100))
    assert shard.bytes == (tmp_path / "out" / spec.name).stat().st_size
    assert sum(shard.class_pixels) + shard.ignored_pixels == 2 * 96 * 100
    assert (reject.key, reject.path, reject.stage) == ("b", "gone.png", "prepare")
    assert reject.reason == "cannot be read: No such file or directory"


def shuffled_entries(folder: Path, images: int, copies: int) -> list[Entry]:
    """Entries of new images, as a plan has them: the copies of an image apart from each other."""
    entries = []
    for number in range(images):
        write_pair(folder, "train", f"a{number}.png", *draw_image(number, 96, 100))
        paths = [str(folder / kind / f"train/a{number}.png") for kind in ("images", "labels")]
        entries += [Entry(f"a{number}", f"a{number}.png", *paths, copy) for copy in range(copies + 1)]
    random.Random(3).shuffle(entries)
    return entries


def test_an_image_is_read_once_for_all_its_records_which_keep_their_places(tmp_path, monkeypatch):
    entries = shuffled_entries(tmp_path, images=4, copies=2)
    pair, reads = itertools.pairwise(entry.key for entry in entries), []
    assert sum(first == second for first, second in pair) < 4
    given = PALETTE, RecordOptions()
    expected = [make_record(entry, load([entry], *given), *given)[0] for entry in entries]
    spec = Spec("train-00000-of-00001.tfrecord", "train", "f", 12)
    monkeypatch.setattr(making, "load", lambda *arguments: reads.append(arguments[0][0].key) or load(*arguments))
    outcome = write_shard(str(tmp_path / "out"), spec, entries, *given)
    assert [decode(one.data) for one in read_shard(tmp_path / "out" / spec.name)] == expected
    assert outcome.shard.crc32c == google_crc32c.value((tmp_path / "out" / spec.name).read_bytes())
    assert reads == list(dict.fromkeys(entry.key for entry in entries))
    monkeypatch.setattr(making, "TOGETHER", 2)
    assert write_shard(str(tmp_path / "out"), spec, entries, *given) == outcome._replace(modified=mock.ANY)
    assert len(reads) == 4 + 2 * 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == [spec.name]


def test_an_image_that_cannot_be_read_leaves_all_its_places_empty(tmp_path):
    entries = shuffled_entries(tmp_path, images=4, copies=2)
    spec = Spec("train-00000-of-00001.tfrecord", "train", "f", 12)
    (tmp_path / "labels/train/a2.png").write_bytes(b"no label")
    outcome = write_shard(str(tmp_path / "out"), spec, entries, PALETTE, RecordOptions())
    written = [decode(one.data) for one in read_shard(tmp_path / "out" / spec.name)]
    assert [(one.key, one.copy) for one in written] == [(e.key, e.copy) for e in entries if e.key != "a2"]
    assert [reject.key for reject in outcome.rejects] == ["a2"] * 3 and outcome.shard.records == 9


def test_all_threads_of_a_process_make_the_records_of_its_only_shard(tmp_path, monkeypatch):
    entries = shuffled_entries(tmp_path, images=6, copies=1)
    spec, together = Spec("train-00000-of-00001.tfrecord", "train", "f", 12), Barrier(3, timeout=60)
    started = itertools.count()

    def loaded(*given):
        if next(started) < 3:
            together.wait()  # which all three do at once, or the test fails
        return load(*given)

    alone = write_shard(str(tmp_path / "one"), spec, entries, PALETTE, RecordOptions())
    monkeypatch.setattr(making, "load", loaded)
    shared = write_shard(str(tmp_path / "three"), spec, entries, PALETTE, RecordOptions(), threads=3)
    assert shared.shard == alone.shard and shared.shard.records == 12
    assert (tmp_path / "three" / spec.name).read_bytes() == (tmp_path / "one" / spec.name).read_bytes()


def test_a_shard_of_rejects_has_no_file(tmp_path):
    spec = Spec("train-00000-of-00001.tfrecord", "train", "f", 1)
    outcome = write_shard(
        str(tmp_path), spec, [Entry("a", "a.png", "gone.png", "gone.png", 0)], PALETTE, RecordOptions()
    )
    assert outcome.shard.records == 0 and len(outcome.rejects) == 1
    assert not list(tmp_path.rglob("*.*"))


def test_a_shard_that_is_tried_again_is_kept_once_it_is_finished(tmp_path):
    """Runners do much again when they lose a worker. What was planned anew has lost its sidecar, and is written."""
    write_pair(tmp_path, "train", "a.png", *draw_image(1, 96, 100))
    folder, paths = str(tmp_path / "out"), [str(tmp_path / kind / "train/a.png") for kind in ("images", "labels")]
    name = "train-00000-of-00001.tfrecord"
    spec = Spec(name, "train", "f", 1, write_plan(folder, name, [Entry("a", "a.png", *paths, 0)]))
    work, shard = WriteShard(Heartbeat(), folder, PALETTE, RecordOptions()), tmp_path / "out" / name

    def written_by(spec: Spec) -> int:
        work.start_bundle()
        work.process(spec)
        return shard.stat().st_ino

    first = written_by(spec)
    assert written_by(spec) == first
    assert written_by(spec._replace(fingerprint="g")) != first
    shard.unlink()
    work.process(spec._replace(fingerprint="g"))
    assert shard.exists()
    (tmp_path / "out" / sidecar_name(name)).unlink()
    before = shard.stat()
    work.process(spec)
    assert shard.stat().st_mtime_ns != before.st_mtime_ns


@pytest.fixture
def two_shards(tmp_path, server) -> tuple[WriteShard, list[Spec]]:
    """What writes two shards to Cloud Storage, and their specs."""
    write_pair(tmp_path, "train", "a.png", *draw_image(1, 96, 100))
    paths = [str(tmp_path / kind / "train/a.png") for kind in ("images", "labels")]
    work = WriteShard(Heartbeat(), "gs://b/out", PALETTE, RecordOptions())
    names = [f"train-0000{n}-of-00002.tfrecord" for n in range(2)]
    specs = [
        Spec(name, "train", "f", 1, write_plan(work.folder, name, [Entry("a", "a.png", *paths, number)]))
        for number, name in enumerate(names)
    ]
    work.start_bundle()
    return work, specs


def test_a_shard_goes_to_cloud_storage_while_the_next_one_is_made(two_shards, monkeypatch):
    work, specs = two_shards
    make, is_next_made = shards.make_shard, Event()

    def made(folder, spec, *given):
        write = make(folder, spec, *given)
        if spec == specs[1]:
            is_next_made.set()
            return write
        return lambda: write() if is_next_made.wait(60) else pytest.fail("the next shard waits for this one")

    monkeypatch.setattr(shards, "make_shard", made)
    for spec in specs:
        work.process(spec)
    work.finish_bundle()
    assert [read_sidecar(work.folder, spec.name).shard.records for spec in specs] == [1, 1]
    assert all(storage.exists(f"{work.folder}/{spec.name}") for spec in specs)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_shard_that_cannot_be_written_later_ends_the_bundle(two_shards, monkeypatch, failing):
    work, specs = two_shards
    make = shards.make_shard

    def full() -> None:
        raise storage.Unavailable("full")

    monkeypatch.setattr(shards, "make_shard", lambda *given: full if given[1] == specs[failing] else make(*given))
    with pytest.raises(storage.Unavailable, match="full"):
        for spec in specs:
            work.process(spec)
        assert failing  # that of the first shard comes before the second is written
        work.finish_bundle()
    assert read_sidecar(work.folder, specs[failing].name) is None
