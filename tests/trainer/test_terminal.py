"""Text that reaches a terminal cannot steer it, and stays readable in every language."""

from __future__ import annotations

import io

import pytest

from trainer.terminal import PrintableStream, printable


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


def test_what_a_stream_cannot_encode_is_escaped():
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    stream = PrintableStream(buffer)
    assert stream.write("\u00e9\u202e\n") == 3
    stream.flush()
    assert buffer.buffer.getvalue() == b"\\xe9\\u202e\n"
