"""`deeplab records verify` on sets that are whole, and on sets spoilt by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipelines.records import verify
from tests.drawn.prepared import flip_bit, read_shard, records
from tests.drawn.records import record, write_records
from trainer.accounts import UnbalancedError
from trainer.formats import images
from trainer.formats.examples import decode
from trainer.formats.frames import frame

TRAIN = "train-00000-of-00002.tfrecord"


def test_verify_passes_what_prepare_wrote(prepared, capsys):
    assert records("verify", prepared) == 0
    assert capsys.readouterr().out.splitlines() == [
        "14 records = 14 good + 0 damaged + 0 missing",
        f"{prepared}: every checksum and every record of 3 shards is good",
    ]


def test_verify_reports_a_flipped_byte_with_shard_number_offset_and_key(folder, capsys):
    third = read_shard(folder / TRAIN)[2]
    damaged = decode(third.data)
    place = third.data.index(damaged.image) + len(damaged.image) // 2
    flip_bit(folder / TRAIN, third.offset + 12 + place)
    assert records("verify", folder) == 1
    text = capsys.readouterr().out
    copy = f" copy {damaged.copy}" if damaged.copy else ""
    assert f"{TRAIN}: record 2 at byte {third.offset}, key {damaged.key}{copy}: checksum of the data is wrong" in text
    assert "14 records = 13 good + 1 damaged + 0 missing" in text
    assert f"{folder}: 1 fault; delete the shards" in text


@pytest.mark.parametrize("where", ["message", "data checksum"])
def test_the_key_is_named_even_when_the_message_cannot_be_parsed(folder, capsys, where):
    first = read_shard(folder / TRAIN)[0]
    key = decode(first.data).key
    flip_bit(folder / TRAIN, first.offset + (12 if where == "message" else 12 + len(first.data)))
    assert records("verify", folder) == 1
    assert f"record 0 at byte 0, key {key}" in capsys.readouterr().out


def test_a_damaged_length_loses_the_rest(folder, capsys):
    before = read_shard(folder / TRAIN)
    flip_bit(folder / TRAIN, before[1].offset + 1)
    assert records("verify", folder) == 1
    text = capsys.readouterr().out
    assert f"record 1 at byte {before[1].offset}, key unreadable: checksum of the length is wrong" in text
    assert f"{TRAIN}: has 2 records, expected {len(before)}" in text
    rest = len(before) - 2
    assert f"14 records = {13 - rest} good + 1 damaged + {rest} missing" in text


def test_verify_misses_shards_and_finds_strange_ones(folder, capsys):
    lost = len(read_shard(folder / TRAIN))
    (folder / TRAIN).rename(folder / "train-00007-of-00009.tfrecord")
    assert records("verify", folder) == 1
    text = capsys.readouterr().out
    assert f"{TRAIN}: the shard is missing" in text
    assert "train-00007-of-00009.tfrecord: is not in dataset.json" in text
    assert f"14 records = {14 - lost} good + 0 damaged + {lost} missing" in text


def test_a_truncated_shard_is_found(folder, capsys):
    data = (folder / TRAIN).read_bytes()
    (folder / TRAIN).write_bytes(data[:-5])
    assert records("verify", folder) == 1
    text = capsys.readouterr().out
    assert f"has {len(data) - 5} bytes, expected {len(data)}" in text
    assert "the shard ends after" in text


def test_whole_records_of_another_shard_are_found_by_their_count_and_checksum(folder, capsys):
    path = folder / "val-00000-of-00001.tfrecord"
    first, second = read_shard(path)
    path.write_bytes(frame(second.data) + frame(first.data))
    assert records("verify", folder) == 1
    assert "checksum of the file is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"label": images.encode_png(np.full([96, 96], 9, np.uint8))}, "unknown class id 9 in 9216 pixels"),
        ({"label": images.encode_png(np.zeros([96, 90], np.uint8))}, "label 90x96, but the record says 96x96"),
        ({"height": 95}, "but the record says 96x95"),
        ({"image": b"\xff\xd8nothing"}, "begins with b'\\xff\\xd8nothing'"),
        ({"image_format": "png"}, "image is jpeg of orientation 1, expected upright png"),
    ],
)
def test_records_that_contradict_themselves_are_found(tmp_path, capsys, change, fault):
    jpeg = images.encode_jpeg(images.decode_image(record(0).image))
    good = dataclasses.replace(record(0), image=jpeg, image_format="jpeg")
    write_records(tmp_path, {"train": [[good, dataclasses.replace(good, key="bad", **change)]]})
    assert records("verify", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("record 1 at byte" in line and "key bad" in line and fault in line for line in lines)


def test_an_image_in_two_splits_or_twice_is_found(tmp_path, capsys):
    write_records(tmp_path, {"train": [[record(0)], [record(1), record(1)]], "val": [[record(0)]]})
    assert records("verify", tmp_path) == 1
    text = capsys.readouterr().out
    assert f"key {record(0).key} is in split train as well" in text
    assert f"key {record(1).key} copy 0 appears more than once" in text


def test_surplus_records_are_a_fault_and_not_part_of_the_accounts(folder, capsys):
    path = folder / "val-00000-of-00001.tfrecord"
    path.write_bytes(path.read_bytes() + (folder / TRAIN).read_bytes())
    assert records("verify", folder) == 1
    text = capsys.readouterr().out
    assert "val-00000-of-00001.tfrecord: has " in text and "14 records = 14 good + 0 damaged + 0 missing" in text


def test_a_record_that_the_check_loses_is_an_error(folder, monkeypatch):
    check = verify.check_shard

    def forgetful(*arguments):
        checked = check(*arguments)
        checked.names.pop()
        return checked

    monkeypatch.setattr(verify, "check_shard", forgetful)
    with pytest.raises(UnbalancedError, match=r"14 records != 11 good .*; 3 lost"):
        records("verify", folder)
