"""`deeplab records repair`: damaged records are made again or left out, and a killed repair is finished."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pipelines.records import repair
from tests.drawn import faults
from tests.drawn.outputs import as_it_is
from tests.drawn.prepared import (
    describe,
    flip_bit,
    prepare_here,
    read_records,
    read_rejects,
    read_shard,
    records,
    shard_bytes,
)
from tests.drawn.rawset import write_rawset
from tests.drawn.records import record, write_records
from trainer import leases, storage
from trainer.formats.dataset import load_dataset
from trainer.formats.examples import decode
from trainer.options import InputError

TRAIN = "train-00000-of-00002.tfrecord"


def place(shard: Path, copy: int) -> tuple[int, str]:
    """The byte in the middle of the first record with that copy, and its key."""
    for frame in read_shard(shard):
        one = decode(frame.data)
        if one.copy == copy:
            return frame.offset + 12 + frame.data.index(one.image) + len(one.image) // 2, one.key
    raise AssertionError("the shard has no such record")


def described(folder: Path, **options: object) -> None:
    """dataset.json with other options: seeds, by which copies come out otherwise."""
    describe(folder, lambda value: value["options"].update(options))


def test_an_image_as_it_came_is_made_again_to_the_bit(folder, prepared, capsys):
    flip_bit(folder / TRAIN, place(folder / TRAIN, 0)[0])
    flip_bit(folder / "val-00000-of-00001.tfrecord", 8)  # the checksum of the first record's length
    assert records("repair", folder) == 1
    assert "nothing was changed" in capsys.readouterr().out
    shutil.copy(prepared / "val-00000-of-00001.tfrecord", folder)
    assert records("repair", folder) == 0
    out = capsys.readouterr().out
    assert "14 records = 13 kept + 1 made again + 0 rejected" in out
    assert as_it_is(folder) == as_it_is(prepared)
    assert records("repair", folder) == 0
    assert "there is nothing to repair" in capsys.readouterr().out


def test_the_checksum_of_a_record_is_made_again_too(folder, prepared):
    first = next(frame for frame in read_shard(folder / TRAIN) if not decode(frame.data).copy)
    flip_bit(folder / TRAIN, first.offset + 12 + len(first.data))
    assert records("repair", folder) == 0
    assert shard_bytes(folder) == shard_bytes(prepared)


def test_copies_and_shrunk_images_are_made_again_to_the_bit(tmp_path):
    raw, whole = write_rawset(tmp_path / "raw", {"train": 2}), tmp_path / "whole"
    assert prepare_here(raw, whole, "--copies", "2", "--shards", "1", "--max-side", "48", "--crop", "32") == 0
    folder, shard = Path(shutil.copytree(whole, tmp_path / "records")), "train-00000-of-00001.tfrecord"
    last = read_shard(folder / shard)[-1]
    # The last one cannot be parsed, so that its key is read, and the number of its copy is not.
    for byte in (*[place(folder / shard, copy)[0] for copy in range(3)], last.offset + 12):
        flip_bit(folder / shard, byte)
    assert records("repair", folder) == 0
    assert as_it_is(folder) == as_it_is(whole)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"seed": 1}, "raw set and options now give different bytes"),
        ({"crop": -1}, "the options in dataset.json are invalid: --crop must be 0 to 32766, got -1"),
        ({"input": ""}, "dataset.json names no raw set"),
        ({"input": "/nowhere"}, "/nowhere not found"),
        ({"max_pixels": 9}, r"\S+\.jpg: "),
    ],
)
def test_why_a_copy_is_not_made_again_is_said(folder, capsys, options, why):
    flip_bit(folder / TRAIN, place(folder / TRAIN, 1)[0])
    described(folder, **options)
    before = as_it_is(folder)
    assert records("repair", folder) == 1
    assert re.search(f"checksum of the data is wrong; {why}", capsys.readouterr().out) and as_it_is(folder) == before


def test_options_that_an_older_version_did_not_have_are_missed(folder, capsys):
    flip_bit(folder / TRAIN, place(folder / TRAIN, 0)[0])
    describe(folder, lambda value: value["options"].pop("clahe"))
    assert records("repair", folder) == 1
    assert "wrong; dataset.json does not say clahe" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["another image", "gone"])
def test_a_source_that_is_another_one_is_not_taken(source, tmp_path, capsys, change):
    raw, folder = shutil.copytree(source, tmp_path / "raw"), tmp_path / "records"
    assert prepare_here(raw, folder, "--shards", "1") == 0
    shard = folder / "train-00000-of-00001.tfrecord"
    byte, key = place(shard, 0)
    flip_bit(shard, byte)
    image = raw / f"images/{key}.jpg"
    image.write_bytes(next(path for path in image.parent.iterdir() if path != image).read_bytes())
    if change == "gone":
        shutil.rmtree(raw)
    before = as_it_is(folder)
    assert records("repair", folder) == 1
    assert f"{shard}, {key}: record " in capsys.readouterr().out and as_it_is(folder) == before


def test_what_cannot_be_made_again_is_left_out_when_that_is_asked_for(folder, prepared, source, capsys):
    byte, key = place(folder / TRAIN, 1)
    flip_bit(folder / TRAIN, byte)
    described(folder, seed=1)
    (folder / "train-00001-of-00002.tfrecord").unlink()
    # An earlier one, as an editor saved it: without an end of the last line.
    (folder / "rejects.jsonl").write_text('{"key": "old", "path": "p", "stage": "scan", "reason": "r"}')
    lost = load_dataset(str(prepared)).shards[1].records
    assert records("repair", folder, "--drop") == 0
    assert f"{13 - lost} kept + 0 made again + {1 + lost} rejected" in capsys.readouterr().out
    dataset = load_dataset(str(folder))
    assert (sum(shard.records for shard in dataset.shards), dataset.rejected) == (13 - lost, 1 + lost)
    assert dataset.fingerprint != load_dataset(str(prepared)).fingerprint
    rejects = read_rejects(folder)
    assert rejects["old"]["reason"] == "r"
    assert "is wrong; raw set and options now give different" in rejects[f"{key} copy 1"]["reason"]
    assert rejects["train-00001-of-00002.tfrecord"]["records"] == lost
    kept = [one for one in read_records(prepared) if (one.key, one.copy) != (key, 1)]
    assert read_records(folder) == [one for one in kept if one in read_records(folder)]
    assert records("verify", folder) == 0
    # The command that made the set makes the whole of it again.
    assert prepare_here(source, folder, "--copies", "1", "--shards", "2") == 0
    assert shard_bytes(folder) == shard_bytes(prepared) and read_rejects(folder) == {}


def spoil(folder: Path) -> None:
    """A record that is made again, one that is left out, and a shard that ends early."""
    for byte, _ in [place(folder / TRAIN, copy) for copy in (0, 1)]:
        flip_bit(folder / TRAIN, byte)
    described(folder, seed=1)
    other = folder / "train-00001-of-00002.tfrecord"
    other.write_bytes(other.read_bytes()[:-30])


def test_killed_at_any_step_and_run_again_gives_the_same(folder, tmp_path, monkeypatch):
    spoil(folder)
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    assert records("repair", whole, "--drop") == 0
    interrupts = faults.Interrupts(monkeypatch)
    for kill in range(20):
        killed, interrupts.after = Path(shutil.copytree(folder, tmp_path / f"killed-{kill}")), kill
        try:
            records("repair", killed, "--drop")
            break
        except KeyboardInterrupt:
            assert records("repair", killed, "--drop") == 0
            assert shard_bytes(killed) == shard_bytes(whole)
            assert (killed / "dataset.json").read_bytes() == (whole / "dataset.json").read_bytes()
            assert len(read_rejects(killed)) == len(read_rejects(whole)) and not (killed / ".repair").exists()
    assert kill > 8


def test_a_set_that_another_command_changes_meanwhile_is_left_to_it(folder, monkeypatch):
    spoil(folder)
    plan = repair.plan

    def slow(*arguments):
        planned = plan(*arguments)
        (folder / "dataset.json").unlink()  # as `prepare` begins
        return planned

    monkeypatch.setattr(repair, "plan", slow)
    with pytest.raises(InputError, match="was changed by another command that works on this folder"):
        records("repair", folder, "--drop")


def test_a_set_that_another_command_replaces_before_the_folder_is_free_is_repaired_as_it_is_then(
    folder, prepared, monkeypatch, capsys
):
    spoil(folder)

    def replaced(*arguments):
        for path in filter(Path.is_file, prepared.iterdir()):
            shutil.copy(path, folder)

    monkeypatch.setattr(leases, "acquire", replaced)
    assert records("repair", folder, "--drop") == 0
    assert "there is nothing to repair" in capsys.readouterr().out
    assert as_it_is(folder) == as_it_is(prepared)


@pytest.mark.parametrize("content", ['["../victim"]', '["{victim}"]', "[1]", "5", '[["x"]]', "null"])
def test_names_in_a_repair_that_was_begun_lead_out_of_no_folder(folder, tmp_path, content):
    """The folder may come from anywhere."""
    victim, work = tmp_path / "victim", folder / ".repair"
    victim.write_text("precious")
    work.mkdir()
    for name in ("dataset.json", "before.json"):
        shutil.copy(folder / "dataset.json", work / name)
    (work / "rejects.jsonl").touch()
    (work / "shards.json").write_text(content.replace("{victim}", str(victim)))
    with pytest.raises(InputError, match=r"shards.json is damaged, or .* did not write it: expected names of shards"):
        records("repair", folder)
    assert victim.read_text() == "precious"
    (work / "shards.json").write_text("[]")
    (work / "rejects.jsonl").unlink()
    with pytest.raises(InputError, match=r"lacks rejects\.jsonl; remove it, and run this command again"):
        records("repair", folder)


def test_a_link_to_a_folder_of_others_is_no_place_for_the_plan(folder, prepared, tmp_path):
    spoil(folder)
    other = Path(shutil.copytree(prepared, tmp_path / "other"))
    (folder / ".repair").symlink_to(other)
    with pytest.raises(InputError, match=r"repair is a link, where this program makes a folder of its own"):
        records("repair", folder, "--drop")
    assert as_it_is(other) == as_it_is(prepared)


def test_a_second_repair_of_a_set_is_refused_and_the_first_ends_right(folder, monkeypatch):
    spoil(folder)
    plan = repair.plan

    def slow(*arguments):
        monkeypatch.setattr(repair, "plan", plan)
        with pytest.raises(InputError, match="is being written by `deeplab records repair`"):
            records("repair", folder, "--drop")
        return plan(*arguments)

    monkeypatch.setattr(repair, "plan", slow)
    assert records("repair", folder, "--drop") == 0
    assert records("verify", folder) == 0 and not (folder / ".repair").exists()


def test_a_repair_that_another_command_has_overtaken_is_forgotten(folder, prepared, monkeypatch):
    spoil(folder)
    with monkeypatch.context() as patch:
        patch.setattr(repair, "finish", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            records("repair", folder, "--drop")
    for name in ("dataset.json", TRAIN, "train-00001-of-00002.tfrecord"):
        shutil.copy(prepared / name, folder)
    describe(folder, lambda value: value.update(rejected=1))
    assert records("repair", folder) == 0
    assert shard_bytes(folder) == shard_bytes(prepared) and not (folder / ".repair").exists()


def test_what_a_killed_repair_was_writing_is_removed_and_nothing_of_others(folder):
    spoil(folder)
    ours, theirs = [TRAIN, "dataset.json", ".repair/before.json"], ["mine.json", "shards/dataset.json"]
    for name in (*ours, *theirs):
        path = (folder / name).parent / f".{Path(name).name}.0123abcd.tmp"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    assert records("repair", folder, "--drop") == 0
    left = {path.name for path in folder.rglob("*.tmp")}
    assert left == {f".{Path(name).name}.0123abcd.tmp" for name in theirs}
    assert not (folder / ".repair").exists()


def test_files_that_another_command_takes_away_end_the_repair_in_one_line(folder, monkeypatch):
    spoil(folder)
    monkeypatch.setattr(repair, "_rewrite", lambda folder, *_: storage.read(f"{folder}/gone"))
    with pytest.raises(InputError, match="gone is gone: another command is working on this folder"):
        records("repair", folder, "--drop")


def test_faults_that_are_not_of_single_records_are_left_to_prepare(tmp_path, capsys):
    write_records(tmp_path, {"train": [[record(0), record(1)], [record(1)]]})
    left = "left as it is: train-00001-of-00002.tfrecord: key 001 copy 0 is in train-00000-of-00002.tfrecord as well"
    for _ in range(2):  # the first one also gives dataset.json the checksums that it lacks
        assert records("repair", tmp_path) == 1
        assert left in capsys.readouterr().out
    assert load_dataset(str(tmp_path)).shards[0].crc32c


def test_a_set_in_cloud_storage_is_repaired_where_it_is(folder, prepared, bucket):
    flip_bit(folder / TRAIN, place(folder / TRAIN, 0)[0])
    for path in folder.iterdir():
        if path.is_file():
            storage.write(f"{bucket}/mended/{path.name}", path.read_bytes())
    assert records("repair", f"{bucket}/mended") == 0
    assert storage.read(f"{bucket}/mended/{TRAIN}") == (prepared / TRAIN).read_bytes()
    assert not [file for file in storage.files(f"{bucket}/mended") if file.relative.startswith(".repair/")]
