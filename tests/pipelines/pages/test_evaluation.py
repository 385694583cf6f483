"""The page of an evaluation: what it says, that it needs nothing from outside, and how a browser shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipelines.pages import evaluation as report
from pipelines.scores.trimap import BANDS
from tests.drawn import chromium
from tests.drawn.pages import EVIL, PALETTE, entry
from trainer import metrics
from trainer.formats.labels import Palette

FIRST = np.int64([[90, 10], [30, 70]])
SECOND = np.int64([[95, 5], [20, 80]])


def scores(confusion: np.ndarray, names: tuple[str, ...], **more: object) -> dict:
    content = metrics.scores(confusion, names)
    trimap = {
        str(width): None if content["miou"] is None else content["miou"] * (0.6 + 0.02 * width) for width in BANDS
    }
    return {**content, "confusion": confusion.tolist(), "trimap": trimap, "images": 2, "without_label": 0, **more}


def evaluation(*confusions: np.ndarray, palette: Palette = PALETTE) -> dict:
    names = ["masks", "masks-crf", EVIL][: len(confusions)]
    heads = [{"head": "bilinear", "crf": None}, {"head": "subpixel", "crf": {"iterations": 5}}, {"without_label": 3}]
    return {
        "labels": f"labels/{EVIL}",
        "model": "out/model",
        "palette": palette.to_json(),
        "images": 2,
        "rejected": 1,
        "compared": names,
        "masks": {n: scores(c, palette.names, **more) for n, c, more in zip(names, confusions, heads, strict=False)},
    }


class Page(HTMLParser):
    """Tags with their attributes, and the text inside cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self._cell: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = tag
            self._best = ("class", "best") in attrs

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += f" {data.strip()}"
            if self._best and re.match(r"0\.", data):
                self.bold.append(data)


def test_the_comparison_shows_differences_to_the_first_row_and_the_best_value() -> None:
    page = Page(report.render(evaluation(FIRST, SECOND)))
    header, first, second = page.rows[:3]
    assert [cell.strip() for cell in header] == [
        "masks",
        "mIoU",
        "pixel accuracy",
        "1 px",
        "2 px",
        "4 px",
        "8 px",
        "16 px",
    ]
    miou = [(90 / 130 + 70 / 110) / 2, (95 / 120 + 80 / 105) / 2]
    assert first[1].split() == [f"{miou[0]:.3f}"] and first[2].split() == ["0.800"]
    assert second[1].split() == [f"{miou[1]:.3f}", f"+{miou[1] - miou[0]:.3f}"] and second[2].split() == [
        "0.875",
        "+0.075",
    ]
    assert page.bold[:2] == [f"{miou[1]:.3f}", "0.875"] and len(page.bold) == 7
    assert "bilinear" in first[0] and "subpixel + CRF" in second[0]


def test_a_single_folder_has_no_best_and_no_differences() -> None:
    page = Page(report.render(evaluation(FIRST)))
    assert page.bold == [] and all("+" not in cell for cell in page.rows[1])


def test_names_from_data_are_text() -> None:
    content = evaluation(FIRST, SECOND, SECOND)
    html = report.render(content, [entry(content["compared"], np.random.default_rng(0))])
    assert "<script" not in html and html.count("&lt;script&gt;") > 10
    assert not [tag for tag, attributes in Page(html).tags if any(name.startswith("on") for name in attributes)]
    assert all(tag != "script" for tag, _ in Page(html).tags)


def test_the_page_needs_nothing_from_outside() -> None:
    content = evaluation(FIRST, SECOND)
    html = report.render(content, [entry(content["compared"], np.random.default_rng(0))])
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r'data:image/[a-z]+;base64,[\w+/=]+"', "", html))
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        if tag == "img":
            assert attributes["alt"] and attributes["width"] and attributes["height"]


def test_the_same_input_gives_the_same_page() -> None:
    pages = {report.render(evaluation(FIRST, SECOND), [entry(["masks"], np.random.default_rng(3))]) for _ in range(2)}
    assert len(pages) == 1


def test_images_that_hardly_compress_stay_below_the_bound() -> None:
    rng, names = np.random.default_rng(0), ["masks", "masks-crf", EVIL]
    entries = [entry(names, rng, 6, (500, 500))] * 6
    html = report.render(evaluation(FIRST, SECOND, SECOND), entries)
    assert len(html) < 5_000_000
    assert html.count("<img") == 6 * 8


def test_large_counts_have_separators_as_on_the_terminal() -> None:
    value = evaluation(FIRST) | {"images": 12345, "rejected": 6789}
    value["masks"]["masks"]["without_label"] = 1000
    html = report.render(value)
    assert all(f"<dd>{count}</dd>" in html for count in ("12,345", "6,789", "1,000 in masks"))


