"""The file crf.json: nothing of it is lost, old files are read, and damaged ones are refused with the cure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.crf.options import CrfOptions
from pipelines.crf.tuning import Tuning, load
from tests.drawn.places import ROOT
from tests.drawn.tuning import some_tuning
from trainer.options import InputError


@pytest.mark.parametrize("tuning", [some_tuning(), some_tuning(options=None, trimap_width=None, metric="miou")])
def test_the_file_holds_all_of_it(tuning: Tuning, tmp_path: Path) -> None:
    (tmp_path / "crf.json").write_text(json.dumps(tuning.to_json()))
    assert load(str(tmp_path)) == tuning
    value = tuning.to_json()
    assert (value["format"], value["scored"], value["images"]) == (2, 40, 41)
    assert value["verdict"] == ("on" if tuning.options else "off")


def test_a_file_of_format_1_says_pictures_and_is_read() -> None:
    value = some_tuning().to_json()
    value["pictures"] = value.pop("images")
    assert Tuning.from_json(value | {"format": 1}) == some_tuning()
    with pytest.raises(InputError, match="damaged"):
        Tuning.from_json(value)


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
        (lambda value: [], "format 1 or 2, found 'list'"),
        (lambda value: value | {"format": 3}, "format 1 or 2, found 3"),
        (lambda value: value | {"verdict": "off"}, "does not go with the options"),
        (lambda value: value | {"options": {"sxy": -1}}, "above 0, got -1"),
        (lambda value: value | {"options": {"sxy": "wide"}}, "damaged"),
        (lambda value: value | {"options": {"width": 3}}, "damaged"),
        (lambda value: value | {"gain": None}, "damaged"),
        (lambda value: value | {"per_class": {"sky": 1}}, "damaged"),
        (lambda value: {name: value[name] for name in value if name != "grid"}, "damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_the_cure(damage, message: str, tmp_path: Path) -> None:
    path = tmp_path / "crf.json"
    path.write_text(json.dumps(damage(some_tuning().to_json())))
    with pytest.raises(InputError, match=message) as refusal:
        load(str(tmp_path))
    assert str(path) in str(refusal.value) and "deeplab tune-crf" in str(refusal.value)


def test_reading_the_file_loads_neither_tensorflow_nor_beam() -> None:
    code = (
        "import sys, pipelines.crf.tuning, pipelines.tune_crf.search;"
        "sys.exit(bool({'tensorflow', 'keras', 'apache_beam'} & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
