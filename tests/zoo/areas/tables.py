"""Manifests and lists, which people write by hand."""

from __future__ import annotations

import json
from pathlib import Path

from tests.drawn.records import PALETTE
from tests.zoo.engine import Area, Case
from tests.zoo.worlds import LABEL, PNG, both, file, link, model, put

MANIFEST = "prepare --input @/set/m.csv --palette @/set/palette.json --output @/out --max-reject-rate 1"
ROW = "images/train/g0.png,labels/train/g0.png"
HEAD = f"image,label,split\n{ROW},train\nimages/val/g3.png,labels/val/g3.png,val\n"
REFUSED_MANIFESTS = {
    "an empty manifest": (b"", ("expected a column 'image' in its first line",)),
    "a manifest of its header alone": (b"image,label\n", ("no image has a label",)),
    "a manifest without a header": (f"{ROW}\n".encode(), ("expected a column 'image'",)),
    "a manifest without a column of labels": (b"image,mask\na,b\n", ("expected a column 'label'",)),
    "a manifest with a column twice": (b"image,label,image\na,b,c\n", ("expected a column 'image'",)),
    "a manifest in Latin-1": (
        HEAD.encode() + "images/\xfc.png,x\n".encode("latin-1"),
        ("is not UTF-8 text", "line 4"),
    ),
    "a manifest with a quote that is never closed": (
        f'{HEAD}"images/a.png,b\nc,d\n'.encode(),
        ("quote is never closed",),
    ),
    "a manifest with semicolons": (
        HEAD.replace(",", ";").encode(),
        ("expected a column 'image'", "image;label;split"),
    ),
    "a manifest that is an image": (PNG, ("m.csv",)),
    "a manifest of NUL bytes": (bytes(300), ("m.csv",)),
    "a manifest with a split of 300 letters": (
        f"image,label,split\n{ROW},{'x' * 300}\n".encode(),
        ("the name of a split is 300 bytes long, 'xxx", "the limit is 100"),
    ),
    "a manifest with its splits in a column `phase`": (
        HEAD.replace("split", "phase").encode(),
        ("its column 'phase', which is not read, holds train and val", "name that column split"),
    ),
    "a manifest of which no file exists": (b"image,label\nno.png,none.png\n", ("no.png not found",)),
}
READ_MANIFESTS = {
    "a manifest": (HEAD, {}),
    "a manifest with a mark of UTF-8, and Windows' line ends": ("\ufeff" + HEAD.replace("\n", "\r\n"), {}),
    "a manifest whose lines end as on old Macs": (HEAD.replace("\n", "\r"), {}),
    "a manifest in UTF-16 with its mark": (HEAD.encode("utf-16"), {}),
    "blanks around values, blank lines": (HEAD.replace(",", " , ") + "\n\n", {}),
    "quotes around values": (HEAD.replace(ROW, '"images/train/g0.png","labels/train/g0.png"'), {}),
    "a file twice": (f"{HEAD}{ROW},train\n", {"g0.png": "line 4: already listed in line 2"}),
    "a file twice, in two spellings": (f"{HEAD}./images/../{ROW},val\n", {"g0.png": "already listed in line 2"}),
    "a row without a label": (f"{HEAD}images/train/g1.png,,train\n", {"g1.png": "expected an image and a label"}),
    "a row without an image": (f"{HEAD},labels/train/g1.png,train\n", {"m.csv": "expected an image and a label"}),
    "a row of too many values": (f"{HEAD}a,b,c,d,e\n", {"m.csv": "more values than the 3 columns"}),
    "an image that is not there": (f"{HEAD}images/no.png,labels/train/g1.png,val\n", {"no.png": "no.png not found"}),
    "a label that is not there": (f"{HEAD}images/train/g1.png,labels/no.png,val\n", {"g1.png": "no.png not found"}),
    "a folder in place of an image": (f"{HEAD}images/train,labels/train/g1.png,val\n", {"images/train": "not found"}),
    "the root of the disk in place of an image": (f"{HEAD}/,labels/train/g1.png,val\n", {"/": "/ not found"}),
    "a file in the root of the disk": (
        f"{HEAD}/no-such-file.png,labels/train/g1.png,val\n",
        {"no-such-file.png": "not found"},
    ),
    "a NUL character in a path": (f"{HEAD}a\0b.png,labels/train/g1.png,val\n", {"m.csv": "NUL character"}),
    "a path that is too long": (f"{HEAD}{'x' * 5000}.png,labels/train/g1.png,val\n", {".png": "not found"}),
    "an address of another storage": (
        f"{HEAD}s3://b/a.png,labels/train/g1.png,val\n",
        {"m.csv": "s3:// is not supported"},
    ),
    "an image that is its own label": (
        f"{HEAD}labels/train/g1.png,./labels/train/../train/g1.png,val\nlabels/train/g1.png,labels/train/g1.png,val\n",
        {"g1.png": "image and label are the same file"},
    ),
    "a split of two words": (
        f"{HEAD}images/train/g1.png,labels/train/g1.png,my split\n",
        {"g1.png": "a split is one word"},
    ),
    "a split that leads elsewhere": (
        f"{HEAD}images/train/g1.png,labels/train/g1.png,../x\n",
        {"g1.png": "a split is one word"},
    ),
}
JSONL = {
    "a line that is no JSON": ("nonsense", "is not JSON"),
    "a line that is no object": ("[1, 2]", "is not a JSON object"),
    "brackets deeper than can be read": ("[" * 100_000, "is not JSON"),
    "a number of more digits than can be read": ('{"image": ' + "1" * 5000 + "}", "is not JSON"),
    "an image that is a number": ('{"image": 7, "label": "labels/train/g1.png"}', "7 not found"),
    "an image that is a list": ('{"image": ["a"], "label": "labels/train/g1.png"}', "not found"),
    "half of a character": ('{"image": "\\ud800.png", "label": "labels/train/g1.png"}', "holds half a character"),
}
LISTS = {
    "an empty list": ("l.txt", b"", ("names no image", "no images")),
    "a list of comments": ("l.txt", b"# a\n# b\n", ("names no image", "no images")),
    "a list in Latin-1": ("l.txt", b"\xfc.png\n", ("is not UTF-8 text", "is not UTF-8 text")),
    "a list with a NUL character": ("l.txt", b"a\0b\n", ("NUL character", "NUL character")),
    "a list of names without a file": ("l.txt", b"nowhere\n", ("no file has the name of", None)),
    "a list in CSV without a column of images": ("l.csv", b"name\na\n", ("expected a column 'image'",) * 2),
    "a list in JSONL with an invalid line": ("l.jsonl", b"{\n", ("line 1: is not JSON",) * 2),
    "a list in JSONL with a number for an image": ("l.jsonl", b'{"image": 3}\n', ("expected an image, got",) * 2),
    "a list of unknown suffix": ("l.lst", b"train/g0\n", ("expected a .txt, .csv or .jsonl file", None)),
}
SEGMENT = "segment --input @/set/images --model @/model --output @/out --max-reject-rate 1"
EVALUATE = (
    "evaluate --labels @/set/labels --masks @/masks --palette @/set/palette.json --output @/out --max-reject-rate 1"
)


