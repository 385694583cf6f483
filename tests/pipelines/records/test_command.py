"""`deeplab records`: ls, show and stats, on sets from `deeplab prepare` and on sets spoilt by hand."""

from __future__ import annotations

import dataclasses
import time
import unicodedata

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.records import command
from pipelines.records.options import VERBS
from tests.drawn.held import held
from tests.drawn.prepared import describe, flip_bit, prepare_here, read_shard, records
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import PALETTE, record, write_records
from trainer.formats import images
from trainer.formats.dataset import Dataset, load_dataset
from trainer.formats.examples import decode
from trainer.formats.records import read_records
from trainer.options import InputError

TRAIN = "train-00000-of-00002.tfrecord"


def test_ls_lists_every_shard_and_their_sums(prepared, capsys):
    assert records("ls", prepared) == 0
    lines = capsys.readouterr().out.splitlines()
    size = (prepared / TRAIN).stat().st_size
    count = len(read_shard(prepared / TRAIN))
    row = next(line.split() for line in lines if line.startswith(TRAIN))
    assert (row[1], row[2], row[4]) == ("train", str(count), f"{size:,}")
    total = next(line.split() for line in lines if line.startswith("3 in all"))
    assert total[3:5] == ["14", "8"]
    assert any("palette drawn: 3 classes, 255 is ignored" in line for line in lines)


@pytest.mark.parametrize("command", ["ls", "show", "verify", "stats"])
def test_a_folder_without_records_is_refused(tmp_path, command):
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        records(command, tmp_path)


