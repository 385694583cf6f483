"""Options: a frozen dataclass is a set of command-line flags is a table in the README.

    @dataclasses.dataclass(frozen=True)
    class DrawOptions:
        output: str = option(help="folder to write to")
        copies: int = option(2, "augmented copies of every picture")

    options = parse(DrawOptions, argv, prog="deeplab draw", description="Draw a set.")

Types come from the annotations: ``str``, ``int``, ``float``, ``bool`` (``--x`` and ``--no-x``), ``X | None`` and
``tuple[X, ...]`` or ``tuple[X, X]`` (several values after one flag). Checks that concern values belong into the
dataclass's ``__post_init__``, which raises :class:`InputError`.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """What the user gave cannot be used. The message says what was found, what was expected and what to do."""


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    choices: Sequence[Any] | None = None,
    metavar: str | None = None,
    positional: bool = False,
    bare: Any = None,
) -> Any:
    """A dataclass field that is also a command-line flag; without a default the flag is required.

    `bare`: what the flag means without a value; None: it must have one.
    """
    metadata = {"help": help, "choices": choices, "metavar": metavar, "positional": positional, "bare": bare}
    return dataclasses.field(default=default, metadata=metadata, kw_only=True)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """How the value of a flag looks: its element type, and how many of them make one value."""

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
    """The fields of `cls`, those it adds to what it inherits first: they are what its command is about."""
    order = [name for base in cls.__mro__ for name in vars(base).get("__annotations__", ())]
    return sorted(dataclasses.fields(cls), key=lambda field: order.index(field.name))


def _describe(field: dataclasses.Field) -> str:
    default, bare = field.default, field.metadata["bare"]
    text = field.metadata["help"] + (f"; without a value: {bare}" if bare is not None else "")
    if default is dataclasses.MISSING or default is None or isinstance(default, bool) or default in ("", ()):
        return text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} (default: {shown})"


def _add_arguments(parser: argparse.ArgumentParser, cls: type) -> None:
    shapes = _shapes(cls)
    required = parser.add_argument_group("required")
    for field in _fields(cls):
        metadata, shape = field.metadata, shapes[field.name]
        text = _describe(field).replace("%", "%%")
        if metadata["positional"]:
            parser.add_argument(field.name, metavar=metadata["metavar"], help=text)
            continue
        flag = "--" + field.name.replace("_", "-")
        if shape.element is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=text)
            continue
        needed = field.default is dataclasses.MISSING
        (required if needed else parser).add_argument(
            flag,
            dest=field.name,
            type=shape.element,
            nargs=shape.count if metadata["bare"] is None else "?",
            const=metadata["bare"],
            choices=metadata["choices"],
            metavar=metadata["metavar"] or (None if metadata["choices"] else shape.element.__name__.upper()),
            required=needed,
            default=None if needed else field.default,
            help=text,
        )


def _parser(cls: type, prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    # Abbreviations would let a Beam option be taken for one of ours.
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(parser, cls)
    return parser


def _build(cls: type[T], namespace: argparse.Namespace) -> T:
    values = vars(namespace)
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def parse(cls: type[T], argv: Sequence[str], *, prog: str, description: str, epilog: str = "") -> T:
    """Build `cls` from the flags in `argv`; an unknown flag ends the program with usage and status 2."""
    return _build(cls, _parser(cls, prog, description, epilog).parse_args(argv))


def parse_known(
    cls: type[T], argv: Sequence[str], *, prog: str, description: str, epilog: str = ""
) -> tuple[T, list[str]]:
    """Like :func:`parse`, but return what `cls` does not know, to be handed on to Beam."""
    namespace, rest = _parser(cls, prog, description, epilog).parse_known_args(argv)
    return _build(cls, namespace), rest


def to_json(options: Any) -> dict[str, Any]:
    """The options as a JSON object; tuples become lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(options).items()
    }


def markdown(cls: type) -> str:
    """The flags of `cls` as a Markdown table: flag, default, meaning."""
    rows = ["| flag | default | what it does |", "|---|---|---|"]
    shapes = _shapes(cls)
    for field in _fields(cls):
        name, default = field.name.replace("_", "-"), field.default
        if field.metadata["positional"]:
            flag, shown = f"`{field.name.upper()}`", "required"
        elif default is dataclasses.MISSING:
            flag, shown = f"`--{name}`", "required"
        elif shapes[field.name].element is bool:
            flag, shown = f"`--{name}`, `--no-{name}`", "on" if default else "off"
        else:
            text = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
            flag, shown = f"`--{name}`", "" if default is None or text == "" else f"`{text}`"
        meaning = field.metadata["help"].replace("|", "\\|")
        if field.metadata["choices"]:
            meaning += ": " + ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
        if field.metadata["bare"] is not None:
            meaning += f"; without a value: `{field.metadata['bare']}`"
        rows.append(f"| {flag} | {shown} | {meaning} |")
    return "\n".join(rows)
