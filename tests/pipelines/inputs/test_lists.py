"""Entries of CSV, JSONL and text lists, and the paths they stand for."""

from __future__ import annotations

import pytest

from pipelines.inputs.lists import Row, entry_path, is_list, read_rows
from trainer.options import InputError


def rows(path, content: str | bytes, *columns: str) -> list[Row]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(str(path), columns))


def test_a_csv_gives_its_rows_by_column(tmp_path):
    content = '\ufeffimage, split\r\na.jpg,train\r\n"b,\nc.jpg", val\r\n\r\nd.jpg\r\n'
    assert rows(tmp_path / "l.CSV", content, "image") == [
        Row(2, {"image": "a.jpg", "split": "train"}),
        Row(4, {"image": "b,\nc.jpg", "split": "val"}),
        Row(6, {"image": "d.jpg", "split": None}),
    ]


def test_a_jsonl_gives_its_objects_and_the_faults_of_other_lines(tmp_path):
    first, second, third = rows(tmp_path / "l.jsonl", '{"image": "a.jpg", "n": 1}\n\n{oops\n3\n')
    assert first == Row(1, {"image": "a.jpg", "n": 1})
    assert second.line == 3 and second.fault.startswith("is not JSON: ") and not second.values
    assert third == Row(4, {}, "is not a JSON object: 3")


def test_a_txt_gives_its_lines_as_images(tmp_path):
    content = "# images\n a.jpg \n\n b#.jpg\n"
    assert rows(tmp_path / "l.txt", content) == [Row(2, {"image": "a.jpg"}), Row(4, {"image": "b#.jpg"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "picture\na.jpg\n", "expected a column 'image' in its first line, got 'picture'"),
        ("l.csv", "", "expected a column 'image' in its first line, got ''"),
        ("l.csv", 'image\n"a' + "a" * 200_000, "line 1 is not CSV: field larger"),
        ("l.txt", b"\xff\xfea.jpg", "is not UTF-8 text"),
    ],
)
def test_what_is_no_list_is_an_input_error(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        rows(tmp_path / name, content, "image")


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
    ],
)
def test_relative_paths_are_relative_to_the_lists_folder(folder, path, expected):
    assert entry_path(folder, path) == expected
