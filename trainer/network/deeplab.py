"""DeepLabV3+ as a function of plain numbers, and the model folder it is saved in.

Chen et al., "Encoder-decoder with atrous separable convolution for semantic image segmentation", arXiv:1802.02611. The
network is fully convolutional and takes pictures of any size; see `trainer.network.layers` for where its features lie.
"""

from __future__ import annotations

import os
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from trainer import storage
from trainer.formats.cards import CARD, WEIGHTS, ModelCard, load_card, save_card
from trainer.network.backbones import mobilenet_v2, xception_65
from trainer.network.layers import BroadcastLike, Norm, Subpixel, Upsample, conv, layer_name, separable
from trainer.options import InputError

__all__ = ["ModelCard", "deeplab_v3_plus", "load_card", "load_model", "predictor", "save_model"]

BACKBONES = ("mobilenet_v2", "xception_65")
HEADS = ("subpixel", "bilinear")
OUTPUT_STRIDES = (8, 16, 32)
# Of ASPP and decoder; the backbones have their own.
_EPSILON = 1e-5


def _check(num_classes: int, backbone: str, alpha: float, output_stride: int, head: str) -> None:
    if not isinstance(num_classes, int) or not 1 <= num_classes <= 255:
        raise InputError(f"num_classes must be a whole number from 1 to 255, got {num_classes!r}")
    if backbone not in BACKBONES:
        raise InputError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
    if not isinstance(alpha, int | float) or not 0 < alpha <= 4:
        raise InputError(f"alpha must be a number above 0 and at most 4, got {alpha!r}")
    if backbone == "xception_65" and alpha != 1:
        raise InputError(f"alpha is for mobilenet_v2 only; leave it at 1 for xception_65, got {alpha}")
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"output_stride must be 8, 16 or 32, got {output_stride!r}")
    if head not in HEADS:
        raise InputError(f"head must be one of {', '.join(HEADS)}, got {head!r}")


def _aspp(x: Any, rates: Sequence[int], norm: Norm, dropout: float) -> Any:
    """Atrous spatial pyramid pooling (arXiv:1706.05587, section 3.3): [B, H, W, C] -> [B, H, W, 256]."""
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="image_pooling-mean")(x)
    pooled = conv(pooled, "image_pooling", 256, norm=norm)
    branches = [BroadcastLike(name="image_pooling-broadcast")([pooled, x]), conv(x, "aspp0", 256, norm=norm)]
    branches += [separable(x, f"aspp{n}", 256, norm=norm, rate=rate) for n, rate in enumerate(rates, start=1)]
    x = layers.Concatenate(name="concat")(branches)
    x = conv(x, "concat_projection", 256, norm=norm)
    return layers.Dropout(dropout, name="concat_projection-dropout")(x)


