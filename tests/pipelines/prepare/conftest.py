from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.drawn.prepared import prepare
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import draw_image


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Eight images for training and three for validation."""
    return write_rawset(tmp_path_factory.mktemp("raw"), {"train": 8, "val": 3})


@pytest.fixture(scope="session")
def prepared(source, tmp_path_factory):
    """The records of `source`, with two copies, in four shards for training; tests must not change them."""
    output = tmp_path_factory.mktemp("prepared") / "records"
    assert prepare(source, output, "--copies", "2", "--shards", "4", "--direct_num_workers", "1") == 0
    return output


@pytest.fixture(scope="session")
def spoilt(tmp_path_factory):
    """A raw set of two good images and one of each kind of trouble."""
    source = write_rawset(tmp_path_factory.mktemp("spoilt"), {"train": 2})
    for name in ("truncated", "empty", "text", "unknown", "size", "large", "label"):
        write_pair(source, "train", f"{name}.jpg", *draw_image(5))
    folder = source / "images/train"
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:900])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is not an image")
    label = np.zeros([96, 96], np.uint8)
    label[3, 4:9] = 37
    Image.fromarray(label).save(source / "labels/train/unknown.png")
    Image.fromarray(label[:50] * 0).save(source / "labels/train/size.png")
    Image.new("RGB", (400, 300)).save(folder / "large.jpg")
    (source / "labels/train/label.png").unlink()
    return source
