"""Entries of CSV, JSONL and text lists, and the paths they stand for."""

from __future__ import annotations

import json

import pytest

from pipelines.inputs.lists import ListEntry, entry_path, is_list, read_entries
from tests.drawn.rawset import touch
from trainer.options import InputError


def rows(path, content: str | bytes, *columns: str) -> list[ListEntry]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_entries(str(path), columns))


def test_a_csv_gives_its_rows_by_column(tmp_path):
    content = '\ufeffimage, split\r\na.jpg,train\r\n"b,\nc.jpg", val\r\n\r\nd.jpg\r\n'
    assert rows(tmp_path / "l.CSV", content, "image") == [
        ListEntry(2, {"image": "a.jpg", "split": "train"}),
        ListEntry(4, {"image": "b,\nc.jpg", "split": "val"}),
        ListEntry(6, {"image": "d.jpg", "split": None}),
    ]


def test_a_jsonl_gives_its_objects_and_the_faults_of_other_lines(tmp_path):
    first, second, third = rows(tmp_path / "l.jsonl", '{"image": "a.jpg", "n": 1}\n\n{oops\n3\n')
    assert first == ListEntry(1, {"image": "a.jpg", "n": 1})
    assert second.line == 3 and second.fault.startswith("is not JSON: ") and not second.values
    assert third == ListEntry(4, {}, "is not a JSON object: 3")


def test_a_txt_gives_its_lines_as_images(tmp_path):
    content = "# images\n a.jpg \n\n b#.jpg\n"
    assert rows(tmp_path / "l.txt", content) == [ListEntry(2, {"image": "a.jpg"}), ListEntry(4, {"image": "b#.jpg"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "picture\na.jpg\n", "expected a column 'image' in its first line, got 'picture'"),
        ("l.csv", "Image,Split\na,train\n", "got 'Image,Split'; write its name in lower case"),
        ("l.csv", "image;split\na;train\n", "got 'image;split'; separate columns by commas"),
        ("l.csv", "image\tsplit\na\ttrain\n", "; separate columns by commas"),
        ("l.csv", "picture\na.jpg\n", "got 'picture'; name the columns there"),
        ("l.csv", "image,image\na,b\n", "got 'image,image'; keep one of them"),
        ("l.csv", "image, Split\na,test\n", "column 'Split' would not be read; write its name in lower case"),
        ("l.csv", "", "expected a column 'image' in its first line, got ''"),
        (
            "l.csv",
            'image\n"a' + "a" * (1 << 24),
            r"line 2 is not CSV: field larger.*; close its quote, or remove the col",
        ),
        ("l.txt", b"\xff\xfea.jpg", "is not UTF-8 text"),
        ("l.txt", b"a.jpg\nb\xe4.jpg", r"is not UTF-8 text: .*\(line 2\); save it in that encoding"),
        ("l.csv", 'image\n"a.jpg\nb.jpg\n', "line 2 is not CSV: unexpected end of data; a quote is never closed"),
        ("l.csv", 'image\na.jpg\n"b.jpg', "line 3 is not CSV: unexpected end of data; a quote is never closed"),
        ("l.csv", 'image\na.jpg\n"b" x,\nc.jpg', "line 3 is not CSV: ',' expected after '\"'"),
        ("l.csv", 'image\na.jpg\n\n\n"b.jpg', "line 5 is not CSV: unexpected end of data; a quote is never closed"),
        ("l.csv", 'image\n"a\n\n"\n\n\n"b" x', "line 7 is not CSV: ',' expected after '\"'"),
        ("l.csv", '"image\n', "line 1 is not CSV: unexpected end of data; a quote is never closed"),
        ("l.csv", "image,image\na,b\n", "expected a column 'image' in its first line, got 'image,image'"),
    ],
)
def test_what_is_no_list_is_an_input_error(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        rows(tmp_path / name, content, "image")


def test_a_split_under_a_name_in_capitals_is_a_fault_not_left_out(tmp_path):
    (row,) = rows(tmp_path / "l.jsonl", '{"image": "a.jpg", "Split": "test"}')
    assert row.fault == "has 'Split' in place of 'split'; write it in lower case"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_other_systems_are_read(tmp_path, encoding, end):
    names = ["ä.jpg", "b\u2028c.jpg", "d\x85e.jpg", "f\x0cg.jpg"]
    bom, encoding = (b"\xff\xfe", "utf-16-le") if encoding.endswith("-bom") else (b"", encoding)
    encode = lambda lines: bom + end.join([*lines, "", ""]).encode(encoding)
    expected = [{"image": name} for name in names]
    for name, content in (
        ("l.txt", encode(names)),
        ("l.csv", encode(["image", *names])),
        ("l.jsonl", encode([json.dumps(row, ensure_ascii=False) for row in expected])),
    ):
        assert [row.values for row in rows(tmp_path / name, content, "image")] == expected


def test_a_nul_character_is_a_fault_of_its_line(tmp_path):
    for name, content in (
        ("l.txt", "a.jpg\nb\0.jpg\n"),
        ("l.jsonl", '{"image": "a.jpg"}\n{"image": "b\\u0000.jpg"}\n'),
    ):
        first, second = rows(tmp_path / name, content)
        assert first == ListEntry(1, {"image": "a.jpg"})
        assert second.line == 2 and "NUL character" in second.fault
    (row,) = rows(tmp_path / "l.txt", "a.jpg".encode("utf-16-be"))
    assert row.fault == "holds a NUL character, which no path can; save the list as UTF-8 text"


def test_half_a_character_is_a_fault_of_its_line_and_bytes_that_are_not_utf8_are_not(tmp_path):
    content = '{"image": "a/\\ud83d/b.jpg"}\n{"image": "a.jpg", "label": "\\udc00.png"}\n{"image": "\\udcff.jpg"}\n'
    first, second, third = rows(tmp_path / "l.jsonl", content)
    assert first.fault == r"holds half a character, '\ud83d', which no path can; write it as UTF-8"
    assert second.line == 2 and r"'\udc00'" in second.fault
    assert third == ListEntry(3, {"image": "\udcff.jpg"})


def test_addresses_of_other_storage_are_no_paths(tmp_path):
    for name, content, cure in (
        ("l.txt", "s3://b/a.jpg", "copy the files here or to gs://"),
        ("l.csv", "image,label\na.jpg,http://h/a.png", "copy the files here or to gs://"),
        ("l.txt", "gs:/b/a", "write gs://"),
        ("l.txt", "file:///data/a.jpg", "give the path alone"),
    ):
        (row,) = rows(tmp_path / name, content + "\n")
        assert f"is not supported, {cure}" in row.fault
    (row,) = rows(tmp_path / "l.csv", "image,from\ngs://b/a.jpg,https://h/a\n")
    assert not row.fault


def test_a_line_that_names_a_file_is_no_comment(tmp_path):
    (tmp_path / "#1.jpg").touch()
    assert rows(tmp_path / "l.txt", "# 1.jpg\n#1.jpg\n#2.jpg\n") == [ListEntry(2, {"image": "#1.jpg"})]


def test_blanks_around_a_path_count_in_a_jsonl_only(tmp_path):
    assert rows(tmp_path / "l.jsonl", '{"image": " a.jpg "}')[0].values == {"image": " a.jpg "}
    assert rows(tmp_path / "l.csv", "image,label\na.jpg , b.png \n")[0].values == {"image": "a.jpg", "label": "b.png"}
    assert rows(tmp_path / "l.txt", "\u3000a.jpg\xa0 \n")[0].values == {"image": "\u3000a.jpg\xa0"}


def test_a_row_with_too_many_values_is_a_fault(tmp_path):
    first, second, third = rows(tmp_path / "l.csv", 'image,n\n"a,b.jpg",1\nc,d.jpg,2\ne.jpg,3,,\n', "image")
    assert first.values == {"image": "a,b.jpg", "n": "1"} and third.values == {"image": "e.jpg", "n": "3"}
    assert second == ListEntry(
        3, fault="has more values than the 2 columns; put quotes around values that contain a comma"
    )


def test_a_column_that_is_not_read_may_hold_long_values(tmp_path):
    polygon = "1 2 " * 100_000
    (row,) = rows(tmp_path / "l.csv", f"image,polygon\na.jpg,{polygon}\n")
    assert row.values["image"] == "a.jpg" and not row.fault


def test_deeply_nested_json_is_a_fault(tmp_path):
    (row,) = rows(tmp_path / "l.jsonl", "[" * 100_000)
    assert row.fault.startswith("is not JSON")


def test_a_list_that_may_not_be_read_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"l\.txt cannot be read: Is a directory"):
        (tmp_path / "l.txt").mkdir()
        list(read_entries(str(tmp_path / "l.txt")))


