"""The result of a tuning for a terminal, and its page: to scale, whole, and shown by a browser without a request."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.crf.options import CrfOptions
from pipelines.crf.tuning import Tuning
from pipelines.pages import tuning as page
from pipelines.scores.bootstrap import Gain
from tests.drawn import chromium
from tests.drawn.pages import EVIL, entry
from trainer.formats.labels import Palette

PALETTE = Palette("page", ("sky", EVIL, "ghost", "fog"), ((1, 2, 3), (4, 50, 6), (7, 8, 9), (90, 90, 90)))
GRID = [(compat, sxy, srgb) for compat in (3.0, 4.5, 6.0) for sxy in (30.0, 65.0, 100.0) for srgb in (3.0, 4.5, 6.0)]


def some_tuning(**changes) -> Tuning:
    rng = np.random.default_rng(0)
    tuning = Tuning(
        options=CrfOptions(sxy=40, srgb=4, compat=3.5),
        metric="miou",
        trimap_width=None,
        before=0.6,
        after=0.63,
        gain=Gain(0.03, 0.021, 0.038),
        per_class={"sky": (0.9, 0.91), EVIL: (0.3, 0.35), "ghost": (None, None), "fog": (None, 0.0)},
        # One point off the coarse grid: not every panel has every row and column.
        grid=tuple(
            {"compat": compat, "sxy": sxy, "srgb": srgb, "score": 0.6 + rng.normal(0, 0.02)}
            for compat, sxy, srgb in [*GRID, (3.0, 47.5, 3.75)]
        ),
        split="val",
        images=101,
        rejects=({"key": EVIL, "path": "p", "stage": "tune-crf", "reason": "damaged", "records": 1},),
        model_digest="d",
        records_fingerprint="f",
    )
    return dataclasses.replace(tuning, **changes)


def test_the_terminal_gets_scores_interval_and_verdict() -> None:
    assert page.text(some_tuning(), "out/crf.json").splitlines() == [
        "val, 100 images: mIoU 0.600 without, 0.630 with (cross-fitted); gain +0.030, 95 % between +0.021 and +0.038",
        "on: sxy 40, srgb 4, compat 3.5 -> out/crf.json",
    ]
    off = some_tuning(options=None, gain=Gain(0.001, -0.002, 0.003), metric="trimap", trimap_width=4)
    first, second = page.text(off, "out/crf.json").splitlines()
    assert first.startswith("val, 100 images: mIoU within 4 pixels of boundaries 0.600 without")
    assert second == "leave it off: no gain is certain -> out/crf.json"
    worse = some_tuning(options=None, gain=Gain(-0.2, -0.3, -0.1))
    assert page.text(worse, "x").endswith("leave it off: the masks get worse -> x")


@pytest.mark.parametrize(
    ("gain", "kind"),
    [
        (Gain(0.03, 0.021, 0.038), "good"),
        (Gain(0.001, -0.002, 0.003), "unsure"),
        (Gain(-0.2, -0.3, -0.1), "bad"),
        (Gain(0.0, 0.0, 0.0), "unsure"),
    ],
)
def test_the_interval_is_drawn_to_scale_with_zero_on_its_axis(gain: Gain, kind: str) -> None:
    drawn = page._interval(some_tuning(gain=gain))
    ticks = {tick["text"]: tick["x"] for tick in drawn["ticks"]}
    assert 3 <= len(ticks) <= 9 and ticks["0"] == drawn["zero"] and drawn["kind"] == kind
    scale = (drawn["ticks"][1]["x"] - drawn["ticks"][0]["x"]) / (
        float(drawn["ticks"][1]["text"]) - float(drawn["ticks"][0]["text"])
    )
    for name in ("low", "value", "high"):
        assert drawn[name] - drawn["zero"] == pytest.approx(scale * getattr(gain, name), abs=0.5)
        assert 30 <= drawn[name] <= 610


def test_the_grid_shows_every_point_once_and_frames_the_best() -> None:
    tuning = some_tuning()
    html = page.render(tuning, PALETTE, "out/model", [])
    cells = re.findall(r'<td class="(right|wrong)( strong)?( best)?" style="--v: ([\d.]+)" title="([^"]+)">', html)
    assert len(cells) == len(tuning.grid)
    (best,) = [title for _, _, best, _, title in cells if best]
    assert best == f"{page.parameters(tuning.best)}: {tuning.best['score']:.4f}"
    for kind, _, _, _, title in cells:
        assert (float(title.rpartition(" ")[2]) > tuning.before) == (kind == "right")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    if chromium.executable() is None:
        pytest.skip("Chromium not found: how a browser shows the page is not tested")
    with chromium.browse(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_a_browser_shows_the_page(browser: chromium.Page, tmp_path: Path, width: int, dark: bool) -> None:
    path = tmp_path / "crf.html"
    entries = [entry(["without CRF", "with CRF"], np.random.default_rng(0), 2)] * 2
    path.write_text(page.render(some_tuning(), PALETTE, f"out/{EVIL}", entries), encoding="utf-8")
    browser.open(path, width, 800, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.body.innerText").count("<script>alert(1)</script>") >= 3
    assert browser.evaluate("document.querySelectorAll('td.best').length") == 1
    assert browser.evaluate("document.querySelectorAll('svg[aria-label] circle').length") == 1
    assert browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)") == [80] * 2 * 6
    colours = browser.evaluate(
        "['right', 'wrong'].map(k => getComputedStyle(document.querySelector(`td.${k}`)).backgroundColor)"
    )
    assert len(set(colours)) == 2
    requests = [event["request"]["url"].partition(":")[0] for event in browser.events_of("Network.requestWillBeSent")]
    assert set(requests) <= {"file", "data"} and requests.count("file") == 1
    assert browser.events_of("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []
