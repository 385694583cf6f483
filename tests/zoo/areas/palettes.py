"""Palette files, which people write by hand."""

from __future__ import annotations

import json

from tests.drawn.records import PALETTE
from tests.zoo.engine import Area, Case
from tests.zoo.worlds import file, model


def palette(**changes: object) -> str:
    return json.dumps(PALETTE.to_json() | changes)


def classes(*pairs: tuple[object, object]) -> str:
    return palette(classes=[{"name": name, "color": color} for name, color in pairs])


RED, BLUE = [255, 0, 0], [0, 0, 255]
PALETTES = {
    "an empty palette file": (b"", "is not valid JSON"),
    "a palette that is no JSON": (b"{'name': 3}", "is not valid JSON"),
    "a palette in brackets deeper than can be read": (b"[" * 100_000, "is not valid JSON"),
    "a palette in UTF-16": (palette().encode("utf-16"), None),
    "a palette in Latin-1": (
        classes(("wei\xdf", RED)).replace("\\u00df", "\xdf").encode("latin-1"),
        "is not valid JSON",
    ),
    "a palette that is a list": (b"[]", "needs a list of classes"),
    "a palette of no classes": (classes(), "1 to 254 classes, got 0"),
    "a palette of 255 classes": (classes(*((f"c{n}", [n, 0, 1]) for n in range(255))), "1 to 254 classes, got 255"),
    "ids of label files in a list": (palette(source_ids=[[7, 0]]), "source_ids must be an object"),
    "an entry that is not known": (palette(colours=[]), "unknown entry 'colours'"),
    "a class without a name": (palette(classes=[{"color": RED}]), "entry 'name' is missing"),
    "a class without a colour": (palette(classes=[{"name": "a"}]), "entry 'color' is missing"),
    "a class of an empty name": (classes((" ", RED)), "class names must be non-empty strings"),
    "a class whose name is a number": (classes((3, RED)), "class names must be non-empty strings"),
    "a class whose name has two lines": (classes(("a\nb", RED)), "the name 'a\\nb' has a control character"),
    "a class whose name is half of a character": (classes(("\ud800", RED)), "is not valid Unicode"),
    "two classes of one name": (classes(("a", RED), ("a", BLUE)), "class name 'a' appears twice"),
    "two classes of one colour": (classes(("a", RED), ("b", RED)), "colour (255, 0, 0) appears twice"),
    "a colour of two numbers": (classes(("a", [1, 2])), "a colour must be three whole numbers"),
    "a colour over 255": (classes(("a", [1, 2, 300])), "three whole numbers from 0 to 255, got [1, 2, 300]"),
    "a colour below 0": (classes(("a", [1, 2, -3])), "a colour must be three whole numbers"),
    "a colour of fractions": (classes(("a", [0.5, 0.5, 0.5])), "a colour must be three whole numbers"),
    "a colour in hexadecimal digits": (classes(("a", "#ff0000")), "a colour must be three whole numbers"),
    "a colour of truth values": (classes(("a", [True, False, True])), "a colour must be three whole numbers"),
    "an ignored id that is a class": (palette(ignore_id=2), "ignore_id must be 3 to 255"),
    "an ignored id over 255": (palette(ignore_id=256), "ignore_id must be 3 to 255"),
    "an ignored id that is a text": (palette(ignore_id="255"), "ignore_id must be"),
    "an ignored colour that is a class's": (palette(ignore_color=[40, 160, 60]), "appears twice"),
    "source ids mapped to an unknown class": (palette(source_ids={"1": 9}), "is mapped to 9"),
    "source ids that are no numbers": (palette(source_ids={"a": 0}), "malformed palette"),
    "source ids over 255": (palette(source_ids={"256": 0}), "source ids must be 0 to 255"),
    "source ids that are a list": (palette(source_ids=[1, 2]), "malformed palette"),
    "an alias of an unknown class": (palette(aliases=[{"color": RED, "id": 7}]), "is mapped to 7"),
    "an alias without an id": (palette(aliases=[{"color": RED}]), "entry 'id' is missing"),
    "an alias twice": (palette(aliases=[{"color": RED, "id": 0}, {"color": RED, "id": 1}]), "appears twice"),
    "NaN for a number": (palette(ignore_id=float("nan")), "ignore_id must be"),
}


def palettes() -> list[Case]:
    cases = []
    for name, (data, says) in PALETTES.items():
        cases.append(
            Case(
                name,
                "prepare --input @/set --palette @/p.json --output @/out",
                status=2 if says else 0,
                make=file("p.json", data),
                says=("p.json", says) if says else (),
            )
        )
    cases += [
        Case(
            "a palette that is not there",
            "prepare --input @/set --palette @/no.json --output @/out",
            says=("no.json", "is neither one of voc"),
        ),
        Case(
            "a palette that is a folder",
            "prepare --input @/set --palette @/set --output @/out",
            says=("is neither one of voc",),
        ),
        Case(
            "a palette's name that is misspelt",
            "prepare --input @/set --palette camvit --output @/out",
            says=("'camvit' is neither one of voc, camvid",),
        ),
        Case(
            "a damaged palette.json in the set",
            "prepare --input @/set --output @/out",
            make=file("set/palette.json", b"{"),
            says=("palette.json is not valid JSON",),
        ),
        Case(
            "the same, before any work",
            "doctor @/set --output @/out",
            make=file("set/palette.json", b"{"),
            says=("palette.json is not valid JSON",),
        ),
        Case(
            "another palette than the masks have",
            "evaluate --labels @/set/labels --masks @/masks --palette voc --output @/out",
            says=("segment.json: the masks have 3 classes", "give the --model or --palette of the masks"),
        ),
        Case(
            "neither a model nor a palette",
            "evaluate --labels @/set/labels --masks @/masks --output @/out",
            says=("--model", "--palette"),
        ),
        Case(
            "a damaged palette of what is evaluated",
            "evaluate --labels @/set/labels --masks @/masks --palette @/p.json --output @/out",
            make=file("p.json", b"[]"),
            says=("p.json", "needs a list of classes"),
        ),
    ]
    return cases


AREA = Area("Palettes", model, tuple(palettes()))
