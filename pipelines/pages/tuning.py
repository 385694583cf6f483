"""The result of `deeplab tune-crf`, as a few lines for a terminal, and as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.masks.options import Views
from pipelines.pages.gallery import Entry
from pipelines.pages.page import direction, signed, template, typographic
from trainer.accounts import counted
from trainer.formats.labels import Palette
from trainer.formats.options import CrfOptions, in_words
from trainer.formats.tuning import Tuning
from trainer.terminal import printable

AXES = ("compat", "sxy", "srgb")
SMOOTHING = CrfOptions.compat_gaussian
"""Weight of the Gaussian kernel in the grid, the same as in DeepLab."""


def as_gain(value: float) -> str:
    """A gain to three decimals, or to the first that shows its sign, on which verdicts depend: "+0.012", "-0.0004"."""
    text = signed(value)
    return f"{value:+.{-math.floor(math.log10(abs(value)))}f}" if value and "±" in text else text


def hundredths(gain: float) -> str:
    """A gain in hundredths, to two decimals, for the page: "+1.23"."""
    text = f"{100 * gain:+.2f}"
    return "±0.00" if text in ("+0.00", "-0.00") else typographic(text)


def metric_name(tuning: Tuning, score: str = "mIoU") -> str:
    """The score with the pixels that it is of."""
    return (
        score
        if tuning.trimap_width is None
        else f"{score} within {counted(tuning.trimap_width, 'pixel')} of boundaries"
    )


def parameters(point: Mapping[str, Any]) -> str:
    """The searched parameters in words: "sxy 40, srgb 4, compat 3.5, class weights pole 0.5".

    The weight of the Gaussian kernel is included only if it differs from that in the grid.

    Args:
      point: parameters from `CrfOptions.to_json`.
    """
    is_smoothed_otherwise = point.get("compat_gaussian", SMOOTHING) != SMOOTHING
    return in_words(point, ["sxy", "srgb", "compat", *["compat_gaussian"] * is_smoothed_otherwise])


def text(tuning: Tuning, path: str) -> str:
    """The result for a terminal; `path` is the path of crf.json."""
    gain = tuning.gain
    scores = (
        f"{_images(tuning)}: {metric_name(tuning)} {tuning.before:.3f} without, "
        f"{tuning.after:.3f} with (cross-fitted); gain {as_gain(gain.value)}, "
        f"{100 * gain.level:g} % between {as_gain(gain.low)} and {as_gain(gain.high)}"
    )
    verdict = f"on: {_options(tuning)}" if tuning.options else f"leave it off: {_reason(tuning)}"
    return "\n".join(
        [scores, *_class_table(tuning), f"{printable(verdict)} -> {path}", *map(printable, _harm(tuning))]
    )


def _images(tuning: Tuning) -> str:
    """The images behind the scores: "val, 101 images, seen with --flip"."""
    flags = Views(tuning.scales, tuning.flip).flags
    return f"{tuning.split}, {counted(tuning.scored, 'image')}" + (f", seen with {flags}" if flags else "")


def _class_table(tuning: Tuning) -> list[str]:
    """IoU and gain of the classes, for a terminal; empty if no gain is known."""
    known = {printable(name): change for name, change in tuning.per_class.items() if change.gain is not None}
    if not known:
        return []
    width = max(map(len, known))
    head = f"{'IoU':{width}}  without   with    gain  {100 * tuning.gain.level:g} % between"
    return [
        head,
        *(
            f"{name:{width}}    {change.before:.3f}  {change.after:.3f}  {as_gain(change.gain.value):>6}  "
            f"{as_gain(change.gain.low):>6} and {as_gain(change.gain.high)}"
            for name, change in known.items()
        ),
    ]


def _options(tuning: Tuning) -> str:
    return parameters(tuning.options.to_json(list(tuning.per_class)))


def _reason(tuning: Tuning) -> str:
    if tuning.gain.low > 0:
        return "the parameters that all images choose gain nothing on them"
    return "the masks get worse" if tuning.gain.high < 0 else "no gain is certain"


def _harm(tuning: Tuning) -> list[str]:
    """The classes that lose by parameters that are worth using, and what to do; empty if none clearly loses."""
    losers, own = {name: gain.value for name, gain in tuning.losers.items()}, tuning.own_losses
    if not (tuning.options and (losers or own)):
        return []
    # Each fold has parameters of its own, which may harm other classes than those that all images chose.
    is_other = own is not None and own.keys() != losers.keys()
    same = f" With the parameters to use, on the images that chose them: {_changes(own)}." if is_other else ""
    return [
        f"Even so, these classes clearly lose IoU: {_changes(losers)}.{same} Where they matter more than the others' "
        "gain, omit --crf; a model with more confidence in them loses less."
    ]


def _changes(classes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({as_gain(change)})" for name, change in classes.items()) or "none"


def render(tuning: Tuning, palette: Palette, model: str, point: CrfOptions, entries: Sequence[Entry]) -> str:
    """The page.

    Args:
      tuning: the result.
      palette: the classes, in the order of `tuning.per_class`.
      model: the model's folder.
      point: the parameters that the search chose, whether they gain or not.
      entries: entries from `pipelines.pages.gallery.entry`; "best" are images that gained most, "worst" those that
        lost most.

    Returns:
      HTML without scripts that loads nothing; the same input gives the same bytes.
    """
    return template("tuning.html.j2").render(
        as_gain=lambda value: typographic(as_gain(value)),
        tuning=tuning,
        model=model,
        metric=metric_name(tuning),
        iou=metric_name(tuning, "IoU"),
        images=_images(tuning),
        verdict=_verdict(tuning),
        interval=_interval(tuning),
        maps=_maps(tuning),
        classes=_classes(tuning, palette),
        absent=[name for name, change in tuning.per_class.items() if change.before is None and change.after is None],
        harm=_harm(tuning),
        weighted=_weighted(tuning),
        point=parameters(point.to_json(palette.names)),
        gallery=entries,
    )


def _verdict(tuning: Tuning) -> str:
    if tuning.options:
        return f"Use the CRF, with {_options(tuning)}."
    return f"Leave the CRF off: {_reason(tuning)}."


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from `low` or below to `high` or above."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _interval(tuning: Tuning) -> dict[str, Any]:
    """The gain and its interval on an axis that includes zero, in the units of the SVG's view box."""
    gain, left, right = tuning.gain, 50.0, 590.0
    low, high = min(gain.low, gain.value, 0.0), max(gain.high, gain.value, 0.0)
    # The axis spans at least one point of mIoU, so that noise does not look as wide as a gain.
    room = max(0.0, 0.01 - (high - low)) / 2
    ticks = _ticks(low - room, high + room)

    def x(value: float) -> float:
        return round(left + (right - left) * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

    return {
        "low": x(gain.low),
        "high": x(gain.high),
        "value": x(gain.value),
        "zero": x(0.0),
        "ticks": [{"x": x(tick), "text": "0" if abs(tick) < 1e-12 else typographic(f"{tick:+.3g}")} for tick in ticks],
        "kind": "good" if gain.low > 0 else ("bad" if gain.high < 0 else "unsure"),
    }


def _maps(tuning: Tuning) -> list[dict[str, Any]]:
    """Heat maps of the gain over no CRF on all images, of the points without weights of classes.

    Returns:
      For each weight of the Gaussian kernel, from the highest: a heat map for each weight of the bilateral kernel.
      Rows are srgb, columns sxy.
    """
    points = [point for point in tuning.grid if "class_weights" not in point]
    gains = {
        (point.get("compat_gaussian", SMOOTHING), *(point[name] for name in AXES)): point["score"] - tuning.before
        for point in points
    }
    largest = max(max(map(abs, gains.values())), 1e-6)
    top = max(gains, key=gains.get)

    def cell(key: tuple[float, ...]) -> dict[str, Any] | None:
        if key not in gains:
            return None
        gain, strength = gains[key], abs(gains[key]) / largest
        return {
            "kind": "right" if gain > 0 else "wrong",
            "strength": f"{strength:.2f}",
            "strong": strength > 0.65,
            "best": key == top,
            "gain": hundredths(gain),
            "title": f"{parameters(dict(zip(('compat_gaussian', *AXES), key, strict=True)))}: "
            f"{tuning.before + gain:.4f}",
        }

    def panel(*weights: float) -> dict[str, Any]:
        here = [key[2:] for key in gains if key[:2] == weights]
        columns = sorted({sxy for sxy, _ in here})
        lines = sorted({srgb for _, srgb in here}, reverse=True)
        rows = [{"srgb": srgb, "cells": [cell((*weights, sxy, srgb)) for sxy in columns]} for srgb in lines]
        return {"compat": weights[1], "columns": columns, "rows": rows}

    compats = {smoothing: sorted({key[1] for key in gains if key[0] == smoothing}) for smoothing, *_ in gains}
    return [
        {"smoothing": smoothing, "panels": [panel(smoothing, compat) for compat in compats[smoothing]]}
        for smoothing in sorted(compats, reverse=True)
    ]


def _weighted(tuning: Tuning) -> list[dict[str, Any]]:
    """The points with weights of classes, and their gain over no CRF on all images."""
    points = [point for point in tuning.grid if "class_weights" in point]
    return [{"parameters": parameters(point), "gain": hundredths(point["score"] - tuning.before)} for point in points]


def _classes(tuning: Tuning, palette: Palette) -> list[dict[str, Any]]:
    classes = []
    for (name, change), color in zip(tuning.per_class.items(), palette.colors, strict=True):
        if change.before is None and change.after is None:
            continue
        gain = change.gain
        row = {"name": name, "color": color, "before": change.before, "after": change.after, "gain": gain}
        row["sure"] = gain is not None and (gain.low > 0 or gain.high < 0)
        classes.append(row | {"direction": direction(gain and gain.value)})
    return classes
