"""Model folders and crf.json that are damaged, under every command that takes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drawn.records import PALETTE
from tests.drawn.tuning import some_tuning
from tests.zoo.areas.weights import EXPORTS, TRAININGS, WEIGHTS, impatient
from tests.zoo.engine import REFUSED, Area, Case
from tests.zoo.worlds import PNG, both, file, gone, whole

TAKERS = {
    "segment": "segment --input @/set/images --model @/model --output @/out",
    "evaluate": "evaluate --labels @/set/labels --masks @/masks --model @/model --output @/out",
    "tune-crf": "tune-crf --model @/model --records @/records",
    "export": "export --model @/model --format savedmodel --output @/out",
}


def card(**changes: Any) -> Callable[[Path], object]:
    """model.json with other values; those that are None are taken out."""

    def make(world: Path) -> None:
        path = world / "model/model.json"
        value = {**json.loads(path.read_bytes()), **changes}
        path.write_text(json.dumps({name: one for name, one in value.items() if one is not None}))

    return make


def written(data: bytes) -> Callable[[Path], object]:
    return file("model/model.json", data)


CARDS = {
    "no model folder": (gone("model"), "is not a model folder: model.json is missing"),
    "a model folder without model.json": (gone("model/model.json"), "is not a model folder: model.json is missing"),
    "an empty model.json": (written(b""), "model.json is not valid JSON"),
    "a model.json of brackets": (written(b"[" * 100_000), "model.json is not valid JSON"),
    "a model.json that is a list": (written(b"[]"), "expected a JSON object with the keys"),
    "a model.json that is an image": (written(PNG), "model.json is not valid JSON"),
    "a model.json without an architecture": (card(architecture=None), "expected a JSON object with the keys"),
    "a model.json with an entry that is not known": (card(more=1), "expected a JSON object with the keys"),
    "an architecture that is a list": (card(architecture=[1]), "architecture must be a JSON object"),
    "an architecture of other classes than the palette's": (
        card(architecture={"num_classes": 7}),
        "the model has 7 classes",
    ),
    "a number of classes that is a fraction": (
        card(architecture={"num_classes": 3.0}),
        "num_classes must be a whole number",
    ),
    "a palette in model.json that is damaged": (card(palette={"classes": []}), "1 to 254 classes"),
    "a bound on sizes in model.json that is a text": (card(max_side="x"), "max_side must be 0 to 178956970 pixels"),
    "a bound on sizes in model.json below 0": (card(max_side=-1), "max_side must be 0 to 178956970 pixels"),
    "a bound on sizes in model.json of 400 digits": (card(max_side=10**399), "max_side must be 0 to 178956970 pixels"),
    "training options that are a list": (card(training=[1]), "training must be a JSON object"),
    "scores that are a number": (card(scores=3), "scores must be a JSON object"),
    "a fingerprint of the data that is a number": (card(data_fingerprint=3), "data_fingerprint"),
    "a model folder that is a file": (both(gone("model"), file("model", b"x")), "is not a model folder"),
}
NO_WEIGHTS = "is not a model folder: model.keras is missing"


def tuning(**changes: Any) -> Callable[[Path], object]:
    """A crf.json with other values."""
    values = some_tuning(per_class={}).to_json() | changes
    return file("model/crf.json", json.dumps(values))


TUNINGS = {
    "an empty crf.json": (file("model/crf.json", b""), "crf.json is not valid JSON"),
    "a crf.json of another format": (tuning(format=9), "expected the result of tune-crf in format 1 to"),
    "a crf.json that is null": (file("model/crf.json", b"null"), "expected the result of tune-crf"),
    "a crf.json that is a list": (file("model/crf.json", b"[1]"), "expected the result of tune-crf"),
    "a crf.json without a gain": (tuning(gain=None), "is damaged"),
    "a crf.json with a text for a gain": (tuning(gain={"value": "x", "low": 0, "high": 1}), "is damaged"),
    "a crf.json whose gains of classes are a list": (
        tuning(options=None, verdict="off", per_class=[0, 1, 2], classes=[9]),
        "is damaged",
    ),
    "a crf.json whose verdict contradicts it": (tuning(verdict="off"), "does not go with the options"),
    "a crf.json with a width of no pixels": (tuning(options={"sxy": 0}), "sxy must be above 0, got 0"),
    "a crf.json with a number of 400 digits": (tuning(options={"sxy": 10**400}), "is damaged"),
    "a crf.json with weights of other classes": (
        tuning(options={"class_weights": {"zzz": 0.5}}),
        "unknown classes (zzz)",
    ),
    "a crf.json made with other weights": (tuning(), "was made with other weights"),
}


def cards() -> list[Case]:
    """Damaged model folders, each under segment and one other command in turn."""
    cases = []
    for number, (name, (make, says)) in enumerate(CARDS.items()):
        takers = list(TAKERS)
        for command in dict.fromkeys(("segment", takers[number % len(takers)])):
            cases.append(Case(f"{name}: {command}", TAKERS[command], REFUSED, (says,), make, writes=("out", "model")))
    for command in ("segment", "tune-crf", "export"):
        name = f"a model without weights: {command}"
        cases.append(Case(name, TAKERS[command], REFUSED, (NO_WEIGHTS,), gone("model/model.keras")))
    return cases


def tunings() -> list[Case]:
    """What the CRF's parameters are read from, or tuned on."""
    auto = f"{TAKERS['segment']} --crf auto"
    cases = [Case(name, auto, REFUSED, ("crf.json", says), make) for name, (make, says) in TUNINGS.items()]
    other_classes = [{"name": name, "color": [index, index, 1]} for index, name in enumerate("abc")]
    cases += [
        Case("no crf.json", auto, REFUSED, ("crf.json is missing; make it with",)),
        Case(
            "another program's crf.json: tune-crf",
            TAKERS["tune-crf"],
            REFUSED,
            ("crf.json was not written by `deeplab tune-crf`",),
            file("model/crf.json", b"{}"),
        ),
        Case(
            "too few images to tune on",
            TAKERS["tune-crf"],
            REFUSED,
            ("2 usable images in the split val", "expected 10 or more"),
            writes=("model",),
            stays=False,
        ),
        Case(
            "records of other classes: tune-crf",
            TAKERS["tune-crf"],
            REFUSED,
            ("are not those of",),
            card(palette=PALETTE.to_json() | {"classes": other_classes}),
        ),
    ]
    return cases


def networks() -> list[Case]:
    """Weights and options from which no network can be built or trained, or that cannot be exported."""
    cases = []
    for table in (EXPORTS, WEIGHTS, TRAININGS):
        for name, (line, make, says) in table.items():
            # These build a network first.
            around = impatient if "hangs" in name else contextlib.nullcontext
            cases.append(Case(name, line, REFUSED, (says,), make, around=around, slow="--init-from" in line))
    return cases


def exports() -> list[Case]:
    return [
        Case(
            "an export over other programs' files",
            TAKERS["export"],
            REFUSED,
            ("holds x, which is not part of an export",),
            file("out/x", b"mine"),
        ),
        Case(
            "an export whose name is of another format",
            "export --model @/model --format onnx --output @/out.txt",
            REFUSED,
            ("must end in .onnx",),
        ),
        Case(
            "an export of a model that is damaged",
            TAKERS["export"],
            REFUSED,
            ("is damaged or does not belong to model.json",),
            writes=("out.check.json",),
            stays=False,
        ),
    ]


AREA = Area("Models and weights", whole, (*cards(), *tunings(), *networks(), *exports()))
