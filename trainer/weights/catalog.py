"""Published weights by name.

Sources: github.com/tensorflow/models, research/deeplab/g3doc/model_zoo.md; and `keras.applications`, whose source has
the MD5 sums given here. No checksums were published for the former; they are downloaded over an encrypted connection
from the bucket download.tensorflow.org.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from trainer import storage
from trainer.network.options import BACKBONES
from trainer.options import InputError
from trainer.weights.download import fetch, is_web

_ZOO = "https://storage.googleapis.com/download.tensorflow.org/models/"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"


class Entry(NamedTuple):
    """Published weights.

    Attributes:
      backbone: the backbone of the weights.
      url: the address of an archive with a TensorFlow checkpoint, or of an HDF5 file.
      md5: the MD5 of that file, in hex digits; "" if none was published.
    """

    backbone: str
    url: str
    md5: str = ""


def _zoo(backbone: str, **files: str) -> dict[str, Entry]:
    return {name: Entry(backbone, f"{_ZOO}{file}.tar.gz") for name, file in files.items()}


CATALOG = {
    **_zoo(
        "mobilenet_v2",
        mobilenetv2_dm05_coco_voc_trainaug="deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01",
        mobilenetv2_dm05_coco_voc_trainval="deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
        mobilenetv2_coco_voc_trainaug="deeplabv3_mnv2_pascal_train_aug_2018_01_29",
        mobilenetv2_coco_voc_trainval="deeplabv3_mnv2_pascal_trainval_2018_01_29",
        mobilenetv2_coco_cityscapes_trainfine="deeplabv3_mnv2_cityscapes_train_2018_02_05",
        mobilenetv2_ade20k_train="deeplabv3_mnv2_ade20k_train_2018_12_03",
    ),
    "mobilenet_v2_imagenet": Entry(
        "mobilenet_v2", f"{_KERAS}mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    ),
    **_zoo(
        "xception_65",
        xception65_coco_voc_trainaug="deeplabv3_pascal_train_aug_2018_01_04",
        xception65_coco_voc_trainval="deeplabv3_pascal_trainval_2018_01_04",
        xception65_cityscapes_trainfine="deeplabv3_cityscapes_train_2018_02_06",
        xception65_ade20k_train="deeplabv3_xception_ade20k_train_2018_05_29",
        xception_65_imagenet="deeplabv3_xception_2018_01_04",
        xception_65_imagenet_coco="xception_65_coco_pretrained_2018_10_02",
    ),
    **_zoo(
        "xception_71",
        xception71_dpc_cityscapes_trainfine="deeplab_cityscapes_xception71_trainfine_2018_09_08",
        xception71_dpc_cityscapes_trainval="deeplab_cityscapes_xception71_trainvalfine_2018_09_08",
    ),
    **_zoo(
        "mobilenet_v3_large_seg",
        mobilenetv3_large_cityscapes_trainfine="deeplab_mnv3_large_cityscapes_trainfine_2019_11_15",
    ),
    **_zoo(
        "mobilenet_v3_small_seg",
        mobilenetv3_small_cityscapes_trainfine="deeplab_mnv3_small_cityscapes_trainfine_2019_11_15",
    ),
    "mobilenet_v3_large_seg_imagenet": Entry(
        "mobilenet_v3_large_seg",
        f"{_KERAS}mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
    "mobilenet_v3_small_seg_imagenet": Entry(
        "mobilenet_v3_small_seg",
        f"{_KERAS}mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836",
    ),
    **_zoo("xception_41", xception_41_imagenet="xception_41_2018_05_09"),
    **_zoo("xception_71", xception_71_imagenet="xception_71_2018_05_09"),
    **_zoo("resnet_v1_50_beta", resnet_v1_50_beta_imagenet="resnet_v1_50_2018_05_04"),
    **_zoo("resnet_v1_101_beta", resnet_v1_101_beta_imagenet="resnet_v1_101_2018_05_04"),
}
"""Names as in the model zoo, and `BACKBONE_imagenet`."""

NOT_TAKEN = {
    "edgetpu-deeplab": "MobileNet-EdgeTPU 1.0",
    "edgetpu-deeplab-slim": "MobileNet-EdgeTPU 0.75",
}
"""Name in the model zoo -> its backbone, for backbones that are not supported."""

IMAGENET = "imagenet"
"""Name for the ImageNet weights of the backbone that is trained."""


def _check_name(path: str) -> None:
    """Raises InputError if `path` is not a file, but similar to a name."""
    names = {name.lower(): name for name in (*CATALOG, IMAGENET)}
    near = [names[name] for name in difflib.get_close_matches(path.lower(), names, n=3, cutoff=0.8)]
    if near and not storage.exists(path) and not storage.exists(f"{path}.index"):
        raise InputError(f"{path} is neither a file nor a name of published weights; similar names: {', '.join(near)}")


def _no_head(path: str) -> str:
    return f"{path}: ImageNet weights have no head to import; give them to `deeplab train --init-from`"


def locate(path: str, backbone: str = "") -> str:
    """The path of the weights: `path` itself, or the downloaded file for a name or web address.

    Args:
      path: a path or gs:// address, which is returned; an http(s):// address; or a name in CATALOG, unless there is a
        file or folder of that name.
      backbone: the backbone that the weights must have; "": any, with a head, which ImageNet weights lack.

    Raises:
      InputError: they are for another backbone, or one that is not supported; a name is misspelt; or see `fetch`.
      Unavailable: see `fetch`.
    """
    if is_web(path):
        return fetch(path)
    if unknown := NOT_TAKEN.get(path.lower()):
        known = ", ".join(BACKBONES)
        raise InputError(f"{path} are weights of {unknown}, which is not supported; give weights of one of {known}")
    if path == IMAGENET and not backbone:
        raise InputError(_no_head(path))
    entry = CATALOG.get(f"{backbone}_{IMAGENET}" if path == IMAGENET else path)
    if not entry or storage.exists(path) or storage.exists(f"{path}.index"):
        if not entry:
            _check_name(path)
        return path
    if not backbone and path.endswith(IMAGENET):
        raise InputError(_no_head(path))
    if backbone not in ("", entry.backbone):
        raise InputError(f"{path} are weights of {entry.backbone}; give --backbone {entry.backbone}, or other weights")
    return fetch(entry.url, entry.md5)
