"""Command lines: flags become fields, help teaches, and the table of docs/options.md holds every field."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from tests.drawn.options import DrawOptions
from trainer.options import CheckedOptions, option
from trainer.parser import markdown, overridden, parse

TEXT = """Draw a set.

examples:
  draw --output out
"""


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
    signed = ["--output", "https://host/a?S3cret", "--output", "https://host/b?S3cret"]
    assert overridden(DrawOptions, signed) == [
        "--output takes one path: https://host/b counts, https://host/a does not"
    ]


def test_a_tilde_that_the_shell_has_left_is_the_home_of_the_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    options = read("--output=~/records", "--masks", "~", "a~", "gs://b/~/c", "./~/d", "~nobody-of-that-name/e")
    assert options.output == "/home/ada/records"
    assert options.masks == ("/home/ada", "a~", "gs://b/~/c", "./~/d", "~nobody-of-that-name/e")


def test_a_tilde_in_what_is_no_path_is_kept():
    assert parse(SendOptions, ["--place", "~/x", "--", "draw", "--output=~/y"], prog="send", text=TEXT)[0] == (
        SendOptions(place="~/x", command=("draw", "--output=~/y"))
    )


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


def test_commas_between_the_values_of_a_list_of_numbers_are_refused_with_the_cure(capsys):
    with pytest.raises(SystemExit):
        read("--output", "x", "--scale", "0.5,2", "3")
    assert "argument --scale: '0.5,2': expected blanks between the values, not commas" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        read("--output", "x", "--scale", "0.5", "much")
    assert "argument --scale: invalid float value: 'much'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--output", "x", "--copeis=2"], "--copeis=2 (did you mean --copies?)"),
        (["--output", "x", "--learning_rate", "2"], "arguments: --learning_rate 2\n"),
        (["--output", "x", "--no_crff"], "--no_crff (did you mean --no-crf?)"),
        (["--otuput", "x"], "required: --output; unrecognized arguments: --otuput (did you mean --output?)"),
        (["x", "--copies", "2"], "the following arguments are required: --output\n"),
    ],
)
def test_the_flag_that_an_unknown_one_resembles_is_named(argv, said, capsys):
    with pytest.raises(SystemExit):
        read(*argv)
    assert said in capsys.readouterr().err


def test_a_flag_that_is_known_is_not_taken_for_one_that_is_missing(capsys):
    @dataclasses.dataclass(frozen=True)
    class Paired(DrawOptions):
        outputs: str = option("", "folders")

    with pytest.raises(SystemExit):
        parse(Paired, ["--outputs=x"], prog="draw", text=TEXT)
    assert capsys.readouterr().err.endswith("the following arguments are required: --output\n")


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


def test_the_table_holds_every_field():
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
    assert "; the command to run goes after --" in capsys.readouterr().err
