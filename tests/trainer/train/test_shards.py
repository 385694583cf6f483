"""Records of shards by their places, on records that are their own names."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from trainer.accounts import UnbalancedError
from trainer.formats.frames import CorruptRecord, frame
from trainer.train import shards
from trainer.train.passes import Passes
from trainer.train.shards import StreamedRecords, records_of

COUNTS = [7, 1, 12, 5, 5, 3, 9, 2, 6, 11]
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """More shards than are read at a time, of unequal length; record 3 of shard 2 is b"2/3"."""
    folder = tmp_path_factory.mktemp("shards")
    for shard, count in enumerate(COUNTS):
        (folder / str(shard)).write_bytes(b"".join(frame(b"%d/%d" % (shard, i)) for i in range(count)))
    return [str(folder / str(shard)) for shard in range(len(COUNTS))]


def local(paths, passes, counts=COUNTS):
    return records_of(paths, [SimpleNamespace(records=count) for count in counts], passes, 8)


def streamed(paths, passes, counts=COUNTS):
    return StreamedRecords(paths, [SimpleNamespace(records=count) for count in counts], passes, 8)


KINDS = pytest.mark.parametrize("kind", [local, streamed])


def assert_read(records, passes, begin, count):
    """Reads samples, each of which must be the record that it should be."""
    samples = [(window, *place) for window, places in passes.samples(begin, count) for place in places.tolist()]
    assert [records.read(*sample) for sample in samples] == [b"%d/%d" % sample[1:] for sample in samples]


@pytest.mark.parametrize(("kind", "size"), [(local, 1), (local, 16), (local, TOTAL), (streamed, 16)])
def test_every_record_is_read_by_its_place_wherever_reading_begins(paths, kind, size):
    passes = Passes(COUNTS, size, 0)
    records = kind(paths, passes)
    assert_read(records, passes, 37, TOTAL)
    assert_read(records, passes, 5, 20)
    assert_read(kind(paths, passes), passes, TOTAL - 1, 3)


@KINDS
def test_earlier_shards_are_not_opened(paths, tmp_path, kind):
    """The last record of a pass comes although every other shard of it is gone."""
    passes = Passes(COUNTS, 1, 0)
    [(window, places)] = passes.samples(TOTAL - 1, 1)
    shard, number = places[0].tolist()
    elsewhere = [str(tmp_path / "gone") if other != shard else path for other, path in enumerate(paths)]
    passes.after = lambda window: window
    assert kind(elsewhere, passes).read(window, shard, number).startswith(b"%d/" % shard)


@KINDS
@pytest.mark.parametrize("difference", [1, -1])
def test_a_shard_that_holds_another_number_of_records_is_an_error(paths, kind, difference):
    counts = list(COUNTS)
    counts[2] += difference
    passes = Passes(counts, 16, 0)
    with pytest.raises(UnbalancedError, match=r"^2 in .* has (more|at most \d+|\d+) records, expected"):
        assert_read(kind(paths, passes, counts), passes, 0, sum(counts))


@pytest.mark.parametrize("place", [0, 9, 13, -1])
def test_a_damaged_record_is_an_error(tmp_path, place):
    data = bytearray(frame(b"one") + frame(b"two"))
    data[place] ^= 1
    (tmp_path / "shard").write_bytes(data)
    passes = Passes([2], 2, 0)
    with pytest.raises(CorruptRecord):
        assert_read(local([str(tmp_path / "shard")], passes, [2]), passes, 0, 2)


def test_a_shard_that_ends_within_a_record_is_an_error(tmp_path):
    (tmp_path / "shard").write_bytes(frame(b"one") + frame(b"two")[:-1])
    passes = Passes([2], 2, 0)
    with pytest.raises(CorruptRecord, match="record 1 at byte 19: the shard ends after"):
        assert_read(local([str(tmp_path / "shard")], passes, [2]), passes, 0, 2)


def test_few_shards_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "OPEN_SHARDS", 3)
    names = [str(tmp_path / str(shard)) for shard in range(20)]
    for shard, name in enumerate(names):
        with open(name, "wb") as file:
            file.write(frame(b"%d/0" % shard))
    passes = Passes([1] * 20, 20, 0)
    records = local(names, passes, [1] * 20)
    before = len(os.listdir("/proc/self/fd"))
    assert_read(records, passes, 0, 60)
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_finished_windows_are_released(paths):
    passes = Passes(COUNTS, 16, 0)
    records = streamed(paths, passes)
    assert_read(records, passes, 0, TOTAL)
    assert len(records._windows) <= 3
