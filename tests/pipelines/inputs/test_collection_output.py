"""Nothing in the output folder is an image, and no mask lands among the images, whatever links lead there."""

from __future__ import annotations

import pytest

from pipelines.inputs.collection import Listing, find
from tests.drawn.rawset import touch
from trainer import storage
from trainer.options import InputError


def listing(source, output) -> Listing:
    return find(str(source), str(output))


def names(source, output) -> list[str]:
    return [image.name for image in listing(source, output).images]


LEFT_OUT = ("files left out because they lie in the output folder: 1",)


def test_masks_below_the_input_are_no_images_however_they_are_reached(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/out/b.png", "elsewhere/b.png")
    assert names(tmp_path / "in", tmp_path / "in/out") == ["a"]
    (tmp_path / "link").symlink_to(tmp_path / "in/out")
    found = listing(tmp_path / "in", tmp_path / "link")
    assert [image.name for image in found.images] == ["a"] and found.notes == LEFT_OUT
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "in", tmp_path / "elsewhere") == ["a", "out/b"]
    assert names(f"{tmp_path}/in/**/*.png", tmp_path / "elsewhere") == ["out/b"]


def test_a_link_to_a_mask_is_no_image(tmp_path):
    touch(tmp_path, "in/a.jpg", "out/b.png")
    (tmp_path / "in/b.png").symlink_to(tmp_path / "out/b.png")
    found = listing(tmp_path / "in", tmp_path / "out")
    assert [image.name for image in found.images] == ["a"] and found.notes == LEFT_OUT


def test_the_folder_of_the_images_is_no_output(tmp_path):
    touch(tmp_path, "in/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for source, output in (("in", "in"), ("in", "link"), ("link", "in"), ("in/", "in/../in")):
        with pytest.raises(InputError, match="input and output are the same folder"):
            listing(f"{tmp_path}/{source}", f"{tmp_path}/{output}")


@pytest.mark.parametrize("source", ["images", "images/a.png", "images/*.png", "images/l.txt", "link"])
def test_images_in_the_output_are_refused(tmp_path, source):
    touch(tmp_path, "images/a.png")
    (tmp_path / "images/l.txt").write_text("a.png\n")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    with pytest.raises(InputError, match=r"lies in the output folder .*; choose another folder for the masks"):
        listing(tmp_path / source, tmp_path)


def test_what_a_list_names_in_the_output_is_a_reject(tmp_path):
    touch(tmp_path, "in/a.png", "out/b.png")
    (tmp_path / "l.txt").write_text("in/a.png\nout/b.png\n")
    found = listing(tmp_path / "l.txt", tmp_path / "out")
    assert [image.path for image in found.images] == [str(tmp_path / "in/a.png")]
    assert found.unusable == (
        (str(tmp_path / "out/b.png"), "it lies in the output folder; choose another one for the masks"),
    )


def test_no_mask_lands_among_the_images_through_a_link_in_the_output(tmp_path):
    touch(tmp_path, "in/train/a.png", "in/val/b.png", "out/x")
    (tmp_path / "out/train").symlink_to(tmp_path / "in/train")
    found = listing(tmp_path / "in", tmp_path / "out")
    assert [image.name for image in found.images] == ["val/b"]
    ((path, reason),) = found.unusable
    assert path == str(tmp_path / "in/train/a.png")
    assert reason == f"its mask would lie in {tmp_path}/in/train, among the images; choose another output folder"


def test_outputs_in_the_cloud_are_told_from_inputs(bucket, tmp_path):
    root = f"{bucket}/{tmp_path.name}"
    for name in ("a.jpg", "out/b.png", "output/c.jpg"):
        storage.write(f"{root}/{name}", b"1")
    assert names(root, f"{root}/out/") == ["a", "output/c"]
    with pytest.raises(InputError, match="same folder"):
        listing(root, f"{root}/")
    with pytest.raises(InputError, match="lies in the output folder"):
        listing(f"{root}/out", root)
