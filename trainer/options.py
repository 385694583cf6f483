"""Options: a frozen dataclass defines the flags of a command, from which `trainer.parser` makes its command line.

    @dataclass(frozen=True)
    class Options(CheckedOptions):
        output: str = option(help="folder to write to", metavar="DIR")
        copies: int = option(2, "augmented copies of every image", low=0)

Types come from the annotations: ``str``, ``int``, ``float``, ``bool`` (``--x`` and ``--no-x``), ``X | None`` and
``tuple[X, ...]`` or ``tuple[X, X]`` (several values after one flag; two are a range, lowest first). Bounds are stated
once, in `option`: they are checked on construction, shown by ``--help`` and listed in the table.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

FOREIGN_ADDRESS = re.compile(r"(?!gs://)[A-Za-z][A-Za-z0-9+.-]+:/+")
"""The beginning of an address in a storage that is not supported, also with one slash missing."""
NO_BUCKET = re.compile(r"gs://(/.*)?", re.DOTALL)
WEB = re.compile(r"https?://", re.IGNORECASE)
"""The beginning of the address of a file that some flags download."""
_USER = r"(?:[^/?#]*@|[^/?#\[]*:(?!\d*(?:[/?#]|$)).*@)?"
"""A user and a password before the host; also one with a slash or the like, which cannot be a port."""
_PARTS = re.compile(f"({FOREIGN_ADDRESS.pattern})({_USER})([^?#]*)", re.DOTALL)


class InputError(ValueError):
    """The user's input cannot be used. The message states what was found, what was expected and what to do."""


def public(address: str) -> str:
    """A web address without its user, query and fragment, any of which may be a secret; other texts as they are."""
    parts = _PARTS.match(address)
    return parts[1] + parts[3] if parts else address


def check_no_user(address: str) -> None:
    """Raises InputError if there is a user or a password in a web address."""
    if _PARTS.match(address)[2]:
        raise InputError(
            f"{public(address)} cannot be fetched: there is a user or password before its host, which is never sent; "
            "give a signed address, or fetch the file by other means and give its path"
        )


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

    @classmethod
    def changes(cls, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
        """The fields that both have with other values, in words: {"early_stopping": "--early-stopping was 0, is 5"}.

        Args:
          before, now: fields and values from JSON, of which older versions may have had others.
        """
        places = {field.name: _place(field) for field in dataclasses.fields(cls)}
        return {
            name: f"{places[name]} was {shown(before[name])}, is {shown(now[name])}"
            for name in sorted(before.keys() & now.keys() & places.keys())
            if before[name] != now[name]
        }


def cure_of_address(scheme: str, otherwise: str) -> str:
    """What to do about an address that FOREIGN_ADDRESS matches: `otherwise`, if its files are not here already."""
    if scheme.startswith("file:"):
        return f"{scheme} is not supported, give the path alone, such as /data/set"
    return f"{scheme} is not supported, {'write gs://' if scheme.startswith('gs:') else otherwise}"


def _place(field: dataclasses.Field) -> str:
    """Where a field stands on the command line, in messages: its flag, or the placeholder of a positional argument."""
    if field.metadata["positional"]:
        return field.metadata["metavar"] or field.name
    return CheckedOptions.flag(field.name)


def _check(field: dataclasses.Field, value: Any) -> None:
    bounds, flag = field.metadata["bounds"], _place(field)
    values = value if isinstance(value, tuple) else (value,)
    if "" in values and field.default != "":
        # As from an unset shell variable; "" would be the current folder.
        raise InputError(f"{flag} must not be empty")
    for text in values:
        is_fetched = field.metadata["web"] and WEB.match(str(text))
        if is_fetched:
            check_no_user(text)
        if isinstance(text, str) and not is_fetched and (foreign := FOREIGN_ADDRESS.match(text)):
            # The file system would create a folder called "s3:".
            cure = cure_of_address(foreign[0], "copy the files to one of these")
            raise InputError(f"{flag} {public(text)}: expected a local path or a gs:// address; {cure}")
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


def shown(value: Any) -> str:
    """The value of an option in messages, as one would give it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list) else "not given" if value in (None, "") else str(value)


def non_defaults(options: CheckedOptions) -> dict[str, Any]:
    """The fields that a command line must have to be parsed into these options: field -> value."""
    fields = dataclasses.fields(options)
    values = {field.name: getattr(options, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields} | options.preset(values)
    # A flag that determines the defaults of others is always there: what it would be by itself may depend on others.
    kept = {field.metadata.get("default_by") for field in fields}
    return {
        name: value
        for name, value in values.items()
        if value != defaults[name] or (options.flag(name) in kept and value is not None)
    }


def as_words(values: dict[str, Any]) -> list[str]:
    """Fields and their values as words of a command line: ["--epochs", "10", "--no-flip"]."""
    words = []
    for name, value in values.items():
        flag, parts = CheckedOptions.flag(name), value if isinstance(value, tuple) else (value,)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif any(isinstance(part, str) and part.startswith("-") for part in parts):
            words += [f"{flag}={part}" for part in parts]  # a word of its own would be taken for a flag
        else:
            words += [flag, *map(str, parts)]
    return words


def as_flags(values: dict[str, Any]) -> str:
    """Fields and their values as on a command line: "--epochs 10 --no-flip"."""
    return " ".join(as_words(values))


def to_json(options: Any) -> dict[str, Any]:
    """The options as a JSON object, which may be published: tuples become lists, web addresses are `public`."""
    web = [field.name for field in dataclasses.fields(options) if field.metadata.get("web")]
    values = dataclasses.asdict(options)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | {
        name: public(values[name]) for name in web
    }
