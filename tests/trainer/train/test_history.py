"""What a training reports of itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from trainer.train.history import Logs, epoch_line, history_csv, history_row, in_order, summary
from trainer.train.resume import Progress

SCORES = {"miou": 0.5, "pixel_accuracy": 0.75, "per_class": {"road": 0.5, "car": None}}


def row(epoch: int, miou: float = 0.5):
    fitted = {"epoch": epoch, "loss": 1.25, "learning_rate": 0.5, "seconds_per_step": 0.125}
    return history_row(fitted, {**SCORES, "miou": miou})


def test_the_table_has_a_row_per_epoch_and_a_column_per_class():
    assert history_csv((row(1), row(2))).decode() == (
        "epoch,loss,learning_rate,seconds_per_step,val_jaccard,val_pixel_accuracy,iou/road,iou/car\n"
        "1,1.25,0.5,0.125,0.5,0.75,0.5,\n"
        "2,1.25,0.5,0.125,0.5,0.75,0.5,\n"
    )


def test_a_row_that_was_stored_gets_its_order_back():
    stored = json.loads(json.dumps(row(1), sort_keys=True))
    assert list(stored) != list(row(1))
    assert list(in_order(stored, ("road", "car")).items()) == list(row(1).items())


def test_a_column_of_another_version_is_kept_at_the_end():
    assert list(in_order({"new": 1, **row(1)}, ("road", "car"))) == [*row(1), "new"]


def test_the_line_of_an_epoch_says_whether_it_is_the_best():
    progress = Progress({}, "").after(row(1, 0.5))
    assert epoch_line(progress, 9) == (
        "epoch 1/9: loss 1.2500, validation Jaccard 0.5000 (best), pixel accuracy 0.7500, 0.125 s per step"
    )
    assert "(best)" not in epoch_line(progress.after(row(2, 0.25)), 9)


def test_the_summary_is_that_of_the_best_epoch():
    lines = summary(Progress({}, "").after(row(1, 0.75)).after(row(2, 0.25))).splitlines()
    assert lines[:3] == [
        "best epoch 1 of 2: validation Jaccard 0.7500, pixel accuracy 0.7500",
        "  road  0.5000",
        "  car   absent",
    ]
    assert lines[3].startswith("0.125 s per step, peak memory ")


@pytest.mark.parametrize(("replaces", "curves"), [(True, [0.25]), (False, [0.5, 0.25])])
def test_the_curves_of_an_earlier_training_are_not_mixed_with_those_of_a_new_one(tmp_path, replaces, curves):
    overlays = np.zeros((1, 4, 4, 3), np.uint8)
    Logs(str(tmp_path), replaces=False).add(row(1, 0.5), overlays)
    (tmp_path / "logs/notes.txt").write_text("mine")
    logs = Logs(str(tmp_path), replaces)
    assert len(list((tmp_path / "logs").glob("events*"))) == 1, "before the new one begins, nothing changes"
    logs.begin()
    logs.add(row(1, 0.25), overlays)
    seen = [
        tf.make_ndarray(value.tensor).item()
        for file in (tmp_path / "logs").glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
        if value.tag == "val_jaccard"
    ]
    assert sorted(seen) == sorted(curves)
    assert (tmp_path / "logs/notes.txt").exists()
