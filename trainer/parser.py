"""The command line of a command, its help, and its table in docs/options.md, made from its options.

options, rest = parse(Options, argv, prog="deeplab draw", text="Draw a set.")
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import itertools
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from trainer.options import CheckedOptions, public

T = TypeVar("T", bound=CheckedOptions)

CUTOFF = 0.7
"""The least similarity, from 0 to 1, of a flag that is proposed for an unknown one, see difflib."""
METAVARS = {int: "N", float: "X", str: "TEXT"}
PLACES = re.compile("DIR|FILE|FOLDER|PATH|PATTERN|OUTPUT|OTHER|CHECKPOINT")
"""The metavars of paths."""


@dataclasses.dataclass(frozen=True)
class _Shape:
    """The shape of a flag's value: its element type, and how many elements it has."""

    element: type
    count: int | str | None


def _shape(annotation: Any) -> _Shape:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        (annotation,) = [a for a in typing.get_args(annotation) if a is not type(None)]
        origin = typing.get_origin(annotation)
    if origin is tuple:
        elements = typing.get_args(annotation)
        return _Shape(elements[0], "+" if elements[-1] is Ellipsis else len(elements))
    return _Shape(annotation, None)


def _shapes(cls: type) -> dict[str, _Shape]:
    hints = typing.get_type_hints(cls)
    return {field.name: _shape(hints[field.name]) for field in dataclasses.fields(cls)}


def _fields(cls: type) -> list[dataclasses.Field]:
    """The fields of `cls`: required ones first, then its own, then inherited ones."""
    order = [name for base in cls.__mro__ for name in vars(base).get("__annotations__", ())]
    return sorted(
        dataclasses.fields(cls), key=lambda field: (field.default is not dataclasses.MISSING, order.index(field.name))
    )


def _shown_default(field: dataclasses.Field) -> str:
    default = field.default
    if field.metadata["default_by"]:
        return f"by {field.metadata['default_by']}"
    if default is dataclasses.MISSING or default is None or default in ("", ()):
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _help(field: dataclasses.Field) -> str:
    """The flag's line in --help: what it does, its meaning without a value, its range and its default."""
    bare, bounds, default = field.metadata["bare"], str(field.metadata["bounds"]), _shown_default(field)
    text = field.metadata["help"] + (f"; without a value: {bare}" if bare is not None else "")
    notes = [bounds] if bounds else []
    notes += [f"default: {default}"] if default and not isinstance(field.default, bool) else []
    notes += ["default: on"] if field.default is True else []
    return (f"{text} ({'; '.join(notes)})" if notes else text).replace("%", "%%")


def _metavar(field: dataclasses.Field, shape: _Shape) -> Any:
    if field.metadata["metavar"] or field.metadata["choices"]:
        return field.metadata["metavar"]
    return ("LOW", "HIGH") if shape.count == 2 else METAVARS[shape.element]


def _is_path(field: dataclasses.Field) -> bool:
    return bool(PLACES.search(field.metadata["metavar"] or ""))


class _Gather(argparse.Action):
    """Keeps all values of a list that is given in several flags: `--masks a --masks b`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        earlier = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if earlier is self.default else [*earlier, *values])


def _one_of(shape: _Shape) -> Callable[[str], Any]:
    """From a value's text to an element of it. Says of a list with commas, as other tools have it, how to write it."""
    if shape.count is None or shape.element is str:
        return shape.element

    def convert(text: str) -> Any:
        if "," in text:
            raise argparse.ArgumentTypeError(f"{text!r}: expected blanks between the values, not commas")
        return shape.element(text)

    convert.__name__ = shape.element.__name__  # which is part of argparse's messages
    return convert


