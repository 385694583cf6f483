"""`deeplab records reshard`: other shards of the same bytes, those that `deeplab prepare` would have written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from pipelines.records import reshard
from pipelines.records.reshard import Place, plan_shards
from tests.drawn import faults
from tests.drawn.prepared import describe, flip_bit, prepare_here, read_shard, records, shard_bytes
from trainer import storage
from trainer.formats import images, label_images
from trainer.formats.dataset import check_shards, load_dataset
from trainer.formats.examples import decode, encode
from trainer.formats.frames import frame
from trainer.options import InputError


@pytest.fixture(scope="module")
def five(source, tmp_path_factory) -> Path:
    """The records of the fixture `prepared` as prepare writes them in five shards, with another seed's order."""
    folder = tmp_path_factory.mktemp("five") / "records"
    assert prepare_here(source, folder, "--copies", "1", "--shards", "5") == 0
    return folder


def test_shards_are_those_that_prepare_writes_with_this_number(prepared, five, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(images, "decode_image", lambda *_: 1 / 0)
    assert records("reshard", prepared, tmp_path / "new", "--shards", 5) == 0
    assert f"14 records of 3 shards written to {len(shard_bytes(five))} in {tmp_path}/new" in capsys.readouterr().out
    assert shard_bytes(tmp_path / "new") == shard_bytes(five)
    new, expected = load_dataset(str(tmp_path / "new")), load_dataset(str(five))
    assert (new.fingerprint, new.palette, new.rejected) == (expected.fingerprint, expected.palette, 0)
    for shard, other in zip(new.shards, expected.shards, strict=True):
        assert vars(shard) | {"fingerprint": ""} == vars(other) | {"fingerprint": ""}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *shard_bytes(five), "dataset.json", "rejects.jsonl"
    }  # fmt: skip
    monkeypatch.undo()
    assert records("verify", tmp_path / "new") == 0


def test_there_and_back_gives_the_same_bytes(prepared, five, tmp_path):
    assert records("reshard", five, tmp_path / "new", "--shards", 2) == 0
    assert shard_bytes(tmp_path / "new") == shard_bytes(prepared)


def test_shards_have_a_size_or_a_number_in_the_largest_split():
    splits = {
        "train": [Place(value * 7919, value * 7919, "a", 0, 1 << 20) for value in range(12)],
        "val": [Place(value, value, "b", 0, 1 << 20) for value in range(3)],
    }
    names = lambda *arguments: [name.split("-of-")[0] for name in plan_shards(splits, *arguments)]
    assert names(0, 4 << 20) == ["train-00000", "train-00001", "train-00002", "val-00000"]
    assert names(4, 1) == ["train-00000", "train-00001", "train-00002", "train-00003", "val-00000"]
    assert len(names(1000, 1)) <= 15, "none is empty"
    planned = [place for places in plan_shards(splits, 5, 1).values() for place in places]
    assert sorted(planned) == sorted([*splits["train"], *splits["val"]])


def test_megabytes_are_binary(prepared, tmp_path, monkeypatch):
    sizes = []
    plan = lambda by_split, shards, size: sizes.append(size) or plan_shards(by_split, shards, size)
    monkeypatch.setattr(reshard, "plan_shards", plan)
    assert records("reshard", prepared, tmp_path / "new", "--megabytes", 3) == 0
    assert sizes == [3 * 1024**2]


def test_killed_at_any_step_and_run_again_gives_the_same(prepared, five, tmp_path, monkeypatch):
    interrupts = faults.Interrupts(monkeypatch)
    for kill in range(20):
        folder, interrupts.after = tmp_path / str(kill), kill
        try:
            records("reshard", prepared, folder, "--shards", 5)
            break
        except KeyboardInterrupt:
            assert records("reshard", prepared, folder, "--shards", 5) == 0
            assert shard_bytes(folder) == shard_bytes(five) and not (folder / "reshard.json").exists()
    assert kill > 6


def test_a_folder_of_other_records_is_refused(prepared, folder, five, tmp_path):
    message = "belongs to other records; give another folder"
    with pytest.raises(InputError, match=message):
        records("reshard", prepared, five)
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match=message):
        records("reshard", prepared, folder)
    with pytest.raises(InputError, match="is the folder of the records themselves"):
        records("reshard", prepared, f"{prepared}/")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/reshard.json").write_text(json.dumps({"records": "others", "shards": []}))
    with pytest.raises(InputError, match=r"reshard\.json is of a .* that did not finish, .* run that command again"):
        records("reshard", prepared, tmp_path / "new")


def test_a_folder_in_which_another_reshard_begins_is_left_to_it(prepared, tmp_path, monkeypatch):
    write = reshard._write

    def overtaken(*arguments):
        (tmp_path / "new/reshard.json").write_text(json.dumps({"records": "others", "shards": []}))
        return write(*arguments)

    monkeypatch.setattr(reshard, "_write", overtaken)
    with pytest.raises(InputError, match="another `deeplab records reshard` has begun"):
        records("reshard", prepared, tmp_path / "new")
    assert not (tmp_path / "new/dataset.json").exists()


def test_records_that_are_changed_until_the_last_shard_is_written_leave_no_dataset_json(folder, tmp_path, monkeypatch):
    """Shards of before and of now may be whole, each by itself."""
    write = reshard._write

    def overtaken(*arguments):
        (folder / "dataset.json").unlink(missing_ok=True)  # as `prepare` does before it writes shards
        return write(*arguments)

    monkeypatch.setattr(reshard, "_write", overtaken)
    with pytest.raises(InputError, match="were changed by another command since this one began"):
        records("reshard", folder, tmp_path / "new")
    assert not (tmp_path / "new/dataset.json").exists()


