"""Tallies add up, and what is published holds them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pipelines.segment import tally
from pipelines.segment.table import Row
from pipelines.segment.tally import SegmentTally, add_up, tally_of
from tests.drawn.segmenting import PALETTE, rejects_of, report_of
from trainer.accounts import Reject
from trainer.options import InputError

ROW = Row("a", "in/a.png", "e3069283-9", 3, 1, (2, 0, 1), None, None)
REJECTS = (Reject("b", "photos/b", "segment", "damaged"), Reject("a", "photos/a", "segment", "empty"))


def test_tallies_add_up() -> None:
    whole = add_up([tally_of("written", ROW), SegmentTally(rejects=REJECTS), tally_of("skipped", ROW)])
    assert (whole.written, whole.skipped, whole.rejects) == (1, 1, REJECTS)
    assert whole.class_pixels[:3].tolist() == [4, 0, 2] and whole.class_images[:3].tolist() == [2, 0, 2]
    assert add_up([]).class_pixels.sum() == 0


STARTED = {"status": "running", "plan": "images-1.jsonl", "fingerprint": "f", "model": "m"}


def publish(folder: Path, images: int, **other: str) -> None:
    (folder / "segment.json").write_text(json.dumps(STARTED | other))
    whole = add_up([tally_of("written", ROW), *(tally_of("rejected", reject) for reject in REJECTS)])
    tally.publish(whole, str(folder), PALETTE, STARTED | {"images": images})


def test_the_report_holds_counts_by_class_and_rejects_in_order(tmp_path: Path) -> None:
    publish(tmp_path, 3)
    assert report_of(tmp_path) == {
        "status": "done",
        "images": 3,
        "plan": "images-1.jsonl",
        "fingerprint": "f",
        "model": "m",
        "written": 1,
        "skipped": 0,
        "rejected": 2,
        "class_pixels": {"left": 2, "right": 0, "rest": 1},
        "class_images": {"left": 1, "right": 0, "rest": 1},
        "seconds": {},
        "processor_seconds": {},
    }
    assert [reject["key"] for reject in rejects_of(tmp_path)] == ["a", "b"]
    accounts, report = tally.read_accounts(str(tmp_path), 3, "images-1.jsonl", "f")
    accounts.check()
    assert accounts.line() == "3 images = 1 written + 0 skipped + 2 rejected"
    assert tally.table(report).splitlines() == [
        "class   area %    images",
        "left     66.67         1",
        "rest     33.33         1",
    ]


def test_a_report_whose_accounts_do_not_balance_is_incomplete(tmp_path: Path) -> None:
    publish(tmp_path, 4)
    assert report_of(tmp_path)["status"] == "incomplete"


@pytest.mark.parametrize("other", [{"plan": "images-2.jsonl"}, {"fingerprint": "of another model"}])
def test_the_report_of_another_run_is_neither_replaced_nor_read(tmp_path: Path, other: dict[str, str]) -> None:
    with pytest.raises(InputError, match="another `deeplab segment` has begun"):
        publish(tmp_path, 3, **other)
    assert report_of(tmp_path) == STARTED | other
    with pytest.raises(InputError, match="another `deeplab segment` has begun"):
        tally.read_accounts(str(tmp_path), 3, "images-1.jsonl", "f")


def test_without_masks_there_is_no_table() -> None:
    assert tally.table({"class_pixels": {"left": 0}, "class_images": {"left": 0}}) == ""


def test_the_table_has_the_order_of_the_palette() -> None:
    report = {"class_pixels": {"a": 1, "b": 1}, "class_images": {"a": 1, "b": 1}}
    said = tally.table({**report, "palette": {"classes": [{"name": "b"}, {"name": "a"}]}})
    assert [line.split()[0] for line in said.splitlines()] == ["class", "b", "a"]


def test_the_table_separates_thousands() -> None:
    assert tally.table({"class_pixels": {"a": 9}, "class_images": {"a": 1234}}).endswith("  100.00     1,234")


def test_the_report_says_what_the_time_went_into(tmp_path: Path) -> None:
    (tmp_path / "segment.json").write_text(json.dumps(STARTED))
    spent = [
        (Counter(network=2.5, decode=0.5), Counter(all=2.0)),
        (Counter(network=0.5, CRF=1.5), Counter(CRF=6.0, all=6.0)),
    ]
    whole = add_up([tally_of("written", ROW), *(SegmentTally(seconds=wall, processor=cores) for wall, cores in spent)])
    tally.publish(whole, str(tmp_path), PALETTE, STARTED | {"images": 1})
    assert report_of(tmp_path)["seconds"] == {"network": 3.0, "decode": 0.5, "CRF": 1.5}
    assert report_of(tmp_path)["processor_seconds"] == {"all": 8.0, "CRF": 6.0}
    assert tally.shares(report_of(tmp_path)) == (
        "workers' time: network 60 %, waiting for the CRF 30 %, decode 10 %\n"
        "CPU time: CRF 75 %, network and the rest 25 %"
    )
    almost = {"seconds": {"network": 999.0, "read": 1.0}, "processor_seconds": {"all": 1000.0, "CRF": 1.0}}
    assert tally.shares(almost) == (
        "workers' time: network >99 %, read <1 %\nCPU time: CRF <1 %, network and the rest >99 %"
    )
    assert tally.shares({"seconds": {"read": 1.0}}) == tally.shares({}) == ""
