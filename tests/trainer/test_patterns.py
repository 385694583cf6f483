"""Patterns match as Python's glob does, for files and objects alike; what exists is never a pattern."""

from __future__ import annotations

import glob
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.drawn.rawset import touch
from trainer import storage
from trainer.files.names import match

NAMES = st.sampled_from(["a", "b", "ab", ".h", "a.jpg", "b.jpg", ".c.jpg", "é", "a b"])
TREES = st.sets(st.lists(NAMES, min_size=1, max_size=4).map(tuple), max_size=12)
PARTS = st.one_of(
    st.sampled_from(
        ["**", "*", "?", "??", "*.jpg", "a*", ".*", "[ab]", "[!a]", "[!a]*", "[a-c]?jpg", "*b*", "[]", "["]
    ),
    st.sampled_from(["**a", "a**", "***", "[]a]", "[!]a]", "[a", "*[.]jpg", ".h"]),
    NAMES,
)
PATTERNS = st.lists(PARTS, min_size=1, max_size=4)


def grow(root: str, tree: set[tuple[str, ...]]) -> list[str]:
    """Files at these paths, without those that would have to be folders too; their relative paths."""
    files = [path for path in tree if not any(other[: len(path)] == path and other != path for other in tree)]
    for path in files:
        touch(Path(root), "/".join(path))
    return ["/".join(path) for path in files]


@settings(max_examples=100, deadline=None)
@given(tree=TREES, parts=PATTERNS)
def test_files_and_objects_match_as_in_pythons_glob(tree, parts):
    with tempfile.TemporaryDirectory() as root:
        paths = grow(root, tree)
        pattern = "/".join(parts)
        expected = {
            path
            for path in glob.glob(os.path.join(glob.escape(root), pattern), recursive=True)
            if os.path.isfile(path) and not path.endswith("/")
        }
        found = storage.glob(os.path.join(root, pattern))
        assert [file.path for file in found] == sorted(os.path.normpath(path) for path in expected)
        assert all(file.path.endswith(file.relative) and file.modified for file in found)
        last = [*parts, "*"] if parts[-1] == "**" else parts
        objects = {os.path.join(root, path) for path in paths if match(path.split("/"), last)}
        assert objects == {os.path.normpath(path) for path in expected}


@pytest.fixture(params=["local", "gs"])
def root(request, tmp_path):
    root = str(tmp_path / "root")
    if request.param == "gs":
        root = request.getfixturevalue("bucket") + f"/{tmp_path.name}"
    return root


def grown(root: str, *names: str) -> str:
    for name in names:
        storage.write(f"{root}/{name}", b"1")
    return root


def relative(pattern: str) -> list[str]:
    return [file.relative for file in storage.glob(pattern)]


def test_double_stars_include_the_top_folder_and_single_ones_cross_none(root):
    grown(root, "a.jpg", "x/b.jpg", "x/y/c.jpg", "x/y/z/d.jpg", ".h/e.jpg", ".f.jpg", "x/g.png")
    assert relative(f"{root}/**/*.jpg") == ["a.jpg", "x/b.jpg", "x/y/c.jpg", "x/y/z/d.jpg"]
    assert relative(f"{root}/**/y/*.jpg") == ["x/y/c.jpg"]
    assert relative(f"{root}/*/**/*.jpg") == ["x/b.jpg", "x/y/c.jpg", "x/y/z/d.jpg"]
    assert relative(f"{root}/x/**") == ["b.jpg", "g.png", "y/c.jpg", "y/z/d.jpg"]
    assert relative(f"{root}/*.jpg") == ["a.jpg"]
    assert relative(f"{root}/.h/*") == ["e.jpg"]
    assert relative(f"{root}/x/[!g].???") == ["b.jpg"]
    assert relative(f"{root}/none/*.jpg") == relative(f"{root}/a.jpg/*") == []


def test_objects_and_files_tell_their_sizes_and_where_they_are(root):
    grown(root, "x/a.jpg")
    (file,) = storage.glob(f"{root}/*/a.jpg")
    assert (file.path, file.relative, file.size) == (f"{root}/x/a.jpg", "x/a.jpg", 1)
    assert file.modified == storage.files(root)[0].modified
    assert file.identity == storage.files(root)[0].identity


def test_an_existing_folder_is_not_a_glob_pattern(root):
    grown(root, "set [2024]/a.jpg", "set 2/b.jpg", "set [2024]/[x]*/c.jpg", "set [2024]/x1/d.jpg")
    assert relative(f"{root}/set [2024]/*.jpg") == ["a.jpg"]
    assert relative(f"{root}/set [2024]/[x]*/*.jpg") == ["c.jpg"]
    assert relative(f"{root}/set [2]/*.jpg") == ["set 2/b.jpg"]
    assert relative(f"{root}/**/set [2024]/*.jpg") == ["set 2/b.jpg", "set [2024]/a.jpg"]


def test_a_file_that_exists_is_matched_by_its_own_name(root):
    grown(root, "IMG[1].jpg", "IMG1.jpg", "a*b.jpg", "acb.jpg")
    assert relative(f"{root}/IMG[1].jpg") == ["IMG1.jpg", "IMG[1].jpg"]
    assert relative(f"{root}/a*b.jpg") == ["a*b.jpg", "acb.jpg"]
    assert relative(f"{root}/IMG[[]1].jpg") == ["IMG[1].jpg"]


def test_patterns_without_a_folder_begin_where_we_are(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "x/b.jpg")
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in storage.glob("*.jpg")] == ["a.jpg"]
    assert [file.path for file in storage.glob("**/*.jpg")] == ["a.jpg", "x/b.jpg"]
    assert [file.path for file in storage.glob("./x/*")] == ["./x/b.jpg"]


def test_double_stars_follow_links_but_in_no_circle(tmp_path):
    touch(tmp_path, "set/x/a.jpg", "other/b.jpg")
    (tmp_path / "set/x/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/other").symlink_to(tmp_path / "other")
    (tmp_path / "set/again").symlink_to(tmp_path / "other")
    (tmp_path / "set/gone.jpg").symlink_to(tmp_path / "nowhere")
    found = storage.glob(f"{tmp_path}/set/**/*.jpg")
    assert [file.relative for file in found] == ["again/b.jpg", "gone.jpg", "other/b.jpg", "x/a.jpg"]
    assert [file.modified == 0 for file in found] == [False, True, False, False]


def test_a_folder_whose_name_holds_wildcards_is_swept_alone(tmp_path):
    leftovers = [".a.json.0123abcd.tmp", f".{'n' * 100}.0123abcd.tmp"]
    others = [".b.json.0123abcd.tmp", ".hidden", "a.json", "deep/.a.json.0123abcd.tmp"]
    for folder in ("run[1]", "run1", "*"):
        for name in (*leftovers, *others):
            touch(tmp_path / folder, name)
    storage.sweep(str(tmp_path / "run[1]"), ["a.json", "n" * 120])
    storage.sweep(str(tmp_path / "*"), ["a.json", "n" * 120])
    for folder, left in (("run[1]", others), ("run1", [*leftovers, *others]), ("*", others)):
        names = {path.relative_to(tmp_path / folder).as_posix() for path in (tmp_path / folder).rglob("*")}
        assert names == {*left, "deep"}
