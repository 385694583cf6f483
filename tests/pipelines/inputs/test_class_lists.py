"""Lists of classes beside a set, in the forms in which tools and publishers write them."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.inputs import class_lists
from pipelines.inputs.coding import detect_palette, recognise
from pipelines.inputs.rawset import scan
from tests.drawn import faults
from tests.drawn.rawset import touch
from tests.pipelines.inputs.test_coding import labelled, write_label
from trainer.formats.codings import decode_ids
from trainer.formats.labels import Palette
from trainer.formats.palettes import CAMVID, VOC, voc_colormap
from trainer.options import InputError

VOC_FOLDERS = ("JPEGImages", "SegmentationClass")
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,0,0::\nsea:0,128,0::\n"
FORMS = {
    "labelmap.txt": LABELMAP,
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\nroad, 128, 0, 0\nsea,0,128,0\n",
    "label_class_dict.csv": "name,r,g,b\nbackground,0,0,0\nroad,128,0,0\nsea,0,128,0\n",
    "label_colors.txt": "0 0 0\t\tbackground\n128 0 0\t\troad\n0 128 0\t\tsea\n",
    "class_names.txt": "_background_\nroad\nsea\n",
    "classes.txt": "background\r\nroad\r\nsea\r\n",
    "codes.txt": "background\nroad\nsea",
    "_classes.csv": "Pixel Value, Class\n0, background\n1, road\n2, sea\n",
    "class_list.json": '{"#000000": "background", "#800000": "road", "#008000": "sea"}',
    "obj_class_to_machine_color.json": '{"road": [1, 1, 1], "sea": [2, 2, 2]}',
    "dataset.json": '{"labels": {"background": 0, "sea": 2, "road": 1}, "numTraining": 9}',
    "config_v2.0.json": json.dumps(
        {
            "labels": [
                {"name": "background", "color": [0, 0, 0], "evaluate": True},
                {"name": "road", "color": [128, 0, 0], "evaluate": True},
                {"name": "sea", "color": [0, 128, 0]},
            ]
        }
    ),
}


def palette_of(root: Path, name: str, text: str) -> Palette | None:
    (root / name).write_text(text)
    found = class_lists.read(str(root / name))
    return found and found.palette


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_names_in_the_order_of_their_numbers(tmp_path, name):
    palette = palette_of(tmp_path, name, FORMS[name])
    assert palette.names == ("background", "road", "sea") and not palette.source_ids
    assert Palette.from_json(palette.to_json()) == palette
    if "machine" not in name:
        assert palette.colors == voc_colormap(3)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "one\n", "\xff", '{"labels": [1, 2]}', "a,b\n1,2\n"])
@pytest.mark.parametrize(
    "name", [*sorted(FORMS.keys() - {"class_names.txt", "classes.txt", "codes.txt"}), "objectInfo150.txt"]
)
def test_a_file_that_only_has_the_name_of_a_list_is_none(tmp_path, name, text):
    assert palette_of(tmp_path, name, text) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"labels": ' + "[" * 100_000),
        ("class_dict.csv", f"name,r,g,b\n{'a' * 200_000},1,2,3\n"),
        ("dataset.json", '{"labels": {"a": Infinity, "b": 1}}'),
    ],
)
def test_a_file_that_python_gives_up_on_is_no_list(tmp_path, name, text):
    assert palette_of(tmp_path, name, text) is None


@pytest.mark.parametrize("folders", [VOC_FOLDERS, ("images", "labels")])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_list_that_cannot_be_read_is_never_replaced_by_a_built_in_palette(folders, number, tmp_path, monkeypatch):
    faults.impatient(monkeypatch)
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    raw = labelled(tmp_path, VOC.colorize(np.uint8([[0, 1], [1, 2]])), folders=folders)
    faults.of_the_system(monkeypatch, number, times=10**6, name="labelmap.txt")
    with pytest.raises(
        InputError, match=r"labelmap\.txt, which may list the classes, cannot be read: .*or give --pal"
    ):
        detect_palette(raw)
    assert detect_palette(raw, "voc").palette is VOC


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("class_list.json", '{"#000000": "sea", "#800000": "road\\nFAKE"}', r"'road\\nFAKE' has a control character"),
        ("labelmap.txt", LABELMAP.replace("road", "\x1b[2Jroad"), r"'\\x1b\[2Jroad' has a control character"),
        ("class_list.json", '{"#000000": "sea", "#800000": "\\ud800"}', "is not valid Unicode"),
    ],
)
def test_a_list_with_a_name_that_would_forge_lines_is_refused_by_its_path(name, text, found, tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/{name}: .*{found}"):
        palette_of(tmp_path, name, text)


def test_classes_that_are_named_as_none_are_ignored_wherever_they_stand(tmp_path):
    palette = palette_of(tmp_path, "class_dict.csv", "name,r,g,b\na,1,1,1\nunknown,0,0,0\nb,2,2,2\nVoid,3,3,3\n")
    assert palette.names == ("a", "b") and palette.source_ids == ((0, 0), (1, 255), (2, 1), (3, 255))
    assert palette.ignore_color == (0, 0, 0) and palette.aliases == (((3, 3, 3), 255),)


@pytest.mark.parametrize("first", ["background", "__background__", "BG", "unlabeled", "void"])
def test_classes_txt_is_read_if_it_lists_the_background(first, tmp_path):
    assert palette_of(tmp_path, "classes.txt", f"{first}\ncat\ndog\n").names[-2:] == ("cat", "dog")


@pytest.mark.parametrize("ids", [[0, 1, 15, 255], [*range(21)]])
def test_yolos_classes_txt_without_the_background_names_no_ids_of_masks(ids, tmp_path):
    """It numbers its classes from 0, but for boxes; masks made of the same objects have them from 1."""
    (tmp_path / "classes.txt").write_text("\n".join(VOC.names[1:]))
    assert detect_palette(labelled(tmp_path, [ids], folders=VOC_FOLDERS))[0] is VOC


def test_nnu_nets_ignored_label_and_the_decathlons_numbers_are_read_and_regions_are_not(tmp_path):
    ignored = '{"labels": {"background": 0, "road": 1, "ignore": 2}}'
    assert palette_of(tmp_path, "dataset.json", ignored).source_ids == ((0, 0), (1, 1), (2, 255))
    assert palette_of(tmp_path, "dataset.json", '{"labels": {"0": "sky", "1": "road"}}').names == ("sky", "road")
    assert palette_of(tmp_path, "dataset.json", '{"labels": {"background": 0, "all": [1, 2], "core": 2}}') is None


def test_ade20k_counts_from_1_and_0_is_no_class(tmp_path):
    rows = "".join(f"{index}\t0.1\t9\t1\t0\t{name}\n" for index, name in ((1, "wall"), (2, "door, gate"), (3, "door")))
    palette = palette_of(tmp_path, "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + rows)
    assert palette.names == ("wall", "door 2", "door 3")
    assert palette.source_ids == ((0, 255), (1, 0), (2, 1), (3, 2))


def test_classes_of_a_tool_are_not_taken_for_vocs_because_it_writes_vocs_layout_and_colours(tmp_path):
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    raw = labelled(tmp_path, VOC.colorize(np.uint8([[0, 1], [1, 2]])), folders=VOC_FOLDERS)
    palette, reason, _ = detect_palette(raw)
    assert palette.names == ("background", "road", "sea")
    assert reason == f"palette of 3 classes, listed in {tmp_path}/labelmap.txt"


@pytest.mark.parametrize(
    ("encoding", "road"), [("utf-16", "stra\xdfe"), ("utf-8-sig", "stra\xdfe"), ("latin-1", "stra\ufffde")]
)
def test_a_list_in_another_encoding_is_never_replaced_by_a_built_in_palette(encoding, road, tmp_path):
    (tmp_path / "labelmap.txt").write_bytes(LABELMAP.replace("road", "stra\xdfe").encode(encoding))
    raw = labelled(tmp_path, VOC.colorize(np.uint8([[0, 1], [1, 2]])), folders=VOC_FOLDERS)
    assert detect_palette(raw)[0].names == ("background", road, "sea")


def test_a_list_that_does_not_know_the_labels_is_passed_over_and_named(tmp_path):
    (tmp_path / "class_names.txt").write_text(FORMS["class_names.txt"])
    palette, reason, is_listed = detect_palette(labelled(tmp_path, [[0, 3, 20]], folders=VOC_FOLDERS))
    passed = f" (not {tmp_path}/class_names.txt, which does not know the labels)"
    assert palette is VOC and reason == f"palette voc, as is usual for voc sets{passed}" and not is_listed


def test_a_list_that_lacks_a_few_values_is_never_replaced_by_a_built_in_palette(tmp_path):
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    stray = np.array([[1, 1, 1, 2, 2, 3]])
    raw = labelled(tmp_path, *([VOC.colorize(np.uint8([[0, 1, 2]]))] * 3), VOC.colorize(stray), folders=VOC_FOLDERS)
    fault = (
        rf"{tmp_path}/labelmap\.txt lists 3 classes, but the sampled labels also hold 1 colour \(128, 128, 0\), which "
        rf"it does not know\. `deeplab doctor {tmp_path}` shows where"
    )
    with pytest.raises(InputError, match=fault):
        detect_palette(raw)
    with pytest.raises(InputError, match=fault):
        recognise(raw)
    assert detect_palette(raw, "voc")[0] is VOC


@pytest.mark.parametrize("colormap", [None, VOC.colormap()])
def test_a_list_that_lacks_an_id_is_never_replaced_by_a_built_in_palette(tmp_path, colormap):
    (tmp_path / "codes.txt").write_text("\n".join(f"k{n}" for n in range(10)))
    folders = ("images/train", "labels/train")
    raw = labelled(tmp_path, *[[[*range(11)]]] * 3, folders=folders, colormap=colormap)
    with pytest.raises(InputError, match=r"codes\.txt lists 10 classes, but .* hold (ids 10|.*\(64, 128, 0\))"):
        recognise(raw)


def test_a_built_in_palette_that_joins_the_listed_classes_stays(tmp_path):
    colors = [*CAMVID.colors, *(color for color, _ in CAMVID.aliases)]
    lines = [f"{r} {g} {b}\t\tclass {n}" for n, (r, g, b) in enumerate(colors)]
    (tmp_path / "label_colors.txt").write_text("\n".join([*lines, "0 0 0\t\tVoid"]))
    assert detect_palette(labelled(tmp_path, np.uint8([colors])))[0] is CAMVID


def test_a_list_of_colours_says_nothing_of_numbers(tmp_path):
    (tmp_path / "class_dict.csv").write_text(FORMS["class_dict.csv"])
    with pytest.raises(InputError, match="cannot tell the palette"):
        detect_palette(labelled(tmp_path, [[0, 1, 2]]))


def test_a_list_of_greys_reads_masks_of_0_and_255(tmp_path):
    (tmp_path / "label_class_dict.csv").write_text("name,r,g,b\nroad,255,255,255\nbackground,0,0,0\n")
    raw = labelled(tmp_path, [[0, 255]])
    palette, _, _ = detect_palette(raw)
    assert palette.names == ("road", "background")
    assert decode_ids(Path(raw.labels[0]).read_bytes(), palette).tolist() == [[1, 0]]


def test_of_two_lists_that_read_the_indices_the_one_with_the_colours_is_taken(tmp_path):
    entries = [{"name": f"old {n}", "color": [9, n, n]} for n in range(3)]
    (tmp_path / "config_v1.2.json").write_text(json.dumps({"labels": entries}))
    (tmp_path / "config_v2.0.json").write_text(FORMS["config_v2.0.json"])
    raw = labelled(tmp_path, [[0, 1, 2]], colormap=VOC.colormap())
    assert detect_palette(raw)[0].names == ("background", "road", "sea")


def test_two_lists_that_read_the_labels_alike_are_refused_by_name(tmp_path):
    (tmp_path / "codes.txt").write_text("sky\ntree\n")
    (tmp_path / "class_names.txt").write_text("road\nsea\n")
    with pytest.raises(InputError, match=r"class_names\.txt and .*codes\.txt name different classes"):
        detect_palette(labelled(tmp_path, [[0, 1]]))


def test_lists_are_found_in_the_set_and_in_its_folder_of_training_images(tmp_path):
    touch(tmp_path, "images/train/a.jpg", "labels/train/a.png", "images/codes.txt", "train/_classes.csv", "codes.txt")
    assert scan(str(tmp_path)).class_lists == (f"{tmp_path}/codes.txt", f"{tmp_path}/train/_classes.csv")


def test_a_list_beside_palette_json_is_not_read(tmp_path):
    mine = Palette("mine", ("a", "b"), ((1, 1, 1), (2, 2, 2)))
    (tmp_path / "palette.json").write_text(json.dumps(mine.to_json()))
    (tmp_path / "codes.txt").write_text("sky\ntree\n")
    touch(tmp_path, "images/a.jpg")
    write_label(tmp_path / "labels/a.png", [[0, 1]])
    assert detect_palette(scan(str(tmp_path)))[0] == mine
