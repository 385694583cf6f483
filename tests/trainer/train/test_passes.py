"""The order in which training goes round the records, on records that are their own keys."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from trainer.formats.frames import frame
from trainer.train.passes import MAX_INTERLEAVED_SHARDS, PART, endless_records, part

COUNTS = [7, 1, 12, 5, 5, 0, 3, 9, 2, 6, 11, 4, 8, 1, 10, 6, 7, 2, 5, 3, 9]
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """More shards than are read at a time, of unequal length; record 3 of shard 2 is b"2/3"."""
    folder = tmp_path_factory.mktemp("shards")
    for shard, count in enumerate(COUNTS):
        (folder / str(shard)).write_bytes(b"".join(frame(b"%d/%d" % (shard, i)) for i in range(count)))
    return [str(folder / str(shard)) for shard in range(len(COUNTS))]


ALL = sorted(b"%d/%d" % (shard, i) for shard, count in enumerate(COUNTS) for i in range(count))


def keys(paths, begin, count, window=16, seed=0):
    stream = traced(tuple(paths), window, seed)(part(np.array(COUNTS), window, seed, begin, count))
    return list(stream.as_numpy_iterator())


@functools.cache
def traced(paths, window, seed):
    """The graph of a stream, into which any part of the passes can be put."""
    return tf.function(lambda part: endless_records(paths, window, seed, part), input_signature=[PART])


@pytest.mark.parametrize(("window", "epoch"), [(1, 31), (5, 60), (16, 31), (TOTAL // 2, 60), (TOTAL + 1, 31)])
def test_epochs_that_follow_one_another_see_every_record_once_per_pass(paths, window, epoch):
    epochs = -(-2 * TOTAL // epoch)
    seen = [key for number in range(epochs) for key in keys(paths, number * epoch, epoch, window)]
    assert sorted(seen[:TOTAL]) == ALL
    assert sorted(seen[TOTAL : 2 * TOTAL]) == ALL
    assert seen[:TOTAL] != seen[TOTAL : 2 * TOTAL]


@pytest.mark.parametrize("window", [1, 16, TOTAL + 1])
def test_where_epochs_begin_changes_nothing_about_the_order(paths, window):
    whole = keys(paths, 0, 3 * TOTAL + 5, window)
    for begin, count in ((3, 40), (16, 16), (TOTAL - 1, 2), (TOTAL + 37, TOTAL + 9)):
        assert keys(paths, begin, count, window) == whole[begin : begin + count], (begin, count)


def test_an_epoch_may_be_longer_than_many_passes(paths):
    seen = keys(paths, 2 * TOTAL, 5 * TOTAL)
    assert len(seen) == 5 * TOTAL and {seen.count(key) for key in ALL} == {5}


def test_the_order_depends_on_seed_and_pass_but_not_on_the_process_seed(paths):
    tf.random.set_seed(0)
    first = keys(paths, 0, TOTAL)
    tf.random.set_seed(5)
    traced.cache_clear()
    assert keys(paths, 0, TOTAL) == first
    assert keys(paths, 0, TOTAL, seed=1) != first
    assert keys(paths, TOTAL, TOTAL) != first


def test_a_small_set_is_shuffled_as_a_whole(paths):
    """Any record may come at any place: over passes, the mean place of each is the middle."""
    passes = 60
    seen = keys(paths, 0, passes * TOTAL, window=TOTAL + 1)
    places = {key: [] for key in ALL}
    for place, key in enumerate(seen):
        places[key].append(place % TOTAL / TOTAL)
    # A uniform place has a standard deviation of 0.29; that of a mean of 60 is 0.037.
    assert max(abs(np.mean(found) - 0.5) for found in places.values()) < 5 * 0.037
    assert 0.2 < np.mean([np.std(found) for found in places.values()]) < 0.35


def test_a_window_mixes_the_shards_that_are_read_at_a_time(paths):
    """Neighbours come from as many shards as are open, and from others in every pass."""
    shards = [{key.split(b"/")[0] for key in keys(paths, number * TOTAL, 16, 16)} for number in range(4)]
    assert all(len(found) > MAX_INTERLEAVED_SHARDS // 2 for found in shards)
    assert len(set.union(*shards)) > MAX_INTERLEAVED_SHARDS


def test_what_lies_before_an_epoch_is_not_opened(paths, tmp_path):
    """The last record of a pass comes although every other shard is gone."""
    last = keys(paths, TOTAL - 1, 1, window=1)[0].split(b"/")[0].decode()
    elsewhere = [str(tmp_path / "gone") if str(shard) != last else path for shard, path in enumerate(paths)]
    assert keys(elsewhere, TOTAL - 1, 1, window=1)[0].startswith(last.encode() + b"/")


@pytest.mark.parametrize("begin", [0, 40, TOTAL])
def test_a_part_may_have_no_records(paths, begin):
    """As of an epoch all of whose steps are done, also where it ends with a pass."""
    assert keys(paths, begin, 0) == []


@pytest.mark.parametrize("difference", [1, -1])
@pytest.mark.parametrize("begin", [0, 2 * TOTAL - 30])
def test_a_pass_that_finds_another_number_of_records_is_an_error(paths, difference, begin):
    counts = np.array(COUNTS)
    counts[2] += difference
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain"):
        list(endless_records(paths, 16, 0, part(counts, 16, 0, begin, 2 * TOTAL)))
