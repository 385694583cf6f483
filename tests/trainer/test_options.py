"""Options: values are checked on construction, by bounds that are stated once."""

from __future__ import annotations

import pytest

from tests.drawn.options import DrawOptions
from trainer.options import Bounds, InputError, as_flags, as_words, public, to_json
from trainer.train.options import Options as TrainOptions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"copies": -1}, "--copies must be 0 or more, got -1"),
        ({"limit": 0}, "--limit must be 1 or more, got 0"),
        ({"momentum": 1.0}, "--momentum must be 0 or more and below 1, got 1.0"),
        ({"momentum": float("nan")}, "--momentum must be 0 or more and below 1, got nan"),
        ({"scale": (0.0, 1.0)}, "--scale must be above 0 and at most 10, got 0.0"),
        ({"scale": (2.0, 1.0)}, "--scale must be a range, lowest first, got 2.0 1.0"),
        ({"head": "cubic"}, "--head must be one of bilinear, subpixel, got 'cubic'"),
    ],
)
def test_values_are_refused_on_construction(changes, message):
    with pytest.raises(InputError) as refusal:
        DrawOptions(output="x", **changes)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("bounds", "text", "within", "without"),
    [
        (Bounds(), "", (-5, float("nan")), ()),
        (Bounds(low=0, high=1), "0 to 1", (0, 0.5, 1), (-0.1, 1.1, float("nan"))),
        (Bounds(low=1), "1 or more", (1, 7), (0, float("nan"))),
        (Bounds(above=0), "above 0", (0.1,), (0, -1)),
        (Bounds(low=0, below=1), "0 or more and below 1", (0, 0.9), (1, -1)),
    ],
)
def test_bounds_say_and_check_the_same(bounds, text, within, without):
    assert str(bounds) == text
    assert all(bounds.hold(value) for value in within) and not any(bounds.hold(value) for value in without)


def test_values_are_written_as_flags():
    values = {"copies": 3, "scale": (0.75, 1.5), "crf": False, "shadow": True, "head": "subpixel"}
    assert as_flags(values) == "--copies 3 --scale 0.75 1.5 --no-crf --shadow --head subpixel"
    assert as_words({"limit": -1, "masks": ("a", "-b")}) == ["--limit", "-1", "--masks=a", "--masks=-b"]


def test_json_holds_tuples_as_lists():
    values = to_json(DrawOptions(output="x"))
    assert values["scale"] == [0.5, 2.0] and values["output"] == "x" and values["limit"] is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://host:8777/a/ok.h5?X-Goog-Signature=S3cret#S3cret", "https://host:8777/a/ok.h5"),
        ("HTTP://user:S3cret@host/ok@2.h5", "HTTP://host/ok@2.h5"),
        ("http://S3cret@[::1]:80/ok.h5", "http://[::1]:80/ok.h5"),
        ("http://user:S3/cr?et@host/ok.h5", "http://host/ok.h5"),
        ("http://host:80/ok@2.h5?user@host", "http://host:80/ok@2.h5"),
        ("http://[::1]/ok@2.h5", "http://[::1]/ok@2.h5"),
        ("http://host?S3cret", "http://host"),
        ("s3://user:S3cret@bucket/ok.h5?S3cret", "s3://bucket/ok.h5"),
        ("gs://bucket/user@host/what?#1.h5", "gs://bucket/user@host/what?#1.h5"),
        ("weights/user@host/what?#1.h5", "weights/user@host/what?#1.h5"),
        ("", ""),
    ],
)
def test_what_may_be_secret_in_a_web_address_is_not_public(address, shown):
    assert public(address) == public(shown) == shown


def test_json_holds_what_is_public_of_web_addresses():
    options = TrainOptions(records="what?", output="x", init_from="https://host/ok.h5?S3cret")
    assert to_json(options)["init_from"] == "https://host/ok.h5" and to_json(options)["records"] == "what?"


@pytest.mark.parametrize("user", ["user:S3cret", "S3cret", "user:S3/cret", "user:"])
def test_a_user_in_a_web_address_is_refused_without_naming_it(user):
    with pytest.raises(InputError) as refusal:
        TrainOptions(records="records", output="x", init_from=f"http://{user}@host/ok.h5")
    assert str(refusal.value) == (
        "http://host/ok.h5 cannot be fetched: there is a user or password before its host, which is never sent; "
        "give a signed address, or fetch the file by other means and give its path"
    )
