"""What becomes of a record in training: the window and its decoding."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.drawn.records import PALETTE, draw_image, record
from trainer.formats import images
from trainer.formats.examples import encode
from trainer.train import crops
from trainer.train.crops import Memory, Window, window
from trainer.train.options import StreamOptions

OPTIONS = StreamOptions(crop=64, batch_size=2, scale_min=0.5, scale_max=1.5)


def uniform(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_a_window_lies_within_the_image_or_around_it():
    assert window(uniform(0.5, 0, 0.999, 0.4), 100, 200, OPTIONS) == Window(0, 136, 64, 64, 0, 0, 64, True)
    # At scale 0.5 the square has 128 pixels a side, of which an image of 100 x 200 covers 100 rows.
    assert window(uniform(0, 0.999, 0, 0.6), 100, 200, OPTIONS) == Window(0, 0, 100, 128, 28, 0, 128, False)


def test_windows_are_not_mirrored_without_flip():
    assert not window(uniform(0.5, 0, 0, 0), 64, 64, StreamOptions(crop=64, flip=False)).mirrored


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_small_window_is_what_lies_there_in_the_whole_image(subsampling):
    """Where chroma is stored at half the size, colours at the window's ends depend on those beside it."""
    buffer = io.BytesIO()
    Image.fromarray(draw_image(3, 96, 128)[0]).save(buffer, "JPEG", subsampling=subsampling)
    data, rng = buffer.getvalue(), np.random.default_rng(0)
    whole = images.decode_image(data)
    for x in (0, 16, 48, 65, 78):
        y, height, width = (int(rng.integers(*bounds)) for bounds in ((0, 40), (20, 56), (20, 50)))
        part = Window(y, x, height, width, 0, 0, 64, False)
        found = crops._decode_window(data, 96, 128, part)
        np.testing.assert_array_equal(found, whole[y : y + height, x : x + width])


def test_an_image_of_another_size_than_its_record_gives_is_refused():
    data = images.encode_png(draw_image(3, 60, 70)[0])
    with pytest.raises(ValueError, match="its image does not have the size that the record states"):
        crops._decode_window(data, 70, 60, Window(0, 0, 40, 40, 0, 0, 40, False))


def test_a_crop_of_a_label_with_an_id_that_is_no_class_is_refused():
    """Under JAX the loss would take it for a pixel that is predicted without a fault."""
    _, label = draw_image(3)
    label[40, 40] = len(PALETTE.names)
    one = encode(replace(record(3), label=images.encode_png(label)))
    whole = StreamOptions(crop=96, batch_size=2, scale_min=1.0, scale_max=1.0)
    with ThreadPoolExecutor(1) as workers, pytest.raises(ValueError, match="its label has ids that are not classes"):
        crops.crops([lambda: one], np.zeros([1, 4], np.float32), whole, PALETTE, workers, Memory())


def test_memory_is_used_again_when_no_view_of_it_is_left():
    memory = Memory()
    first = memory.array((4, 5), "float32")
    assert (first.shape, first.dtype) == ((4, 5), np.float32)
    row, place = first[1], first.ctypes.data
    assert place % crops.ALIGNMENT == 0
    del first
    other = memory.array((4, 5), "float32")
    assert other.ctypes.data != place, "somebody still looks at it"
    del row
    assert memory.array((4, 5), "float32").ctypes.data == place
