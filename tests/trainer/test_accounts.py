"""Inputs = outputs + rejects: the equation, its check, and what is said and written of rejects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.accounts import Accounts, Reject, UnbalancedError, counted, merged, percent, write_rejects


def rejects(count: int, records: int = 1) -> tuple[Reject, ...]:
    return tuple(Reject(f"k{n}", f"set/k{n}.png", "prepare", "is empty", records) for n in range(count))


def test_accounts_that_balance_are_said_as_an_equation():
    accounts = Accounts("images", 1009, {"written": 1006, "skipped": 2}, rejects(1))
    accounts.check()
    assert accounts.line() == "1,009 images = 1,006 written + 2 skipped + 1 rejected"
    assert Accounts("images", 1, {"written": 1}).line() == "1 image = 1 written + 0 rejected"
    assert Accounts("records of a", 1, {"written": 1}).line() == "1 record of a = 1 written + 0 rejected"


def test_a_number_has_its_noun_in_the_singular_or_the_plural():
    assert [counted(number, "record") for number in (0, 1, 2, 1200)] == [
        "0 records",
        "1 record",
        "2 records",
        "1,200 records",
    ]


def test_a_share_is_rounded_to_none_or_all_only_if_it_is():
    assert [percent(share, 1) for share in (0, 1e-9, 0.001, 0.12345, 0.999, 0.9995, 1)] == [
        *("0.0", "<0.1", "0.1", "12.3", "99.9", ">99.9", "100.0")
    ]


def test_rejects_count_as_the_records_that_are_missing_because_of_them():
    accounts = Accounts("records", 9, {"written": 3}, rejects(2, records=3))
    accounts.check()
    assert accounts.rejected == 6 and accounts.rate == pytest.approx(2 / 3)


@pytest.mark.parametrize(("inputs", "message"), [(8, "1 lost"), (5, "2 too many")])
def test_lost_and_doubled_elements_are_an_error(inputs, message):
    with pytest.raises(UnbalancedError, match=f"{inputs} images != 6 evaluated \\+ 1 rejected; {message}"):
        Accounts("images", inputs, {"evaluated": 6}, rejects(1)).check()


def test_the_report_shows_the_first_five_rejects_and_where_the_others_are():
    lines = Accounts("images", 7, {"written": 0}, rejects(7)).report("out/rejects.jsonl").splitlines()
    assert lines[0] == "7 images = 0 written + 7 rejected"
    assert lines[1:6] == [f"rejected: set/k{n}.png: is empty" for n in range(5)]
    assert lines[6:] == ["2 more, see out/rejects.jsonl"]


def test_the_report_names_the_image_where_its_path_does_not():
    reject = Reject("street/7", "records/val-00000-of-00001.tfrecord", "tune-crf", "no memory")
    lines = Accounts("images", 1, {}, (reject,)).report("x").splitlines()
    assert lines[1] == "rejected: records/val-00000-of-00001.tfrecord, street/7: no memory"


def test_a_report_without_rejects_is_one_line():
    assert Accounts("images", 7, {"written": 7}).report("x") == "7 images = 7 written + 0 rejected"


def test_the_rate_of_rejects_decides_the_status():
    accounts = Accounts("images", 200, {"written": 198}, rejects(2))
    assert accounts.excess(0.01) is None
    assert accounts.excess(0.009) == "2 of 200 images rejected, more than --max-reject-rate 0.009 allows"
    assert Accounts("images", 0, {}).excess(0) is None


def test_rejects_of_one_file_and_reason_become_one():
    one = Reject("a", "a.png", "prepare", "is empty", 2)
    other = Reject("a", "a.png", "prepare", "is cut short")
    assert merged([one, *rejects(1), one, other]) == (
        Reject("a", "a.png", "prepare", "is cut short", 1),
        Reject("a", "a.png", "prepare", "is empty", 4),
        *rejects(1),
    )


@pytest.mark.parametrize("name", ["ü", "a\nb", "\u2028", "\x85", "a\udcffb", '"', "\x1b[2J"])
def test_rejects_are_written_as_one_json_object_per_line(name, tmp_path):
    """Names come back exactly, whatever takes the file apart into lines."""
    path = write_rejects(str(tmp_path), [Reject(name, f"{name}.png", "scan", "no label"), *rejects(1)])
    lines = Path(path).read_text(encoding="ascii").splitlines()
    assert [json.loads(line)["key"] for line in lines] == [name, "k0"]
    assert list(json.loads(lines[0])) == ["key", "path", "reason", "records", "stage"]


def test_a_report_sends_no_control_characters_to_the_terminal():
    reject = Reject("a", "set/\x1b[2Ja\nb.png", "prepare", "no label a\u202e\udcff")
    text = Accounts("images", 1, {}, (reject,)).report("out\x07/rejects.jsonl")
    assert text.splitlines()[1:] == [
        r"rejected: set/\x1b[2Ja\nb.png: no label a\u202e\udcff",
        r"see out\x07/rejects.jsonl",
    ]
