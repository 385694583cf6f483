"""Options: flags from dataclasses, bounds that are said once, help that teaches, and the Markdown table."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from trainer.options import (
    Bounds,
    CheckedOptions,
    InputError,
    as_flags,
    markdown,
    option,
    overridden,
    parse,
    printable,
    to_json,
)

TEXT = """Draw a set.

examples:
  draw --output out
"""


@dataclasses.dataclass(frozen=True)
class DrawOptions(CheckedOptions):
    output: str = option(help="folder to write to", metavar="DIR")
    copies: int = option(2, "augmented copies, 50 % of them flipped", low=0)
    scale: tuple[float, float] = option(
        (0.5, 2.0), "smallest and largest scale", above=0, high=10, group="augmentation"
    )
    masks: tuple[str, ...] = option((), "folders", metavar="DIR")
    crf: bool = option(False, "refine")
    limit: int | None = option(None, "at most so many", low=1)
    head: str = option("subpixel", "upsampling", choices=("bilinear", "subpixel"))
    shade: str = option("off", "shadows", choices=("off", "on", "auto"), bare="on")
    momentum: float = option(0.9, "share that is kept", low=0, below=1)


@dataclasses.dataclass(frozen=True)
class PaintOptions(DrawOptions):
    takes_beam_flags: ClassVar[bool] = True
    brush: int = option(3, "width of the brush")


def read(*argv: str) -> DrawOptions:
    options, rest = parse(DrawOptions, argv, prog="draw", text=TEXT)
    assert rest == []
    return options


def help_of(cls: type, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(cls, ["--help"], prog="draw", text=TEXT)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_flags_become_typed_fields():
    options = read(
        "--output", "x", "--copies", "3", "--scale", "0.75", "1.5", "--masks", "a", "b", "--crf", "--limit", "7"
    )
    assert options == DrawOptions(
        output="x", copies=3, scale=(0.75, 1.5), masks=("a", "b"), crf=True, limit=7, head="subpixel"
    )


def test_values_of_a_flag_that_is_given_twice_are_all_kept():
    assert read("--output", "x", "--masks", "a", "b", "--copies", "1", "--masks", "c").masks == ("a", "b", "c")
    assert read("--output", "x", "--copies", "1", "--copies", "3", "--scale", "1", "2", "--scale", "3", "4") == (
        DrawOptions(output="x", copies=3, scale=(3.0, 4.0))
    )


def test_of_two_paths_of_one_flag_the_one_that_does_not_count_is_named():
    alike = ["--output", "x", "--masks", "a", "--masks", "b", "--output=x", "--copies", "1", "--copies", "2"]
    assert overridden(DrawOptions, alike) == []
    for argv in (["--output", "x", "--copies", "1", "--output", "y"], ["--output=x", "--output", "y"]):
        assert read(*argv).output == "y"
        assert overridden(DrawOptions, argv) == ["--output takes one path: y counts, x does not"]


def test_defaults_hold_and_a_switch_can_be_turned_off():
    assert read("--output", "x") == DrawOptions(output="x")
    assert read("--output", "x", "--crf", "--no-crf").crf is False


def test_a_flag_may_stand_without_its_value():
    assert [read("--output", "x", *flags).shade for flags in ([], ["--shade"], ["--shade", "auto"])] == [
        "off",
        "on",
        "auto",
    ]
    assert read("--shade", "--output", "x").shade == "on"
    with pytest.raises(SystemExit):
        read("--output", "x", "--shade", "maybe")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--output", "x", "--copies", "two"],
        ["--output", "x", "--head", "cubic"],
        ["--out", "x"],
        ["--output", "x", "--runner", "FlinkRunner"],
    ],
)
def test_wrong_usage_ends_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        read(*argv)
    assert stop.value.code == 2
    assert "usage: draw --output DIR [OPTIONS]" in capsys.readouterr().err


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


def test_flags_of_beam_are_handed_on_by_commands_that_take_them():
    argv = ["--output", "x", "--runner", "FlinkRunner", "--crf"]
    options, rest = parse(PaintOptions, argv, prog="draw", text=TEXT)
    assert options.crf
    assert rest == ["--runner", "FlinkRunner"]


def test_help_names_defaults_and_bounds_and_survives_percent_signs(capsys):
    text = " ".join(help_of(DrawOptions, capsys).split())
    assert "50 % of them flipped (0 or more; default: 2)" in text
    assert "default: 0.5 2.0)" in text and "--scale LOW HIGH" in text
    assert "refine (default" not in text


def test_help_shows_purpose_required_flags_groups_and_examples_in_this_order(capsys):
    text = help_of(PaintOptions, capsys)
    parts = ["usage: draw --output DIR [OPTIONS] [BEAM OPTIONS]", "Draw a set.", "required:", "  --output DIR"]
    parts += [
        "options:",
        "  --brush N",
        "  --copies N",
        "augmentation:",
        "  --scale",
        "examples:\n  draw --output out",
    ]
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)


def test_json_and_markdown_hold_every_field():
    assert to_json(DrawOptions(output="x"))["scale"] == [0.5, 2.0]
    table = markdown(DrawOptions)
    for flag in ("--output", "--copies", "--scale", "--masks", "--crf", "--no-crf", "--limit", "--head"):
        assert f"`{flag}`" in table
    assert "| `--output` | required |  | folder to write to |" in table
    assert "| `--copies` | `2` | 0 or more | augmented copies, 50 % of them flipped |" in table
    assert "| `--crf`, `--no-crf` | `off` |  | refine |" in table
    assert "| `--shade` | `off` | `off`, `on`, `auto` | shadows; without a value: `on` |" in table


def test_required_flags_come_first_and_then_those_that_a_command_adds():
    table = markdown(PaintOptions)
    assert table.index("--output") < table.index("--brush") < table.index("--copies")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße 1.png", "Straße 1.png"),
        ("写真\u3000猫🐈", "写真\u3000猫🐈"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2J\x7f", r"a\x9b2J\x7f"),
        ("a\nb\r\t", r"a\nb\r\t"),
        ("a\x85b\u2028c\u2029", r"a\x85b\u2028c\u2029"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),
        ("\u2066a\u200f\ufeff", r"\u2066a\u200f\ufeff"),
        ("a\udcff\ud800", r"a\udcff\ud800"),
    ],
)
def test_names_are_shown_without_what_steers_a_terminal(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown


def test_kept_characters_are_not_escaped():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@dataclasses.dataclass(frozen=True)
class SketchOptions(DrawOptions):
    copies: int = option(2, "augmented copies", low=0, default_by="--head")

    @classmethod
    def preset(cls, given):
        return {"copies": 9, "crf": True, "scale": (1.0, 1.5)} if given["head"] == "bilinear" else {}


@pytest.mark.parametrize(
    ("flags", "copies", "crf"),
    [
        ([], 2, False),
        (["--head", "bilinear"], 9, True),
        (["--copies", "2", "--head", "bilinear", "--no-crf"], 2, False),
    ],
)
def test_defaults_that_follow_from_other_flags_give_way_to_what_is_given(flags, copies, crf):
    options, _ = parse(SketchOptions, ["--output", "x", *flags], prog="draw", text=TEXT)
    assert (options.copies, options.crf) == (copies, crf)
    assert options.scale == ((1.0, 1.5) if flags else (0.5, 2.0))


def test_help_and_table_say_which_flag_a_default_follows_from(capsys):
    assert "augmented copies (0 or more; default: by --head)" in " ".join(help_of(SketchOptions, capsys).split())
    assert "| `--copies` | `by --head` | 0 or more | augmented copies |" in markdown(SketchOptions)


def test_values_are_written_as_flags():
    values = {"copies": 3, "scale": (0.75, 1.5), "crf": False, "shadow": True, "head": "subpixel"}
    assert as_flags(values) == "--copies 3 --scale 0.75 1.5 --no-crf --shadow --head subpixel"


@dataclasses.dataclass(frozen=True)
class SendOptions(CheckedOptions):
    command: tuple[str, ...] = option((), "what is to run", behind=True, metavar="-- COMMAND ...")
    place: str = option("here", "where")


def test_all_words_behind_two_hyphens_are_kept_as_they_are(capsys):
    words = ("draw", "--place", "s3://there", "", "--", "-h")
    assert parse(SendOptions, ["--place", "x", "--", *words], prog="send", text=TEXT)[0] == SendOptions(
        command=words, place="x"
    )
    assert parse(SendOptions, [], prog="send", text=TEXT)[0].command == ()
    assert "usage: draw [OPTIONS] -- COMMAND ..." in help_of(SendOptions, capsys)
    assert "| `-- COMMAND ...` |  |  | what is to run |" in markdown(SendOptions)


@pytest.mark.parametrize(
    "argv", [["draw", "--output", "x"], ["--place", "x", "draw"], ["--output", "x", "--", "draw"]]
)
def test_a_command_before_two_hyphens_is_refused_with_the_cure(argv, capsys):
    with pytest.raises(SystemExit):
        parse(SendOptions, argv, prog="send", text=TEXT)
    assert "; the command that is to run stands behind --" in capsys.readouterr().err
