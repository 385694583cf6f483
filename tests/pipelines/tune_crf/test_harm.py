"""`deeplab tune-crf` where the CRF harms a class: it is spared, or named with what to do."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from pipelines.crf import refine as crf
from pipelines.pages.tuning import parameters
from tests.drawn.records import PALETTE
from tests.drawn.tuning import Smoothing, tune
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import load


class Flooding(Smoothing):
    """Stands in for a CRF that erases the third class, the less the smaller its weight is, down to `least`."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def __call__(self, image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
        refined = super().__call__(image, probabilities, options)
        weight = max(self.least, (options.class_weights or (1.0, 1.0, 1.0))[2])
        return refined * np.float32([1, 1, 1 - 0.9 * max(0.0, weight - 0.25)])


@pytest.fixture
def flooding(monkeypatch: pytest.MonkeyPatch) -> Flooding:
    flooding = Flooding(least=0)
    monkeypatch.setattr(crf, "refine", flooding)
    return flooding


def test_a_class_that_the_crf_erases_is_spared_stored_and_printed(folders, network, flooding, capsys):
    model, records = folders
    assert tune("--model", model, "--records", records) == 0
    tuning, content = load(str(model)), json.loads((model / "crf.json").read_text())
    weights = tuning.options.class_weights
    assert weights[:2] == (1, 1) and weights[2] < 1 and tuning.losers == {}
    assert content["options"]["class_weights"] == {"bar": weights[2]}
    assert {"bar": 0.5} in [point.get("class_weights") for point in content["grid"]]
    gain = content["per_class"]["bar"]["gain"]
    assert gain["value"] > 0 and gain["low"] <= gain["value"] <= gain["high"]
    out = capsys.readouterr().out
    assert re.search(r"^class weights: \d+ masks to make, ", out, re.MULTILINE)
    chosen = parameters(content["options"])
    assert chosen.endswith(f", class weights bar {weights[2]:g}")
    assert f"on: {chosen} -> {model / 'crf.json'}" in out
    assert [line.split()[0] for line in out.splitlines() if " and " in line][1:] == list(PALETTE.names)
    html = (model / "crf.html").read_text()
    assert f"Use the CRF, with {chosen}." in html and f"<li>{chosen}: " in html
    # A rerun reads all of that.
    first, network.calls, flooding.calls = (model / "crf.json").read_bytes(), 0, 0
    assert tune("--model", model, "--records", records) == 0
    assert (network.calls, flooding.calls) == (0, 0) and (model / "crf.json").read_bytes() == first


def test_a_class_that_loses_at_every_weight_is_named_with_advice(folders, network, flooding, capsys):
    model, records = folders
    flooding.least = 1
    assert tune("--model", model, "--records", records) == 0
    tuning = load(str(model))
    assert tuning.options is not None and list(tuning.losers) == ["bar"]
    sentence = (
        f"Even so, these classes clearly lose IoU: bar ({tuning.losers['bar'].value:+.3f}). Where they matter more"
    )
    assert sentence in capsys.readouterr().out and sentence in (model / "crf.html").read_text()
