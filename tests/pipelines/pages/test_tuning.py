"""The result of a tuning for a terminal, and its page: to scale, whole, and shown by a browser without a request."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.pages import tuning as page
from tests.drawn import chromium
from tests.drawn.pages import EVIL, entry
from trainer.formats.labels import Palette
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Change, Tuning
from trainer.metrics import Gain

PALETTE = Palette("page", ("sky", EVIL, "ghost", "fog"), ((1, 2, 3), (4, 50, 6), (7, 8, 9), (90, 90, 90)))
GRID = [(compat, sxy, srgb) for compat in (3.0, 4.5, 6.0) for sxy in (30.0, 65.0, 100.0) for srgb in (3.0, 4.5, 6.0)]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def some_tuning(**changes) -> Tuning:
    rng = np.random.default_rng(0)
    tuning = Tuning(
        options=CrfOptions(sxy=40, srgb=4, compat=3.5),
        metric="miou",
        trimap_width=None,
        before=0.6,
        after=0.63,
        gain=Gain(0.03, 0.021, 0.038),
        per_class={
            "sky": Change(0.9, 0.91, Gain(0.01, 0.004, 0.016)),
            EVIL: Change(0.3, 0.35, Gain(0.05, -0.01, 0.11)),
            "ghost": Change(None, None),
            "fog": Change(None, 0.0),
        },
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
    plain = some_tuning(per_class={"sky": Change(0.9, 0.91, Gain(0.01, 0.004, 0.016)), "ghost": Change(None, None)})
    assert page.text(plain, "out/crf.json").splitlines() == [
        "val, 100 images: mIoU 0.600 without, 0.630 with (cross-fitted); gain +0.030, 95 % between +0.021 and +0.038",
        "IoU  without   with    gain  95 % between",
        "sky    0.900  0.910  +0.010  +0.004 and +0.016",
        "on: sxy 40, srgb 4, compat 3.5 -> out/crf.json",
    ]
    off = some_tuning(options=None, gain=Gain(0.001, -0.002, 0.003), metric="trimap", trimap_width=4)
    first, *_, second = page.text(off, "out/crf.json").splitlines()
    assert first.startswith("val, 100 images: mIoU within 4 pixels of boundaries 0.600 without")
    assert second == "leave it off: no gain is certain -> out/crf.json"
    assert page.text(some_tuning(scales=(1.0, 1.5), flip=True), "x").startswith(
        "val, 100 images, seen with --scales 1 1.5 --flip: mIoU 0.600 without"
    )
    worse = some_tuning(options=None, gain=Gain(-0.2, -0.3, -0.1))
    assert page.text(worse, "x").endswith("leave it off: the masks get worse -> x")


def test_gains_show_the_sign_that_the_verdict_depends_on() -> None:
    assert [page.as_gain(gain) for gain in (0.0, 0.0123, -0.0005001, 0.0004, -0.00002)] == [
        *("±0.000", "+0.012", "-0.001", "+0.0004", "-0.00002"),
    ]
    changes = {"sky": Change(0.9, 0.8998, Gain(-0.0002, -0.0004, -0.0001))}
    tuning = some_tuning(gain=Gain(0.001, 0.0004, 0.002), per_class=changes, grid=some_tuning().grid[:1])
    said = page.text(tuning, "x")
    assert "gain +0.001, 95 % between +0.0004 and +0.002" in said and "lose IoU: sky (-0.0002)." in said
    html = page.render(tuning, Palette("one", ("sky",), ((1, 2, 3),)), "out/model", tuning.options, [])
    assert "+0.001 (+0.0004 to +0.002)" in html and "−0.0004 and −0.0001" in html
    assert page.text(some_tuning(options=None), "x").endswith(
        "leave it off: the parameters that all images choose gain nothing on them -> x"
    )


def test_points_of_the_grid_have_a_minus_sign_and_none_where_the_gain_is_none() -> None:
    points = [{"compat": 3.0, "sxy": 30.0, "srgb": srgb, "score": score} for srgb, score in ((3, 0.59), (6, 0.59999))]
    html = page.render(some_tuning(grid=tuple(points)), PALETTE, "out/model", CrfOptions(), [])
    assert re.findall('title="[^"]+">([^<]+)</td>', html) == ["±0.00", "−1.00"]


def test_records_that_share_a_reject_count_one_by_one() -> None:
    (reject,) = some_tuning().rejects
    tuning = some_tuning(rejects=(reject | {"records": 2},))
    assert page.text(tuning, "x").startswith("val, 99 images: ")
    assert page.text(some_tuning(rejects=(reject | {"records": 100},)), "x").startswith("val, 1 image: ")
    html = page.render(tuning, PALETTE, "out/model", CrfOptions(), [])
    assert "<dt>Rejected</dt><dd>2</dd>" in html


WEIGHTED = CrfOptions(sxy=40, srgb=4, compat=3.5, class_weights=(1, 0.25, 1, 1))
POLE = "\u202epole"


def test_classes_that_surely_lose_are_named_with_what_to_do() -> None:
    changes = {"sky": Change(0.9, 0.91, Gain(0.01, 0.004, 0.016)), POLE: Change(0.3, 0.2, Gain(-0.1, -0.2, -0.01))}
    options = CrfOptions(sxy=40, srgb=4, compat=3.5, class_weights=(1, 0))
    lines = page.text(some_tuning(options=options, per_class=changes), "crf.json").splitlines()
    assert r"\u202epole    0.300  0.200  -0.100  -0.200 and -0.010" in lines
    assert lines[-2] == r"on: sxy 40, srgb 4, compat 3.5, class weights \u202epole 0 -> crf.json"
    assert lines[-1].startswith(
        r"Even so, these classes clearly lose IoU: \u202epole (-0.100). Where they matter more"
    )
    for own, said in (
        ({}, r"\u202epole (-0.100). With the parameters to use, on the images that chose them: none. Where"),
        (
            {"sky": -0.02},
            r"\u202epole (-0.100). With the parameters to use, on the images that chose them: sky (-0.020). W",
        ),
        ({POLE: -0.12}, r"\u202epole (-0.100). Where"),
    ):
        assert f"lose IoU: {said}" in page.text(some_tuning(options=options, per_class=changes, own_losses=own), "x")
    palette = Palette("two", ("sky", POLE), ((1, 2, 3), (4, 50, 6)))
    html = page.render(some_tuning(options=options, per_class=changes), palette, "out/model", options, [])
    assert "Even so, these classes clearly lose IoU: " in html
    off = some_tuning(options=None, gain=Gain(0.001, -0.002, 0.003), per_class=changes)
    assert "Even so" not in page.text(off, "crf.json"), "nobody loses where the CRF is left off"


def test_points_with_class_weights_are_listed_below_the_grid() -> None:
    point = {"compat": 3.5, "sxy": 40.0, "srgb": 4.0, "class_weights": {EVIL: 0.25}, "score": 0.625}
    tuning = some_tuning(options=WEIGHTED, grid=(*some_tuning().grid, point))
    html = page.render(tuning, PALETTE, "out/model", WEIGHTED, [])
    assert html.count('<td class="right') + html.count('<td class="wrong') == len(tuning.grid) - 1
    assert re.search(r"<li>sxy 40, srgb 4, compat 3.5, class weights &lt;script&gt;.* 0.25: \+2.50</li>", html)
    assert "class weights" not in page.render(some_tuning(), PALETTE, "out/model", CrfOptions(), [])


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
        number(drawn["ticks"][1]["text"]) - number(drawn["ticks"][0]["text"])
    )
    for name in ("low", "value", "high"):
        assert drawn[name] - drawn["zero"] == pytest.approx(scale * getattr(gain, name), abs=0.5)
        assert 30 <= drawn[name] <= 610


def test_the_table_of_classes_names_the_pixels_that_were_scored() -> None:
    near, nearest = (some_tuning(metric="trimap", trimap_width=width) for width in (4, 1))
    for tuning, title in (
        (some_tuning(), "IoU"),
        (near, "IoU within 4 pixels of boundaries"),
        (nearest, "IoU within 1 pixel of boundaries"),
    ):
        html = page.render(tuning, PALETTE, "out/model", CrfOptions(), [])
        assert f'<h2 id="classes">{title} by class</h2>' in html


def test_the_grid_shows_every_point_once_and_frames_the_best() -> None:
    tuning = some_tuning()
    html = page.render(tuning, PALETTE, "out/model", tuning.options, [])
    cells = re.findall(r'<td class="(right|wrong)( strong)?( best)?" style="--v: ([\d.]+)" title="([^"]+)">', html)
    assert len(cells) == len(tuning.grid)
    (best,) = [title for _, _, best, _, title in cells if best]
    top = max(tuning.grid, key=lambda point: point["score"])
    assert best == f"{page.parameters(top)}: {top['score']:.4f}"
    for kind, _, _, _, title in cells:
        assert (float(title.rpartition(" ")[2]) > tuning.before) == (kind == "right")


def test_every_weight_of_the_gaussian_kernel_has_maps_of_its_own_and_the_best_of_all_is_framed() -> None:
    lower = {"compat": 2.0, "sxy": 15.0, "srgb": 2.0, "compat_gaussian": 0.3, "score": 0.7}
    none = {**lower, "compat_gaussian": 0.0, "score": 0.69}
    tuning = some_tuning(grid=(*some_tuning().grid, none, lower))
    html = page.render(tuning, PALETTE, "out/model", tuning.options, [])
    assert re.findall("Gaussian kernel of weight ([0-9.]+)", html) == ["3", "0.3", "0"]
    assert re.findall(r' best" style="--v: 1.00" title="([^"]+)">', html) == [
        "sxy 15, srgb 2, compat 2, compat_gaussian 0.3: 0.7000"
    ]
    assert html.count('<td class="right') + html.count('<td class="wrong') == len(tuning.grid)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_a_browser_shows_the_page(browser: chromium.Page, tmp_path: Path, width: int, dark: bool) -> None:
    path = tmp_path / "crf.html"
    entries = [entry(["without CRF", "with CRF"], np.random.default_rng(0), 2)] * 2
    path.write_text(page.render(some_tuning(), PALETTE, f"out/{EVIL}", CrfOptions(), entries), encoding="utf-8")
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