def manifests() -> list[Case]:
    cases = [
        Case(name, MANIFEST, make=file("set/m.csv", data), says=says)
        for name, (data, says) in REFUSED_MANIFESTS.items()
    ]
    for name, (data, rejects) in READ_MANIFESTS.items():
        cases.append(Case(name, MANIFEST, status=0, make=file("set/m.csv", data), rejects=rejects))
    head = '{"image": "images/val/g3.png", "label": "labels/val/g3.png"}\n'
    for name, (line, says) in JSONL.items():
        row = f"{head}{line}\n"
        cases.append(
            Case(
                f"JSONL: {name}",
                MANIFEST.replace("m.csv", "m.jsonl"),
                status=0,
                make=file("set/m.jsonl", row),
                rejects={"": says},
            )
        )
    return cases


def lists() -> list[Case]:
    cases = []
    for name, (path, data, (of_labels, of_images)) in LISTS.items():
        make = file(f"set/{path}", data)
        cases.append(
            Case(f"{name}, of what is evaluated", f"{EVALUATE} --list @/set/{path}", make=make, says=(of_labels,))
        )
        if of_images:
            line = SEGMENT.replace("@/set/images", f"@/set/{path}")
            cases.append(Case(f"{name}, to be segmented", line, make=make, says=(of_images,)))
    return cases


