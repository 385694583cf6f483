"""Which images are tuned on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from pipelines.runner.notes import InFlight
from pipelines.tune_crf import samples
from tests.drawn import records
from tests.drawn.records import PALETTE
from tests.drawn.tuning import SIZE, write_records
from trainer.formats import images
from trainer.formats.dataset import Dataset


def keys(folder: Path, dataset: Dataset, most: int) -> list[str]:
    return [sample.key for sample in samples.choose(str(folder), dataset, "val", most)]


def test_augmented_copies_are_not_tuned_on(tmp_path: Path) -> None:
    originals = [records.record(number, SIZE) for number in range(4)]
    pairs = [[one, dataclasses.replace(one, copy=1)] for one in originals]
    dataset = records.write_records(tmp_path, {"val": [[record for pair in pairs for record in pair]]}, copies=1)
    chosen = samples.choose(str(tmp_path), dataset, "val", 0)
    usable, rejects, scored = samples.sift(str(tmp_path), PALETTE, chosen, InFlight(str(tmp_path / "notes")))
    assert (sorted(sample.key for sample in usable), rejects, scored) == (["000", "001", "002", "003"], [], 4)
    _, label = samples.load(str(tmp_path), PALETTE, usable[0])
    np.testing.assert_array_equal(label, records.draw_image(int(usable[0].key), *SIZE)[1])


def test_a_choice_is_spread_over_the_split_and_holds_every_smaller_one(tmp_path: Path) -> None:
    dataset = write_records(tmp_path, 40)
    chosen = {most: keys(tmp_path, dataset, most) for most in (10, 20, 0)}
    assert chosen[0][:20] == chosen[20] and chosen[20][:10] == chosen[10] and len(set(chosen[0])) == 40
    assert min(chosen[10]) < "020" < max(chosen[10])
    assert chosen[10] == keys(tmp_path, dataset, 10)


def test_images_that_a_shard_lacks_are_samples_with_a_reason(tmp_path: Path) -> None:
    dataset = write_records(tmp_path, 10)
    path = tmp_path / "val-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-100])
    reasons = {sample.key: sample.reason for sample in samples.scan(str(tmp_path), dataset, "val") if sample.reason}
    assert list(reasons) == ["val-00001-of-00002.tfrecord record 4"] and "the shard ends after" in next(
        iter(reasons.values())
    )
    path.write_bytes(b"")
    reasons = {sample.key: sample.reason for sample in samples.scan(str(tmp_path), dataset, "val") if sample.reason}
    assert reasons == {f"val-00001-of-00002.tfrecord lost {n}": "the shard ends before it" for n in range(5)}


def test_a_label_of_another_size_is_a_fault(tmp_path: Path) -> None:
    record = dataclasses.replace(records.record(0, SIZE), label=images.encode_png(np.zeros((5, 6), np.uint8)))
    dataset = records.write_records(tmp_path, {"val": [[record]]})
    (sample,) = samples.choose(str(tmp_path), dataset, "val", 0)
    usable, (reject,), _ = samples.sift(str(tmp_path), PALETTE, [sample], InFlight(str(tmp_path / "notes")))
    assert (usable, reject.stage) == ([], "tune-crf")
    assert reject.reason == "image is 64x56, its label 6x5 pixels"
    accounts = samples.accounts([sample], usable, [reject])
    accounts.check()
    assert accounts.line() == "1 image = 0 usable + 1 rejected"