def _decoder(x: Any, low_level: Any, stride: int, norm: Norm) -> Any:
    """Refine features of `stride` against the low-level features (arXiv:1802.02611): -> [B, H/4, W/4, 256]."""
    low_level = conv(low_level, "decoder/feature_projection0", 48, norm=norm)
    x = Upsample(stride // 4, name="decoder-upsample")([x, low_level])
    x = layers.Concatenate(name="decoder-concat")([x, low_level])
    x = separable(x, "decoder/decoder_conv0", 256, norm=norm)
    return separable(x, "decoder/decoder_conv1", 256, norm=norm)


def deeplab_v3_plus(
    num_classes: int,
    *,
    backbone: str = "mobilenet_v2",
    alpha: float = 1.0,
    output_stride: int = 16,
    head: str = "subpixel",
    decoder: bool | None = None,
    aspp_rates: Sequence[int] | None = None,
    dropout: float = 0.1,
    momentum: float = 0.99,
) -> keras.Model:
    """DeepLabV3+ for pictures of any size.

    Input: [B, H, W, 3] RGB in 0..255, uint8 or float; the scaling to [-1, 1] is part of the network. Output: float32
    logits [B, H, W, num_classes], under mixed precision too.

    Args:
      num_classes: 1 to 255.
      backbone: "mobilenet_v2" or "xception_65".
      alpha: factor on MobileNetV2's channels.
      output_stride: 8, 16 or 32; the stride of the backbone's last features.
      head: "bilinear" (1x1 convolution, then interpolation) or "subpixel" (1x1 convolution to num_classes·s² channels,
        then pixel shuffle; s is 4 with the decoder, `output_stride` without).
      decoder: whether to refine at stride 4; None: as published (Xception has it, MobileNetV2 has not).
      aspp_rates: atrous rates of ASPP; None: as published (MobileNetV2 has no atrous branches; Xception 6, 12, 18 at
        output stride 16, twice that at 8, half at 32).
      dropout: share of the features before the head (or decoder) dropped in training; published 0.1.
      momentum: of batch normalisation. The published 0.9997 suits 30,000 steps and more: in fine-tuning over a
        thousand steps the moving statistics would stay those of the old pictures, and inference differ from training.

    Raises:
      InputError: an argument is outside its range.
    """
    _check(num_classes, backbone, alpha, output_stride, head)
    xception = backbone == "xception_65"
    decoder = xception if decoder is None else decoder
    if aspp_rates is None:
        aspp_rates = [rate * 16 // output_stride for rate in (6, 12, 18)] if xception else []
    stride = 4 if decoder else output_stride
    block_stride = stride if head == "subpixel" else None
    norm = Norm(momentum, _EPSILON)

    image = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scale")(image)
    if xception:
        x, low_level = xception_65(x, output_stride=output_stride, block_stride=block_stride, momentum=momentum)
    else:
        x, low_level = mobilenet_v2(
            x, alpha=alpha, output_stride=output_stride, block_stride=block_stride, momentum=momentum
        )
    x = _aspp(x, aspp_rates, norm, dropout)
    if decoder:
        x = _decoder(x, low_level, output_stride, norm)
    # The loss needs logits of full precision whatever the policy of the layers before.
    name = layer_name("logits/semantic")
    if head == "subpixel":
        x = Subpixel(num_classes, stride, dtype="float32", name=name)([x, image])
    else:
        x = layers.Conv2D(num_classes, 1, dtype="float32", name=name)(x)
        x = Upsample(stride, dtype="float32", name="logits-upsample")([x, image])
    return keras.Model(image, x, name="deeplab_v3_plus")


def save_model(folder: str, model: keras.Model, card: ModelCard) -> None:
    """Write `model.keras` and `model.json` into `folder` (local or gs://), each whole or not at all.

    The optimizer's state is left out.
    """
    # A second model over the same layers has their weights but no optimizer.
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, WEIGHTS)
        bare.save(path)
        with open(path, "rb") as file:
            storage.write(storage.join(folder, WEIGHTS), file.read())
    save_card(folder, card)


def _reason(error: Exception) -> str:
    """The telling line of an error: Keras puts a count of the layers concerned before it."""
    first, *rest = (str(error).strip() or type(error).__name__).split("\n\n")
    return (rest[0] if rest and first.startswith("A total of") else first).splitlines()[0]


def _check_archive(path: str) -> None:
    # Keras seeks in the weights, and from Python 3.12 on zipfile gives up a member's checksum at a seek forwards.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")


def load_weights(model: keras.Model, folder: str) -> None:
    """Read the weights in `folder` into `model`, which must have the same architecture.

    Only arrays are read: Keras opens `model.weights.h5` inside the archive, refuses links to other files, and never
    looks at the layer descriptions beside it.

    Raises:
      InputError: the file is missing, damaged, or of another architecture.
    """
    path = storage.join(folder, WEIGHTS)
    try:
        local = storage.localize(path)
        _check_archive(local)
        model.load_weights(local)
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a model folder: {WEIGHTS} is missing; give the output of `deeplab train`"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged or does not belong to {CARD} beside it ({_reason(error)}); make the model again"
        ) from None


def load_model(folder: str) -> tuple[keras.Model, ModelCard]:
    """The model and card in `folder` (local or gs://): rebuilt from `model.json`'s numbers, then its weights read.

    Raises:
      InputError: the folder holds no model, or a damaged one.
    """
    card = load_card(folder)
    try:
        model = deeplab_v3_plus(**card.architecture)
    except (TypeError, InputError) as error:
        raise InputError(f"{storage.join(folder, CARD)}: {error}") from None
    load_weights(model, folder)
    return model, card


def predictor(model: keras.Model, what: str = "ids") -> Callable[[np.ndarray], np.ndarray]:
    """A thread-safe function from pictures to predictions; under TensorFlow one trace serves all sizes.

    Args:
      model: from `deeplab_v3_plus`.
      what: "ids" or "probabilities".

    Returns:
      uint8 [B, H, W, 3] -> "ids": uint8 [B, H, W], the class of the greatest logit; "probabilities": float32
      [B, H, W, num_classes], the softmax.
    """
    if what not in ("ids", "probabilities"):
        raise ValueError(f"what must be 'ids' or 'probabilities', got {what!r}")
    logits = model.output
    output = ops.cast(ops.argmax(logits, axis=-1), "uint8") if what == "ids" else ops.softmax(logits, axis=-1)
    network = keras.Model(model.input, output)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
        run = tf.function(
            lambda images: network(images, training=False), input_signature=signature
        ).get_concrete_function()
        return lambda images: run(tf.convert_to_tensor(images, tf.uint8)).numpy()
    lock = threading.Lock()

    def predict(images: np.ndarray) -> np.ndarray:
        with lock:
            return network.predict_on_batch(images)

    return predict