def test_rejects_that_the_records_no_longer_have_are_removed(folder, tmp_path):
    assert records("reshard", folder, tmp_path / "new", "--shards", 5) == 0
    (folder / "rejects.jsonl").unlink()
    assert (tmp_path / "new/rejects.jsonl").exists()
    assert records("reshard", folder, tmp_path / "new", "--shards", 5) == 0
    assert not (tmp_path / "new/rejects.jsonl").exists()


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"version": 2'])
def test_the_cure_of_a_damaged_dataset_json_is_right(damage, prepared, tmp_path):
    new = tmp_path / "new"
    assert records("reshard", prepared, new, "--shards", 5) == 0
    before = (new / "dataset.json").read_bytes()
    (new / "dataset.json").write_bytes(damage)
    cure = "empty the folder, and run the same `deeplab records reshard` or `deeplab prepare` again"
    for command in (["ls", new], ["reshard", prepared, new, "--shards", 5]):
        with pytest.raises(InputError, match=cure):
            records(*command)
    for file in new.iterdir():
        file.unlink()
    assert records("reshard", prepared, new, "--shards", 5) == 0
    assert (new / "dataset.json").read_bytes() == before


def test_the_command_that_writes_deleted_shards_again_is_named(prepared, tmp_path, capsys):
    new = tmp_path / "new"
    assert records("reshard", prepared, new, "--shards", 5) == 0
    before = shard_bytes(new)
    flip_bit(new / min(before), 20)
    maker = "the same `deeplab records reshard` or `deeplab prepare`"
    assert records("verify", new) == records("verify", new, "--delete") == 1
    said = capsys.readouterr().out
    assert f"{maker} then writes them again" in said and f"run {maker} again to write them" in said
    with pytest.raises(InputError, match=f"shards are missing .*; run {maker} again"):
        check_shards(str(new), load_dataset(str(new)))
    assert records("reshard", prepared, new, "--shards", 5) == 0
    assert shard_bytes(new) == before


def test_damaged_records_are_named_before_anything_is_written(folder, tmp_path):
    first = read_shard(folder / "train-00000-of-00002.tfrecord")[0]
    flip_bit(folder / "train-00000-of-00002.tfrecord", first.offset + 20)
    with pytest.raises(InputError, match=r"train-00000-of-00002\.tfrecord: record 0 .*`deeplab records verify"):
        records("reshard", folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def relabelled(folder: Path, ids: np.ndarray) -> None:
    """Gives the first record of a shard another label, with the right checksums of TFRecord."""
    path = folder / "train-00000-of-00002.tfrecord"
    messages = [one.data for one in read_shard(path)]
    changed = dataclasses.replace(decode(messages[0]), label=images.encode_png(ids))
    path.write_bytes(b"".join(map(frame, [encode(changed), *messages[1:]])))


def test_a_shard_with_other_records_than_dataset_json_describes_is_not_made_valid(folder, tmp_path):
    label = label_images.decode_label(decode(read_shard(folder / "train-00000-of-00002.tfrecord")[0].data).label)
    relabelled(folder, np.where(label == 1, 2, label).astype(np.uint8))
    with pytest.raises(InputError, match=r"train-00000-of-00002\.tfrecord: is not the file .*`deeplab records verify"):
        records("reshard", folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("ids", "kind"), [(np.zeros((4, 5, 3), np.uint8), "coloured"), (np.zeros((4, 5), np.uint8), "5x4")]
)
def test_a_label_that_is_none_is_named(folder, tmp_path, ids, kind):
    relabelled(folder, ids)
    name = "train-00000-of-00002.tfrecord"
    data = (folder / name).read_bytes()

    def described(value: dict) -> None:
        shard = next(shard for shard in value["shards"] if shard["name"] == name)
        shard.update(bytes=len(data), crc32c=google_crc32c.value(data))

    describe(folder, described)
    key = decode(read_shard(folder / name)[0].data).key
    with pytest.raises(InputError, match=rf"key {key}: label is {kind}, expected class ids of"):
        records("reshard", folder, tmp_path / "new")
    copy = decode(read_shard(folder / name)[0].data).copy
    with pytest.raises(InputError, match=f"record {key}: label is {kind}"):
        records("show", folder, "--record", key, "--copy", copy, "--save", tmp_path / "look")


def test_from_bucket_to_bucket(prepared, five, bucket):
    for path in prepared.iterdir():
        if path.is_file():
            storage.write(f"{bucket}/old/{path.name}", path.read_bytes())
    assert records("reshard", f"{bucket}/old", f"{bucket}/new", "--shards", 5) == 0
    for name, data in shard_bytes(five).items():
        assert storage.read(f"{bucket}/new/{name}") == data


def test_a_shard_that_changes_meanwhile_is_an_error(folder, tmp_path, monkeypatch):
    plan = reshard.plan_shards

    def changed(*arguments):
        flip_bit(folder / "train-00000-of-00002.tfrecord", 40)
        return plan(*arguments)

    monkeypatch.setattr(reshard, "plan_shards", changed)
    with pytest.raises(InputError, match="was changed in the meantime"):
        records("reshard", folder, tmp_path / "new")
    assert not (tmp_path / "new/dataset.json").exists()


def test_the_second_of_two_at_once_is_refused(prepared, five, tmp_path, monkeypatch):
    plan = reshard.plan_shards

    def overtaken(*arguments):
        with pytest.raises(InputError, match="is being written by `deeplab records reshard`"):
            records("reshard", prepared, tmp_path / "new", "--shards", 5)
        return plan(*arguments)

    monkeypatch.setattr(reshard, "plan_shards", overtaken)
    assert records("reshard", prepared, tmp_path / "new", "--shards", 5) == 0
    assert shard_bytes(tmp_path / "new") == shard_bytes(five)
    assert records("verify", tmp_path / "new") == 0
