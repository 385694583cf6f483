"""What `deeplab doctor` prints, writes and refuses, and that it touches nothing that is not its own."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from pipelines.doctor import job
from tests.drawn.encoded import saved
from tests.drawn.ill import draw_set, examine, prepare_as_proposed
from tests.drawn.outputs import as_it_is
from trainer import storage
from trainer.options import InputError


def from_1(label: np.ndarray, key: str) -> bytes:
    return saved(np.where(label == 255, 0, label + 1).astype(np.uint8))


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    draw_set(tmp_path / "set", from_1, splits={"train": 4, "val": 2})
    return tmp_path


def test_the_output_holds_the_report_and_the_cure_and_nothing_else(ill, capsys):
    before = as_it_is(ill / "set")
    assert examine(ill / "set", ill / "out", beam=True).status == 2
    assert {*as_it_is(ill / "out")} == {"doctor.json", "doctor.html", "palette.json"}
    assert as_it_is(ill / "set") == before
    out = capsys.readouterr().out
    assert "trained wrongly: 6 of 6 sampled labels: the labels seem to count the 3 classes from 1" in out
    assert "cure: --palette palette.json" in out and "verdict: dangerous" in out and "prepare it by: " in out


def test_the_verdict_counts_the_pairs_that_were_decoded(ill):
    (ill / "set/images/train/a0.png").write_bytes(b"nope")
    found = examine(ill / "set", ill / "out", "--full")
    assert "(6 pairs, 5 decoded)" in found.report["verdict"] and found.report["decoded"] == 5


def test_json_is_all_that_is_printed_with_json(ill, capsys):
    found = examine(ill / "set", ill / "out", "--json")
    assert json.loads(capsys.readouterr().out) == found.report
    assert found.report["status"] == found.status == 2
    assert {"kind", "grade", "count", "of", "unit", "text", "cure", "examples"} == found.report["findings"][0].keys()


def test_a_rerun_gives_the_same_and_removes_a_cure_that_is_no_longer_needed(ill):
    examine(ill / "set", ill / "out")
    before = as_it_is(ill / "out")
    examine(ill / "set", ill / "out")
    assert as_it_is(ill / "out") == before
    draw_set(ill / "set", lambda label, key: saved(label), splits={"train": 4, "val": 2})
    assert examine(ill / "set", ill / "out").status == 0
    assert {*as_it_is(ill / "out")} == {"doctor.json", "doctor.html"}


def test_a_palette_into_which_names_were_put_is_kept_and_may_be_given_again(ill):
    examine(ill / "set", ill / "out")
    path = ill / "out/palette.json"
    path.write_text(path.read_text().replace("disc", "wheel"))
    edited = path.read_text()
    with pytest.raises(InputError, match=r"palette\.json was changed since this command wrote it"):
        examine(ill / "set", ill / "out")
    found = examine(ill / "set", ill / "out", "--palette", str(path))
    assert found.status == 0 and path.read_text() == edited
    assert "wheel" in [entry["name"] for entry in found.report["palette"]["classes"]]
    prepare_as_proposed(found, ill / "records")


@pytest.mark.parametrize("name", ["doctor.json", "doctor.html", "palette.json", "manifest.jsonl", "labels"])
def test_files_of_others_are_not_replaced(name, ill):
    (ill / "out").mkdir()
    (ill / "out" / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} was not written by `deeplab doctor`"):
        examine(ill / "set", ill / "out")
    assert as_it_is(ill / "out") == {name: b"mine"}


def test_an_output_in_the_set_is_refused(ill):
    with pytest.raises(InputError, match="lies in the set being examined"):
        examine(ill / "set", ill / "set/labels/doctor")
    with pytest.raises(InputError, match="give --full or --quick, got both"):
        examine(ill / "set", ill / "out", "--full", "--quick")


@pytest.mark.parametrize("output", ["set", "set/images/train"])
def test_an_output_among_the_images_and_labels_of_a_manifest_is_refused(output, ill):
    pairs = [(path, str(path).replace("/images/", "/labels/")) for path in (ill / "set/images").rglob("*.png")]
    rows = [f"{image},{label}\n" for image, label in pairs]
    (ill / "list.csv").write_text("image,label\n" + "".join(rows).replace("/labels/train/", "/labels/"))
    for path in (ill / "set/labels/train").iterdir():
        path.rename(ill / "set/labels" / path.name)
    before = as_it_is(ill)
    with pytest.raises(InputError, match=r"leads into \S+ of the set; give a folder of its own"):
        examine(ill / "list.csv", ill / output, "--palette", str(ill / "set/palette.json"), "--overwrite")
    assert as_it_is(ill) == before


def test_a_broken_palette_of_the_set_ends_with_a_message_that_names_it(ill):
    (ill / "set/palette.json").write_text('{"classes": 3}')
    with pytest.raises(InputError, match=r"set/palette\.json: a palette needs a list of classes"):
        examine(ill / "set", ill / "out")
    assert not (ill / "out").exists()


def test_what_is_no_set_ends_with_a_message_and_leaves_nothing(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match="is not a raw set of a known layout"):
        cli.run(["doctor", str(tmp_path / "set"), "--output", str(tmp_path / "out")])
    assert as_it_is(tmp_path) == {}


def test_a_label_that_cannot_be_examined_is_a_finding_and_the_others_are_examined(ill, monkeypatch):
    real = job.look

    def look(subject, **options):
        if subject.key == "val/a1":
            raise RuntimeError("the decoder fell over")
        return real(subject, **options)

    monkeypatch.setattr(job, "look", look)
    found = examine(ill / "set", ill / "out")
    assert found.finding("failed")["count"] == 1 and found.report["pairs"] == 6
    assert "the decoder fell over" in found.finding("failed")["examples"][0]["found"]
    assert "val/a1" not in prepare_as_proposed(found, ill / "records")


def test_names_of_any_characters_get_through_to_the_page_and_the_manifest(tmp_path):
    truth = draw_set(tmp_path / "set", splits={"train": 4, "val": 2})
    name = 'a [1] #%25 "ü"\n<b>'
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind / "train/a1.png").rename(tmp_path / "set" / kind / f"train/{name}.png")
    (tmp_path / "set/labels/train/a2.png").write_bytes(b"")
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.status == 1
    made = prepare_as_proposed(found, tmp_path / "records")
    assert made.keys() == truth.keys() - {"train/a1", "train/a2"} | {f"train/{name}"}


def test_beam_finds_what_is_found_chunk_by_chunk(ill):
    draw_set(ill / "set", lambda label, key: saved(label), splits={"train": 40, "val": 2})
    assert examine(ill / "set", ill / "beam", beam=True).report == examine(ill / "set", ill / "here").report


@pytest.mark.slow
def test_a_set_in_cloud_storage_is_examined_there(bucket, ill):
    for path, data in as_it_is(ill / "set").items():
        storage.write(f"{bucket}/doctor/set/{path}", data)
    output = f"{bucket}/doctor/out"
    assert cli.run(["doctor", f"{bucket}/doctor/set", "--output", output]) == 2
    assert {file.relative for file in storage.files(output)} == {"doctor.json", "doctor.html", "palette.json"}
    words = shlex.split(storage.read_json(f"{output}/doctor.json")["prepare"])
    assert words[2:6] == ["--input", f"{bucket}/doctor/set", "--palette", f"{output}/palette.json"]
    assert cli.run([*words[1:-1], str(ill / "records")]) == 0
