"""How the names of labels differ from those of their images, and when no rule is taken for one."""

from __future__ import annotations

import pytest

from pipelines.inputs.names import Naming, naming, spellings


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (["x/1", "x/2"], ["x/1_mask", "x/2_mask"], "labels named *_mask like images *"),
        (["0016E5_07959", "0016E5_07961"], ["0016E5_07959_L", "0016E5_07961_L"], "labels named *_L like images *"),
        (["image_1", "image_2"], ["label_1", "label_2"], "labels named label_* like images image_*"),
        (["7_sat", "8_sat"], ["7_mask", "8_mask"], "labels named *_mask like images *_sat"),
        (["1", "2"], ["mask-1", "mask-2"], "labels named mask-* like images *"),
        (["a_1"], ["a_1_gt_fine"], "labels named *_gt_fine like images *"),
        (["d", "e"], ["a_gt", "b_gt", "c_gt", "d_gt", "e_gt"], "labels named *_gt like images *"),
        (["cam 1.5m"], ["cam 1.5m.seg"], "labels named *.seg like images *"),
        (["a", "b", "c"], ["a_gt", "b_gt", "c_gt", "legend"], "labels named *_gt like images *"),
    ],
)
def test_one_rule_leads_from_labels_to_images(images, labels, said):
    rule = naming(images, labels)
    assert str(rule) == said
    assert {rule.image_of(label) for label in labels} & {*images}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a", "b"], ["a", "b_mask"]),  # one is paired already
        (["a", "b"], ["c", "d"]),
        (["a", "b"], ["a_color", "b_ids"]),  # of several kinds
        (["a_1", "a_2", "a_3"], ["a_4", "a_5", "a_6"]),
        (["a", "b", "c"], ["a_gt", "y_gt", "z_gt"]),  # most are without an image
        (["1", "2"], ["11", "21"]),  # no separator
        (["x/a"], ["y/a_gt"]),
        ([], ["a"]),
        (["a"], []),
    ],
)
def test_what_may_be_chance_is_no_rule(images, labels):
    assert naming(images, labels) is None


def test_names_that_do_not_follow_the_rule_stay():
    rule = Naming(("", "_sat"), ("m_", "_mask"))
    assert rule.image_of("d/m_7_mask") == "d/7_sat"
    assert [rule.image_of(name) for name in ("m__mask", "7_mask", "m_7", "d/m_7_gt")] == [
        *("m__mask", "7_mask", "m_7", "d/m_7_gt")
    ]


@pytest.mark.parametrize(
    ("entry", "paths"),
    [
        ("a", ("a",)),
        ("a.jpg", ("a.jpg", "a")),
        ("a -1", ("a -1", "a")),
        ("my film", ("my film",)),  # a name with a blank, not a name and its label
        ("a 1 1 1", ("a 1 1 1", "a 1 1", "a")),
        ("i/a.jpg l/a.png", ("i/a.jpg l/a.png", "i/a.jpg l/a", "i/a.jpg", "i/a")),
        ("i\\a", ("i\\a", "i/a")),
    ],
)
def test_a_line_of_a_list_may_mean_these_paths(entry, paths):
    assert spellings(entry) == paths
