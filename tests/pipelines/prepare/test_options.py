from __future__ import annotations

import re

import pytest

from pipelines import cli
from pipelines.prepare.options import Options
from trainer.options import InputError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--copies", "-1"], "--copies must be 0 or more, got -1"),
        (["--jpeg-quality", "101"], "--jpeg-quality must be 1 to 100, got 101"),
        (["--max-reject-rate", "2"], "--max-reject-rate must be 0 to 1, got 2.0"),
        (["--val-fraction", "1"], "--val-fraction must be 0 or more and below 1, got 1.0"),
        (["--shards", "-2"], "--shards must be 0 to 999999, got -2"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--flip-horizontal", "1.5"], "--flip-horizontal must be 0 to 1, got 1.5"),
        (["--scale", "1.5", "0.75"], "--scale must be a range, lowest first, got 1.5 0.75"),
        (["--gamma", "0", "1"], "--gamma must be 0.1 to 10, got 0.0"),
        (["--rotate", "nan"], "--rotate must be 0 to 180, got nan"),
        (["--crop", "-1"], "--crop must be 0 to 32766, got -1"),
        (["--copis", "2"], "--copis"),
        (["--output", ""], "--output must not be empty"),
    ],
)
def test_wrong_options_are_refused(tmp_path, flags, message):
    with pytest.raises(InputError, match=re.escape(message)):
        cli.run(["prepare", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "records"), *flags])
    assert not (tmp_path / "records").exists()


def test_unknown_layouts_are_refused():
    with pytest.raises(InputError, match=r"--layout must be one of auto, manifest, voc, .*, paired, got 'coco'"):
        Options(input="i", output="o", layout="coco")


def test_flags_become_options():
    flags = ["--input", "i", "--output", "o", "--scale", "1", "2", "--augment-splits", "train", "extra", "--x", "3"]
    _, options, beam = cli.read(["prepare", *flags])
    expected = Options(input="i", output="o", scale=(1.0, 2.0), augment_splits=("train", "extra"))
    assert options == expected and beam == ["--x", "3"]
