from __future__ import annotations

import dataclasses

import pytest

from trainer.options import InputError, markdown, option, parse, parse_known, to_json


@dataclasses.dataclass(frozen=True)
class DrawOptions:
    output: str = option(help="folder to write to")
    copies: int = option(2, "augmented copies, 50 % of them flipped")
    scale: tuple[float, float] = option((0.5, 2.0), "smallest and largest scale")
    masks: tuple[str, ...] = option((), "folders")
    crf: bool = option(False, "refine")
    limit: int | None = option(None, "at most so many")
    head: str = option("subpixel", "upsampling", choices=("bilinear", "subpixel"))
    shade: str = option("off", "shadows", choices=("off", "on", "auto"), bare="on")

    def __post_init__(self):
        if self.copies < 0:
            raise InputError(f"--copies must be 0 or more, got {self.copies}")


def read(*argv: str) -> DrawOptions:
    return parse(DrawOptions, argv, prog="draw", description="Draw.")


def test_flags_become_typed_fields():
    options = read(
        "--output", "x", "--copies", "3", "--scale", "0.75", "1.5", "--masks", "a", "b", "--crf", "--limit", "7"
    )
    assert options == DrawOptions(
        output="x", copies=3, scale=(0.75, 1.5), masks=("a", "b"), crf=True, limit=7, head="subpixel"
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
    "argv", [[], ["--output", "x", "--copies", "two"], ["--output", "x", "--head", "cubic"], ["--out", "x"]]
)
def test_wrong_usage_ends_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        read(*argv)
    assert stop.value.code == 2
    assert "usage: draw" in capsys.readouterr().err


def test_values_are_refused_on_construction():
    with pytest.raises(InputError, match="--copies must be 0 or more, got -1"):
        read("--output", "x", "--copies", "-1")


def test_unknown_flags_are_handed_on():
    argv = ["--output", "x", "--runner", "FlinkRunner", "--crf"]
    options, rest = parse_known(DrawOptions, argv, prog="draw", description="")
    assert options.crf
    assert rest == ["--runner", "FlinkRunner"]


def test_help_names_defaults_and_survives_percent_signs(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    text = capsys.readouterr().out
    assert "50 % of them flipped (default: 2)" in " ".join(text.split())
    assert "(default: 0.5 2.0)" in " ".join(text.split())


def test_json_and_markdown_hold_every_field():
    assert to_json(DrawOptions(output="x"))["scale"] == [0.5, 2.0]
    table = markdown(DrawOptions)
    for flag in ("--output", "--copies", "--scale", "--masks", "--crf", "--no-crf", "--limit", "--head"):
        assert f"`{flag}`" in table
    assert "| `--output` | required |" in table
    assert "`bilinear`, `subpixel`" in table
    assert "| `--shade` | `off` | `off`, `on`, `auto` | shadows; without a value: `on` |" in table


@dataclasses.dataclass(frozen=True)
class PaintOptions(DrawOptions):
    brush: int = option(3, "width of the brush")


def test_required_flags_come_first_and_then_those_that_a_command_adds():
    table = markdown(PaintOptions)
    assert table.index("--output") < table.index("--brush") < table.index("--copies")
