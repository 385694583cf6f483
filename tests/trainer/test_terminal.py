"""Text that reaches a terminal cannot steer it, and stays readable in every language."""

from __future__ import annotations

import errno
import io
import os
import pty
from unittest import mock

import pytest

from trainer.terminal import PrintableStream, printable, some, some_and_more


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße 1.png", "Straße 1.png"),
        ("写真\u3000猫🐈", "写真\u3000猫🐈"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2J\x7f", r"a\x9b2J\x7f"),
        ("a\nb\r\t", r"a\nb\r\t"),
        ("a\x85b\u2028c\u2029", r"a\x85b\u2028c\u2029"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),
        ("\u2066a\u200f\ufeff", r"\u2066a\u200f\ufeff"),
        ("a\udcff\ud800", r"a\udcff\ud800"),
    ],
)
def test_names_are_shown_without_what_steers_a_terminal(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown


def test_kept_characters_are_not_escaped():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_few_of_many_are_named():
    assert [some("abc"[:count], 2) for count in (0, 1, 2, 3)] == ["", "a", "a, b", "a, b, ..."]
    assert [some_and_more((1, 2, 3)[:count], 1) for count in (0, 1, 3)] == ["", "1", "1 and 2 more"]


def test_what_a_stream_cannot_encode_is_escaped():
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    stream = PrintableStream(buffer)
    assert stream.write("\u00e9\u202e\n") == 3
    stream.flush()
    assert buffer.buffer.getvalue() == b"\\xe9\\u202e\n"


def test_what_is_written_to_a_terminal_that_was_closed_is_lost_and_nothing_else():
    """The training that writes it goes on to its checkpoint."""
    ours, theirs = pty.openpty()
    terminal = open(theirs, "w")  # noqa: SIM115, its end is looked at
    stream = PrintableStream(terminal)
    os.close(ours)
    assert stream.write("step 1\n") == 7
    stream.flush()
    with pytest.raises(OSError, match="Input/output"):
        terminal.close()


def test_a_disk_that_fails_is_told(monkeypatch):
    buffer = io.StringIO()
    monkeypatch.setattr(buffer, "write", mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        PrintableStream(buffer).write("step 1\n")
