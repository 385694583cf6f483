"""The steps of `deeplab demo`: draw the set, run the stages, show the results."""

from __future__ import annotations

import os
import shlex
import time

from pipelines import cli
from pipelines.demo import scenes
from pipelines.demo.options import Options
from pipelines.demo.plan import HEIGHT, WIDTH, stages
from pipelines.demo.sheet import comparison, sheet
from trainer import storage
from trainer.options import InputError, to_json

SHEET = "road.png"


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status, or that of the first stage that fails."""
    start, road = time.monotonic(), stages(options)
    draw(options)
    print(f"{options.images} scenes of {WIDTH}x{HEIGHT} pixels are drawn in {os.path.join(options.output, 'set')}")
    for number, stage in enumerate(road, start=1):
        print(f"\n[{number}/{len(road)}] {stage.title}\n$ deeplab {shlex.join(stage.arguments)}", flush=True)
        status = cli.main(stage.arguments)
        if status:
            return status
    path = os.path.join(options.output, SHEET)
    with storage.writer(path) as file:
        sheet(options.output).quantize(256).save(file, "PNG", optimize=True)
    print(f"\n{comparison(options.output)}\n")
    print(f"the whole demo took {time.monotonic() - start:.0f} s")
    print(f"report:  {os.path.join(options.output, 'report', 'report.html')}\nsheet:   {path}")
    return 0


def draw(options: Options) -> None:
    """Draws the set, unless a demo with the same options has drawn it.

    Raises InputError if one had other options, or the files to replace are not a demo's.
    """
    path, content = os.path.join(options.output, "demo.json"), to_json(options)
    del content["output"]
    folder, train = os.path.join(options.output, "set"), options.images - options.validation
    for file in (path, os.path.join(options.output, SHEET)):
        storage.check_file(file)
    storage.check_folder(folder)
    is_drawn = begun = storage.exists(path)
    if begun:
        before = storage.json_object(storage.read(path))
        if not before:
            raise InputError(f"{path} was not written by `deeplab demo`; give another --output, or move it away")
        if "pictures" in before:  # its earlier name
            before["images"] = before.pop("pictures")
        is_drawn = before.pop("is_drawn", True) and os.path.isdir(folder)
        if before != content:
            raise InputError(
                f"{options.output} holds a demo with other options ({before}, now {content}); "
                "give another --output, or delete the folder"
            )
    for place in (folder, os.path.join(options.output, SHEET)):
        if os.path.exists(place) and not begun:
            raise InputError(f"{place} was not made by `deeplab demo`; give another --output, or move it away")
    if not is_drawn:
        storage.write_json(path, content | {"is_drawn": False})
        scenes.write_set(folder, train, options.validation, (HEIGHT, WIDTH), options.seed)
        storage.write_json(path, content)
