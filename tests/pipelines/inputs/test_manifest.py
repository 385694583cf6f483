"""Raw sets that a manifest lists."""

from __future__ import annotations

import errno
import functools
import json
import os

import pytest

from pipelines.inputs import manifest, rows
from pipelines.inputs.rawset import scan
from tests.drawn import faults
from tests.drawn.rawset import splits_of, touch
from trainer import storage
from trainer.options import InputError


def test_csv_manifest_is_relative_to_its_folder(tmp_path):
    touch(tmp_path, "set/pics/a.jpg", "set/l/a.png", "else/b.jpg", "else/b_label.png")
    manifest = tmp_path / "set/list.csv"
    manifest.write_text(
        f"image,label,split\npics/a.jpg,l/a.png,validation\n../else/b.jpg,{tmp_path}/else/b_label.png,\n"
    )
    raw = scan(str(manifest), val_fraction=0.0)
    outside = str(tmp_path / "else/b").lstrip("/")
    assert raw.layout == "manifest" and not raw.rejects
    assert splits_of(raw) == {"pics/a": "val", outside: "train"}
    assert {pair.label for pair in raw.pairs} == {str(tmp_path / "set/l/a.png"), str(tmp_path / "else/b_label.png")}


def test_a_folder_with_a_jsonl_manifest_is_recognised(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "a.png")
    (tmp_path / "manifest.jsonl").write_text('{"image": "a.jpg", "label": "a.png", "split": "odd-one"}\n\n')
    assert splits_of(scan(str(tmp_path))) == {"a": "odd-one"}
    monkeypatch.chdir(tmp_path)
    assert splits_of(scan("manifest.jsonl")) == {"a": "odd-one"} == splits_of(scan("."))


def test_rows_that_cannot_be_used_are_rejects_naming_the_line(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.jpg", "c.jpg", "c.png", "c.webp")
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "image, label, split\na.jpg,a.png,train\na.jpg,a.png,val\nb.jpg,,\ngone.jpg,a.png,\n"
        "b.jpg,gone.png,\nc.jpg,c.png,../up\nc.webp\n"
    )
    raw = scan(str(manifest))
    assert splits_of(raw) == {"a": "train"}
    texts = [reject.reason.removeprefix(f"{manifest} ") for reject in raw.rejects]
    assert sorted(texts) == [
        "line 3: already listed in line 2",
        'line 4: expected an image and a label, got {"image": "b.jpg", "label": "", "split": ""}',
        f"line 5: {tmp_path}/gone.jpg not found",
        f"line 6: {tmp_path}/gone.png not found",
        "line 7: a split is one word, got '../up'",
        'line 8: expected an image and a label, got {"image": "c.webp", "label": null, "split": null}',
    ]


