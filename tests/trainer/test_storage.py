from __future__ import annotations

import errno
import os
import re
import shutil

import pytest

from tests.drawn.faults import swept
from tests.drawn.places import ROOT
from trainer import storage
from trainer.files import local, names
from trainer.options import InputError


@pytest.fixture(params=["local", "gs"])
def root(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "root")
    return request.getfixturevalue("bucket") + f"/{tmp_path.name}"


def test_written_files_are_read_and_listed(root):
    storage.write(storage.join(root, "b", "two.bin"), b"22")
    storage.write(storage.join(root, "a.bin"), b"1")
    assert storage.read(storage.join(root, "a.bin")) == b"1"
    assert [(file.relative, file.size) for file in storage.files(root)] == [("a.bin", 1), ("b/two.bin", 2)]
    assert storage.read(storage.files(root)[1].path) == b"22"
    assert sorted(file.relative for file in storage.walk(root)) == ["a.bin", "b/two.bin"]
    assert storage.exists(storage.join(root, "a.bin")) and not storage.exists(storage.join(root, "b"))
    assert storage.is_dir(storage.join(root, "b")) and not storage.is_dir(storage.join(root, "c"))


@pytest.mark.parametrize("slashes", ["/", "//", "///"])
def test_a_folder_is_the_same_whatever_slashes_it_ends_with(root, slashes):
    storage.write(storage.join(root, "a/b.bin"), b"1")
    (file,) = storage.walk(root + slashes)
    assert (file.relative, storage.read(file.path)) == ("a/b.bin", b"1")
    assert storage.is_dir(root + slashes) and storage.exists(storage.join(root + slashes, "a/b.bin"))
    assert storage.lies_in(root + slashes, root) and storage.lies_in(root, root + slashes)


def test_an_empty_object_that_stands_for_a_folder_is_no_file(server):
    storage.write("gs://seg/in/a.bin", b"1")
    storage.write("gs://seg/in/", b"")  # as the console makes it
    assert storage.is_dir("gs://seg/in/") and not storage.exists("gs://seg/in/")
    assert [file.relative for file in storage.walk("gs://seg/in/")] == ["a.bin"]


def test_a_part_of_a_file_is_read_without_the_rest(root):
    storage.write(storage.join(root, "a.bin"), b"0123456789")
    assert [storage.read_part(storage.join(root, "a.bin"), *span) for span in ((3, 4), (8, 9))] == [b"3456", b"89"]
    storage.write(storage.join(root, "empty.bin"), b"")
    for name, offset in (("a.bin", 10), ("empty.bin", 0)):
        assert storage.read_part(storage.join(root, name), offset, 1) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_part(storage.join(root, "b.bin"), 0, 1)


def test_a_file_too_large_for_memory_is_refused_before_it_is_read(root, monkeypatch):
    path = storage.join(root, "a.bin")
    storage.write(path, b"0" * 101)
    monkeypatch.setattr(names, "LARGEST", 100)
    with pytest.raises(OSError, match="101 bytes are more than the 100 ") as caught:
        storage.read(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, path)
    storage.write(path, b"0" * 100)
    assert storage.read(path) == b"0" * 100


def test_overwriting_changes_the_modification_mark(root):
    path = storage.join(root, "a.bin")
    storage.write(path, b"1")
    before = storage.files(root)[0].modified
    storage.write(path, b"2")
    assert storage.files(root)[0].modified != before
    storage.remove(path)
    assert not storage.exists(path)


def test_a_file_is_discarded_if_there_is_one(root):
    path = storage.join(root, "a.bin")
    storage.write(path, b"1")
    for _ in range(2):
        storage.discard(path)
        assert not storage.exists(path)


