"""dataset.json and the shards that it lists."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from tests.drawn.held import held
from tests.drawn.records import PALETTE
from trainer import storage
from trainer.formats.dataset import Dataset, Shard, load_dataset, open_shard, save_dataset, shard_name, unchanged
from trainer.formats.palettes import CAMVID
from trainer.options import InputError


def dataset() -> Dataset:
    shard = Shard("val-00000-of-00001.tfrecord", "val", 2, 1, 99, 7, "f", (1,) * 11, 3, (3, 4), (5, 6))
    return Dataset(CAMVID, (shard,), {"copies": 1}, "abc", 512, 1)


def test_dataset_json_round_trip(tmp_path):
    save_dataset(str(tmp_path), dataset())
    loaded = load_dataset(str(tmp_path))
    assert loaded == dataset()
    assert (loaded.splits, loaded.count("val"), loaded.images("val"), loaded.count("train")) == (("val",), 2, 1, 0)
    assert loaded.shard_paths("gs://b/r", "val") == ["gs://b/r/val-00000-of-00001.tfrecord"]


def test_dataset_json_counts_records_and_images_of_every_split(tmp_path):
    save_dataset(str(tmp_path), dataset())
    value = json.loads((tmp_path / "dataset.json").read_text())
    assert (value["version"], value["splits"]) == (2, {"val": {"records": 2, "images": 1}})
    assert value["shards"][0]["images"] == 1


def test_version_1_which_counts_pictures_is_read(tmp_path):
    save_dataset(str(tmp_path), dataset())
    path = tmp_path / "dataset.json"
    value = json.loads(path.read_text().replace('"images"', '"pictures"').replace('"version": 2', '"version": 1'))
    storage.write_json(str(path), {name: part for name, part in value.items() if name != "digest"})
    assert '"pictures": 1' in path.read_text()
    assert load_dataset(str(tmp_path)) == dataset()


def test_the_json_of_a_shard_comes_back_from_either_version():
    (shard,) = dataset().shards
    value = json.loads(json.dumps(dataclasses.asdict(shard)))
    assert Shard.from_json(value) == shard
    value["pictures"] = value.pop("images")
    assert Shard.from_json(value) == shard
    with pytest.raises(TypeError):
        Shard.from_json({"name": "val-00000-of-00001.tfrecord"})


def leaves(value, path=()):
    """Paths of all values in a JSON file that hold no others."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, inner in inside for leaf in leaves(inner, (*path, key))] or [path]


def test_every_edit_of_dataset_json_is_noticed_even_after_it_is_saved_again(tmp_path):
    few = dataclasses.replace(dataset().shards[0], class_pixels=(4, 5, 6))
    save_dataset(str(tmp_path), dataclasses.replace(dataset(), palette=PALETTE, shards=(few,)))
    path = tmp_path / "dataset.json"
    text = path.read_text()
    for place in leaves(json.loads(text)):
        value = json.loads(text)
        parent = value
        for key in place[:-1]:
            parent = parent[key]
        old = parent[place[-1]]
        parent[place[-1]] = old + 1 if isinstance(old, int) else f"{old}x" if isinstance(old, str) else [1]
        storage.write_json(str(path), value)
        try:
            found = load_dataset(str(tmp_path))
        except InputError:
            continue
        assert found.edited, place
        save_dataset(str(tmp_path), dataclasses.replace(found, rejected=7))
        assert load_dataset(str(tmp_path)).edited == found.edited


def test_missing_and_damaged_dataset_json_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="holds no records"):
        load_dataset(str(tmp_path))
    save_dataset(str(tmp_path), dataset())
    path = tmp_path / "dataset.json"
    value = json.loads(path.read_text())
    storage.write_json(str(path), value | {"version": 99})
    with pytest.raises(InputError, match="version 99"):
        load_dataset(str(tmp_path))
    value["shards"][0]["name"] = "../../etc/passwd"
    storage.write_json(str(path), value)
    with pytest.raises(InputError, match="names a shard"):
        load_dataset(str(tmp_path))
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_dataset(str(tmp_path))


