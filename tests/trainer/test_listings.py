"""What lies in a folder: links, circles, what is no file, names, and folders that may not be read."""

from __future__ import annotations

import errno
import os
import socket
import threading

import pytest

from tests.drawn import faults
from tests.drawn.rawset import touch
from trainer import storage
from trainer.attempts import Unavailable
from trainer.files import local


def relative(root) -> list[str]:
    return [file.relative for file in storage.files(str(root))]


def test_two_links_to_one_folder_both_count(tmp_path):
    touch(tmp_path, "set/a.jpg", "other/deep/b.jpg")
    for name in ("one", "two"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "other")
    assert relative(tmp_path / "set") == ["a.jpg", "one/deep/b.jpg", "two/deep/b.jpg"]


def test_folders_that_are_not_asked_for_are_not_even_listed(tmp_path, monkeypatch):
    touch(tmp_path, "a", "own/b", "own/deep/c", "others/d", "others/deep/e")
    listed, entries = [], local._entries
    monkeypatch.setattr(local, "_entries", lambda folder: listed.append(folder) or entries(folder))
    assert [file.relative for file in storage.files(str(tmp_path), within=("own",))] == ["a", "own/b", "own/deep/c"]
    assert [file.relative for file in storage.files(str(tmp_path), within=())] == ["a"]
    assert not [folder for folder in listed if "others" in folder]


def test_circles_end_wherever_they_begin(tmp_path):
    touch(tmp_path, "a/b/c/1.jpg", "a/2.jpg")
    (tmp_path / "a/b/c/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to(tmp_path / "a/self")
    (tmp_path / "a/here").symlink_to(".")
    assert relative(tmp_path / "a") == ["2.jpg", "b/c/1.jpg", "self"]
    # From within, the link leads to a folder above, whose files are other ones.
    assert relative(tmp_path / "a/b/c") == ["1.jpg", "up/2.jpg", "up/self"]
    touch(tmp_path, "x/3.jpg", "y/4.jpg")
    (tmp_path / "x/to").symlink_to(tmp_path / "y")
    (tmp_path / "y/to").symlink_to(tmp_path / "x")
    assert relative(tmp_path / "x") == ["3.jpg", "to/4.jpg"]


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "nowhere")
    touch(tmp_path, "empty.jpg")
    gone, empty = storage.files(str(tmp_path))
    assert (gone.relative, gone.size, gone.modified) == ("a.jpg", 0, 0)
    assert (empty.size, empty.modified > 0) == (0, True)
    with pytest.raises(FileNotFoundError):
        storage.read(gone.path)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_special_files_are_never_opened(tmp_path, monkeypatch, kind):
    path = tmp_path / "x.jpg"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.jpg")
    else:
        path.symlink_to("/dev/zero")
    (file,) = storage.files(str(tmp_path))
    assert (file.relative, file.size, file.modified) == ("x.jpg", 0, 0)
    assert not storage.exists(file.path)
    for work in (storage.read, storage.reader):
        with pytest.raises(OSError, match=f"a {kind}, not a file: .*x.jpg"):
            work(file.path)
    assert storage.absence(file.path) == f"is a {kind}"


def test_what_is_not_there_is_said_to_be_a_broken_link_if_it_is_one(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    assert storage.absence(str(tmp_path / "link")) == "is a broken link"
    assert storage.absence(str(tmp_path / "gone")) == storage.absence("gs://b/gone") == "not found"


@pytest.mark.parametrize("name", ["lost+found", "private"])
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch, name):
    touch(tmp_path, "a.jpg", f"{name}/b.jpg")
    scandir = os.scandir

    def refuses(path):
        if str(path).rstrip("/").endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    if name == "lost+found":
        assert relative(tmp_path) == ["a.jpg"]
        return
    with pytest.raises(PermissionError, match="private"):
        storage.files(str(tmp_path))


def test_a_file_in_a_forbidden_folder_is_neither_present_nor_missing(tmp_path, monkeypatch):
    def refuses(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", refuses)
    assert not storage.is_dir(str(tmp_path))
    with pytest.raises(PermissionError):
        storage.exists(str(tmp_path / "a.jpg"))


def test_a_folder_that_vanishes_while_its_files_are_listed_is_empty(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "x/b.jpg")
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scandir(path + "gone" if path.endswith("x/") else path))
    assert relative(tmp_path) == ["a.jpg"]


