"""The areas of the zoo."""

from tests.zoo.areas import folders, labels, names, raw_images, tables, turned

AREAS = (
    *(raw_images.AREA, labels.AREA, turned.AREA, names.AREA, folders.AREA),
    *(tables.AREA_MANIFESTS, tables.AREA_LISTS, tables.AREA_LAYOUTS, tables.AREA_PALETTES),
)
