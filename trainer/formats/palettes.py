"""The built-in palettes: Pascal VOC, CamVid and Cityscapes. Others are read from JSON files.

See `trainer.formats.labels` for the JSON form.
"""

from __future__ import annotations

from trainer import storage
from trainer.formats.labels import JSON_FORM, Color, Palette
from trainer.options import InputError


def voc_colormap(count: int = 256) -> tuple[Color, ...]:
    """Pascal VOC's colours: the bits of the index, distributed over R, G and B from the highest bit down."""
    return tuple(
        tuple(sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))
        for index in range(count)
    )


VOC = Palette(
    name="voc",
    names=(
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ),
    colors=voc_colormap(21),
)

# SegNet's 11 classes and colours; the aliases are the other colours of CamVid's own 32 classes, grouped as
# SegNet does.
CAMVID = Palette(
    name="camvid",
    names=(
        *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian"),
        "bicyclist",
    ),
    colors=(
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
    ignore_id=11,
    ignore_color=(0, 0, 0),
    aliases=(
        *(((192, 0, 128), 1), ((0, 128, 64), 1), ((64, 0, 64), 1), ((64, 192, 0), 1)),  # archway, bridge, tunnel, wall
        ((0, 0, 64), 2),  # traffic cone
        *(((128, 0, 192), 3), ((192, 0, 64), 3), ((255, 69, 0), 3)),  # lane markings, SegNet's road marking
        *(((0, 0, 192), 4), ((64, 192, 128), 4), ((128, 128, 192), 4)),  # sidewalk, parking block, road shoulder
        ((192, 192, 0), 5),  # other vegetation
        *(((128, 128, 64), 6), ((0, 64, 64), 6)),  # text, traffic light
        *(((64, 128, 192), 8), ((192, 128, 192), 8)),  # SUV or pickup, truck or bus
        *(((192, 64, 128), 8), ((128, 64, 64), 8)),  # train, other moving
        *(((192, 128, 64), 9), ((64, 0, 192), 9), ((64, 128, 64), 9)),  # child, cart or pram, animal
        ((192, 0, 192), 10),  # motorcycle or scooter
    ),
)

_CITYSCAPES = (  # name, colour, labelId; the position is the trainId
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)
_CITYSCAPES_IGNORED = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30)  # labelIds left out of the benchmark
# Colours of those labelIds, but for black and for the pole group's, which is the pole's.
_CITYSCAPES_IGNORED_COLORS = (
    *((111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100)),
    *((150, 120, 90), (0, 0, 90), (0, 0, 110)),
)

# Files named *_labelTrainIds.png hold class ids; files named *_labelIds.png are read through source_ids.
CITYSCAPES_TRAINIDS = Palette(
    name="cityscapes-trainids",
    names=tuple(name for name, _, _ in _CITYSCAPES),
    colors=tuple(color for _, color, _ in _CITYSCAPES),
    ignore_color=(0, 0, 0),
    aliases=tuple((color, 255) for color in _CITYSCAPES_IGNORED_COLORS),
)
CITYSCAPES = Palette(
    name="cityscapes",
    names=CITYSCAPES_TRAINIDS.names,
    colors=CITYSCAPES_TRAINIDS.colors,
    ignore_color=(0, 0, 0),
    source_ids=(
        *((label_id, train_id) for train_id, (_, _, label_id) in enumerate(_CITYSCAPES)),
        *((label_id, 255) for label_id in _CITYSCAPES_IGNORED),
    ),
    aliases=CITYSCAPES_TRAINIDS.aliases,
)

READ_BY_COLOR = (VOC, CAMVID, CITYSCAPES)
"""The palettes that can be recognised by the colours of a label."""
READ_BY_COLORMAP = (VOC, CAMVID, CITYSCAPES_TRAINIDS)
"""The palettes that can be recognised by the colour map of a palette PNG."""
BUILT_IN = {palette.name: palette for palette in (VOC, CAMVID, CITYSCAPES, CITYSCAPES_TRAINIDS)}


def resolve(name_or_path: str) -> Palette:
    """The built-in palette of that name, or the palette in that JSON file (local or gs://).

    Raises InputError if there is neither, or the file is not a valid palette.
    """
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path]
    try:
        content = storage.read_json(name_or_path)
    except (InputError, OSError):
        if storage.exists(name_or_path):
            raise
        raise InputError(
            f"palette {name_or_path!r} is neither one of {', '.join(BUILT_IN)} nor a file; "
            f"a palette file is JSON: {JSON_FORM}"
        ) from None
    try:
        return Palette.from_json(content)
    except InputError as error:
        raise InputError(f"{name_or_path}: {error}") from None
