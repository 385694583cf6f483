"""Which CRF `deeplab segment` applies: that of the flags, of the model's crf.json, or none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from pipelines.crf.refine import refine
from pipelines.segment.options import Options
from pipelines.segment.refinement import DEFAULT_NOTE, crf_in_force
from tests.drawn.held import held
from tests.drawn.segmenting import PALETTE, SIZES, draw, outcomes_of, read_mask, report_of, segment
from tests.drawn.tuning import some_tuning, weights_file, write_model
from trainer.formats.cards import WEIGHTS, weights_digest
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Change
from trainer.options import InputError


def test_a_tuned_model_brings_its_own_crf(model, softmax, photos, tmp_path, capsys):
    tuned, options = tmp_path / "model", CrfOptions(sxy=20, srgb=9, compat=6)
    shutil.copytree(model, tuned)
    tuning = some_tuning(options=options, model_digest=weights_digest(str(model)))
    run = ("--input", photos, "--model", tuned)
    # First, while the network of other tests is still loaded: of another folder it is loaded anew.
    flags = ("--crf-sxy", 20, "--crf-srgb", 9, "--crf-compat", 6, "--crf-iterations", 2)
    assert segment("--input", photos, "--model", model, "--crf", *flags, "--output", tmp_path / "plain") == 0
    capsys.readouterr()
    with pytest.raises(InputError, match=r"crf\.json is missing"):
        segment(*run, "--output", tmp_path / "without", "--crf", "auto")
    (tuned / "crf.json").write_text(json.dumps(tuning.to_json()))
    assert segment(*run, "--output", tmp_path / "auto", "--crf", "auto", "--crf-iterations", 2) == 0
    assert "CRF: iterations 2, " in capsys.readouterr().out
    assert report_of(tmp_path / "auto")["crf"] == {**options.to_json(()), "iterations": 2}
    assert segment(*run, "--crf", "--crf-iterations", 2, "--output", tmp_path / "flags") == 0
    for name in SIZES:
        masks = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("auto", "flags", "plain")]
        assert masks[0] == masks[1] == masks[2]
    # Classes with a weight of their own, by their names.
    weighted = dataclasses.replace(options, class_weights=(1, 0, 0.5))
    classes = dict.fromkeys(PALETTE.names, Change(0.5, 0.6))
    stored = dataclasses.replace(tuning, options=weighted, per_class=classes).to_json()
    (tuned / "crf.json").write_text(json.dumps(stored))
    assert segment(*run, "--output", tmp_path / "weighted", "--crf", "auto") == 0
    assert report_of(tmp_path / "weighted")["crf"]["class_weights"] == {"right": 0, "rest": 0.5}
    assert report_of(tmp_path / "weighted")["fingerprint"] != report_of(tmp_path / "plain")["fingerprint"]
    image = draw(*SIZES["a"], 0)
    expected = refine(image, softmax(image), weighted).argmax(-1)
    assert (read_mask(tmp_path / "weighted/a.png") == expected).mean() > 0.99
    capsys.readouterr()
    assert segment(*run, "--output", tmp_path / "views", "--crf", "auto", "--flip") == 0
    assert "crf.json was found without --scales or --flip" in capsys.readouterr().out
    # What was advised against is not done: these are the masks of no CRF, also by their fingerprint.
    (tuned / "crf.json").write_text(json.dumps(dataclasses.replace(tuning, options=None).to_json()))
    assert segment(*run, "--output", tmp_path / "off", "--crf", "auto") == 0
    assert report_of(tmp_path / "off")["crf"] is None
    assert segment(*run, "--output", tmp_path / "off") == 0
    assert outcomes_of(tmp_path / "off") == (0, 6, 0)


@pytest.fixture
def untuned(tmp_path: Path) -> Path:
    """A model folder without crf.json."""
    return write_model(tmp_path / "model")


def store(model: Path, **changes: object) -> None:
    """Writes the model's crf.json, with sxy 40, srgb 4 and compat 3.5 if the changes do not say otherwise."""
    tuning = some_tuning(model_digest=weights_digest(str(model)), **changes)
    (model / "crf.json").write_text(json.dumps(tuning.to_json()))


def in_force(model: Path, **flags: object) -> tuple[CrfOptions | None, str]:
    options = Options(input="photos", model=str(model), output="masks", **flags)
    return crf_in_force(options, weights_digest(str(model)))


TUNED = CrfOptions(sxy=40, srgb=4, compat=3.5)


def test_without_a_tuning_flags_and_defaults_decide(untuned: Path) -> None:
    assert in_force(untuned) == (None, "")
    assert in_force(untuned, crf="on") == (CrfOptions(), DEFAULT_NOTE)
    assert in_force(untuned, crf="on", crf_sxy=20.0) == (CrfOptions(sxy=20), "")
    with pytest.raises(InputError, match=r"crf\.json is missing; make it with `deeplab tune-crf"):
        in_force(untuned, crf="auto")
    written = r"crf\.json is being written by `deeplab tune-crf` .*, and is not there yet; run this command again once"
    with held(untuned / "crf.json", "tune-crf", "acquire_file"), pytest.raises(InputError, match=written):
        in_force(untuned, crf="auto")


def test_a_tuning_with_a_gain_is_taken_and_flags_come_before_it(untuned: Path) -> None:
    store(untuned)
    assert in_force(untuned) == (None, "")
    assert in_force(untuned, crf="on")[0] == in_force(untuned, crf="auto")[0] == TUNED
    crf, note = in_force(untuned, crf="auto", crf_srgb=7.0)
    assert crf == dataclasses.replace(TUNED, srgb=7)
    assert "sxy 40, srgb 7, compat 3.5" in note


def test_class_weights_of_a_tuning_are_taken_and_named(untuned: Path) -> None:
    weighted = dataclasses.replace(TUNED, class_weights=(0.5, 1))
    store(untuned, options=weighted)
    crf, note = in_force(untuned, crf="auto", crf_srgb=7.0)
    assert crf == dataclasses.replace(weighted, srgb=7)
    assert note.endswith("sxy 40, srgb 7, compat 3.5, class weights sky 0.5")


def test_a_tuning_that_advises_against_the_crf_is_obeyed_unless_it_is_on(untuned: Path) -> None:
    store(untuned, options=None)
    path = untuned / "crf.json"
    assert in_force(untuned, crf="auto") == (None, f"no CRF: {path} advises against it")
    ignored = "so without effect: --crf-srgb, --crf-workers; --crf on uses them"
    assert in_force(untuned, crf="auto", crf_srgb=7.0, crf_workers=2)[1].endswith(f"advises against it, {ignored}")
    crf, note = in_force(untuned, crf="on", crf_srgb=7.0)
    assert crf == CrfOptions(srgb=7) and note.startswith(f"warning: {path} advises against the CRF")


def test_a_damaged_tuning_is_refused_with_the_cure(untuned: Path) -> None:
    store(untuned)
    path = untuned / "crf.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError) as error:
        in_force(untuned, crf="auto")
    assert str(error.value).count(str(path)) == 1
    assert str(error.value).endswith("or delete it; `deeplab tune-crf` then makes it again")


@pytest.mark.parametrize("value", ["on", "auto"])
def test_a_tuning_of_other_weights_is_refused(untuned: Path, value: str) -> None:
    store(untuned)
    (untuned / WEIGHTS).write_bytes(weights_file(b"trained again"))
    assert in_force(untuned) == (None, "")
    with pytest.raises(InputError, match="other weights; run `deeplab tune-crf` again, or delete"):
        in_force(untuned, crf=value)