VOC = {
    "JPEGImages/a.png": PNG,
    "JPEGImages/#b.png": PNG,
    "JPEGImages/c d.png": PNG,
    "SegmentationClass/a.png": LABEL,
    "SegmentationClass/#b.png": LABEL,
    "SegmentationClass/c d.png": LABEL,
}


def voc(text: str | bytes):
    """A set in VOC's layout, whose list of training images holds `text`."""

    def make(world: Path) -> None:
        for name, data in VOC.items():
            put(world, f"voc/{name}", data)
        put(world, "voc/palette.json", json.dumps(PALETTE.to_json()))
        put(world, "voc/ImageSets/Segmentation/train.txt", text)
        put(world, "voc/ImageSets/Segmentation/val.txt", "a\n")

    return make


PREPARE_VOC = "prepare --input @/voc --output @/out --max-reject-rate 1"
VOC_LISTS = {
    "VOC's list": ("c d\n#b\n", {}),
    "VOC's list with classes behind the names": ("c d 1\n#b -1\n", {}),
    "VOC's list of paths": ("/JPEGImages/#b.png /SegmentationClass/#b.png\n", {}),
    "VOC's list with Windows' line ends and a mark": ("\ufeff#b\r\nc d\r\n", {}),
    "VOC's list with comments": ("# the training images\n#b\n", {}),
    "VOC's list with a name that has no file": ("#b\nnowhere\n", {"nowhere": "listed in train.txt, but not found"}),
    "VOC's list with a name that has no file and looks like a comment": (
        "c d\n#nowhere\n",
        {"#nowhere": "listed in train.txt, but not found"},
    ),
}


def voc_lists() -> list[Case]:
    cases = [
        Case(name, PREPARE_VOC, status=0, make=voc(text), rejects=rejects)
        for name, (text, rejects) in VOC_LISTS.items()
    ]
    utf16 = "c d\n".encode("utf-16")
    cases += [
        Case(
            "VOC's list in UTF-16", PREPARE_VOC, make=voc(utf16), says=("train.txt is UTF-16 text; save it as UTF-8",)
        ),
        Case(
            "VOC's list is a folder",
            PREPARE_VOC,
            make=both(voc("a"), file("voc/ImageSets/Segmentation/trainval.txt/x", b"x")),
            status=0,
        ),
        Case(
            "an image in VOC's lists of two splits",
            PREPARE_VOC,
            status=0,
            make=voc("a\nc d\n"),
            says=("in lists of several splits",),
        ),
    ]
    return cases


def layouts() -> list[Case]:
    return [
        Case(
            "another layout than was asked for",
            "prepare --input @/set --layout cityscapes --output @/out",
            says=("is not a raw set of a known layout; expected cityscapes (leftImg8bit + gtFine)",),
        ),
        Case(
            "a manifest, and another layout asked for",
            "prepare --input @/set/m.csv --layout voc --output @/out",
            make=file("set/m.csv", HEAD),
            says=("is a manifest, not the layout voc; omit --layout",),
        ),
        Case(
            "an invalid regular expression for groups",
            "prepare --input @/set --group-by ( --output @/out",
            says=("is not a regular expression",),
        ),
        Case(
            "a regular expression for groups that matches nothing",
            "prepare --input @/set --group-by zzz --output @/out",
            says=("matches no key",),
        ),
        Case(
            "splits with other names",
            "prepare --input @/set --output @/out",
            status=0,
            make=lambda world: [
                (world / "set" / kind / "val").rename(world / "set" / kind / "Validation")
                for kind in ("images", "labels")
            ],
            says=("3 train + 2 val images",),
        ),
        Case(
            "a manifest through a link, whose files lie beside the link",
            MANIFEST,
            make=both(file("other/m.csv", HEAD), link("set/m.csv", "../other/m.csv")),
            status=0,
        ),
    ]


AREA_MANIFESTS = Area("Manifests", model, tuple(manifests()))
AREA_LISTS = Area("Lists", model, tuple(lists()))
AREA_LAYOUTS = Area("Layouts", model, (*voc_lists(), *layouts()))
