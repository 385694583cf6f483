"""`deeplab records verify` on sets that are whole, and on sets spoilt by hand."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import deque

import numpy as np
import pytest

from pipelines import cli
from pipelines.records import lookup, verify
from tests.drawn.places import ROOT
from tests.drawn.prepared import describe, flip_bit, prepare_here, read_shard, records, shard_bytes
from tests.drawn.records import record, write_records
from trainer import leases
from trainer.accounts import UnbalancedError
from trainer.formats import images
from trainer.formats.dataset import load_dataset
from trainer.formats.examples import decode
from trainer.formats.frames import frame
from trainer.formats.records import read_records
from trainer.options import InputError

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
    assert f"{folder}: 1 fault\n`deeplab records verify {folder} --delete` deletes the shards that have faults" in text


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


def test_a_single_record_is_not_called_several(tmp_path, capsys):
    write_records(tmp_path, {"train": [[record(0)], [record(1), record(2)]]})
    first, second = sorted(tmp_path.glob("*.tfrecord"))
    first.unlink()
    second.write_bytes(second.read_bytes()[: read_shard(second)[1].offset])
    assert records("verify", tmp_path) == 1
    text = capsys.readouterr().out
    assert "the shard is missing (1 record)" in text and "has 1 record, expected 2" in text
    with pytest.raises(InputError, match=r"has 1 record, but dataset\.json says 2"):
        list(read_records(str(tmp_path), load_dataset(str(tmp_path)).shards[1]))


def test_verify_misses_shards_and_finds_strange_ones(folder, capsys):
    lost = len(read_shard(folder / TRAIN))
    (folder / TRAIN).rename(folder / "train-00007-of-00009.tfrecord")
    assert records("verify", folder) == 1
    text = capsys.readouterr().out
    assert f"{TRAIN}: the shard is missing" in text
    assert "train-00007-of-00009.tfrecord: is not in dataset.json" in text
    assert f"14 records = {14 - lost} good + 0 damaged + {lost} missing" in text


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda value: value.update(max_side=64), "dataset.json: its max_side is 64, that of its options is 0"),
        (lambda value: value.update(fingerprint="f"), "dataset.json: its fingerprint is f, that of its shards is "),
        (lambda value: value["shards"][0].update(ignored_pixels=1), "pixels per class differ from dataset.json"),
        (lambda value: value["shards"][0].update(max_size=[9, 9]), "expected (96, 96) to (9, 9) (height, width)"),
        (lambda value: value["shards"][0].update(min_size=[1, 1]), "expected (1, 1) to (96, 96) (height, width)"),
        (lambda value: value["shards"][0].update(images=1), "source images, expected 1"),
    ],
)
def test_what_dataset_json_says_otherwise_than_records_is_found_without_its_digest(folder, capsys, change, fault):
    describe(folder, change)
    assert records("verify", folder) == 1
    assert fault in capsys.readouterr().out


def test_an_edited_dataset_json_is_found_and_written_again_by_prepare(source, folder, prepared, capsys):
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace('"disc"', '"disk"'))
    for verb in ("verify", "repair"):
        assert records(verb, folder) == 1
        assert "dataset.json: was changed since it was written; the same `deeplab prepare`" in capsys.readouterr().out
    assert '"disk"' in path.read_text() and shard_bytes(folder) == shard_bytes(prepared)
    assert prepare_here(source, folder, "--copies", "1", "--shards", "2") == 0
    assert records("verify", folder) == 0


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
        ({"image_format": "png"}, "image is jpeg of EXIF orientation 1, "),
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


def test_the_commands_that_verify_prints_restore_damaged_shards(source, folder, prepared, capsys):
    for name in (TRAIN, "val-00000-of-00001.tfrecord"):
        time = (folder / name).stat().st_mtime_ns
        flip_bit(folder / name, 300)
        os.utime(folder / name, ns=(time, time))  # as where a disk forgets
    prepare_here(source, folder, "--copies", "1", "--shards", "2")
    assert shard_bytes(folder) != shard_bytes(prepared)
    capsys.readouterr()
    assert records("verify", folder) == 1
    said = re.search(
        r"`deeplab (records verify .*)` deletes .*; the same `deeplab prepare` then", capsys.readouterr().out
    )
    assert cli.run(shlex.split(said[1])) == 1
    assert f"deleted: {TRAIN}, val-00000-of-00001.tfrecord; run the same `deeplab prepare`" in capsys.readouterr().out
    assert prepare_here(source, folder, "--copies", "1", "--shards", "2") == 0
    assert shard_bytes(folder) == shard_bytes(prepared)
    assert records("verify", folder) == 0


def test_prepare_finds_a_damaged_shard_by_itself_where_its_time_changed(source, folder, prepared):
    flip_bit(folder / TRAIN, 300)
    assert prepare_here(source, folder, "--copies", "1", "--shards", "2") == 0
    assert shard_bytes(folder) == shard_bytes(prepared)


def test_delete_leaves_whole_shards_and_strange_files(folder):
    flip_bit(folder / TRAIN, 300)
    (folder / "train-00007-of-00009.tfrecord").write_bytes(b"theirs")
    before = {path.name for path in folder.iterdir()}
    assert records("verify", folder, "--delete") == 1
    assert before - {path.name for path in folder.iterdir()} == {TRAIN}


def test_delete_looks_once_no_other_command_writes_there(folder, prepared, monkeypatch):
    flip_bit(folder / TRAIN, 300)
    monkeypatch.setattr(leases, "acquire", lambda *arguments: shutil.copy(prepared / TRAIN, folder))
    assert records("verify", folder, "--delete") == 0 and (folder / TRAIN).exists()


def test_a_shard_that_cannot_be_read_is_a_fault(folder, monkeypatch, capsys):
    (folder / TRAIN).unlink()
    (folder / TRAIN).symlink_to(folder / "nowhere")
    count = len(read_shard(folder / "train-00001-of-00002.tfrecord"))
    assert records("verify", folder) == 1
    text = capsys.readouterr().out
    assert f"{TRAIN}: cannot be read: No such file or directory" in text
    assert f"14 records = {count + 2} good + 0 damaged + {12 - count} missing" in text


DEADLY = """
import os, signal
from trainer.formats import images

