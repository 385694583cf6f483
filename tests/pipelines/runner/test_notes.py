"""Notes tell a rerun where processes crashed."""

from __future__ import annotations

import os

import pytest

from pipelines.runner.isolation import Failed
from pipelines.runner.notes import InFlight
from trainer import storage
from trainer.options import InputError


def test_a_note_tells_that_a_process_ended(tmp_path):
    notes = InFlight(str(tmp_path / "notes"))
    assert not notes.interrupted("a/b\n1")
    notes.start("a/b\n1")
    later = InFlight(str(tmp_path / "notes"))
    assert later.interrupted("a/b\n1") and not later.interrupted("a/b\n2")
    later.end("a/b\n1")
    later.end("a/b\n1")
    assert not notes.interrupted("a/b\n1")


def test_a_chunk_is_processed_in_recovery_mode_only_after_a_crash(tmp_path):
    notes = InFlight(str(tmp_path))
    with notes.watch("chunk") as recovery:
        assert recovery is None and notes.interrupted("chunk")
    assert os.listdir(tmp_path) == []
    notes.start("chunk")
    with notes.watch("chunk") as recovery:
        assert recovery.suspects == frozenset()
        assert recovery.isolated(os.path.basename, "a/b") == "b"
    assert os.listdir(tmp_path) == []


def test_an_exception_does_not_count_as_a_crash(tmp_path):
    with pytest.raises(storage.Unavailable), InFlight(str(tmp_path)).watch("chunk"):
        raise storage.Unavailable("down")
    assert os.listdir(tmp_path) == []


def test_images_at_which_processes_ended_stay_suspect(tmp_path):
    """Two processes end in the same chunk at different images; the third knows both."""
    notes = InFlight(str(tmp_path))
    notes.start("chunk")
    for image, before in (("a\udcff", frozenset()), ("b\u2028", frozenset({"a\udcff"}))):
        watch = notes.watch("chunk")
        recovery = watch.__enter__()
        assert recovery.suspects == before
        recovery.at([image])
        saved = (tmp_path / os.listdir(tmp_path)[0]).read_bytes()
        watch.__exit__(None, None, None)
        (tmp_path / os.path.basename(notes.path("chunk"))).write_bytes(saved)  # as a killed process leaves it
    assert notes.suspects("chunk") == {"a\udcff", "b\u2028"}
    notes.clear()
    assert not tmp_path.exists()
    notes.clear()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"null", b'{"suspects": 3}', b'{"suspects": [3]}'])
def test_a_damaged_note_still_counts(content, tmp_path):
    notes = InFlight(str(tmp_path))
    (tmp_path / os.path.basename(notes.path("chunk"))).write_bytes(content)
    assert notes.interrupted("chunk") and notes.suspects("chunk") == frozenset()


def test_the_note_of_a_fatal_image_stays_until_the_image_is_harmless(tmp_path):
    notes = InFlight(str(tmp_path))
    notes.start("chunk")
    with notes.watch("chunk") as recovery, pytest.raises(Failed):
        recovery.at(["other", "another"])
        recovery.isolated(os._exit, 3)
    notes.clear()
    assert notes.interrupted("chunk") and notes.suspects("chunk") == frozenset()
    with notes.watch("chunk") as recovery:
        assert recovery.isolated(len, "harmless") == 8
    assert os.listdir(tmp_path) == []


def test_only_notes_are_removed_and_none_through_a_link(tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("mine.started", "0123456789abcdef01234567.started"):
        (tmp_path / "other" / name).write_text("precious")
    (tmp_path / "link").symlink_to("other")
    with pytest.raises(InputError, match="link is a link, where this program makes a folder of its own"):
        InFlight(str(tmp_path / "link"))
    InFlight(str(tmp_path / "other")).clear()
    assert os.listdir(tmp_path / "other") == ["mine.started"]
