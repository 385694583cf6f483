"""The order in which training goes round the records: which one comes when, by shard and number."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.train.passes import MAX_INTERLEAVED_SHARDS, Passes, Window

COUNTS = [7, 1, 12, 5, 5, 0, 3, 9, 2, 6, 11, 4, 8, 1, 10, 6, 7, 2, 5, 3, 9]
TOTAL = sum(COUNTS)
ALL = sorted((shard, number) for shard, count in enumerate(COUNTS) for number in range(count))


def keys(begin, count, window=16, seed=0):
    """The records of samples, as (shard, number)."""
    found = Passes(COUNTS, window, seed).samples(begin, count)
    return [tuple(place) for _, places in found for place in places.tolist()]


@pytest.mark.parametrize(("window", "epoch"), [(1, 31), (5, 60), (16, 31), (TOTAL // 2, 60), (TOTAL + 1, 31)])
def test_epochs_that_follow_one_another_see_every_record_once_per_pass(window, epoch):
    epochs = -(-2 * TOTAL // epoch)
    seen = [key for number in range(epochs) for key in keys(number * epoch, epoch, window)]
    assert sorted(seen[:TOTAL]) == ALL
    assert sorted(seen[TOTAL : 2 * TOTAL]) == ALL
    assert seen[:TOTAL] != seen[TOTAL : 2 * TOTAL]


@pytest.mark.parametrize("window", [1, 16, TOTAL + 1])
def test_where_epochs_begin_changes_nothing_about_the_order(window):
    whole = keys(0, 3 * TOTAL + 5, window)
    for begin, count in ((3, 40), (16, 16), (TOTAL - 1, 2), (TOTAL + 37, TOTAL + 9)):
        assert keys(begin, count, window) == whole[begin : begin + count], (begin, count)


def test_an_epoch_may_be_longer_than_many_passes():
    seen = keys(2 * TOTAL, 5 * TOTAL)
    assert len(seen) == 5 * TOTAL and {seen.count(key) for key in ALL} == {5}


def test_the_order_depends_on_seed_pass_and_window():
    first = keys(0, TOTAL)
    assert keys(0, TOTAL, seed=1) != first
    assert keys(TOTAL, TOTAL) != first
    # In windows of one size over shards of one size nothing else tells the second window from the first.
    _, places = zip(*Passes([32] * 2, 32, 0).samples(0, 64), strict=True)
    turns = [(part[:, 1] % 16 * 2 + part[:, 0]).tolist() for part in places]
    assert turns[0] != turns[1]


def test_a_small_set_is_shuffled_as_a_whole():
    """Any record may come at any place: over passes, the mean place of each is the middle."""
    passes = 60
    seen = keys(0, passes * TOTAL, window=TOTAL + 1)
    places = {key: [] for key in ALL}
    for place, key in enumerate(seen):
        places[key].append(place % TOTAL / TOTAL)
    # A uniform place has a standard deviation of 0.29; that of a mean of 60 is 0.037.
    assert max(abs(np.mean(found) - 0.5) for found in places.values()) < 5 * 0.037
    assert 0.2 < np.mean([np.std(found) for found in places.values()]) < 0.35


def test_a_window_mixes_the_shards_that_are_read_at_a_time():
    """Neighbours come from as many shards as are open, and from others in every pass."""
    shards = [{key[0] for key in keys(number * TOTAL, 16, 16)} for number in range(4)]
    assert all(len(found) > MAX_INTERLEAVED_SHARDS // 2 for found in shards)
    assert len(set.union(*shards)) > MAX_INTERLEAVED_SHARDS


def test_a_window_takes_its_shards_in_turn():
    """So that what is read ahead of a training lies together in as many places as there are shards."""
    passes = Passes(COUNTS, 40, 0)
    window, seen = Window(0, 0), []
    while window.number == 0:
        records = list(map(tuple, passes.records(window).tolist()))
        assert sorted(keys(len(seen), len(records), 40)) == sorted(records)
        seen += records
        window = passes.after(window)
    assert window == Window(1, 0) and sorted(seen) == ALL
    for shard, count in enumerate(COUNTS):
        assert [number for other, number in seen if other == shard] == list(range(count))


@pytest.mark.parametrize("begin", [0, 40, TOTAL])
def test_a_part_may_have_no_records(begin):
    """As of an epoch all of whose steps are done, also where it ends with a pass."""
    assert keys(begin, 0) == []