def test_a_manifest_of_more_rows_than_memory_holds_gives_the_same_set(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{number}.{suffix}" for number in range(9) for suffix in ("jpg", "png")), "u\u0308.jpg")
    entries = [f"{number}.jpg,{number}.png,{('', 'val', 'train')[number % 3]}" for number in (5, 0, 8, 3, 1, 7, 6, 2)]
    lines = ["image,label,split", *entries, "8.jpg,8.png,val", "4.jpg,gone.png,", "\u00fc.jpg,4.png,test"]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    whole = scan(str(tmp_path / "m.csv"), val_fraction=0.5)
    monkeypatch.setattr(rows, "HELD", 2)
    monkeypatch.setattr(rows, "BLOCK", 1)
    spooled = scan(str(tmp_path / "m.csv"), val_fraction=0.5)
    assert [*spooled.pairs] == [*whole.pairs] and len(whole.pairs) == 9
    assert spooled.rejects == whole.rejects and len(whole.rejects) == 2


def test_images_of_one_name_in_a_manifest_are_rejects(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "a.webp", "l.png", "b.jpg")
    entries = [{"image": i, "label": "l.png"} for i in ("a.jpg", "a.webp", "b.jpg")]
    (tmp_path / "m.jsonl").write_text("\n".join([*map(json.dumps, entries), "{broken", "[1]"]))
    raw = scan(str(tmp_path / "m.jsonl"))
    assert list(splits_of(raw)) == ["b"]
    assert [reject.key for reject in raw.rejects] == ["", "", "a", "a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"file,mask\na,b\n", "expected a column 'image' in its first line, got 'file,mask'"),
        ("m.csv", b"image,mask\na,b\n", "expected a column 'label' in its first line, got 'image,mask'"),
        ("m.csv", b"image,label\n\xff\xfe,b\n", "is not UTF-8 text"),
        ("m.txt", b"image,label\n", r"expected a folder, or a manifest named \*.csv"),
        ("m.csv", b"image,label\n", "no image has a label"),
    ],
)
def test_unusable_manifests_are_input_errors(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        scan(str(tmp_path / name))


def test_lines_that_cannot_be_read_are_rejects_with_the_reason(tmp_path):
    touch(tmp_path, "a.jpg", "a.png")
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"image": "a.jpg", "label": "a.png"}\n{broken\n[1]\n')
    reasons = [reject.reason for reject in scan(str(manifest)).rejects]
    assert reasons[0].startswith(f"{manifest} line 2: is not JSON: ")
    assert reasons[1] == f"{manifest} line 3: is not a JSON object: [1]"


def test_dotted_names_without_the_suffix_of_an_image_are_whole_keys(tmp_path):
    touch(tmp_path, "cam_1.5m_1", "cam_1.5m_2", "l1.png", "l2.png")
    (tmp_path / "m.csv").write_text("image,label\ncam_1.5m_1,l1.png\ncam_1.5m_2,l2.png\n")
    assert set(splits_of(scan(str(tmp_path / "m.csv")))) == {"cam_1.5m_1", "cam_1.5m_2"}


def test_splits_may_be_written_in_capitals(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.jpg", "b.png")
    (tmp_path / "m.csv").write_text("image,label,split\na.jpg,a.png,Train\nb.jpg,b.png,VALIDATION\n")
    assert splits_of(scan(str(tmp_path / "m.csv"))) == {"a": "train", "b": "val"}


def test_a_folder_that_may_not_be_read_beside_the_files_is_no_hindrance(tmp_path, monkeypatch):
    touch(tmp_path, "set/a.jpg", "set/sub/a.png")
    (tmp_path / "m.csv").write_text("image,label\nset/a.jpg,set/sub/a.png\nset/gone.jpg,set/sub/a.png\n")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("trainer.storage.files", refuse)
    raw = scan(str(tmp_path / "m.csv"))
    assert list(splits_of(raw)) == ["set/a"] and "gone.jpg not found" in raw.rejects[0].reason


def refusing_to_look_at(monkeypatch, name, number, times):
    """Lets the next looks at a file of that name fail; returns their paths."""
    failed = []

    def fails(true, path, *arguments, **named):
        if str(path).endswith(name) and len(failed) < times:
            failed.append(path)
            raise OSError(number, os.strerror(number), path)
        return true(path, *arguments, **named)

    for function in ("stat", "lstat"):
        monkeypatch.setattr(os, function, functools.partial(fails, getattr(os, function)))
    return failed


def test_a_file_that_cannot_be_looked_at_for_a_moment_is_found(tmp_path, monkeypatch):
    faults.impatient(monkeypatch)
    touch(tmp_path, "a.jpg", "a.png")
    (tmp_path / "m.csv").write_text("image,label,split\na.jpg,a.png,train\n")
    expected = [*scan(str(tmp_path / "m.csv")).pairs]
    failed = refusing_to_look_at(monkeypatch, "a.jpg", errno.ESTALE, times=2)
    assert [*scan(str(tmp_path / "m.csv")).pairs] == expected and len(failed) == 2


def test_a_file_in_a_folder_that_may_not_be_entered_is_not_called_missing(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "a.png")
    (tmp_path / "m.csv").write_text("image,label,split\na.jpg,a.png,train\n")
    refusing_to_look_at(monkeypatch, "a.jpg", errno.EACCES, times=10**6)
    (pair,) = scan(str(tmp_path / "m.csv")).pairs  # whose image cannot be read, which is said then
    assert pair.image == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("address", ["gs://", "gs://a.jpg", "gs:///a.jpg"])
def test_an_address_without_a_bucket_or_an_object_is_a_reject_and_the_other_images_are_found(address, server):
    for name in ("a.jpg", "a.png"):
        storage.write(f"gs://seg/set/{name}", b"x")
    storage.write("gs://seg/m.csv", f"image,label\nset/a.jpg,set/a.png\n{address},set/a.png\n".encode())
    raw = scan("gs://seg/m.csv")
    assert list(splits_of(raw)) == ["set/a"] and f"line 3: {address} not found" in raw.rejects[0].reason


@pytest.mark.parametrize("status", [400, 403])
def test_a_bucket_that_may_not_be_listed_is_named_as_the_fault(status, server, monkeypatch):
    for name in ("a.jpg", "a.png"):
        storage.write(f"gs://seg/set/{name}", b"x")
    storage.write("gs://seg/m.csv", b"image,label\nset/a.jpg,set/a.png\n")
    server.fault = lambda number, method, path: status if "/o?" in path else None
    with pytest.raises(
        InputError, match=f"gs://seg/set, in which .* cannot be listed: Cloud Storage answered {status}"
    ):
        scan("gs://seg/m.csv")


@pytest.mark.parametrize("name", ["set", "subset", "Phase", "Splits"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_splits_in_a_column_of_another_name_are_refused(tmp_path, name, kind):
    touch(tmp_path, "a.jpg", "a.png", "b.jpg", "b.png")
    splits = {"a": "Train", "b": "validation"}
    rows = [{"image": f"{key}.jpg", "label": f"{key}.png", name: split} for key, split in splits.items()]
    csv = [f"image,label,{name}", *(",".join(row.values()) for row in rows)]
    lines = csv if kind == "csv" else map(json.dumps, rows)
    (tmp_path / f"m.{kind}").write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"column '{name}', which is not read, holds train and val.*name that column"):
        scan(str(tmp_path / f"m.{kind}"))


def test_backslashes_of_windows_are_named_as_the_fault(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "set/b.jpg", "set/b.png")
    (tmp_path / "m.csv").write_text("image,label\na.jpg,a.png\nset\\b.jpg,set\\b.png\n")
    (rejected,) = scan(str(tmp_path / "m.csv")).rejects
    assert rejected.reason.endswith("b.jpg not found; write / in place of \\")


def test_columns_that_are_not_read_are_named(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.jpg", "b.png")
    (tmp_path / "m.csv").write_text("image,label,fold,split,set\na.jpg,a.png,0,train,train\nb.jpg,b.png,1,val,train\n")
    raw = scan(str(tmp_path / "m.csv"))
    assert raw.summary.startswith("manifest: m.csv (columns not read: fold, set), 1 train + 1 val images")


@pytest.mark.parametrize("value", ["train", "train2017"])
def test_a_column_that_says_the_same_of_all_images_gives_no_splits(value, tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.jpg", "b.png")
    (tmp_path / "m.csv").write_text(f"image,label,source\na.jpg,a.png,{value}\nb.jpg,b.png,{value}\n")
    assert scan(str(tmp_path / "m.csv")).summary.startswith("manifest: m.csv (columns not read: source), ")


def test_the_row_numbers_that_pandas_writes_without_a_name_are_not_mentioned(tmp_path):
    touch(tmp_path, "a.jpg", "a.png")
    (tmp_path / "m.csv").write_text(",image,label\n0,a.jpg,a.png\n")
    assert scan(str(tmp_path / "m.csv")).summary.startswith("manifest: m.csv, ")


def test_columns_of_any_kind_of_value_are_named(tmp_path):
    touch(tmp_path, "a.jpg", "a.png")
    values = {"image": "a.jpg", "label": "a.png", "points": [[1, 2]], "score": 0.5, "none": None, "is\nnew": False}
    (tmp_path / "m.jsonl").write_text(json.dumps(values))
    summary = scan(str(tmp_path / "m.jsonl")).summary
    assert summary.startswith("manifest: m.jsonl (columns not read: is\\nnew, none, points, score), ")


def test_an_object_is_found_by_the_other_form_of_its_accents_unless_there_are_two(monkeypatch):
    names = ("a.jpg", "o\u0308.jpg", "u\u0308\u00fc.jpg", "\u00fcu\u0308.jpg")
    files = {name: storage.File(f"gs://b/i/{name}", name, 1, 2) for name in names}
    monkeypatch.setattr(storage, "walk", lambda folder: iter(files.values()) if folder == "gs://b/i" else iter(()))
    asked = ("a.jpg", "b.jpg", "u\u0308\u00fc.jpg", "\u00f6.jpg", "\u00fc\u00fc.jpg")
    objects = manifest._Remote(f"gs://b/i/{name}" for name in asked)
    found = [objects.find(f"gs://b/i/{name}") for name in asked]
    assert [file and file.path.rpartition("/")[2] for file in found] == [
        "a.jpg",
        None,
        "u\u0308\u00fc.jpg",
        "o\u0308.jpg",
        None,
    ]
