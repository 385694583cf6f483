"""The file crf.json: nothing of it is lost, old files are read, and damaged ones are refused with the cure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drawn.places import ROOT
from tests.drawn.tuning import some_tuning
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Change, Tuning, load
from trainer.metrics import Gain
from trainer.options import InputError

SKY_IN_TEXT = {"before": "0.5", "after": 0.6, "gain": None}
WITHOUT_INTERVALS = {"sky": Change(0.5, 0.6), "ghost": Change(None, None)}


@pytest.mark.parametrize("tuning", [some_tuning(), some_tuning(options=None, trimap_width=None, metric="miou")])
def test_the_file_holds_all_of_it(tuning: Tuning, tmp_path: Path) -> None:
    (tmp_path / "crf.json").write_text(json.dumps(tuning.to_json()))
    assert load(str(tmp_path)) == tuning
    value = tuning.to_json()
    assert (value["format"], value["scored"], value["images"]) == (4, 40, 41)
    assert value["verdict"] == ("on" if tuning.options else "off")


def test_a_file_of_format_1_says_pictures_and_is_read() -> None:
    value = some_tuning().to_json()
    value["pictures"] = value.pop("images")
    with pytest.raises(InputError, match="damaged"):
        Tuning.from_json(value)
    value["per_class"] = {"sky": [0.5, 0.6], "ghost": [None, None]}
    assert Tuning.from_json(value | {"format": 1}) == some_tuning(per_class=WITHOUT_INTERVALS)


def test_a_file_of_format_3_is_of_images_seen_once() -> None:
    views = {"scales": (1.0, 1.5), "flip": True}
    value = some_tuning(**views).to_json()
    assert Tuning.from_json(json.loads(json.dumps(value))) == some_tuning(**views)
    older = {name: value[name] for name in value if name not in views} | {"format": 3}
    assert Tuning.from_json(older) == some_tuning()


def test_a_file_of_format_2_has_no_intervals_of_classes_and_is_read() -> None:
    value = some_tuning().to_json()
    value |= {"format": 2, "per_class": {"sky": [0.5, 0.6], "ghost": [None, None]}}
    tuning = Tuning.from_json(value)
    assert tuning == some_tuning(per_class=WITHOUT_INTERVALS) and tuning.losers == {}


def test_class_weights_are_stored_by_name() -> None:
    tuning = some_tuning(options=CrfOptions(sxy=40, srgb=4, compat=3.5, class_weights=(0.5, 1)))
    value = json.loads(json.dumps(tuning.to_json(), sort_keys=True))
    assert value["options"]["class_weights"] == {"sky": 0.5}
    assert list(value["per_class"]) == ["ghost", "sky"], "an order that says nothing"
    assert Tuning.from_json(value) == tuning
    assert list(Tuning.from_json(value).per_class) == ["sky", "ghost"]
    assert "class_weights" not in some_tuning().to_json()["options"]
    for weights, message in (({"sea": 0.5}, "unknown classes .sea"), ({"sky": 2}, "from 0 to 1"), (3, "damaged")):
        with pytest.raises(InputError, match=message):
            Tuning.from_json(value | {"options": value["options"] | {"class_weights": weights}})


def test_losers_are_the_classes_whose_interval_is_below_zero() -> None:
    gains = {"sure": Gain(-0.1, -0.2, -0.01), "unsure": Gain(-0.1, -0.2, 0.01), "gains": Gain(0.1, 0.01, 0.2)}
    changes = {name: Change(0.5, 0.5 + gain.value, gain) for name, gain in gains.items()}
    assert some_tuning(per_class=changes | {"ghost": Change(None, None)}).losers == {"sure": gains["sure"]}


def test_what_the_parameters_themselves_harm_is_stored_and_not_known_of_older_files() -> None:
    tuning = some_tuning(own_losses={"sky": -0.25})
    value = json.loads(json.dumps(tuning.to_json()))
    assert Tuning.from_json(value) == tuning
    del value["own_losses"]
    assert Tuning.from_json(value) == some_tuning()
    with pytest.raises(InputError, match="damaged"):
        Tuning.from_json(value | {"own_losses": ["sky"]})


def test_whole_numbers_in_the_file_are_the_parameters_they_stand_for() -> None:
    value = some_tuning().to_json()
    value["options"] |= {"sxy": 30, "iterations": 5.0}
    options = Tuning.from_json(value).options
    assert options == CrfOptions(sxy=30.0, srgb=4, compat=3.5)
    assert json.dumps(vars(options)) == json.dumps(vars(CrfOptions(sxy=30.0, srgb=4.0, compat=3.5)))


def test_without_a_file_there_is_no_tuning(tmp_path: Path) -> None:
    assert load(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda value: [], "format 1 to 4, found 'list'"),
        (lambda value: value | {"format": 5}, "format 1 to 4, found 5"),
        (lambda value: value | {"verdict": "off"}, "does not go with the options"),
        (lambda value: value | {"options": {"sxy": -1}}, "above 0, got -1"),
        (lambda value: value | {"options": {"sxy": "wide"}}, "sxy must be a finite number, got 'wide'"),
        (lambda value: value | {"options": {"sxy": "40"}}, "sxy must be a finite number, got '40'"),
        (lambda value: value | {"options": {"sxy": True}}, "sxy must be a finite number, got True"),
        (lambda value: value | {"options": {"iterations": 5.5}}, "iterations must be a whole number, got 5.5"),
        (lambda value: value | {"options": {"iterations": 2000}}, "iterations must be 1 to 1000, got 2000"),
        (lambda value: value | {"options": {"width": 3}}, "damaged"),
        (
            lambda value: value | {"options": {"class_weights": {"sky": "0.5"}}},
            "weights must be numbers .*, got '0.5'",
        ),
        (lambda value: value | {"options": {"class_weights": {"sky": True}}}, "weights must be numbers .*, got True"),
        (lambda value: value | {"options": {"class_weights": {"sky": None}}}, "weights must be numbers .*, got None"),
        (lambda value: value | {"scales": ["1.5"]}, "damaged"),
        (lambda value: value | {"flip": "no"}, "damaged"),
        (lambda value: value | {"after": "0.6"}, "damaged"),
        (lambda value: value | {"own_losses": {"sky": "-0.1"}}, "damaged"),
        (lambda value: value | {"per_class": value["per_class"] | {"sky": SKY_IN_TEXT}}, "damaged"),
        (lambda value: value | {"gain": None}, "damaged"),
        (lambda value: value | {"per_class": {"sky": 1}}, "damaged"),
        (lambda value: value | {"classes": ["sky", "sea"]}, "damaged"),
        (lambda value: value | {"classes": 3}, "damaged"),
        (lambda value: {name: value[name] for name in value if name != "grid"}, "damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_the_cure(damage, message: str, tmp_path: Path) -> None:
    path = tmp_path / "crf.json"
    path.write_text(json.dumps(damage(some_tuning().to_json())))
    with pytest.raises(InputError, match=message) as refusal:
        load(str(tmp_path))
    assert str(path) in str(refusal.value) and "deeplab tune-crf" in str(refusal.value)
    assert "update this program if a later version wrote the file" in str(refusal.value)


def test_reading_the_file_loads_neither_tensorflow_nor_beam() -> None:
    code = (
        "import sys, trainer.formats.tuning, pipelines.tune_crf.search;"
        "sys.exit(bool({'tensorflow', 'keras', 'apache_beam'} & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