def _add_argument(group: Any, field: dataclasses.Field, shape: _Shape) -> None:
    metadata, needed = field.metadata, field.default is dataclasses.MISSING
    if metadata["positional"]:
        group.add_argument(field.name, metavar=metadata["metavar"], help=_help(field))
    elif metadata["behind"]:
        group.add_argument(
            field.name, nargs="*", default=field.default, metavar=metadata["metavar"], help=_help(field)
        )
    elif shape.element is bool:
        flag, action = CheckedOptions.flag(field.name), argparse.BooleanOptionalAction
        group.add_argument(flag, action=action, default=field.default, help=_help(field))
    else:
        group.add_argument(
            CheckedOptions.flag(field.name),
            dest=field.name,
            action=_Gather if shape.count == "+" else "store",
            type=_one_of(shape),
            nargs=shape.count if metadata["bare"] is None else "?",
            const=metadata["bare"],
            choices=metadata["choices"],
            metavar=_metavar(field, shape),
            required=needed,
            default=None if needed else field.default,
            help=_help(field),
        )


def _usage(cls: type, prog: str) -> str:
    """The usage line, with the required flags only: all of them would fill the first screen."""
    shapes, words = _shapes(cls), [prog]
    for field in _fields(cls):
        if field.metadata["positional"]:
            words.append(field.metadata["metavar"] or field.name)
        elif field.default is dataclasses.MISSING:
            words += [CheckedOptions.flag(field.name), str(_metavar(field, shapes[field.name]))]
            words += ["..."] if shapes[field.name].count == "+" else []
    words += ["[OPTIONS]", *(["[BEAM OPTIONS]"] if cls.takes_beam_flags else []), *filter(None, [cls.passes_on])]
    words += [field.metadata["metavar"] for field in _fields(cls) if field.metadata["behind"]]
    return " ".join(words).replace("%", "%%")


class _Parser(argparse.ArgumentParser):
    """Also names what stands in the place of a flag that is missing, if it resembles that.

    Attributes:
      argv: the arguments that are parsed.
    """

    argv: Sequence[str] = ()

    def error(self, message: str) -> typing.NoReturn:
        _, is_missing, flags = message.partition("arguments are required: ")
        unknown = [word for word in self.argv if word.split("=", 1)[0] not in self._option_string_actions]
        near = [word + hint for word in unknown if is_missing and (hint := did_you_mean(word, flags.split(", ")))]
        super().error(f"{message}; unrecognized arguments: {' '.join(near)}" if near else message)


def flags_of(cls: type) -> list[str]:
    """The flags of `cls`, a CheckedOptions, with the opposites of switches."""
    shapes, flags = _shapes(cls), []
    for field in _fields(cls):
        if not (field.metadata["positional"] or field.metadata["behind"]):
            flag = CheckedOptions.flag(field.name)
            flags += [flag, f"--no-{flag[2:]}"] if shapes[field.name].element is bool else [flag]
    return flags


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The flag that an unknown one resembles: " (did you mean --copies?)" for --copeis=2; "" if none, or no flag."""
    if not word.startswith("-"):
        return ""
    flags = {_plain(flag): flag for flag in known}
    near = difflib.get_close_matches(_plain(word.split("=", 1)[0]), flags, 1, CUTOFF)
    return f" (did you mean {flags[near[0]]}?)" if near else ""


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _parser(cls: type, prog: str, text: str) -> _Parser:
    description, _, epilog = inspect.cleandoc(text).partition("\n\n")
    # With abbreviations, a Beam option could be mistaken for one of ours.
    parser = _Parser(
        prog=prog,
        usage=_usage(cls, prog),
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, Any] = {}
    shapes = _shapes(cls)
    for field in _fields(cls):
        title = "required" if field.default is dataclasses.MISSING else field.metadata["group"] or "options"
        groups[title] = groups.get(title) or parser.add_argument_group(title)
        _add_argument(groups[title], field, shapes[field.name])
    rest = groups.get("options") or parser.add_argument_group("options")
    rest.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def parse(cls: type[T], argv: Sequence[str], *, prog: str, text: str) -> tuple[T, list[str]]:
    """Builds `cls`, a CheckedOptions, from the flags in `argv`.

    Args:
      cls: the options.
      argv: the arguments after the command's name.
      prog: the command: "deeplab prepare".
      text: for --help: a description, a blank line, and the text below the flags, such as examples.

    Returns:
      The options, and the flags for Apache Beam, if the command takes any.

    Raises:
      SystemExit: with status 0 after --help, 2 for unknown flags and values of the wrong type.
      InputError: values out of bounds.
    """
    parser = _parser(cls, prog, text)
    argv, behind = _split(cls, argv)
    parser.argv = argv
    namespace, rest = parser.parse_known_args(argv)
    if preset := cls.preset(vars(namespace)):
        parser.set_defaults(**preset)
        namespace, rest = parser.parse_known_args(argv)
    stray = [word for name in behind for word in getattr(namespace, name)]
    if stray or (rest and not (cls.takes_beam_flags or cls.passes_on)):
        hint = "; the command to run goes after --" if behind else _hint(cls, rest)
        named = [public(word) + did_you_mean(word, flags_of(cls)) for word in rest]
        parser.error(f"unrecognized arguments: {' '.join([*stray, *named])}{hint}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(namespace).items()}
    # A shell leaves the ~ of --output=~/records as it is, and a folder of that name would be made here.
    at_home = {field.name: _at_home(values[field.name]) for field in _fields(cls) if _is_path(field)}
    return cls(**values | at_home | behind), rest


def _at_home(value: Any) -> Any:
    """A path, or several, with the user's home in the place of a ~ at the beginning."""
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def _hint(cls: type, rest: Sequence[str]) -> str:
    """What to add to the refusal of arguments that begin with one without its flag; "" for others."""
    shapes, fields = _shapes(cls), _fields(cls)
    bare = [field.metadata["metavar"] for field in fields if field.metadata["positional"]]
    flags = [field for field in fields if not field.metadata["positional"] and shapes[field.name].element is not bool]
    if rest[0].startswith("-") or not (bare and flags):
        return ""
    example = f"{CheckedOptions.flag(flags[0].name)} {_metavar(flags[0], shapes[flags[0].name])}"
    return f"; only {' and '.join(bare)} stands without a flag; give others as in {example}"