def test_lists_are_known_by_their_suffix():
    assert [is_list(f"a/b{suffix}") for suffix in (".csv", ".JSONL", ".txt", ".json", "")] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("folder", "path", "expected"),
    [
        ("/set", "x/./a.jpg", "/set/x/a.jpg"),
        ("/set/list", "../b.jpg", "/set/b.jpg"),
        ("set", "/else/b.jpg", "/else/b.jpg"),
        ("", "a.jpg", "a.jpg"),
        ("gs://bucket/set", "../a.jpg", "gs://bucket/a.jpg"),
        ("gs://bucket/set", "../../../a.jpg", "gs://a.jpg"),
        ("/set", "gs://bucket/x/../a.jpg", "gs://bucket/a.jpg"),
        ("gs://bucket/set", "/local/a.jpg", "/local/a.jpg"),
        ("gs://bucket/set", "x//a.jpg", "gs://bucket/set/x//a.jpg"),
        ("gs://bucket/set", "./x//../a.jpg", "gs://bucket/set/x/a.jpg"),
    ],
)
def test_relative_paths_are_relative_to_the_lists_folder(folder, path, expected):
    assert entry_path(folder, path) == expected


def test_the_folder_above_a_link_is_that_of_the_file_system_if_the_file_is_there(tmp_path):
    touch(tmp_path, "far/deep/x.jpg", "far/a.jpg", "set/a.jpg", "set/b.jpg")
    (tmp_path / "set/link").symlink_to(tmp_path / "far/deep")
    for name, expected in (("a.jpg", "far/a.jpg"), ("b.jpg", "set/b.jpg"), ("deep/../a.jpg", "far/a.jpg")):
        assert entry_path(str(tmp_path), f"set/link/../{name}") == f"{tmp_path}/{expected}"
    assert entry_path(str(tmp_path / "set"), "./../set/link/x.jpg") == f"{tmp_path}/set/link/x.jpg"
