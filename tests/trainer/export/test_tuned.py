"""The file crf.json of a model that is exported: what `segment` refuses, `deeplab export` refuses."""

from __future__ import annotations

import json
import shutil

import pytest

from pipelines import cli
from pipelines.segment.options import Options
from pipelines.segment.refinement import crf_in_force
from tests.drawn.tuning import some_tuning
from trainer.formats.cards import weights_digest
from trainer.options import InputError

IMPOSSIBLE = {
    "sxy": -1,
    "srgb": 0,
    "sxy_gaussian": float("nan"),
    "compat": "4",
    "compat_gaussian": True,
    "iterations": 2000,
    "class_weights": {"zebra": 0.5},
    "width": 3,
}
"""Parameter of the CRF -> a value that none has."""


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_parameters_of_the_crf_that_segment_refuses_are_refused_in_the_same_words(name, model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    value = some_tuning(model_digest=weights_digest(model)).to_json()
    value["options"][name] = IMPOSSIBLE[name]
    (tmp_path / "model/crf.json").write_text(json.dumps(value))
    with pytest.raises(InputError) as refusal:
        crf_in_force(Options(input="i", model=f"{tmp_path}/model", output="o", crf="auto"), weights_digest(model))
    flags = ["--model", f"{tmp_path}/model", "--format", "savedmodel", "--output", f"{tmp_path}/m"]
    assert cli.main(["export", *flags]) == 2
    assert f"deeplab export: error: {refusal.value}\n" == capsys.readouterr().err
    assert name.rsplit("_")[-1] in str(refusal.value) and not (tmp_path / "m").exists()
