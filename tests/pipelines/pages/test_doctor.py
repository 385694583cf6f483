"""The doctor's report for a terminal, and its page: escaped, whole, and shown by a browser without a request."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pipelines.pages import doctor as page
from pipelines.pages.gallery import panel
from tests.drawn import chromium
from tests.drawn.pages import EVIL, PALETTE


def report(**changes: Any) -> dict[str, Any]:
    finding = {
        **{"kind": "lossy-labels", "grade": "reject", "count": 1200, "of": 10000, "unit": "labels"},
        **{"text": f"labels are JPEGs {EVIL}", "cure": "export them again"},
        "examples": [{"path": f"labels/{EVIL}.jpg", "found": "is a JPEG"}, {"path": "b", "found": ""}],
    }
    note = {**finding, "kind": "tiny", "grade": "note", "count": 2, "of": 0, "unit": "classes", "examples": []}
    return {
        **{"input": f"data/{EVIL}", "pairs": 10000, "decoded": 512, "palette": PALETTE.to_json(), "status": 1},
        **{"evidence": ["paired: images with labels", "palette two"], "findings": [finding, note]},
        **{"pixels": {"train": [75, 25], "val": [0, 0]}, "verdict": "ill", "prepare": "deeplab prepare --input x"},
        "mend": "deeplab doctor x --mend",
        **changes,
    }


def drawings() -> page.Drawings:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return {"lossy-labels": ((panel("image", "alt", image, 9000), panel("label", "alt", image, 9000)), ())}


def test_the_terminal_gets_counts_examples_cures_verdict_and_command() -> None:
    assert page.text(report()).splitlines() == [
        "paired: images with labels",
        "palette two",
        f"rejected: 1,200 of 10,000 labels: labels are JPEGs {EVIL}",
        f"  labels/{EVIL}.jpg: is a JPEG",
        "  b",
        "  cure: export them again",
        f"note: 2 classes: labels are JPEGs {EVIL}",
        "  cure: export them again",
        "verdict: ill",
        "mend it by: deeplab doctor x --mend",
        "prepare it by: deeplab prepare --input x",
    ]
    assert "prepare it by" not in page.text(report(prepare=""))


def test_the_page_holds_every_finding_and_loads_nothing() -> None:
    html = page.render(report(), drawings())
    assert html.count('<section class="finding"') == 2 and html.count("<figure>") == 2
    assert "<script>" not in html and EVIL not in html and "&lt;script&gt;" in html
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert "<dd>10,000</dd>" in html, "as in the findings"
    assert re.findall("<td>([^<]*)</td>", html) == ["75.0 %", "–", "25.0 %", "–"], "in val every pixel is ignored"
    assert "deeplab prepare --input x" in html
    assert "<table" not in page.render(report(palette=None, pixels={}), {})


@pytest.mark.skipif(not chromium.executable(), reason="no Chromium")
@pytest.mark.slow
def test_a_browser_shows_it_on_a_desk_and_a_telephone(tmp_path) -> None:
    path = tmp_path / "doctor.html"
    path.write_text(page.render(report(), drawings()))
    with chromium.browse(tmp_path / "profile") as browser:
        for width, height in ((1280, 900), (390, 800)):
            browser.open(path, width, height)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert not browser.events_of("Log.entryAdded", "Runtime.exceptionThrown")
