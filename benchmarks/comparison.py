"""What `train_step.py` and `infer.py` share: their options, which networks run, and the table of what came of it."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from timing import table, take_turns

from pipelines.demo.scenes import PALETTE
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.startup import start_tensorflow

BACKBONES = ("mobilenet_v2", "resnet_v1_50_beta")
BFLOAT16 = ", bfloat16"


@dataclass(frozen=True)
class Comparison(CheckedOptions):
    """Options of a comparison of networks."""

    backbone: str = option("mobilenet_v2", "of all networks", choices=BACKBONES)
    rounds: int = option(5, "times every run is repeated", low=1)
    bfloat16: bool = option(False, "ours in bfloat16 without an accelerator, too")
    cpu_time: bool = option(False, "count seconds of the processor, on a machine that others share")
    memory: bool = option(True, "measure the peak memory as well, in a process of its own for each")
    only: str = option("", "print the peak memory of this run alone, in GiB", metavar="RUN")
    torch: str = option(
        "", "interpreter with the libraries of `torch_networks.py`, whose networks then run too", metavar="PYTHON"
    )


Options = TypeVar("Options", bound=Comparison)


@dataclass(frozen=True)
class Work:
    """What every network does in a run.

    Attributes:
      what: in words.
      height, width: of the images (pixels).
      images: how many go through the network.
      batch: images in a pass.
      passes: as what an image counts, in passes of inference; the way back counts for two.
    """

    what: str
    height: int
    width: int
    images: int
    batch: int
    passes: int = 1


class Torch:
    """The process that runs the networks of `torch_networks.py`.

    Attributes:
      seconds: CPU seconds of all its runs.
    """

    def __init__(self, python: str, work: Work) -> None:
        job = {
            "job": "infer" if work.passes == 1 else "step",
            "batch": work.batch,
            "height": work.height,
            "width": work.width,
            "classes": PALETTE.num_classes,
            "repeats": work.images // work.batch,
        }
        self._command = [python, os.path.join(os.path.dirname(__file__), "torch_networks.py"), json.dumps(job)]
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds = 0.0

    def run(self, name: str) -> None:
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        self.seconds += float(self._process.stdout.readline())

    def memory(self, name: str) -> str:
        """The peak memory of a run in a process of its own, in words."""
        done = subprocess.run([*self._command, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return f"{float(done.stdout.split()[-1]):.2f} GiB" if done.returncode == 0 else "failed"


def build(name: str, backbone: str, height: int, width: int) -> Any:
    """The network of the run `name`, of one that `networks.networks` knows or that in bfloat16."""
    from networks import networks, networks_of_torch

    from trainer.train import model as models

    built = networks_of_torch(PALETTE.num_classes) | networks(backbone, PALETTE.num_classes, height, width)
    with models.precision(precision(name)):
        return built[name.removesuffix(BFLOAT16)]()


def precision(name: str) -> str:
    return "mixed_bfloat16" if name.endswith(BFLOAT16) else "float32"


def available(options: Comparison, work: Work) -> tuple[list[str], dict[str, Any]]:
    """The names of the runs, and what builds their networks; says what is left out."""
    from ceiling import accelerator
    from networks import networks, networks_of_torch

    built = networks(options.backbone, PALETTE.num_classes, work.height, work.width)
    if importlib.util.find_spec("keras_hub") is None:
        del built["keras-hub"]
        print("keras-hub is not installed and is left out: pip install '.[benchmarks]'")
    if options.torch:
        built |= networks_of_torch(PALETTE.num_classes)
    names = list(built)
    if options.bfloat16 or accelerator():
        names.insert(1, names[0] + BFLOAT16)
    return names, built


def ceilings(clock: Callable[[], float]) -> dict[str, float]:
    """Operations per second of matrix products, in float32 and in bfloat16; prints them."""
    from ceiling import accelerator, matrix_products

    side = 8192 if accelerator() else 2048
    rates = {dtype: matrix_products(dtype, side, clock) for dtype in ("float32", "bfloat16")}
    print(", ".join(f"{dtype} products {rate / 1e12:.3g} Tflop/s" for dtype, rate in rates.items()))
    return rates


def share(built: dict[str, Any], work: Work, rates: dict[str, float]) -> Callable[[str, float], str]:
    """Gives the cells of a column of `timing.table`.

    Args:
      built: from `available`.
      rates: from `ceilings`.
    """
    from ceiling import operations

    shape, passes = (1, work.height, work.width, 3), work.images * work.passes
    asked = {name: operations(network(), shape) for name, network in built.items() if network}

    def cell(name: str, seconds: float) -> str:
        if name.removesuffix(BFLOAT16) not in asked:
            return ""
        rate = rates["bfloat16" if name.endswith(BFLOAT16) else "float32"]
        return f"{asked[name.removesuffix(BFLOAT16)] * passes / seconds / rate:.0%}"

    return cell


def main(
    argv: list[str],
    of: type[Options],
    prog: str,
    text: str,
    run_of: Callable[[str, Options], Callable[[], object]],
    work_of: Callable[[Options], Work],
) -> int:
    """Reads options, lets the networks take turns and prints the table.

    Args:
      run_of: from the name of a network and the options to what it does in a run.
      work_of: what that is.
    """
    options, _ = parse(of, argv, prog=prog, text=text)
    start_tensorflow()
    import keras
    from ceiling import accelerator, memory_alone, peak_memory

    if options.only:
        run_of(options.only, options)()
        print(peak_memory())
        return 0
    work = work_of(options)
    names, built = available(options, work)
    torch = Torch(options.torch, work) if options.torch else None
    runs = {name: run_of(name, options) if built[name.removesuffix(BFLOAT16)] else None for name in names}
    runs = {name: run or functools.partial(torch.run, name) for name, run in runs.items()}
    for run in runs.values():
        run()
    print(f"{options.backbone}, {work.what}, {keras.backend.backend()}, {accelerator() or 'CPU'}")
    clock = time.process_time if options.cpu_time else time.perf_counter
    with_torch = (lambda: clock() + torch.seconds) if torch and options.cpu_time else clock
    seconds = take_turns(runs, options.rounds, with_torch)
    alone = lambda name: memory_alone(argv, name) if built[name.removesuffix(BFLOAT16)] else torch.memory(name)
    memory = {name: alone(name) if options.memory else "" for name in names}
    columns = {
        "peak memory": lambda name, _: memory[name],
        "share of matrix products": share(built, work, ceilings(clock)),
    }
    print("\n" + table(seconds, work.images, "images", names[0], columns))
    return 0
