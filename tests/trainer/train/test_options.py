"""The options of `deeplab train`, and of its stream alone."""

from __future__ import annotations

import dataclasses

import pytest

from trainer.options import InputError
from trainer.parser import parse
from trainer.train.options import RECIPES, Options, StreamOptions


def test_the_stream_takes_only_its_own_options():
    names = {field.name for field in dataclasses.fields(StreamOptions)}
    sizes, variation = {"batch_size", "accumulate", "crop"}, {"scale_min", "scale_max", "flip", "seed"}
    assert names == sizes | variation | {"pixel_weights", "max_ratio"} | {"hosts", "host_id", "coordinator"}
    assert names < {field.name for field in dataclasses.fields(Options)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 31}, "--crop must be 32 or more, got 31"),
        ({"scale_min": 0.0}, r"--scale-min must be above 0, got 0\.0"),
        ({"scale_min": 3.0}, r"--scale-min must not exceed --scale-max, got 3\.0 and 1\.75"),
        ({"max_ratio": 0.5}, r"--max-ratio must be 1 or more, got 0\.5"),
        ({"hosts": 2, "host_id": 2}, "--host-id must be below --hosts, got 2 and 2"),
        ({"hosts": 2}, "--hosts needs --coordinator HOST:PORT"),
        ({"coordinator": "a:1"}, "--coordinator a:1 is for several hosts, got --hosts 1; give their number"),
        ({"seed": 2**32}, "--seed must be 0 to 4294967295, got 4294967296"),
        ({"crop": 10**6}, "8 crops of 1000000 x 1000000 pixels.*at most 2147483647.*smaller --crop or --batch-size"),
        ({"batch_size": 10**6}, "1000000 crops of 512 x 512 pixels"),
        *(
            (
                {"hosts": 2, "coordinator": place},
                rf"--coordinator .*{place[-4:]}: expected HOST:PORT, .* 10\.0\.0\.2:8476",
            )
            for place in ("host", "host:", "host:http", "host:0", "host:65536", ":8476", "a/b:8476", "::1", "a b:84")
        ),
        ({"hosts": 3, "coordinator": "a:1"}, "must be a multiple of --hosts, got 8 and 3"),
        ({"pixel_weights": "focal"}, "--pixel-weights must be one of adaptive, none, got 'focal'"),
    ],
)
def test_invalid_stream_options_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        StreamOptions(**changes)


@pytest.mark.parametrize("place", ["10.0.0.2:8476", "job-0-0.job:1", "[::1]:65535", "localhost:80", "a_b:8476"])
def test_a_coordinator_is_a_host_and_a_port(place):
    assert StreamOptions(hosts=2, coordinator=place).coordinator == place


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps_per_epoch": -1}, "--steps-per-epoch must be 0 to 1000000000, got -1"),
        ({"learning_rate": float("nan")}, "--learning-rate must be above 0, got nan"),
        ({"plateau_patience": 0}, "--plateau-patience must be 1 or more"),
        ({"weight_decay": -0.1}, r"--weight-decay must be 0 or more, got -0\.1"),
        ({"early_stopping": -1}, "--early-stopping must be 0 or more"),
        ({"aspp_rates": (6, 0)}, "--aspp-rates must be 1 or more, got 0"),
        ({"epochs": 10**20}, "--epochs must be 1 to 1000000, got 1"),
        ({"steps_per_epoch": 10**20}, "--steps-per-epoch must be 0 to 1000000000, got 1"),
    ],
)
def test_invalid_training_options_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Options(records="r", output="o", **changes)


def parsed(*flags: str) -> Options:
    return parse(Options, ["--records", "r", "--output", "o", *flags], prog="deeplab train", text="Train.")[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_flags_that_the_command_takes_and_any_of_them_can_be_given(name):
    options = parsed("--recipe", name, "--init-from", "w")
    assert {field: getattr(options, field) for field in RECIPES[name]} == RECIPES[name]
    changed = parsed("--epochs", "7", "--recipe", name, "--init-from", "w")
    assert changed == dataclasses.replace(options, epochs=7)


def test_the_recipe_follows_from_the_initial_weights():
    assert parsed().recipe == "from-scratch"
    assert parsed("--init-from", "w") == parsed("--init-from", "w", "--recipe", "fine-tune")
    assert parsed("--init-from", "w", "--recipe", "quick").recipe == "quick"


def test_a_model_is_finished_with_frozen_batch_norms_at_stride_8_and_must_be_named():
    options = parsed("--recipe", "finish", "--init-from", "out/model")
    assert (options.epochs, options.learning_rate, options.freeze_bn, options.output_stride) == (3, 2e-4, True, 8)
    with pytest.raises(InputError, match="finish continues from a trained model; give its folder with --init-from"):
        parsed("--recipe", "finish")


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        ("--plateau-patience 7", "--plateau-patience 7 has no effect with --schedule poly"),
        ("--head bilinear --subpixel logits", "--subpixel logits has no effect with --head bilinear"),
        ("--subpixel-start nearest", "--subpixel-start nearest has no effect with --subpixel kernels"),
        ("--max-ratio 3 --pixel-weights none", "--max-ratio 3.0 has no effect with --pixel-weights none"),
        (
            "--batch-norm-momentum 0.9 --freeze-bn --init-from w",
            "--batch-norm-momentum 0.9 has no effect with --freeze-bn",
        ),
        ("--head bilinear --subpixel-start nearest", "--subpixel-start nearest has no effect with --head bilinear"),
        ("--freeze-bn", "--freeze-bn without --init-from keeps layers as they are at random"),
        ("--freeze-until aspp0", "--freeze-until aspp0 without --init-from keeps layers as they are at random"),
    ],
)
def test_a_flag_that_another_makes_useless_is_named(flags, warning):
    assert parsed(*flags.split()).without_effect()[0] == warning


@pytest.mark.parametrize("flags", ["", "--schedule plateau --plateau-patience 7", "--pixel-weights none"])
def test_flags_that_have_an_effect_are_not_warned_about(flags):
    given = ["--init-from", "w", *flags.split()]
    assert all(parsed("--recipe", recipe, *given).without_effect() == [] for recipe in RECIPES)