NAMES = [
    "a\nb",
    "a\u2028b",
    "a\x85b",
    "'a' \"b\"",
    "100%25",
    "a#b?c&d=e+f",
    " a ",
    "a\\b",
    "é",
    "e\u0301",
    "猫",
    "🐈",
    "-a",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_characters_are_written_listed_read_and_removed(tmp_path, bucket, name):
    for root in (str(tmp_path), f"{bucket}/names/{NAMES.index(name)}"):
        path = storage.join(root, name + ".jpg")
        storage.write(path, b"1")
        (file,) = storage.files(root)
        assert (file.path, file.relative) == (path, name + ".jpg")
        assert storage.exists(path) and storage.read(path) == b"1"
        assert storage.glob(path)[0].path == path
        storage.remove(path)
        assert not storage.exists(path)


@pytest.mark.skipif(os.uname().sysname == "Darwin", reason="names are UTF-8 there")
def test_names_that_are_not_utf8_are_listed_and_read(tmp_path):
    path = os.fsdecode(bytes(tmp_path) + b"/a\xff.jpg")
    storage.write(path, b"1")
    (file,) = storage.files(str(tmp_path))
    assert file.relative == "a\udcff.jpg" and storage.read(file.path) == b"1"


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "猫" * 85, "n" * 101 + "é" * 77])
def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path, name):
    path = str(tmp_path / name)
    storage.write(path, b"1")
    with storage.writer(path) as file:
        file.write(b"2")
        (temporary,) = set(os.listdir(tmp_path)) - {name}
        assert temporary.startswith(".n" if name[0] == "n" else f".{name[0]}") and temporary.endswith(".tmp")
    assert storage.read(path) == b"2"
    assert relative(tmp_path) == [name]


def test_a_name_that_is_too_long_is_an_error_of_the_file_and_leaves_nothing(tmp_path):
    path = str(tmp_path / ("n" * 256))
    assert not storage.exists(path)
    with pytest.raises(OSError, match="name too long"):
        storage.write(path, b"1")
    assert os.listdir(tmp_path) == []


def test_lies_in_follows_links(tmp_path):
    touch(tmp_path, "set/x/a.jpg", "other/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "set/x")
    (tmp_path / "set/out").symlink_to(tmp_path / "other")
    inside = lambda path, folder: storage.lies_in(str(tmp_path / path), str(tmp_path / folder))
    assert inside("set/x/a.jpg", "set") and inside("link/a.jpg", "set") and inside("set", "set")
    assert inside("set/x/a.jpg", "link") and inside("set/x/new.png", "link")
    assert not inside("set/out/b.jpg", "set") and not inside("set", "set/x") and not inside("settle/a", "set")
    assert not inside("set/x/a.jpg", "none")
    assert storage.lies_in("gs://b/set/a.jpg", "gs://b/set/") and not storage.lies_in("gs://b/settle", "gs://b/set")
    assert not storage.lies_in("gs://b/set", str(tmp_path)) and not storage.lies_in("a\0b", str(tmp_path))


def test_the_folder_says_whether_case_matters(tmp_path):
    touch(tmp_path, "A")
    folds = os.path.exists(tmp_path / "a")
    assert storage.folds_case(str(tmp_path / "not" / "yet")) == folds
    assert os.listdir(tmp_path) == ["A"]
    assert not storage.folds_case("gs://bucket/set")


def test_folders_are_listed_side_by_side(tmp_path, monkeypatch):
    """Every one of two folders waits for the other."""
    names = [f"{folder}/{file}" for folder in ("a", "b") for file in ("1", "2")]
    touch(tmp_path, *names)
    both, entries = threading.Barrier(2, timeout=30), local._entries

    def waiting(folder):
        if folder != os.path.join(tmp_path, ""):
            both.wait()
        yield from entries(folder)

    monkeypatch.setattr(local, "_entries", waiting)
    assert [file.relative for file in storage.files(str(tmp_path))] == names


def test_of_a_folder_of_any_size_only_some_entries_are_held(tmp_path, monkeypatch):
    names = [f"{number:03d}" for number in range(100)]
    touch(tmp_path, *names)
    looked, look = [], local._look
    monkeypatch.setattr(local, "BLOCK", 10)
    monkeypatch.setattr(local, "_look", lambda entry: looked.append(entry) or look(entry))
    walk = storage.walk(str(tmp_path))
    first = next(walk)
    assert len(looked) <= 20
    assert sorted(file.relative for file in (first, *walk)) == names


@pytest.mark.parametrize("fails_at", [5, 15])
def test_a_folder_that_fails_in_the_middle_is_listed_whole_or_not_at_all(tmp_path, monkeypatch, fails_at):
    names = [f"{number:03d}" for number in range(30)]
    touch(tmp_path, *names)
    faults.impatient(monkeypatch)
    scandir, failures = os.scandir, [OSError(errno.ESTALE, "stale", str(tmp_path))]

    class Failing:
        """Ends with its first error, as Python's listings do."""

        def __init__(self, folder):
            self.entries, self.taken = scandir(folder), 0

        def __iter__(self):
            return self

        def __next__(self):
            self.taken += 1
            if self.taken == fails_at and failures:
                self.close()
                raise failures.pop()
            return next(self.entries)

        def close(self):
            self.entries.close()

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.close()

    monkeypatch.setattr(local, "BLOCK", 10)
    monkeypatch.setattr(local.os, "scandir", Failing)
    if fails_at < 10:  # nothing was passed on yet, so that it can begin again
        assert relative(tmp_path) == names
    else:
        with pytest.raises(Unavailable, match="stale"):
            relative(tmp_path)
