"""An evaluation as two tables for a terminal, and as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.pages.gallery import Entry
from pipelines.pages.page import as_difference, as_percent, as_score, data_uri, direction, template
from trainer.accounts import percent
from trainer.formats import images
from trainer.formats.labels import Palette
from trainer.terminal import aligned

SERIES_COLORS = 8
NUMBERED_CLASSES = 12  # confusion matrices of more classes show their numbers only on hover
TABLED_CLASSES = 40  # confusion matrices of more classes are drawn as an image


def render(evaluation: dict[str, Any], gallery: Sequence[Entry] = ()) -> str:
    """Renders the page.

    Args:
      evaluation: the contents of evaluation.json.
      gallery: entries made by `pipelines.pages.gallery.entry`.

    Returns:
      HTML, self-contained.
    """
    palette = Palette.from_json(evaluation["palette"])
    names = evaluation["compared"]
    scores = [evaluation["masks"][name] for name in names]
    confusions = [np.array(score["confusion"], np.int64) for score in scores]
    counts = sum(confusion.sum(0) + confusion.sum(1) for confusion in confusions)
    present = [index for index in range(palette.num_classes) if counts[index]]
    return template("evaluation.html.j2").render(
        evaluation=evaluation,
        palette=palette,
        series=[_series(index, name, score) for index, (name, score) in enumerate(zip(names, scores, strict=True))],
        verdict=_verdict(names, scores),
        without_label=[f"{n:,} in {name}" for name, s in zip(names, scores, strict=True) if (n := s["without_label"])],
        columns=["mIoU", "pixel accuracy", *(f"{width} px" for width in _widths(scores))],
        rows=_comparison(scores),
        classes=_class_bars(palette, scores, present),
        absent=[name for index, name in enumerate(palette.names) if index not in present],
        chart=_trimap_chart(scores),
        matrices=[_matrix(c[np.ix_(present, present)], [palette.names[i] for i in present]) for c in confusions],
        numbered=len(present) <= NUMBERED_CLASSES,
        gallery=gallery,
    )


def text(evaluation: dict[str, Any]) -> str:
    """The comparison and the IoU of every class as two tables for a terminal."""
    palette = Palette.from_json(evaluation["palette"])
    names = evaluation["compared"]
    scores = [evaluation["masks"][name] for name in names]
    header = ["masks", "head", "crf", "mIoU", "pixel acc.", *(f"{width} px" for width in _widths(scores))]
    rows = [
        [
            name,
            score.get("head") or "-",
            _with_crf(score),
            *(as_score(cell["value"]) for cell in cells),
        ]
        for name, score, cells in zip(names, scores, _comparison(scores), strict=True)
    ]
    classes = [[name, *(as_score(score["per_class"][name]) for score in scores)] for name in palette.names]
    return (
        f"{aligned([header, *rows], 3)}\n(px: mIoU within that distance of a label's boundary)\n\n"
        f"{aligned([['IoU', *names], *classes], 1)}"
    )


def _with_crf(score: dict[str, Any]) -> str:
    """Whether masks were refined by the CRF: "yes", "no", or "-" for those of other programs, which name no head."""
    return "yes" if score.get("crf") else "-" if score.get("head") is None else "no"


def _series(index: int, name: str, score: dict[str, Any]) -> dict[str, Any]:
    crf = score.get("crf")
    details = [score["head"]] if score.get("head") else []
    details += ["CRF"] if crf else []
    return {"name": name, "color": f"s{index % SERIES_COLORS}", "details": " + ".join(details), "crf": crf}


def _verdict(names: Sequence[str], scores: Sequence[dict[str, Any]]) -> str:
    known = [(score["miou"], -index) for index, score in enumerate(scores) if score["miou"] is not None]
    if not known:
        return "No pixel could be scored."
    best, index = max(known)
    if len(scores) == 1:
        return f"mIoU {best:.3f}."
    if index == 0:
        return f"Best is the first row, {names[0]}: mIoU {best:.3f}."
    gain = "" if scores[0]["miou"] is None else f", {as_difference(best - scores[0]['miou'])} on {names[0]}"
    return f"Best is {names[-index]}: mIoU {best:.3f}{gain}."


def _widths(scores: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(scores[0]["trimap"], key=int)  # a JSON file sorts them as strings


def _comparison(scores: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Cells of the comparison table: the value, its difference from the first row, and whether it is the best."""
    widths = _widths(scores)
    values = [[s["miou"], s["pixel_accuracy"], *(s["trimap"][width] for width in widths)] for s in scores]
    best = [max((v for v in column if v is not None), default=None) for column in zip(*values, strict=True)]

    def cell(value: float | None, first: float | None, top: float | None, row: int) -> dict[str, Any]:
        change = None if row == 0 or value is None or first is None else value - first
        return {
            "value": value,
            "best": len(scores) > 1 and value is not None and value == top,
            "difference": "" if change is None else as_difference(change),
            "direction": direction(change),
        }

    return [
        [cell(v, f, b, row) for v, f, b in zip(line, values[0], best, strict=True)] for row, line in enumerate(values)
    ]


