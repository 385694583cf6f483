"""The areas of the zoo."""

from tests.zoo.areas import folders, labels, models, names, raw_images, records, runs, storage, tables, turned

AREAS = (
    *(raw_images.AREA, labels.AREA, turned.AREA, names.AREA, folders.AREA),
    *(tables.AREA_MANIFESTS, tables.AREA_LISTS, tables.AREA_LAYOUTS, tables.AREA_PALETTES, records.AREA),
    *(models.AREA, runs.AREA_RERUNS, runs.AREA_FLAGS, runs.AREA_DEMO, runs.AREA_PATHS, storage.AREA),
)