def test_verbs_are_listed_and_others_refused(capsys):
    with pytest.raises(InputError, match="unknown verb 'list'; expected one of ls, show, verify, stats, export"):
        records("list", "x")
    with pytest.raises(SystemExit) as stop:
        cli.run(["records", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(["records", verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: deeplab records {verb} FOLDER ")
    assert f"examples:\n  deeplab records {verb} out/records" in text


def test_folders_of_version_1_are_read(folder, capsys):
    def change(value: dict) -> None:
        value["version"] = 1
        for counts in (*value["shards"], *value["splits"].values()):
            counts["pictures"] = counts.pop("images")

    describe(folder, change)
    assert records("verify", folder) == records("stats", folder) == records("ls", folder) == 0
    assert "train: 12 records (6 images), " in capsys.readouterr().out


def test_show_prints_a_record_and_saves_its_files(prepared, source, tmp_path, capsys):
    assert records("show", prepared, "--record", "train/a3", "--save", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "train/a3 (the image itself)" in text
    assert "image     jpeg, 96 x 96, RGB" in text
    assert "disc" in text
    saved = tmp_path / "out"
    assert (saved / "train_a3.jpg").read_bytes() == (source / "images/train/a3.jpg").read_bytes()
    expected = np.asarray(Image.open(source / "labels/train/a3.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(saved / "train_a3-label.png")), expected)
    overlay = images.decode_image((saved / "train_a3-overlay.png").read_bytes())
    image = images.decode_image((source / "images/train/a3.jpg").read_bytes())
    np.testing.assert_array_equal(overlay, PALETTE.overlay(image, expected))


def test_show_finds_records_by_number_and_copies_by_key(prepared, capsys):
    first = decode(read_shard(prepared / TRAIN)[1].data)
    assert records("show", prepared, "--record", 1) == 0
    assert f"key       {first.key} (" in capsys.readouterr().out
    assert records("show", prepared, "--record", 13) == 0
    assert "val-00000-of-00001.tfrecord, record 1" in capsys.readouterr().out
    assert records("show", prepared, "--record", "train/a2", "--copy", 1) == 0
    assert "train/a2 (augmented copy 1)" in capsys.readouterr().out


def test_show_tells_a_key_of_digits_from_a_number(tmp_path, capsys):
    keys = ("7", "001", "0", "a")
    write_records(tmp_path, {"train": [[dataclasses.replace(record(n), key=key) for n, key in enumerate(keys)]]})
    asked = (
        ("--record", "0"),
        ("--key", "0"),
        ("--record", "1"),
        ("--record", "001"),
        ("--key", "7"),
        ("--record", "a"),
    )
    for words in asked:
        assert records("show", tmp_path, *words) == 0
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("key ")]
    assert shown == ["7", "0", "001", "001", "7", "a"]
    with pytest.raises(InputError, match=r"has no record with the key '3'; expected a key such as '7'$"):
        records("show", tmp_path, "--key", "3")
    with pytest.raises(InputError, match=r"--copy 1 goes with a key; .* as 3, .*; if 3 is a key, give --key 3$"):
        records("show", tmp_path, "--record", "3", "--copy", "1")
    with pytest.raises(InputError, match="give either --record 3 or --key a, not both"):
        records("show", tmp_path, "--record", "3", "--key", "a")


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_show_finds_a_key_whose_accents_are_of_the_other_form(typed, tmp_path, capsys):
    """macOS decomposes the accents of names; keyboards compose them."""
    keys = [unicodedata.normalize(form, name) for form, name in (("NFD", "é 1"), ("NFC", "é 2"))]
    write_records(tmp_path, {"train": [[dataclasses.replace(record(n), key=key) for n, key in enumerate(keys)]]})
    for key in keys:
        assert records("show", tmp_path, "--record", unicodedata.normalize(typed, key)) == 0
        assert key in capsys.readouterr().out


def test_a_record_named_without_its_flag_is_refused_with_the_flag(tmp_path, capsys):
    with pytest.raises(SystemExit):
        records("show", tmp_path, "train/a")
    assert "arguments: train/a; only FOLDER stands without a flag; give others as in --record KEY|N\n" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["train/zebra", "14", "val/a0.jpg"])
def test_show_names_a_key_and_the_numbers_in_place_of_an_unknown_record(prepared, name):
    with pytest.raises(InputError, match=f"has no record '{name}'; expected a key such as '.*', or .* from 0 to 13"):
        records("show", prepared, "--record", name)


def test_show_names_the_copies_of_a_key_that_has_no_such_one(prepared):
    key = next(record.key for _, record in read_records(str(prepared), load_dataset(str(prepared)).shards[0]))
    with pytest.raises(InputError, match=rf"has no copy 7 of '{key}'; expected one of 0(, 1)*, where 0 is the image"):
        cli.run(["records", "show", str(prepared), "--record", key, "--copy", "7"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("show {0} --overwrite", "--overwrite is for --save DIR"),
        ("reshard {0} {0}2 --shards 4 --megabytes 1", "give either --shards 4 or --megabytes 1, not both"),
        ("export {0} {0}", "is the folder of the records themselves"),
    ],
)
def test_flags_and_folders_that_do_not_go_together_are_refused(prepared, words, message):
    before = sorted(prepared.rglob("*"))
    with pytest.raises(InputError, match=message):
        cli.run(["records", *words.format(prepared).split()])
    assert sorted(prepared.rglob("*")) == before


def test_stats_show_the_share_of_every_class(tmp_path, capsys):
    label = np.zeros([10, 10], np.uint8)
    label[:2] = 1
    label[9] = PALETTE.ignore_id
    raw = write_rawset(tmp_path / "raw", {})
    write_pair(raw, "train", "a.png", np.zeros([10, 10, 3], np.uint8), label)
    prepare_here(raw, tmp_path / "records")
    capsys.readouterr()
    assert records("stats", tmp_path / "records") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "ground", "70", "70.0%", "█" * 30] in rows
    assert ["1", "disc", "20", "20.0%", "█" * 9] in rows
    assert ["2", "bar", "0", "0.0%"] in rows
    assert ["255", "(ignored)", "10", "10.0%", "█" * 5] in rows


def test_stats_give_each_side_by_itself(tmp_path, capsys):
    for name, sizes, said in (
        ("turned", [(96, 64), (64, 96)], "  64-96 x 64-96 pixels, "),
        ("wide", [(64, 80), (64, 96)], "  80-96 x 64 pixels, "),
        ("equal", [(64, 80), (64, 80)], "  80 x 64 pixels, "),
    ):
        write_records(tmp_path / name, {"train": [[record(n, size) for n, size in enumerate(sizes)]]})
        assert records("stats", tmp_path / name) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith(said)


@pytest.mark.parametrize("command", [["show", "--record", "nowhere"], ["export"]])
def test_damaged_shards_stop_the_other_verbs_with_advice(folder, tmp_path, command):
    flip_bit(folder / TRAIN, 200)
    target = [tmp_path / "raw"] if command == ["export"] else []
    with pytest.raises(InputError, match="checksum of the data is wrong; `deeplab records verify") as error:
        records(command[0], folder, *target, *command[1:])
    assert str(error.value).startswith(f"{TRAIN}: record 0 at byte 0: ")


@pytest.mark.parametrize("command", [["show"], ["export", "raw"]])
def test_missing_shards_stop_the_other_verbs_with_advice(folder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (folder / TRAIN).unlink()
    with pytest.raises(InputError, match=f"shard {TRAIN} is missing in .*; `deeplab records verify"):
        records(command[0], folder, *command[1:])


def test_an_interrupt_ends_what_threads_are_at(prepared):
    seen = []

    def work(beat):
        for number in range(3000):
            beat()
            seen.append(number)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), command._at_work("verify", load_dataset(str(prepared))) as (pool, beat):
        pool.submit(work, beat)
        while not seen:
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert len(seen) < 1000


READERS = ["show {0} --record 3", "verify {0}", "export {0} {1}/raw", "reshard {0} {1}/new", "diff {0} {0}"]


@pytest.mark.parametrize("command_line", READERS)
@pytest.mark.parametrize("flags", [("--shards", "5", "--copies", "1"), ("--jpeg-quality", "50", "--copies", "1")])
def test_records_that_another_command_changes_meanwhile_are_not_called_damaged(
    folder, source, tmp_path, monkeypatch, command_line, flags
):
    """Nor is what was read before mixed with what is there now."""
    load = command.load_dataset

    def overtaken(path: str) -> Dataset:
        dataset = load(path)
        monkeypatch.undo()
        prepare_here(source, folder, *flags)
        return dataset

    monkeypatch.setattr(command, "load_dataset", overtaken)
    with pytest.raises(InputError, match="were changed by another command since this one began"):
        records(*command_line.format(folder, tmp_path).split())


def test_faults_that_another_command_is_mending_are_not_proposed_for_deletion(folder, capsys):
    flip_bit(folder / "train-00000-of-00002.tfrecord", 100)
    with (
        held(folder, "records repair"),
        pytest.raises(
            InputError, match=r"is being written by `deeplab records repair` .*, which may be mending them; "
        ),
    ):
        records("verify", folder)
    said = capsys.readouterr().out
    assert "checksum of the data is wrong" in said and "--delete" not in said