def _class_bars(palette: Palette, scores: Sequence[dict[str, Any]], present: Sequence[int]) -> list[dict[str, Any]]:
    pixels = np.array(scores[0]["confusion"], np.int64).sum(1)
    total = max(1, int(pixels.sum()))
    classes = []
    for index in present:
        name = palette.names[index]
        ious = [score["per_class"][name] for score in scores]
        top = max((iou for iou in ious if iou is not None), default=None)
        classes.append(
            {
                "name": name,
                "color": palette.colors[index],
                "share": as_percent(pixels[index] / total),
                "bars": [{"iou": iou, "best": len(ious) > 1 and iou is not None and iou == top} for iou in ious],
            }
        )
    return classes


def _trimap_chart(scores: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Lines of mIoU over band width, in the units of the SVG's view box; None if no band contains a pixel."""
    left, right, top, bottom = 52, 30, 14, 48
    widths = _widths(scores)
    values = [[*(score["trimap"][width] for width in widths), score["miou"]] for score in scores]
    known = [value for line in values for value in line if value is not None]
    if not any(value is not None for line in values for value in line[:-1]):
        return None
    low, high, step = _axis(min(known), max(known))
    chart = {"width": 560, "height": 320, "left": left, "right": 560 - right, "bottom": 320 - bottom}
    across, up = (560 - left - right) / (len(widths) + 0.3), (320 - top - bottom) / (high - low)
    xs = [left + across * (0.3 + index) for index in range(len(widths) + 1)]

    def y(value: float) -> float:
        return round(320 - bottom - up * (value - low), 1)

    chart["ticks"] = [
        {"y": y(low + index * step), "text": f"{low + index * step:.2f}"}
        for index in range(round((high - low) / step) + 1)
    ]
    chart["labels"] = [{"x": round(x, 1), "text": text} for x, text in zip(xs, [*widths, "whole"], strict=True)]
    chart["lines"] = []
    for line in values:
        points = [
            {"x": round(x, 1), "y": y(value), "value": value, "at": at}
            for x, value, at in zip(xs, line, [*(f"{w} px" for w in widths), "whole image"], strict=True)
            if value is not None
        ]
        bands = [point for point in points if point["at"] != "whole image"]
        chart["lines"].append({"points": points, "bands": bands})
    return chart


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """Round limits and tick distance around [low, high], within [0, 1]: at least three ticks."""
    spread = max(high - low, 0.05)
    step = next((step for step in (0.02, 0.05, 0.1) if spread / step <= 6), 0.2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if last - first < 2:
        first, last = (first - 1, last + 1) if first > 0 and last * step < 1 else (max(0, last - 2), max(2, last))
    return first * step, last * step, step


def _matrix(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """A confusion matrix for the template: shares of each true class, as cells or, for many classes, as an image."""
    pixels = confusion.sum(1)
    shares = confusion / np.maximum(pixels, 1)[:, None]
    wrong = np.where(np.eye(len(names), dtype=bool), 0, confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[:5]
    worst = [
        {"truth": names[t], "predicted": names[p], "share": as_percent(wrong[t, p] / wrong.sum())}
        for t, p in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[t, p]
    ]
    if len(names) > TABLED_CLASSES:
        return {"worst": worst, "image": _heat_map(shares), "rows": None}
    rows = []
    for t, truth in enumerate(names):
        cells = [_matrix_cell(float(shares[t, p]), t == p, truth, names[p]) for p in range(len(names))]
        rows.append({"name": truth, "empty": not pixels[t], "cells": cells})
    return {"worst": worst, "image": None, "rows": rows}


def _matrix_cell(share: float, right: bool, truth: str, predicted: str) -> dict[str, Any]:
    # The square root makes a confusion of a few percent visible next to a diagonal near 100.
    strength = math.sqrt(share)
    return {
        "kind": "right" if right else "wrong",
        "strength": f"{strength:.2f}" if share >= 0.0005 else None,
        "strong": strength > (0.72 if right else 0.62),
        "text": f"{100 * share:.0f}" if share >= 0.005 else "",
        "title": f"{percent(share, 2)} % of {truth} predicted as {predicted}",
    }


def _heat_map(shares: np.ndarray) -> str:
    strength = np.sqrt(shares)[..., None]
    right = np.eye(len(shares), dtype=bool)[..., None]
    color = np.where(right, np.float64([37, 99, 235]), np.float64([214, 69, 24]))
    return data_uri(images.encode_png((244 + strength * (color - 244)).astype(np.uint8), level=9), "png")
