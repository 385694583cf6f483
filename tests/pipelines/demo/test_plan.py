"""The stages are command lines that their commands can read, each on what the one before it writes."""

import itertools

import pytest

from pipelines import cli
from pipelines.demo.options import Options
from pipelines.demo.plan import stages, variants


@pytest.mark.parametrize("number", range(9))
def test_every_stage_is_a_command_line(number):
    name, options, flags = cli.read(stages(Options(output="out/x"))[number].arguments)
    assert name in cli.COMMANDS and flags == []
    assert "out/x" in str(options)


def test_the_masks_of_every_variant_are_compared():
    *_, evaluate = stages(Options(output="out/x"))
    _, options, _ = cli.read(evaluate.arguments)
    assert options.masks == tuple(f"out/x/masks/{name}" for name in variants("out/x"))
    assert options.labels == "out/x/set/labels/val" and options.output == "out/x/report"


def test_both_heads_are_trained_alike_with_the_options_of_the_demo():
    options = Options(images=50, epochs=7, crop=64, seed=5)
    first, second = (stage.arguments for stage in stages(options)[2:4])
    assert [(a, b) for a, b in zip(first, second, strict=True) if a != b] == [
        ("out/demo/model-bilinear", "out/demo/model-subpixel"),
        ("bilinear", "subpixel"),
    ]
    given = dict(itertools.pairwise(first))
    assert (given["--epochs"], given["--crop"], given["--seed"]) == ("7", "64", "5")
    assert given["--steps-per-epoch"] == "15"  # 3 records each of 40 images, 8 at a time