def test_records_that_are_just_being_written_are_not_called_missing(tmp_path):
    with held(tmp_path, "prepare"), pytest.raises(InputError) as refusal:
        load_dataset(str(tmp_path))
    assert re.search(
        r"is being written by `deeplab prepare` of .*its dataset\.json is not there yet; run this command again once",
        str(refusal.value),
    )
    with pytest.raises(InputError, match="holds no records"):  # its writer was killed
        load_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("no record 'a'"), "no record 'a'"),
        (FileNotFoundError(2, "No such file", "train-0"), "train-0: No such file"),
        (OSError("closed"), "closed"),
    ],
)
def test_what_goes_wrong_while_another_command_writes_records_names_it(tmp_path, error, said):
    save_dataset(str(tmp_path), dataset())
    with (
        held(tmp_path, "records repair"),
        pytest.raises(
            InputError, match=rf"^{said}; meanwhile .* `deeplab records repair` .*: run this command again once"
        ),
        unchanged(str(tmp_path), dataset()),
    ):
        raise error
    with pytest.raises(type(error)) as raised, unchanged(str(tmp_path), dataset()):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(("count", "first", "last"), [
    (1, "a-00000-of-00001", "a-00000-of-00001"),
    (99_999, "a-00000-of-99999", "a-99998-of-99999"),
    (100_000, "a-000000-of-100000", "a-099999-of-100000"),
    (1_000_001, "a-0000000-of-1000001", "a-1000000-of-1000001"),
])  # fmt: skip
def test_any_number_of_shards_has_names_in_order_that_can_be_read(count, first, last, tmp_path):
    numbers = sorted({*range(min(count, 12)), *range(max(0, count - 12), count), count // 10, count // 2})
    names = [shard_name("a", number, count) for number in numbers]
    assert (names[0], names[-1]) == (f"{first}.tfrecord", f"{last}.tfrecord")
    assert sorted(names) == names
    (shard,) = dataset().shards
    shards = tuple(dataclasses.replace(shard, name=name, split="a") for name in names)
    save_dataset(str(tmp_path), dataclasses.replace(dataset(), shards=shards))
    assert load_dataset(str(tmp_path)).shards == shards


def test_shards_that_version_0_2_named_with_five_digits_and_more_are_read(tmp_path):
    (shard,) = dataset().shards
    shards = tuple(dataclasses.replace(shard, name=f"val-{number:05d}-of-123456.tfrecord") for number in (7, 123455))
    save_dataset(str(tmp_path), dataclasses.replace(dataset(), shards=shards))
    assert load_dataset(str(tmp_path)).shards == shards


def counted(*pixels: int, ignored: int = 0) -> Dataset:
    (shard,) = dataset().shards
    pixels = (*pixels, *(0,) * (11 - len(pixels)))
    return dataclasses.replace(
        dataset(), shards=(dataclasses.replace(shard, class_pixels=pixels, ignored_pixels=ignored),) * 2
    )


def test_labels_of_all_classes_and_few_ignored_pixels_leave_no_doubts():
    assert counted(*range(1, 12), ignored=66).doubts("val") == []
    assert dataset().doubts("train") == []


def test_classes_that_no_label_of_a_split_shows_are_named():
    assert counted(*range(1, 10), 0, 3).doubts("val") == [
        "val: 1 of 11 classes has no pixel in its labels: pedestrian"
    ]
    (doubt,) = counted(1, 1).doubts("val")
    assert doubt.startswith("val: 9 of 11 classes ") and doubt.endswith(" and 1 more")


def test_labels_of_one_class_and_of_mostly_ignored_pixels_are_said():
    assert counted(0, 5, ignored=5).doubts("val")[1:] == [
        "val: every pixel that is not ignored is of the class building; nothing else can be learnt"
    ]
    assert counted(*range(1, 12), ignored=67).doubts("val") == ["val: 50.4% of the pixels are ignored (id 11)"]
    assert counted(1, 1, ignored=9998).doubts("val")[1] == "val: >99.9% of the pixels are ignored (id 11)"
    assert counted(ignored=9).doubts("val") == ["val: every pixel of its labels is ignored (id 11)"]


@pytest.mark.parametrize("where", ["local", "gs"])
def test_a_shard_is_opened_wherever_it_is(where, tmp_path, request):
    folder = str(tmp_path) if where == "local" else request.getfixturevalue("bucket") + f"/{tmp_path.name}"
    storage.write(storage.join(folder, "val-00000-of-00001.tfrecord"), b"12345")
    with open_shard(folder, "val-00000-of-00001.tfrecord") as file:
        assert file.read(2) == b"12"
    with pytest.raises(FileNotFoundError):
        open_shard(folder, "val-00001-of-00002.tfrecord")
