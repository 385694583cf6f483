"""Palettes: the classes of a set, and how its labels code them.

A `Palette` translates labels (class ids, palette indices or RGB colours) to uint8 class ids with one ignore id, and
class ids to colours, palette PNGs and overlays. Its JSON form is also that of a palette file; the last four entries
may be omitted:

    {"name": "mine",
     "classes": [{"name": "sky", "color": [128, 128, 128]}, {"name": "road", "color": [128, 64, 128]}],
     "ignore_id": 255,
     "ignore_color": [0, 0, 0],
     "source_ids": {"11": 0, "7": 1, "3": 255},
     "aliases": [{"color": [0, 0, 192], "id": 1}]}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from trainer.formats.pngs import encode_indices
from trainer.formats.runs import looked_up, runs_of
from trainer.options import InputError
from trainer.terminal import CONTROL

Color = tuple[int, int, int]

MOST_CLASSES = 254
"""Number of classes that a palette may have: of the 256 ids, one is ignored, and one marks what is unknown."""

CREAM = (224, 224, 192)  # Pascal VOC's colour of "void" along boundaries
JSON_FORM = (
    '{"name": "mine", "classes": [{"name": "sky", "color": [128, 128, 128]}, ...], "ignore_id": 255, '
    '"ignore_color": [0, 0, 0], "source_ids": {"11": 0}, "aliases": [{"color": [0, 0, 192], "id": 1}]}'
)
_JSON_KEYS = {"name", "classes", "ignore_id", "ignore_color", "source_ids", "aliases"}


class LabelError(ValueError):
    """A label holds ids or colours that its palette does not know. The message does not name the file."""


class NameFault(InputError):
    """A palette, or a class of one, has a name that none may have."""


@dataclass(frozen=True)
class Palette:
    """A set of classes, whose ids are 0 to num_classes - 1; `ignore_id` marks pixels that do not count.

    Attributes:
      name: the name of the palette in reports.
      names: the names of the classes, unique; 1 to `MOST_CLASSES`.
      colors: the RGB colours of the classes, 0-255, unique.
      ignore_id: the id of ignored pixels, from num_classes to 255.
      ignore_color: the RGB colour of ignored pixels, not a class colour.
      source_ids: pairs (id in label files, class id or `ignore_id`). If there are any, ids in label files have no
        meaning except these and `ignore_id`; if there are none, they are the class ids.
      aliases: further colours in label files, pairs (RGB colour, class id or `ignore_id`).

    Raises:
      InputError: on construction, if a value is invalid.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_id: int = 255
    ignore_color: Color = CREAM
    source_ids: tuple[tuple[int, int], ...] = ()
    aliases: tuple[tuple[Color, int], ...] = ()

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise InputError(f"palette {self.name!r}: {fault}")
        for name in (self.name, *self.names):
            if fault := _fault_of_name(name):
                raise NameFault(f"palette {self.name!r}: {fault}")
        # Sorted, since JSON objects have no order, and a round trip must give an equal palette.
        object.__setattr__(self, "source_ids", tuple(sorted(self.source_ids)))

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def sources(self) -> tuple[tuple[int, int], ...]:
        """Pairs (id in label files, class id or `ignore_id`): `source_ids`, or else every class id by itself."""
        return self.source_ids or tuple((index, index) for index in range(self.num_classes))

    @property
    def background(self) -> int | None:
        """The id of the class named "background", which overlays do not paint; None if there is none."""
        return self.names.index("background") if "background" in self.names else None

    def to_json(self) -> dict:
        """The JSON form, see the module's docstring; `from_json` returns an equal palette."""
        return {
            "name": self.name,
            "classes": [{"name": n, "color": list(c)} for n, c in zip(self.names, self.colors, strict=True)],
            "ignore_id": self.ignore_id,
            "ignore_color": list(self.ignore_color),
            "source_ids": {str(source): target for source, target in self.source_ids},
            "aliases": [{"color": list(color), "id": target} for color, target in self.aliases],
        }

    @classmethod
    def from_json(cls, content: dict) -> Palette:
        """The palette of a JSON form. Raises InputError with the reason if it is invalid."""
        return _from_json(content)

    def known_colors(self) -> frozenset[Color]:
        """The RGB colours that `to_ids` knows."""
        return frozenset(color_meanings(self))

    def colormap(self) -> np.ndarray:
        """The RGB colour of every id, black for ids without a meaning: uint8 [256, 3], read-only."""
        return _colormap(self)

    def colorize(self, ids: np.ndarray) -> np.ndarray:
        """The RGB colours, uint8 [H, W, 3], of class ids, uint8 [H, W]."""
        return np.take(self.colormap(), ids, axis=0)

    def encode_mask(self, ids: np.ndarray) -> bytes:
        """Encodes class ids, uint8 [H, W], as a palette PNG whose indices are the class ids."""
        return encode_indices(ids, self.colormap())

    def to_ids(self, label: np.ndarray) -> np.ndarray:
        """Translates a label of a raw set to class ids.

        Args:
          label: uint8 [H, W], ids or palette indices, or uint8 [H, W, 3], RGB colours.

        Returns:
          uint8 [H, W]: class ids and `ignore_id`.

        Raises:
          LabelError: the label has unknown ids or colours; states them with their numbers of pixels.
        """
        return self.counted_ids(label)[0]

    def counted_ids(self, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`to_ids`, and the number of pixels of every id, int64 [256]."""
        if label.dtype != np.uint8 or not (label.ndim == 2 or (label.ndim == 3 and label.shape[2] == 3)):
            raise LabelError(f"a label must be uint8 [H, W] or [H, W, 3], got {label.dtype} {list(label.shape)}")
        if label.ndim == 2:
            codes, table, kind, knows = label, id_table(self), "class id", _known_ids(self)
        else:
            codes, table, kind = pack(label), _color_table(self), "colour"
            knows = f"{len(color_meanings(self))} colours"
        ids, pixels = looked_up(table, codes)
        mark = unknown_mark(self)
        if pixels[mark]:
            raise LabelError(self._unknown(codes[ids == mark], kind, knows))
        return ids, pixels

    def check_ids(self, ids: np.ndarray) -> np.ndarray:
        """Returns ids, uint8 [H, W], unchanged. Raises LabelError unless all are class ids or `ignore_id`.

        For masks and records, which have class ids even if the labels of the raw set had others (`source_ids`).
        """
        known = np.zeros(256, bool)
        known[: self.num_classes] = known[self.ignore_id] = True
        if not known[runs_of(ids)[0]].all():
            knows = f"0-{self.num_classes - 1} and {self.ignore_id} (ignored)"
            raise LabelError(self._unknown(ids[~known[ids]], "class id", knows))
        return ids

    def overlay(self, image: np.ndarray, ids: np.ndarray, alpha: float = 0.5) -> np.ndarray:
        """Paints class colours over an image, with a line of one pixel along the boundaries between classes.

        Ignored pixels and those of a class named "background" are unchanged.

        Args:
          image: uint8 [H, W, 3] RGB.
          ids: class ids, uint8 [H, W].
          alpha: share of the class colour, 0 to 1.

        Returns:
          uint8 [H, W, 3] RGB.
        """
        painted = ids != self.ignore_id
        if self.background is not None:
            painted &= ids != self.background
        blended = cv2.addWeighted(image, 1 - alpha, self.colorize(ids), alpha, 0)
        result = np.where(painted[..., None], blended, image)
        boundary = _boundary(ids, painted)
        result[boundary] = _boundary_colors(self)[ids[boundary]]
        return result

    def _unknown(self, codes: np.ndarray, kind: str, knows: str) -> str:
        values, counts = np.unique(codes, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shown = [f"{_name(values[i], kind)} in {_pixels(counts[i])}" for i in order[:5]]
        more = f" and {len(order) - 5} more" if len(order) > 5 else ""
        return f"unknown {kind} {', '.join(shown)}{more}; palette {self.name} knows {knows}"


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _fault(palette: Palette) -> str | None:
    """What is wrong with a palette, in words; None if it is valid."""
    classes = len(palette.names)
    if not 1 <= classes <= MOST_CLASSES:
        return f"expected 1 to {MOST_CLASSES} classes, got {classes}"
    if len(palette.colors) != classes:
        return f"expected one colour per class, got {classes} names and {len(palette.colors)} colours"
    if any(not isinstance(name, str) or not name.strip() for name in palette.names):
        return f"class names must be non-empty strings, got {list(palette.names)}"
    if not _is_byte(palette.ignore_id) or palette.ignore_id < classes:
        return f"ignore_id must be {classes} to 255 (0-{classes - 1} are classes), got {palette.ignore_id!r}"
    aliases = [color for color, _ in palette.aliases]
    colors = [*palette.colors, palette.ignore_color, *aliases]
    for color in colors:
        if len(color) != 3 or not all(_is_byte(part) for part in color):
            return f"a colour must be three whole numbers from 0 to 255, got {list(color)}"
    for what, values in (
        ("class name", palette.names),
        ("colour", colors),
        ("source id", [source for source, _ in palette.source_ids]),
    ):
        twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
        if twice:
            return f"{what} {twice[0]!r} appears twice"
    for code, target in (*palette.source_ids, *palette.aliases):
        if not _is_byte(target) or (target >= classes and target != palette.ignore_id):
            return f"{code} is mapped to {target!r}, expected 0-{classes - 1} or {palette.ignore_id}"
    wrong = [source for source, _ in palette.source_ids if not _is_byte(source)]
    return f"source ids must be 0 to 255, got {wrong[0]!r}" if wrong else None


def _fault_of_name(name: str) -> str:
    """What is wrong with the name of a palette or a class, in words; "" if nothing is."""
    # A lone surrogate, which JSON can escape, cannot be encoded in pages and tables.
    if any("\ud800" <= character <= "\udfff" for character in name):
        return f"the name {name!r} is not valid Unicode; write it as UTF-8"
    if control := CONTROL.search(name):
        return f"the name {name!r} has a control character, {control[0]!r}; write it without"
    return ""


def _from_json(content: dict) -> Palette:
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise InputError(f"a palette needs a list of classes; expected the form {JSON_FORM}")
    if not isinstance(content.get("source_ids", {}), dict):
        raise InputError(f"malformed palette: source_ids must be an object; expected the form {JSON_FORM}")
    unknown = sorted(set(content) - _JSON_KEYS)
    if unknown:
        raise InputError(f"unknown entry {unknown[0]!r} in a palette; expected the form {JSON_FORM}")
    try:
        return Palette(
            name=str(content.get("name", "custom")),
            names=tuple(entry["name"] for entry in content["classes"]),
            colors=tuple(tuple(entry["color"]) for entry in content["classes"]),
            ignore_id=content.get("ignore_id", 255),
            ignore_color=tuple(content.get("ignore_color", CREAM)),
            source_ids=tuple((int(source), target) for source, target in content.get("source_ids", {}).items()),
            aliases=tuple((tuple(entry["color"]), entry["id"]) for entry in content.get("aliases", [])),
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"entry {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"malformed palette: {fault}; expected the form {JSON_FORM}") from None


# Tables are built once per palette and process, so that translating a label takes one lookup per pixel.


@lru_cache(maxsize=16)
def _colormap(palette: Palette) -> np.ndarray:
    colors = np.zeros((256, 3), np.uint8)
    colors[: palette.num_classes] = palette.colors
    colors[palette.ignore_id] = palette.ignore_color
    colors.flags.writeable = False
    return colors


@lru_cache(maxsize=16)
def _boundary_colors(palette: Palette) -> np.ndarray:
    """uint8 [256, 3]: the colour of every id made lighter if dark, and darker if light, to stand out from it."""
    colors = _colormap(palette).astype(np.float32)
    dark = colors @ np.float32([0.299, 0.587, 0.114]) < 128
    return np.where(dark[:, None], (colors + 255) / 2, colors / 2).astype(np.uint8)


def unknown_mark(palette: Palette) -> int:
    """A value that is neither a class id nor the ignore id (see `MOST_CLASSES`)."""
    return 255 if palette.ignore_id != 255 else 254


@lru_cache(maxsize=16)
def id_table(palette: Palette) -> np.ndarray:
    """uint8 [256]: the class id or `ignore_id` of every id in label files, `unknown_mark` if it has no meaning."""
    table = np.full(256, unknown_mark(palette), np.uint8)
    table[palette.ignore_id] = palette.ignore_id
    for source, target in palette.sources:
        table[source] = target
    return table


@lru_cache(maxsize=2)  # 16 MiB each
def _color_table(palette: Palette) -> np.ndarray:
    table = np.full(1 << 24, unknown_mark(palette), np.uint8)
    for color, target in color_meanings(palette).items():
        table[pack_color(color)] = target
    return table


def color_meanings(palette: Palette) -> dict[Color, int]:
    """The class id or `ignore_id` of every RGB colour known in label files."""
    return {
        **dict(palette.aliases),
        palette.ignore_color: palette.ignore_id,
        **{color: index for index, color in enumerate(palette.colors)},
    }


def pack(rgb: np.ndarray) -> np.ndarray:
    """RGB, uint8 [H, W, 3], as one number per pixel, int32 [H, W]: red in the highest of three bytes."""
    four = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGRA)
    return four.view("<i4")[..., 0] & 0xFFFFFF


def pack_color(color: Color) -> int:
    """The number that `pack` makes of this colour."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def unpack(packed: int) -> Color:
    """The colour that `pack` makes this number of."""
    return packed >> 16, packed >> 8 & 255, packed & 255


def _known_ids(palette: Palette) -> str:
    classes = sorted(source for source, target in palette.sources if target != palette.ignore_id)
    ignored = {source for source, target in palette.sources if target == palette.ignore_id}
    return f"{ranges(classes)} and {ranges(sorted(ignored | {palette.ignore_id}))} (ignored)"


def ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def _name(code: int, kind: str) -> str:
    return str(unpack(int(code)) if kind == "colour" else code)


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count} pixels"


def _boundary(ids: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """bool [H, W]: painted pixels that differ from the left or upper neighbour, or touch an unpainted one."""
    boundary = np.zeros(ids.shape, bool)
    boundary[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    boundary[1:] |= ids[1:] != ids[:-1]
    boundary[:, :-1] |= ~painted[:, 1:]
    boundary[:-1] |= ~painted[1:]
    return boundary & painted
