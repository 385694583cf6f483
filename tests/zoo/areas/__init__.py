"""The areas of the zoo."""

from tests.zoo.areas import (
    cloud,
    flags,
    folders,
    jobs,
    labels,
    models,
    names,
    palettes,
    paths,
    raw_images,
    records,
    reruns,
    storage,
    tables,
    turned,
)

AREAS = (
    *(raw_images.AREA, labels.AREA, turned.AREA, names.AREA, folders.AREA),
    *(tables.AREA_MANIFESTS, tables.AREA_LISTS, tables.AREA_LAYOUTS, palettes.AREA, records.AREA),
    *(models.AREA, reruns.AREA, flags.AREA, flags.AREA_DEMO, paths.AREA, jobs.AREA, storage.AREA, cloud.AREA),
)
