"""Folders of masks, and what lies in them that should not."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.zoo.engine import Case
from tests.zoo.worlds import LABEL, both, file, folder, gone, link, pair

SEGMENT = "segment --input @/set/images --model @/model --output @/out"
EVALUATE = "evaluate --labels @/set/labels --masks @/masks --palette @/set/palette.json --output @/out"


def segnet(world: Path) -> None:
    """The set with its images in train and val, its labels in trainannot and valannot."""
    for split in ("train", "val"):
        shutil.copytree(world / "set/images" / split, world / "segnet" / split)
        shutil.copytree(world / "set/labels" / split, world / "segnet" / f"{split}annot")


CASES = (
    Case(
        "the masks' folder is the images'",
        "segment --input @/set/images --model @/model --output @/set/images",
        says=("input and output are the same folder",),
    ),
    Case(
        "the masks' folder holds the images",
        "segment --input @/set/images --model @/model --output @/set",
        says=("lies in the output folder",),
    ),
    Case(
        "the masks' folder lies among the images",
        "segment --input @/set/images --model @/model --output @/set/images/out",
        status=0,
        writes=("set/images/out",),
        done=("set/images/out/train/g0.png",),
    ),
    Case(
        "masks would lie in the folder of other images, through a link",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=both(folder("out"), link("out/train", "@/set/images/train")),
        rejects={
            "train/g0.png": "among the images",
            "train/g1.png": "among the images",
            "train/g2.png": "among the images",
        },
        done=("out/val/g3.png",),
    ),
    Case(
        "another program's mask is in the way",
        SEGMENT,
        make=file("out/train/g0.png", b"mine"),
        says=("g0.png is in the way: this program did not write it",),
    ),
    *(
        Case(
            f"a file where the folder {name} is to be made",
            f"{SEGMENT} {flags}",
            make=file(f"out/{name}", b"mine"),
            says=(f"out/{name} is not a folder",),
        )
        for name, flags in (("images.parquet", ""), ("overlays", "--overlays"), ("confidence", "--confidence"))
    ),
    Case("a parameter of the CRF without it", f"{SEGMENT} --crf-sxy 9", says=("--crf-sxy is for --crf on or auto",)),
    Case(
        "a folder is in the way of a mask",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=folder("out/train/g0.png"),
        rejects={"train/g0.png": "g0.png"},
    ),
    Case(
        "no images to segment",
        "segment --input @/masks/none --model @/model --output @/out",
        make=file("masks/none/a.txt", b"x"),
        says=("no images in",),
    ),
    Case(
        "a raw set to segment, labels and all",
        "segment --input @/set --model @/model --output @/out",
        says=("set/labels has the labels of the images in", "give", "set/images as --input"),
    ),
    Case(
        "the same in SegNet's layout",
        "segment --input @/segnet --model @/model --output @/out",
        make=segnet,
        says=("segnet/trainannot has the labels of the images in", "segnet/train as --input"),
    ),
    Case(
        "an input to segment that is not there",
        "segment --input @/no --model @/model --output @/out",
        says=("no does not exist",),
    ),
    Case(
        "a pattern that fits nothing",
        "segment --input @/set/*.bmp --model @/model --output @/out",
        says=("no images in", "*.bmp"),
    ),
    Case(
        "a folder called like a pattern",
        "segment --input @/[ab] --model @/model --output @/out",
        status=0,
        make=file("[ab]/x.png"),
        done=("out/x.png",),
    ),
    Case(
        "masks that were segmented before, among the images",
        "segment --input @/masks --model @/model --output @/out --max-reject-rate 1",
        status=0,
        rejects={
            f"{name}.png": "is an output of `deeplab segment`"
            for name in ("train/g0", "train/g1", "train/g2", "val/g3", "val/g4")
        },
    ),
    Case(
        "no folder of labels",
        "evaluate --labels @/no --masks @/masks --palette @/set/palette.json --output @/out",
        says=("--labels", "folder not found"),
    ),
    Case(
        "no folder of masks",
        "evaluate --labels @/set/labels --masks @/no --palette @/set/palette.json --output @/out",
        says=("--masks", "folder not found"),
    ),
    Case(
        "an empty folder of masks",
        "evaluate --labels @/set/labels --masks @/e --palette @/set/palette.json --output @/out",
        make=folder("e"),
        says=("none of its 0 files ends in .png",),
    ),
    Case(
        "masks of other names",
        "evaluate --labels @/set/labels --masks @/e --palette @/set/palette.json --output @/out",
        make=file("e/zzz.png", LABEL),
        says=("no label in", "has a mask of the same path", "zzz.png"),
    ),
    Case(
        "a mask that is missing",
        f"{EVALUATE} --max-reject-rate 1",
        status=0,
        make=gone("masks/train/g0.png"),
        rejects={"g0.png": "no mask train/g0.png in"},
    ),
    Case(
        "a mask that is damaged",
        f"{EVALUATE} --max-reject-rate 1",
        status=0,
        make=lambda world: (world / "masks/train/g0.png").write_bytes(b"x"),
        rejects={"masks/train/g0.png": "not an image"},
    ),
    Case(
        "a mask of another size",
        f"{EVALUATE} --max-reject-rate 1",
        status=0,
        make=lambda world: (
            (world / "masks/train/g0.png").write_bytes((world / "set/labels/train/g0.png").read_bytes())
            and pair(world, "train/g0.png", labelled=LABEL[:0] or _half())
        ),
        rejects={"g0.png": "the mask is 32x24 pixels, its label"},
    ),
    Case(
        "the same folder of masks twice",
        "evaluate --labels @/set/labels --masks @/masks @/m2 --palette @/set/palette.json --output @/out",
        make=link("m2", "@/masks"),
        says=("names a folder twice",),
    ),
    Case(
        "masks that are their own labels",
        "evaluate --labels @/m2 --masks @/masks --palette @/set/palette.json --output @/out",
        status=0,
        make=link("m2", "@/masks"),
        says=("warning: --labels", "are the same folder: it is scored against itself", "5 labels = 5 evaluated"),
    ),
    Case(
        "another program's report in the output",
        EVALUATE,
        make=file("out/report.html", b"mine"),
        says=("report.html was not written by `deeplab evaluate`",),
    ),
    Case(
        "a folder where the report is to be written",
        EVALUATE,
        make=folder("out/report.html"),
        says=("report.html is a folder",),
    ),
    Case(
        "the output is the folder of labels",
        "evaluate --labels @/set/labels --masks @/masks --palette @/set/palette.json --output @/set/labels",
        says=("is an input folder",),
    ),
    Case(
        "a folder for the images that is not there", f"{EVALUATE} --images @/no", says=("--images", "folder not found")
    ),
    Case(
        "a whole set in SegNet's layout as the folder of labels",
        "evaluate --labels @/segnet --masks @/masks --palette @/set/palette.json --output @/out",
        status=0,
        make=segnet,
        says=("5 labels = 5 evaluated + 0 rejected",),
    ),
    Case(
        "labels in JPEG",
        "evaluate --labels @/j --masks @/masks --palette @/set/palette.json --output @/out",
        make=file("j/train/g0.jpg", b"x"),
        says=("none of its 1 files ends in",),
    ),
)


def _half() -> bytes:
    from tests.zoo.worlds import label
    from trainer.formats import images

    return images.encode_png(label()[::2, ::2].copy())
