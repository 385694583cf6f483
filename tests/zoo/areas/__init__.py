"""The areas of the zoo."""

from tests.zoo.areas import folders, labels, names, raw_images, turned

AREAS = (raw_images.AREA, labels.AREA, turned.AREA, names.AREA, folders.AREA)
