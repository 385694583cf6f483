"""The order in which training goes round the records, without end.

Sample g of a training is place g % n of pass g // n over the n records, so that an epoch begins where the last one
ended. A pass takes the shards in an order of its own, a group of them in turn at a time, and cuts what comes into
windows, each of which is shuffled as a whole. Which records are in a window follows from the shards' counts in
dataset.json: shards that lie before it are not opened, and what lies before it in the others is stepped over, not
decoded. Randomness comes from (seed, pass, window).
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

Read = Callable[[tf.Tensor], tf.data.Dataset]
"""From the path of a shard to its elements."""

MAX_INTERLEAVED_SHARDS = 8
"""More would mix no better, as `prepare` deals records out by hash, and more would have to be stepped over."""


def _taken_in_turn(counts: np.ndarray, taken: int) -> np.ndarray:
    """How many records of every shard are among the first `taken`, one of every shard in turn while it has any.

    Args:
      counts: int64 [S] records of the shards.
      taken: at most their sum.

    Returns:
      int64 [S].
    """
    if not taken:
        return np.zeros_like(counts)
    rounds = bisect.bisect_right(range(counts.max() + 1), taken, key=lambda n: np.minimum(counts, n).sum()) - 1
    taken_of = np.minimum(counts, rounds)
    taken_of[np.flatnonzero(counts > rounds)[: taken - taken_of.sum()]] += 1
    return taken_of


def _order_of_shards(counts: np.ndarray, seed: int, number: int, place: int) -> np.ndarray:
    """What pass `number` reads from `place` on, group by group.

    Args:
      counts: int64 [S] records of the shards.
      place: how many of the pass's records come before, 0 to their sum.

    Returns:
      int64 [groups, MAX_INTERLEAVED_SHARDS or less, 3]: shard, records of it to step over, records then left; in the
      order of turns. Without records left where a group is smaller, or lies before `place` in whole or in part.
    """
    order = np.random.default_rng([seed, number]).permutation(len(counts))
    groups = np.array_split(order, -(-len(order) // MAX_INTERLEAVED_SHARDS))
    rows = np.zeros([len(groups), len(groups[0]), 3], np.int64)
    for row, group in zip(rows, groups, strict=True):
        taken = min(place, counts[group].sum())
        place -= taken
        taken_of = _taken_in_turn(counts[group], taken)
        # Those that had one turn less come first.
        turns = np.argsort(taken_of, kind="stable")
        row[: len(group)] = np.stack([group, taken_of, counts[group] - taken_of], axis=1)[turns]
    return rows


class Part(NamedTuple):
    """Some of the samples of a training: in which passes and windows they are. Arrays, or the tensors made of them.

    Attributes:
      passes: int64 [P] their numbers.
      orders: int64 [P, groups, shards, 3] what of each is read, see `_order_of_shards`.
      first_windows: int64 [P] the window that each begins with.
      windows: int64 [P] how many windows of each are read; -1: all.
      before: int64, samples of the first window that come before.
      count: int64, how many samples there are.
    """

    passes: Any
    orders: Any
    first_windows: Any
    windows: Any
    before: Any
    count: Any


PART = Part(*(tf.TensorSpec(shape, tf.int64) for shape in ([None], [None] * 3 + [3], [None], [None], [], [])))
"""What a `Part` looks like to a function that is traced for all of them."""


def part(counts: np.ndarray, window: int, seed: int, begin: int, count: int) -> Part:
    """`count` samples from sample `begin` of the training on, which may be none.

    Args:
      counts: int64 [S] records of the shards.
      window: how many records are shuffled together.
    """
    total, last = int(counts.sum()), begin + max(count, 1) - 1
    first, place = divmod(begin, total)
    passes = np.arange(first, last // total + 1)
    first_window, before = divmod(place, window)
    places = np.where(passes == first, first_window * window, 0)
    orders = np.stack([_order_of_shards(counts, seed, *one) for one in zip(passes, places, strict=True)])
    first_windows = np.where(passes == first, first_window, 0)
    # Nothing is read ahead of what the epoch needs: of its last pass so many windows, of the others all.
    end = last % total // window + 1
    windows = np.where(passes == passes[-1], end - first_windows, -1)
    return Part(passes, orders, first_windows, windows, np.int64(before), np.int64(count))


def endless_records(
    paths: Sequence[str], window: int, seed: int, part: Part, read: Read = tf.data.TFRecordDataset
) -> tf.data.Dataset:
    """The serialised examples of a part of the passes over the shards.

    Args:
      paths: of the shards; one that holds another number of records than was said is an error, see
        `readable_records`.
      window: how many records are shuffled together.
    """
    paths = tf.constant(paths)
    shuffle_seed = tf.constant([seed, 1], tf.int64)
    fold_in = tf.random.experimental.stateless_fold_in
    groups = -(-len(paths) // MAX_INTERLEAVED_SHARDS)
    cycle = -(-len(paths) // groups)

    def shard(row: tf.Tensor) -> tf.data.Dataset:
        records = read(tf.gather(paths, row[0])).skip(row[1])
        return records.apply(tf.data.experimental.assert_cardinality(row[2]))

    def group(rows: tf.Tensor) -> tf.data.Dataset:
        opened = tf.data.Dataset.from_tensor_slices(tf.boolean_mask(rows, rows[:, 2] > 0))
        return opened.interleave(
            shard, cycle_length=cycle, num_parallel_calls=min(cycle, os.cpu_count() or 1), deterministic=True
        )

    def one_pass(number: tf.Tensor, order: tf.Tensor, first_window: tf.Tensor, windows: tf.Tensor) -> tf.data.Dataset:
        def shuffled(index: tf.Tensor, records: tf.data.Dataset) -> tf.data.Dataset:
            # The seed of this function's graph, instead of the process's: its place in the training decides alone.
            tf.random.set_seed(1)
            key = fold_in(fold_in(shuffle_seed, number), index)
            return records.shuffle(window, seed=key[0], reshuffle_each_iteration=False)

        records = tf.data.Dataset.from_tensor_slices(order).flat_map(group)
        return records.window(window).take(windows).prefetch(1).enumerate(first_window).flat_map(shuffled)

    parts = tf.data.Dataset.from_tensor_slices(tuple(part[:4]))
    return parts.flat_map(one_pass).skip(part.before).take(part.count)
