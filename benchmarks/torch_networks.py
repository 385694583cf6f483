"""DeepLabV3+ of PyTorch's libraries on MobileNetV2, for `train_step.py` and `infer.py --torch PYTHON`.

Runs in an environment of its own, which need not have this project:

    python3 -m venv torch && torch/bin/pip install 'setuptools<81' torch segmentation-models-pytorch ftfy regex \\
        mmengine mmcv-lite==2.1.0 mmsegmentation==1.2.2
    python benchmarks/infer.py --torch torch/bin/python

* `smp`: segmentation-models-pytorch's, at stride 16.
* `MMSegmentation`: that of its config `mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024`, at stride 8, with
  ASPP of 512 channels; a step trains its auxiliary head too. Its batch norm is not synchronised, since there is one
  process. mmcv-lite lacks the compiled operators of mmcv, of which this network uses none.

Reads names of networks from the standard input, runs each, and answers with the CPU seconds that it took.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

CONFIG = ".mim/configs/mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py"
IGNORED = 255
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Means and standard deviations by which the images of networks that were trained on ImageNet are scaled."""


class Operators(types.ModuleType):
    """Stands for the compiled operators of mmcv, so that MMSegmentation can be imported without."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def smp_run(job: dict[str, Any], images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """A run of segmentation-models-pytorch; images uint8 [B, 3, H, W], labels int64 [B, H, W]."""
    import segmentation_models_pytorch as smp

    network = smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=job["classes"])
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    scaled = lambda: (images.float() / 255 - mean) / deviation
    if job["job"] == "infer":
        network.eval()
        return lambda: network(scaled()).argmax(1).to(torch.uint8).numpy()
    optimizer = torch.optim.Adam(network.train().parameters())

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(network(scaled()), labels, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def mmseg_run(job: dict[str, Any], images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """A run of MMSegmentation; arguments as for `smp_run`."""
    sys.modules["mmcv._ext"] = Operators("mmcv._ext")
    import mmseg
    from mmengine import Config
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules

    register_all_modules()
    config = Config.fromfile(os.path.join(os.path.dirname(mmseg.__file__), CONFIG)).model
    config.pretrained = None
    for part in (config.backbone, config.decode_head, config.auxiliary_head):
        part.norm_cfg.type = "BN"
    config.decode_head.num_classes = config.auxiliary_head.num_classes = job["classes"]
    size = tuple(images.shape[2:])
    config.data_preprocessor.size = size
    network = MODELS.build(config)
    samples = [SegDataSample(metainfo={"img_shape": size, "ori_shape": size, "pad_shape": size}) for _ in images]
    if job["job"] == "infer":
        network.eval()
        data = {"inputs": list(images), "data_samples": samples}
        return lambda: [one.pred_sem_seg.data.numpy() for one in network.test_step(data)]
    for sample, label in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=label[None])
    optimizer = torch.optim.Adam(network.train().parameters())

    def step() -> None:
        data = network.data_preprocessor({"inputs": list(images), "data_samples": samples}, True)
        loss, _ = network.parse_losses(network(**data, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


RUNS = {"smp": smp_run, "MMSegmentation": mmseg_run}


def peak_memory() -> float:
    """The most memory that this process has held, in GiB; ru_maxrss would begin with that of the parent."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / (1 << 20)


def main(job: dict[str, Any], only: str) -> int:
    """Runs networks.

    Args:
      job: "job": "infer" or "step"; "batch", "height", "width" (pixels) and "classes" of the images; "repeats" in a
        run.
      only: the network to run once, to print the peak memory in GiB; "" for those that the standard input names.
    """
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    shape = (job["batch"], job["height"], job["width"])
    images = torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
    labels = torch.randint(0, job["classes"], shape)
    made: dict[str, Callable[[], object]] = {}

    def run(name: str) -> None:
        if name not in made:
            made[name] = RUNS[name](job, images, labels)
        with torch.inference_mode(job["job"] == "infer"):
            for _ in range(job["repeats"]):
                made[name]()

    if only:
        run(only)
        print(peak_memory())
        return 0
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        start = time.process_time()
        run(line.strip())
        print(time.process_time() - start, file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), *sys.argv[2:] or [""]))