def test_missing_scores_are_dashes() -> None:
    html = report.render(evaluation(np.zeros((2, 2), np.int64)))
    assert "No pixel could be scored." in html and "<svg" not in html and "Confusion" not in html
    assert [cell.strip() for cell in Page(html).rows[1][1:]] == ["–"] * 7


def test_classes_that_occur_nowhere_are_named_and_left_out() -> None:
    palette = Palette(name="three", names=("sky", "ghost", "road"), colors=((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    confusion = np.int64([[5, 0, 1], [0, 0, 0], [0, 0, 4]])
    html = report.render(evaluation(confusion, palette=palette))
    assert html.count("ghost") == 1 and "In neither labels nor masks, of the pixels that count: ghost." in html
    assert re.findall(r'<td class="(?:right|wrong)[^>]*>(\d*)</td>', html) == ["83", "17", "", "100"]


@pytest.mark.parametrize(("classes", "cells", "numbered"), [(3, True, True), (13, True, False), (60, False, False)])
def test_confusion_matrices_of_few_and_of_many_classes(classes: int, cells: bool, numbered: bool) -> None:
    colors = tuple((index, 2 * index, 100) for index in range(classes))
    palette = Palette(name="many", names=tuple(f"class {index}" for index in range(classes)), colors=colors)
    confusion = np.full((classes, classes), 2) + np.diag(np.full(classes, 100))
    confusion[0] = 0
    html = report.render(evaluation(confusion, confusion, palette=palette))
    assert html.count('class="heat"') == (0 if cells else 2)
    shown = re.findall(r'<td class="right[^>]*>(\d*)</td>', html)
    assert len(shown) == (2 * classes if cells else 0)
    assert any(shown) == numbered
    assert len(html) < 1_000_000


def test_axis_has_round_ticks_around_the_values() -> None:
    for low, high in [(0.31, 0.62), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.97, 0.99), (0.612, 0.634)]:
        first, last, step = report._axis(low, high)
        assert -1e-9 <= first <= low + 1e-9 and high - 1e-9 <= last <= 1 + 1e-9, (low, high, first, last)
        assert 2 <= round((last - first) / step) <= 8


def test_tables_for_the_terminal_are_aligned() -> None:
    lines = report.text(evaluation(FIRST, SECOND)).splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["masks", "bilinear", "no"], ["masks-crf", "subpixel", "yes"]]
    assert len({len(line) for line in lines[:3]}) == 1


def test_it_is_not_claimed_that_masks_of_other_programs_are_without_a_crf() -> None:
    content = evaluation(FIRST)
    content["masks"]["masks"] |= {"head": None, "crf": None}
    assert report.text(content).splitlines()[1].split()[:3] == ["masks", "-", "-"]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (320, True)])
def test_a_browser_shows_all_of_it(browser: chromium.Page, tmp_path: Path, width: int, dark: bool) -> None:
    content = evaluation(FIRST, SECOND, SECOND)
    rng = np.random.default_rng(0)
    path = tmp_path / "report.html"
    path.write_text(report.render(content, [entry(content["compared"], rng) for _ in range(3)]), encoding="utf-8")
    browser.open(path, width, 800, dark)
    assert browser.evaluate("document.querySelectorAll('table.scores tbody tr').length") == 3
    assert browser.evaluate("document.querySelectorAll('.matrix').length") == 3
    assert browser.evaluate("document.querySelectorAll('svg circle').length") == 3 * 6
    assert browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)") == [80] * 3 * 8
    assert browser.evaluate("[...document.images].every(i => i.getBoundingClientRect().width > 40)")
    # The widths of the bars are the scores.
    bars = browser.evaluate(
        "[...document.querySelectorAll('.bar b')].map(b => b.offsetWidth / b.parentNode.offsetWidth)"
    )
    np.testing.assert_allclose(bars[:3], [90 / 130, 95 / 120, 95 / 120], atol=0.02)
    # Wide tables scroll within themselves, the page never sideways.
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(18, 21, 27)" if dark else "rgb(246, 247, 249)"
    )
    assert browser.evaluate("document.body.innerText").count("<script>alert(1)</script>") > 5
    requests = [event["request"]["url"].partition(":")[0] for event in browser.events_of("Network.requestWillBeSent")]
    assert set(requests) == {"file", "data"} and requests.count("file") == 1
    assert browser.events_of("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []


def test_a_browser_prints_it(browser: chromium.Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report.render(evaluation(FIRST, SECOND)), encoding="utf-8")
    browser.open(path, 1280, 800, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_browser_would_notice_a_request_and_an_error(browser: chromium.Page, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://nowhere.invalid/x.png"><script>nothing.at.all</script>')
    browser.open(path, 800, 600)
    requests = [event["request"]["url"] for event in browser.events_of("Network.requestWillBeSent")]
    assert "http://nowhere.invalid/x.png" in requests
    assert browser.events_of("Log.entryAdded") and browser.events_of("Runtime.exceptionThrown")
    assert browser.evaluate("document.images[0].naturalWidth") == 0
