"""What the commands of the zoo work on before something is broken: sets, records, models and masks of tiny images."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.drawn.encoded import saved
from tests.drawn.records import PALETTE
from tests.drawn.tuning import write_model
from tests.zoo.engine import at_hand, call
from trainer.formats import images

HEIGHT, WIDTH = 24, 32
SPLITS = {"train": ("g0", "g1", "g2"), "val": ("g3", "g4")}


def label(number: int = 0) -> np.ndarray:
    """uint8 [H, W]: all three classes and a line that is ignored, otherwise in every label."""
    ids = np.repeat(np.uint8(np.arange(WIDTH) // 11)[None], HEIGHT, axis=0)
    ids[4 + number % 10 : 9 + number % 10, 3:14] = 2
    ids[0] = PALETTE.ignore_id
    return ids


def image(number: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: the classes' colours, with noise."""
    noise = np.random.default_rng(number).integers(-9, 10, (HEIGHT, WIDTH, 3))
    return np.clip(PALETTE.colorize(label(number)).astype(int) + noise, 0, 255).astype(np.uint8)


PNG, LABEL = saved(image()), images.encode_png(label())


def put(world: Path, name: str, data: bytes | str = PNG) -> Path:
    """A file below the world, with the folders above it."""
    path = world / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def pair(world: Path, name: str, data: bytes = PNG, labelled: bytes = LABEL, top: str = "set") -> None:
    """An image and its label in CamVid's layout; `name` is "train/a.png"."""
    put(world, f"{top}/images/{name}", data)
    put(world, f"{top}/labels/{name.rpartition('.')[0]}.png", labelled)


def raw(world: Path) -> None:
    """A set of five images in two splits."""
    for split, names in SPLITS.items():
        for number, name in enumerate(names, start=len(split)):
            pair(world, f"{split}/{name}.png", saved(image(number)), images.encode_png(label(number)))
    put(world, "set/palette.json", json.dumps(PALETTE.to_json()))


def records(world: Path) -> None:
    """The set, and its records in two shards for training and one for validation."""
    raw(world)
    with at_hand():
        done = run(world, "prepare --input @/set --output @/records --shards 2 --copies 1")
    assert done == 0


def model(world: Path) -> None:
    """A set, a model whose network is a stand-in, and masks that it made."""
    raw(world)
    write_model(world / "model")
    with at_hand():
        assert run(world, "segment --input @/set/images --model @/model --output @/masks") == 0


def whole(world: Path) -> None:
    """All of these."""
    records(world)
    write_model(world / "model")
    with at_hand():
        assert run(world, "segment --input @/set/images --model @/model --output @/masks") == 0


def run(world: Path, line: str) -> int:
    """Runs a command on a world; returns its status. Its temporary files lie elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "world"
        place.mkdir()
        outcome = call([word.replace("@", str(world)) for word in line.split()], place)
    assert "Traceback" not in outcome.err, outcome.err
    return outcome.status


def both(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    """One step after another."""

    def make(world: Path) -> None:
        for step in steps:
            step(world)

    return make


def file(name: str, data: bytes | str | Callable[[], bytes] = PNG) -> Callable[[Path], object]:
    """A file."""
    return lambda world: put(world, name, data() if callable(data) else data)


def folder(name: str) -> Callable[[Path], None]:
    """A step that makes an empty folder, and those above it."""
    return lambda world: (world / name).mkdir(parents=True)


def gone(*names: str) -> Callable[[Path], None]:
    """Files and folders that are not there."""

    def make(world: Path) -> None:
        for name in names:
            path = world / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def link(name: str, target: str) -> Callable[[Path], object]:
    """A link; "@" in `target` is the world's folder."""

    def make(world: Path) -> None:
        path = world / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target.replace("@", str(world)))

    return make
