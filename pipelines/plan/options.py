"""Try a job on a sample here, and estimate what the whole job will take: time, machines, memory, storage, money.

examples:
  deeplab plan prepare --input data/camvid --output out/records --copies 2
  deeplab plan segment --input photos --model out/model --output out/masks --crf auto --cores 256
  deeplab plan train --records out/records --output out/model --init-from out/voc

After the command to plan give that command's own flags. It runs on a few images and then on more, which separates its
start-up from the time per image. Nothing is written to its output. A core elsewhere is assumed to be as fast as one
here. Prices are list prices, which you can edit. The plan ends with the commands to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.options import CheckedOptions, option

JOBS = ("prepare", "train", "segment")
"""Commands that can be planned."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of `deeplab plan`."""

    passes_on: ClassVar[str] = "FLAGS OF THE JOB"

    job: str = option(help="the command to plan", positional=True, choices=JOBS, metavar="{prepare,train,segment}")
    sample: int = option(
        200,
        "images to measure (for a training, a quarter as many steps); more give a better estimate, but take longer",
        low=10,
        high=10000,
    )
    cores: int = option(64, "cores of a cluster, or vCPUs of a Dataflow job, to plan for", low=1)
    prices: str = option(
        "", "JSON file of prices to use instead of the list prices; --save-prices writes one to edit", metavar="FILE"
    )
    save_prices: str = option("", "write the prices in use to this file", metavar="FILE")
    json: str = option("", "also write the plan to this file, as JSON", metavar="FILE")
