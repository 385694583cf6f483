"""The networks that are compared in training and in inference, each as those who made it would build it.

* `deeplab`: what `deeplab train` builds by default.
* `deeplab, bilinear`: the same with a bilinear head, so that what the other head takes can be seen.
* `deeplab, like ...`: the same program with the strides, the branches, the decoder and the head of the network it is
  compared with, so that what differs is how they are computed.
* `keras-hub`: its DeepLabV3+ with the decoder, on the same backbone. Of ResNet-50 it has one with DeepLab's stem; for
  MobileNetV2 it takes that of Keras Applications, up to its last features of 320 channels. Both end at stride 32:
  keras-hub has no atrous backbones.
* `Keras port`: the architecture of github.com/bonlime/keras-deeplab-v3-plus with MobileNetV2, in Keras's own layers:
  features of stride 8, two branches, no decoder, logits that are resized. It has no ResNet.
* those of PyTorch's libraries, see `torch_networks.py`.

All take uint8 images; those that expect others get Keras's Rescaling before them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from trainer.network.deeplab import deeplab_v3_plus

BACKBONES = ("mobilenet_v2", "resnet_v1_50_beta")

OURS = {"subpixel": "kernels", "decoder": True}
"""What `deeplab train` builds, see `trainer.train.model.architecture`."""
LIKE_KERAS_HUB = {"output_stride": 32, "aspp_rates": [6, 12, 18], "decoder": True, "head": "bilinear"}
LIKE_THE_PORT = {"output_stride": 8, "decoder": False, "head": "bilinear"}
LIKE_SMP = {"output_stride": 16, "aspp_rates": [12, 24, 36], "decoder": True, "head": "bilinear"}
LIKE_MMSEGMENTATION = LIKE_SMP | {"output_stride": 8}
"""But for the channels of its ASPP: 512, where the other networks have 256."""


def networks(backbone: str, classes: int, height: int, width: int) -> dict[str, Callable[[], keras.Model]]:
    """What builds each network, by name; the first is ours.

    Args:
      backbone: one of BACKBONES.
      classes: how many there are.
      height, width: of the images (pixels), for networks that take one size only.
    """
    ours = functools.partial(deeplab_v3_plus, classes, backbone=backbone)
    built: dict[str, Callable[[], keras.Model]] = {
        "deeplab": lambda: ours(**OURS),
        "deeplab, bilinear": lambda: ours(decoder=True, head="bilinear"),
        "deeplab, like keras-hub": lambda: ours(**LIKE_KERAS_HUB),
        "keras-hub": lambda: keras_hub_network(backbone, classes, height, width),
    }
    if backbone == "mobilenet_v2":
        built["deeplab, like the port"] = lambda: ours(**LIKE_THE_PORT)
        built["Keras port"] = lambda: keras_port(classes, height, width)
    return built


def networks_of_torch(classes: int) -> dict[str, Callable[[], keras.Model] | None]:
    """The networks of `torch_networks.py`, None here, each after ours with its strides, branches, decoder and head."""
    ours = functools.partial(deeplab_v3_plus, classes, backbone="mobilenet_v2")
    return {
        "deeplab, like smp": lambda: ours(**LIKE_SMP),
        "smp": None,
        "deeplab, like MMSegmentation": lambda: ours(**LIKE_MMSEGMENTATION),
        "MMSegmentation": None,
    }


def _on_bytes(network: keras.Model, height: int, width: int) -> keras.Model:
    image = keras.Input((height, width, 3), dtype="uint8")
    return keras.Model(image, network(layers.Rescaling(1 / 127.5, offset=-1.0)(image)))


def keras_hub_network(backbone: str, classes: int, height: int, width: int) -> keras.Model:
    """DeepLabV3+ of keras-hub, as its preset for Pascal VOC is configured."""
    import keras_hub

    if backbone == "mobilenet_v2":
        mobilenet = keras.applications.MobileNetV2((height, width, 3), include_top=False, weights=None)
        ends = {"P2": "block_2_add", "P3": "block_5_add", "P4": "block_12_add", "P5": "block_16_project_BN"}
        outputs = {level: mobilenet.get_layer(name).output for level, name in ends.items()}
        encoder = keras.Model(mobilenet.input, outputs["P5"])
        encoder.pyramid_outputs = outputs
    else:
        encoder = keras_hub.models.ResNetBackbone(
            input_conv_filters=[64, 64, 128],
            input_conv_kernel_sizes=[3, 3, 3],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=[3, 4, 6, 3],
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="bottleneck_block",
        )
    whole = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
    )
    return _on_bytes(keras_hub.models.DeepLabV3ImageSegmenter(whole, classes), height, width)


def _normal(x: Any, epsilon: float, activation: str | None) -> Any:
    x = layers.BatchNormalization(epsilon=epsilon)(x)
    return layers.Activation(activation)(x) if activation else x


def _port_block(x: Any, channels: int, expansion: int, stride: int, rate: int, is_residual: bool) -> Any:
    inputs = x
    if expansion > 1:
        x = layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False)(x)
        x = _normal(x, 1e-3, "relu6")
    x = layers.DepthwiseConv2D(3, strides=stride, padding="same", dilation_rate=rate, use_bias=False)(x)
    x = _normal(x, 1e-3, "relu6")
    x = _normal(layers.Conv2D(channels, 1, use_bias=False)(x), 1e-3, None)
    return layers.Add()([inputs, x]) if is_residual else x


# Channels, blocks, stride and rate of the first, rate of the others: stride 8 is kept from the fourth group on.
_PORT = ((24, 2, 2, 1, 1), (32, 3, 2, 1, 1), (64, 4, 1, 1, 2), (96, 3, 1, 2, 2), (160, 3, 1, 2, 4), (320, 1, 1, 4, 4))


def keras_port(classes: int, height: int, width: int) -> keras.Model:
    """The Keras port's DeepLab on MobileNetV2, for images of one size."""
    image = keras.Input((height, width, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(image)
    x = _port_block(_normal(x, 1e-3, "relu6"), 16, 1, 1, 1, False)
    for channels, blocks, stride, first_rate, rate in _PORT:
        x = _port_block(x, channels, 6, stride, first_rate, False)
        for _ in range(blocks - 1):
            x = _port_block(x, channels, 6, 1, rate, True)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = _normal(layers.Conv2D(256, 1, use_bias=False)(pooled), 1e-5, "relu")
    pooled = layers.Resizing(*x.shape[1:3], interpolation="bilinear")(pooled)
    x = _normal(layers.Conv2D(256, 1, use_bias=False)(x), 1e-5, "relu")
    x = layers.Concatenate()([pooled, x])
    x = _normal(layers.Conv2D(256, 1, use_bias=False)(x), 1e-5, "relu")
    x = layers.Conv2D(classes, 1)(layers.Dropout(0.1)(x))
    return _on_bytes(keras.Model(image, layers.Resizing(height, width, interpolation="bilinear")(x)), height, width)