def overridden(cls: type, argv: Sequence[str]) -> list[str]:
    """Sentences on paths that do not count: `--input a --input b` looks as if it took both, and b alone counts.

    Args:
      cls, argv: as for `parse`, which accepted them.
    """
    argv, _ = _split(cls, argv)
    shapes, sentences = _shapes(cls), []
    for field in _fields(cls):
        if not _is_path(field) or shapes[field.name].count is not None or field.metadata["positional"]:
            continue
        flag = CheckedOptions.flag(field.name)
        paths = []
        for word, following in itertools.pairwise([*argv, ""]):
            name, equals, value = word.partition("=")
            paths += [public(value if equals else following)] * (name == flag)
        if others := set(paths[:-1]) - {*paths[-1:]}:
            sentences.append(f"{flag} takes one path: {paths[-1]} counts, {', '.join(sorted(others))} does not")
    return sentences


def _split(cls: type, argv: Sequence[str]) -> tuple[Sequence[str], dict[str, tuple[str, ...]]]:
    """The words before `--`, and those after it for the field that takes them, if `cls` has one."""
    names = [field.name for field in _fields(cls) if field.metadata["behind"]]
    if not names:
        return argv, {}
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], {names[0]: tuple(argv[place + 1 :])}


def markdown(cls: type) -> str:
    """The flags of `cls` as a Markdown table: flag, default, values, meaning."""
    rows = ["| flag | default | values | what it does |", "|---|---|---|---|"]
    shapes = _shapes(cls)
    for field in _fields(cls):
        metadata, flag = field.metadata, CheckedOptions.flag(field.name)
        if metadata["positional"] or metadata["behind"]:
            flag = metadata["metavar"] or field.name
        flags = f"`{flag}`, `--no-{flag[2:]}`" if shapes[field.name].element is bool else f"`{flag}`"
        default = _shown_default(field)
        shown = "required" if field.default is dataclasses.MISSING else f"`{default}`" if default else ""
        values = ", ".join(f"`{choice}`" for choice in metadata["choices"] or ()) or str(metadata["bounds"])
        meaning = metadata["help"] + (f"; without a value: `{metadata['bare']}`" if metadata["bare"] else "")
        rows.append("| " + " | ".join([flags, shown, values, meaning.replace("|", "\\|")]) + " |")
    return "\n".join(rows)
