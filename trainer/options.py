"""Options: a frozen dataclass defines the command-line flags of a command and their table in docs/options.md.

    @dataclass(frozen=True)
    class Options(CheckedOptions):
        output: str = option(help="folder to write to", metavar="DIR")
        copies: int = option(2, "augmented copies of every image", low=0)

    options, rest = parse(Options, argv, prog="deeplab draw", text="Draw a set.")

Types come from the annotations: ``str``, ``int``, ``float``, ``bool`` (``--x`` and ``--no-x``), ``X | None`` and
``tuple[X, ...]`` or ``tuple[X, X]`` (several values after one flag; two are a range, lowest first). Bounds are stated
once, in `option`: they are checked on construction, shown by ``--help`` and listed in the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import math
import re
import types
import typing
import unicodedata
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")

FOREIGN_ADDRESS = re.compile(r"(?!gs://)[A-Za-z][A-Za-z0-9+.-]+:/+")
"""The beginning of an address in a storage that is not supported, also with one slash missing."""
NO_BUCKET = re.compile(r"gs://(/.*)?", re.DOTALL)
WEB = ("http://", "https://")
"""The schemes of files that some flags download."""
METAVARS = {int: "N", float: "X", str: "TEXT"}


class InputError(ValueError):
    """The user's input cannot be used. The message states what was found, what was expected and what to do."""


def printable(text: str, keep: str = "") -> str:
    """`text` made safe for a terminal: characters that control it, or are invisible, are escaped: "\\x1b".

    These are control characters, line separators, marks that change the writing direction, and surrogates, which
    stand for bytes of names that are not UTF-8. Names in any language are unchanged.

    Args:
      keep: characters that are not escaped, such as the newlines of a table.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep or _is_harmless(one) else _escape(one) for one in text)


def _is_harmless(character: str) -> bool:
    # Spaces of other widths, and the joiners used in Persian and emoji.
    return unicodedata.category(character) == "Zs" or character in "\u200c\u200d"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _shown(number: float) -> str:
    """Integers with all their digits, which "g" would round."""
    return str(number) if isinstance(number, int) else f"{number:g}"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The range of a flag: at least `low`, over `above`, at most `high`, under `below`; None for no bound."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether `value` is within the bounds; NaN is not, if there is any bound."""
        # Comparisons with NaN are false, so each is stated positively.
        return all(
            (
                self.low is None or value >= self.low,
                self.high is None or value <= self.high,
                self.above is None or value > self.above,
                self.below is None or value < self.below,
            )
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{_shown(self.low)} to {_shown(self.high)}"
        lower = [f"{_shown(self.low)} or more"] if self.low is not None else []
        lower += [f"above {_shown(self.above)}"] if self.above is not None else []
        upper = [f"at most {_shown(self.high)}"] if self.high is not None else []
        upper += [f"below {_shown(self.below)}"] if self.below is not None else []
        return " and ".join(lower + upper)


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
    metavar: str | None = None,
    group: str = "",
    positional: bool = False,
    bare: Any = None,
    web: bool = False,
    default_by: str = "",
    behind: bool = False,
) -> Any:
    """A dataclass field that is also a command-line flag; without a default the flag is required.

    Args:
      default: the default value.
      help: what the flag does, without default and bounds, which are added.
      low, high, above, below: see `Bounds`; they apply to each of several values.
      choices: the allowed values.
      metavar: the placeholder of the value in help: DIR, FILE, ...
      group: the heading in help for flags of one subject.
      positional: whether the value is a positional argument, without the flag.
      bare: the value of the flag without a value; None: it must have one.
      web: whether it also takes http(s):// addresses.
      default_by: the flag that determines the default, see `CheckedOptions.preset`; shown in place of `default`.
      behind: whether it is not a flag, but takes all words after `--` unchanged.
    """
    bounds = Bounds(low, high, above, below)
    metadata = {"help": help, "bounds": bounds, "choices": choices, "metavar": metavar}
    metadata |= {"group": group, "positional": positional, "bare": bare, "web": web, "default_by": default_by}
    metadata |= {"behind": behind}
    return dataclasses.field(default=default, metadata=metadata, kw_only=True)