check = images.check

def end(data):
    if data == open("deadly", "rb").read():
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == open("greedy", "rb").read():
        raise MemoryError("no more")
    return check(data)

images.check = end
"""
"""Whatever process runs in the folder has these images; Python imports it as `sitecustomize`."""


def test_an_image_that_ends_its_process_is_a_damaged_record_and_not_the_end_of_the_command(tmp_path):
    write_records(tmp_path / "records", {"train": [[record(0), record(1), record(2)]]})
    (tmp_path / "deadly").write_bytes(record(1).image)
    (tmp_path / "greedy").write_bytes(record(2).image)
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    run = "print(verb, cli.main(['records', verb, 'records']))"
    program = f"from pipelines import cli\nfor verb in ('verify', 'repair'): {run}"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    ended = "the process that worked on it ended with signal 11 (SIGSEGV)"
    assert len(re.findall(rf"record 1 at byte [0-9]+, key 001: {re.escape(ended)}", done.stdout)) == 2, done
    assert len(re.findall(r"record 2 at byte [0-9]+, key 002: MemoryError: no more; tried alone", done.stdout)) == 2
    assert "3 records = 1 good + 2 damaged + 0 missing" in done.stdout
    assert "3 records = 1 kept + 0 made again + 2 rejected" in done.stdout
    assert re.findall("^(?:verify|repair) [0-9]$", done.stdout, re.M) == ["verify 1", "repair 1"]


@pytest.mark.parametrize(
    "argv",
    [
        "verify {0} --delete",
        "repair {0} --drop",
        "reshard {0} {0}-more --shards 3",
        "show {0}",
    ],
)
def test_a_machine_that_starts_no_process_blames_no_record(argv, folder, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    if argv.startswith("repair"):
        flip_bit(folder / TRAIN, 200)
    before = shard_bytes(folder)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(lookup, "_idle", deque())
    assert cli.main(["records", *argv.format(folder).split()]) == 75
    assert "a subprocess did not start: Permission denied" in capsys.readouterr().err
    assert shard_bytes(folder) == before