def test_a_writer_that_raises_leaves_nothing(root):
    path = storage.join(root, "sub", "a.bin")
    storage.write(storage.join(root, "other"), b"x")
    with pytest.raises(RuntimeError, match="stop"), storage.writer(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert [file.relative for file in storage.files(root)] == ["other"]


def test_an_unfinished_file_names_the_file_being_written(tmp_path, monkeypatch):
    names = ["a.png", ".hidden", "line\nbreak.png", "ä" * 120, "x.0123abcd.tmp"]
    with monkeypatch.context() as patch:
        patch.setattr(local.os, "replace", lambda *paths: 1 / 0)
        patch.setattr(local.os, "remove", lambda path: None)
        for name in names:
            with pytest.raises(ZeroDivisionError):
                storage.write(str(tmp_path / "sub" / name), b"half")
    found = {storage.unfinished(file.relative) for file in storage.files(str(tmp_path))}
    assert found == {storage.shortened(f"sub/{name}") for name in names}
    assert not any(map(storage.unfinished, ["a.png", ".a.png", "a.0123abcd.tmp", ".a.0123.tmp", ".a/b.0123abcd.tmp"]))


@pytest.mark.parametrize(("times", "is_written"), [(1, True), (2, True), (3, False)])
def test_a_file_is_written_again_if_another_process_sweeps_it_before_it_has_its_name(
    times, is_written, tmp_path, monkeypatch
):
    """As an attempt at a chunk does that begins while an earlier one is still alive."""
    removed = swept(monkeypatch, times)
    path = tmp_path / "a.png"
    if is_written:
        storage.write(str(path), b"mask")
        assert path.read_bytes() == b"mask" and len(removed) == times
    else:
        with pytest.raises(FileNotFoundError):
            storage.write(str(path), b"mask")
    assert [file for file in tmp_path.iterdir() if file != path] == []


def test_a_folder_that_is_removed_while_a_file_is_written_is_not_made_again(tmp_path, monkeypatch):
    path, replace = tmp_path / "out/a.png", os.replace

    def late(source: str, target: str) -> None:
        monkeypatch.setattr(os, "replace", replace)  # another try would succeed
        shutil.rmtree(path.parent)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(FileNotFoundError):
        storage.write(str(path), b"mask")
    assert not path.parent.exists()


def test_no_version_of_the_client_is_allowed_that_publishes_what_was_cut_off():
    setup, constraints = (ROOT / name for name in ("setup.py", "constraints.txt"))
    assert '"google-cloud-storage>=3,<4"' in setup.read_text()
    assert re.search(r"^google-cloud-storage==3\.", constraints.read_text(), re.MULTILINE)


def test_missing_files_and_folders_raise_the_same_error_everywhere(root):
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(root, "none"))
    with pytest.raises(FileNotFoundError):
        storage.files(root)
    with pytest.raises(InputError, match="is missing"):
        storage.read_json(storage.join(root, "none.json"))


def test_single_stars_stay_in_a_folder_and_double_stars_do_not(root):
    for name in ("a.jpg", "b/c.jpg", "b/d.png"):
        storage.write(storage.join(root, *name.split("/")), b"x")
    relative = lambda pattern: [file.path[len(root) + 1 :] for file in storage.glob(storage.join(root, pattern))]
    assert relative("*.jpg") == ["a.jpg"]
    assert relative("b/*") == ["b/c.jpg", "b/d.png"]
    assert "b/c.jpg" in relative("**/*.jpg")


def test_localize_gives_a_local_file_and_downloads_a_new_generation(root):
    path = storage.join(root, "a.bin")
    for content in (b"1", b"2"):
        storage.write(path, content)
        with open(storage.localize(path), "rb") as file:
            assert file.read() == content


def test_an_object_that_fails_while_it_is_copied_is_named_itself(tmp_path):
    """Not the local file that it is copied to."""
    answer = OSError(errno.EIO, "Cloud Storage answered 500", "gs://seg/a.bin")
    with (
        pytest.raises(OSError, match=r"Cloud Storage answered 500: 'gs://seg/a\.bin'") as raised,
        storage.writer(str(tmp_path / "copy")),
    ):
        raise answer
    assert raised.value is answer and not (tmp_path / "copy").exists()


def test_json_round_trip_is_sorted(root):
    storage.write_json(storage.join(root, "a.json"), {"b": 1, "a": [2]})
    assert storage.read(storage.join(root, "a.json")).startswith(b'{\n  "a"')
    assert storage.read_json(storage.join(root, "a.json")) == {"a": [2], "b": 1}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a\\b", "C:/x", "a\0b"])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(InputError, match=r"leave the output folder|which other systems read as a folder"):
        storage.safe_relative(name)


def test_a_name_that_begins_with_a_slash_is_refused():
    with pytest.raises(InputError, match=r"the name '/etc/x' begins with a slash.*expected a path below that folder"):
        storage.safe_relative("/etc/x")


def test_an_empty_name_is_refused_as_that_of_a_folder():
    with pytest.raises(InputError, match=r"the name '' is empty, as where an address ends with a slash"):
        storage.safe_relative("")


def test_a_name_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match=r"its name is not UTF-8: 'a\\udcff.jpg'; rename it"):
        storage.safe_relative("a\udcff.jpg")


def test_listings_in_the_cloud_tell_the_contents_identity(root):
    storage.write(storage.join(root, "a.bin"), b"123456789")
    (file,) = storage.files(root)
    assert storage.identity(b"123456789") == "e3069283-9"
    assert file.identity == ("e3069283-9" if storage.is_remote(root) else "")


def test_the_real_path_goes_through_links(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert storage.real(str(tmp_path / "link" / "a.jpg")) == str(tmp_path / "set" / "a.jpg")
    assert storage.real("gs://bucket/set/") == "gs://bucket/set"


def test_names_below_the_folder_are_kept():
    assert storage.safe_relative("a/b c/d.e.png") == "a/b c/d.e.png"


def test_linked_folders_are_listed_and_cycles_end(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.bin").write_bytes(b"1")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    assert [file.relative for file in storage.files(str(tmp_path / "set"))] == ["linked/a.bin"]


def test_absolute_paths_start_at_the_root_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == str(tmp_path / "b")
    assert storage.absolute("/c") == "/c"
    assert storage.absolute("gs://bucket/d") == "gs://bucket/d"