@dataclasses.dataclass(frozen=True)
class CheckedOptions:
    """Base class of every command's options: values out of bounds raise InputError on construction.

    Attributes:
      takes_beam_flags: whether unknown flags are passed to Apache Beam.
      passes_on: what unknown flags are passed to if not to Beam, as named in help.
    """

    takes_beam_flags: ClassVar[bool] = False
    passes_on: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "bounds" in field.metadata and not field.metadata["behind"]:
                _check(field, getattr(self, field.name))

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Defaults that depend on other flags, such as those of a recipe: field -> value.

        Args:
          given: the values of all fields, from the command line and the fields' own defaults.
        """
        return {}

    @classmethod
    def flag(cls, name: str) -> str:
        """The flag of the field `name`: "max_side" -> "--max-side"."""
        return "--" + name.replace("_", "-")


def cure_of_address(scheme: str, otherwise: str) -> str:
    """What to do about an address that FOREIGN_ADDRESS matches: `otherwise`, if its files are not here already."""
    if scheme.startswith("file:"):
        return f"{scheme} is not supported, give the path alone, such as /data/set"
    return f"{scheme} is not supported, {'write gs://' if scheme.startswith('gs:') else otherwise}"


def _check(field: dataclasses.Field, value: Any) -> None:
    bounds, flag = field.metadata["bounds"], CheckedOptions.flag(field.name)
    values = value if isinstance(value, tuple) else (value,)
    if "" in values and field.default != "":
        # As from an unset shell variable; "" would be the current folder.
        raise InputError(f"{flag} must not be empty")
    for text in values:
        is_fetched = field.metadata["web"] and str(text).startswith(WEB)
        if isinstance(text, str) and not is_fetched and (foreign := FOREIGN_ADDRESS.match(text)):
            # The file system would create a folder called "s3:".
            cure = cure_of_address(foreign[0], "copy the files to one of these")
            raise InputError(f"{flag} {text}: expected a local path or a gs:// address; {cure}")
        if isinstance(text, str) and NO_BUCKET.fullmatch(text):
            # Without trailing slashes it would be a folder called "gs:".
            raise InputError(f"{flag} {text} names no bucket; expected gs://BUCKET/FOLDER")
    for number in values:
        if isinstance(number, (int, float)) and not bounds.hold(number):
            raise InputError(f"{flag} must be {bounds}, got {number}")
        if isinstance(number, float) and not math.isfinite(number):
            raise InputError(f"{flag} must be a finite number, got {number}")
    choices = field.metadata["choices"]
    if choices and value is not None and value not in choices:
        raise InputError(f"{flag} must be one of {', '.join(map(str, choices))}, got {value!r}")
    is_range = isinstance(field.default, tuple) and len(field.default) == 2
    if is_range and len(values) == 2 and values[0] > values[1]:
        raise InputError(f"{flag} must be a range, lowest first, got {values[0]} {values[1]}")


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


class _Gather(argparse.Action):
    """Keeps all values of a list that is given in several flags: `--masks a --masks b`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        earlier = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if earlier is self.default else [*earlier, *values])


def _add_argument(group: Any, field: dataclasses.Field, shape: _Shape) -> None:
    metadata, needed = field.metadata, field.default is dataclasses.MISSING
    if metadata["positional"]:
        group.add_argument(field.name, metavar=metadata["metavar"], help=_help(field))
    elif metadata["behind"]:
        group.add_argument(
            field.name, nargs="*", default=field.default, metavar=metadata["metavar"], help=_help(field)
        )
    elif shape.element is bool:
        flag = CheckedOptions.flag(field.name)
        switch = group.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        switch.help = _help(field)  # not as an argument above: Python 3.10 would append the default again
    else:
        group.add_argument(
            CheckedOptions.flag(field.name),
            dest=field.name,
            action=_Gather if shape.count == "+" else "store",
            type=shape.element,
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


def _parser(cls: type, prog: str, text: str) -> argparse.ArgumentParser:
    description, _, epilog = inspect.cleandoc(text).partition("\n\n")
    # With abbreviations, a Beam option could be mistaken for one of ours.
    parser = argparse.ArgumentParser(
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
    namespace, rest = parser.parse_known_args(argv)
    if preset := cls.preset(vars(namespace)):
        parser.set_defaults(**preset)
        namespace, rest = parser.parse_known_args(argv)
    stray = [word for name in behind for word in getattr(namespace, name)]
    if stray or (rest and not (cls.takes_beam_flags or cls.passes_on)):
        hint = "; the command that is to run stands behind --" if behind else ""
        parser.error(f"unrecognized arguments: {' '.join([*stray, *rest])}{hint}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(namespace).items()}
    return cls(**values | behind), rest


def overridden(cls: type, argv: Sequence[str]) -> list[str]:
    """Sentences on paths that do not count: `--input a --input b` looks as if it took both, and b alone counts.

    Args:
      cls, argv: as for `parse`, which accepted them.
    """
    argv, _ = _split(cls, argv)
    shapes, sentences = _shapes(cls), []
    for field in _fields(cls):
        is_path = re.search("DIR|FILE|PATH", field.metadata["metavar"] or "") and shapes[field.name].count is None
        if not is_path or field.metadata["positional"]:
            continue
        flag = CheckedOptions.flag(field.name)
        paths = []
        for word, following in itertools.pairwise([*argv, ""]):
            name, equals, value = word.partition("=")
            paths += [value if equals else following] * (name == flag)
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


def as_words(values: dict[str, Any]) -> list[str]:
    """Fields and their values as words of a command line: ["--epochs", "10", "--no-flip"]."""
    words = []
    for name, value in values.items():
        flag = CheckedOptions.flag(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *(str(part) for part in (value if isinstance(value, tuple) else (value,)))]
    return words


def as_flags(values: dict[str, Any]) -> str:
    """Fields and their values as on a command line: "--epochs 10 --no-flip"."""
    return " ".join(as_words(values))


def to_json(options: Any) -> dict[str, Any]:
    """The options as a JSON object; tuples become lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(options).items()
    }


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
