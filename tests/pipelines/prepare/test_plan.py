"""Which record goes into which shard, and what a shard's fingerprint depends on."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import filename
from pipelines.inputs import rows
from pipelines.inputs.pairs import Pair
from pipelines.inputs.rawset import scan
from pipelines.prepare import plan as planning
from pipelines.prepare.options import Options
from pipelines.prepare.plan import Place, deal, fingerprint, plan_shards, shards_to_write, shuffle_hash
from pipelines.prepare.workarea import survey
from tests.drawn.prepared import read_shard
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import PALETTE, draw_image
from trainer.formats.dataset import SHARD_PATTERN, load_dataset
from trainer.formats.examples import decode

PAIR = Pair("train/a", "/raw/images/train/a.jpg", "/raw/labels/train/a.png", "train", 1000, 5)


def members(copies: int) -> list[Place]:
    """The image of PAIR, and copies of it."""
    name = filename(PAIR.image, "/raw")
    return [Place("train", 0, 0, PAIR.key, copy, name, *PAIR[1:3], *PAIR[4:]) for copy in range(copies + 1)]


def test_a_new_image_changes_only_the_shards_it_falls_into(tmp_path):
    source = write_rawset(tmp_path / "raw", {"train": 30})
    options = Options(input=str(source), output=str(tmp_path / "records"), shards=6)

    def fingerprints():
        plan = plan_shards(scan(str(source), val_fraction=0), PALETTE, options)
        return {shard.spec.name: shard.spec.fingerprint for shard in plan.shards}

    before = fingerprints()
    write_pair(source, "train", "new.jpg", *draw_image(0))
    after = fingerprints()
    assert len(before) == 6
    assert sum(after[name] != value for name, value in before.items()) == 1


def test_a_new_folder_is_planned_once(tmp_path, monkeypatch):
    """Which takes a minute for a million images."""
    source = write_rawset(tmp_path / "raw", {"train": 3})
    calls = []
    monkeypatch.setattr(planning, "deal", lambda *arguments: calls.append(arguments) or deal(*arguments))
    options = Options(input=str(source), output=str(tmp_path / "records"))
    planning.plan_for(survey(options.output), scan(options.input), PALETTE, options)
    assert len(calls) == 1


def test_images_are_shuffled_over_shards_with_their_copies_and_records_inside_them(prepared):
    per_shard = {}
    for shard in load_dataset(str(prepared)).of_split("train"):
        records = [decode(frame.data) for frame in read_shard(prepared / shard.name)]
        per_shard[shard.name] = [(record.key, record.copy) for record in records]
    assert any(names != sorted(names) for names in per_shard.values())
    homes = [{name for name, names in per_shard.items() if (f"train/a{i}", 0) in names} for i in range(8)]
    assert len(set.union(*homes)) > 1
    for i, home in enumerate(homes):
        assert home == {name for name, names in per_shard.items() if f"train/a{i}" in [key for key, _ in names]}


def test_the_plan_counts_every_image_and_copy(source):
    options = Options(input=str(source), output="out", copies=2, shards=4)
    plan = plan_shards(scan(str(source)), PALETTE, options)
    assert plan.records == 8 * 3 + 3
    entries = [entry for shard in plan.shards for entry in plan.entries(shard)]
    assert len(set(entries)) == len(entries) == plan.records
    assert {(entry.key, entry.copy) for entry in entries if entry.key.startswith("val/")} == {
        (f"val/a{i}", 0) for i in range(3)
    }
    assert shards_to_write(survey("/nowhere"), plan, overwrite=False).shards == plan.shards


def test_a_plan_that_does_not_fit_in_memory_is_the_same(source, monkeypatch):
    options = Options(input=str(source), output="out", copies=2, shards=4)

    def planned():
        plan = plan_shards(scan(str(source)), PALETTE, options)
        return [(shard.spec, [*plan.entries(shard)]) for shard in plan.shards]

    whole = planned()
    monkeypatch.setattr(rows, "HELD", 4)
    monkeypatch.setattr(rows, "BLOCK", 2)
    assert planned() == whole and len(whole) > 4


def test_golden_fingerprints():
    """Shards of earlier versions are kept by these: they change only with a release that says that records change."""
    assert fingerprint(members(0), RecordOptions(), PALETTE) == "f1ab11a7a17e0ca37e05d38839e76a35"
    assert fingerprint(members(1), RecordOptions(), PALETTE) == "d6ba3288951fec755b0522cb0580d927"
    assert shuffle_hash(3, "train/a", 1) == 8725626830869558235


@pytest.mark.parametrize("name", [field.name for field in fields(RecordOptions)])
def test_every_option_of_a_record_is_part_of_its_fingerprint(name):
    default = getattr(RecordOptions(), name)
    if isinstance(default, str):
        other = {"image_format": "png", "label_coding": "colors"}[name]
    elif isinstance(default, tuple):
        other = (default[0], default[1] + 0.1)
    else:
        step = -1 if name == "max_pixels" else 1  # whose default is the most that it may be
        other = default + step if isinstance(default, int) else default / 2 + 0.03
    changed = replace(RecordOptions(), **{name: other})
    of = lambda options: fingerprint(members(1), options, PALETTE)
    assert of(changed) != of(RecordOptions())


def test_file_names_are_relative_to_the_set():
    assert filename("/raw/images/a.jpg", "/raw/") == "images/a.jpg"
    assert filename("/else/b.jpg", "/raw") == "b.jpg"
    assert filename("gs://bucket/set/images/a.jpg", "gs://bucket/set") == "images/a.jpg"


def test_more_than_100000_shards_have_names_that_are_read_and_in_order():
    pairs = [Pair(f"a{i}", f"/raw/a{i}.jpg", f"/raw/a{i}.png", "train", 1, 1) for i in range(108_000)]
    plan = deal(pairs, {"train": 1_000_000}, {"train": 1}, RecordOptions(), PALETTE, "/raw")
    names = [shard.spec.name for shard in plan.shards]
    assert len(names) > 100_000 and names == sorted(names)
    assert all(map(SHARD_PATTERN.fullmatch, names))
    assert names[-1] == f"train-{len(names) - 1}-of-{len(names)}.tfrecord"
