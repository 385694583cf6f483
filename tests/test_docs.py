"""What README.md and docs/ say of flags, files and targets is so."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from tests.drawn.places import ROOT
from tests.test_layering import STAIR

README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
}
LINK = re.compile(r"""\]\((?!http)([^)#]*)(?:#([^)]+))?\)|src="(?!http)([^"]+)\"""")
"""A link within the repository: its file, "" for the page itself, and its heading; or the file of an image."""
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
COMMANDS = re.findall(r"^(?:deeplab|docker run .* deeplab-trainer) (.+?)(?:  +#.*)?$", SHELL, re.MULTILINE)


def script(name: str) -> ModuleType:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_options_is_that_of_the_commands():
    assert PAGES["docs/options.md"] == script("options").page(), "run `make docs`"


def test_charts_show_the_figures_of_the_tables():
    for name, drawing in script("charts").drawings().items():
        assert (ROOT / "docs/measured" / name).read_text() == drawing, f"{name}: run `make docs`"


def test_the_readme_shows_every_command():
    names = {line.split()[0] for line in COMMANDS} | set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert set(cli.COMMANDS) <= names


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_are_understood(line):
    assert cli.read(shlex.split(line))[0] == line.split()[0]


def test_commands_for_well_known_sets_are_understood():
    commands = re.findall(r"`((?:doctor|prepare) [^`]+)`", PAGES["docs/sets.md"])
    assert len(commands) > 30
    for command in commands:
        argv = shlex.split(command)
        assert cli.read([*argv, "--output", "out"] if argv[0] == "prepare" else argv)[0] == argv[0]


def script_of_sets(word: str) -> str:
    """The script in docs/sets.md that has this word."""
    scripts = re.findall(r"```python\n(.*?)```", PAGES["docs/sets.md"], re.DOTALL)
    (script,) = (script for script in scripts if word in script)
    return script


def test_brush_masks_of_label_studio_become_labels_by_the_script_for_them(tmp_path, monkeypatch):
    (tmp_path / "brush").mkdir()
    masks = ((7, "tag-road", [255, 255, 0, 0]), (7, "tag-air-port", [0, 255, 0, 9]), (8, "t-road", [0] * 4))
    for task, name, row in masks:
        Image.fromarray(np.uint8([row])).save(tmp_path / f"brush/task-{task}-annotation-9-by-a@b.c-{name}-0.png")
    tasks = [{"id": 7, "data": {"image": "/data/upload/1/0ab34f6e-a.jpg"}}, {"id": 8, "data": {"image": "?d=x/b.jpg"}}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    monkeypatch.chdir(tmp_path)
    exec(script_of_sets("brush"), {})
    assert (tmp_path / "classes.txt").read_text().split() == ["background", "air-port", "road"]
    read = {path.name: np.asarray(Image.open(path)).tolist() for path in (tmp_path / "labels").iterdir()}
    assert read == {"a.png": [[2, 2, 0, 0]], "b.png": [[0] * 4]}


@pytest.mark.parametrize(
    ("path", "folder"), [("train/_annotations.coco.json", "train"), ("annotations/instances_val2017.json", "val2017")]
)
def test_objects_of_coco_become_labels_by_the_script_for_them(tmp_path, monkeypatch, path, folder):
    """A polygon of two parts, a smaller one on it that is listed before, and a crowd as runs, column by column."""
    ring = {"category_id": 9, "area": 20, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4], [6, 0, 8, 0, 8, 2, 6, 2]]}
    dot = {"category_id": 4, "area": 1, "segmentation": [[1, 1, 2, 1, 2, 2, 1, 2]]}
    crowd = {"category_id": 4, "area": 2, "segmentation": {"size": [4, 8], "counts": [30, 2]}}
    listed = {
        "images": [
            {"id": 5, "file_name": "city/a.jpg", "height": 4, "width": 8},
            {"id": 6, "file_name": "b.jpg", "height": 1, "width": 2},
        ],
        "annotations": [
            {"id": number, "image_id": 5, "iscrowd": int(one is crowd), **one}
            for number, one in enumerate((dot, ring, crowd), 1)
        ],
        "categories": [{"id": 9, "name": "car"}, {"id": 4, "name": "bird"}],
    }
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(json.dumps(listed))
    monkeypatch.chdir(tmp_path)
    exec(script_of_sets("pycocotools"), {})
    assert (tmp_path / "classes.txt").read_text().split() == ["background", "bird", "car"]
    drawn = np.asarray(Image.open(tmp_path / "ids" / folder / "city/a.png"))
    assert drawn.tolist() == [
        [2, 2, 2, 2, 0, 0, 2, 2],
        [2, 1, 2, 2, 0, 0, 2, 2],
        [2, 2, 2, 2, 0, 0, 0, 1],
        [2, 2, 2, 2, 0, 0, 0, 1],
    ]
    assert not np.asarray(Image.open(tmp_path / "ids" / folder / "b.png")).any()


@pytest.mark.parametrize("names", ["[bird, car]", "{1: car, 0: bird}"])
def test_polygons_of_yolo_become_labels_by_the_script_for_them(tmp_path, monkeypatch, names):
    for name, size in (("a.jpg", (8, 4)), ("b.b.png", (2, 1))):
        image = tmp_path / "train/images" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(image)
    (tmp_path / "data.yaml").write_text(f"train: ../train/images\nnames: {names}\n")
    (tmp_path / "train/labels").mkdir()
    text = tmp_path / "train/labels/a.txt"
    text.write_text("1 0.5 0 0.9375 0 0.9375 0.9 0.5 0.9\n\n0 0.8 0.3 0.9 0.3 0.9 0.4\n")
    monkeypatch.chdir(tmp_path)
    exec(script_of_sets("yaml"), {})
    assert (tmp_path / "classes.txt").read_text().split() == ["background", "bird", "car"]
    drawn = np.asarray(Image.open(tmp_path / "train/labels/a.png"))
    assert drawn.tolist() == [[0] * 4 + [2] * 4, [0] * 4 + [2, 2, 1, 1], [0] * 4 + [2] * 4, [0] * 4 + [2] * 4]
    assert np.asarray(Image.open(tmp_path / "train/labels/b.b.png")).tolist() == [[0, 0]]
    text.write_text("1 0.5 0.5 0.2 0.2\n")
    with pytest.raises(SystemExit, match=r"a\.txt has boxes: 1 0\.5"):
        exec(script_of_sets("yaml"), {})


def test_masks_of_published_sets_become_labels_by_the_scripts_for_them(tmp_path, monkeypatch):
    """DRIVE's GIFs, the masks of nuclei, and the parts of faces, of which later ones lie on earlier ones."""

    def save(path: str, values: list[int], size: tuple[int, int] = (3, 1)) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8([values])).resize(size, Image.Resampling.NEAREST).save(tmp_path / path)

    for split, number in (("training", 21), ("test", 1)):
        save(f"{split}/images/{number:02d}_{split}.tif", [9, 9, 9])
        save(f"{split}/1st_manual/{number:02d}_manual1.gif", [0, 255, 0])
    save("stage1_train/a/masks/1.png", [255, 0, 0])
    save("stage1_train/a/masks/2.png", [0, 0, 255])
    save("CelebA-HQ-img/2001.jpg", [9, 9, 9], (6, 2))
    for part, values in (("skin", [255, 255, 0]), ("hair", [0, 255, 0])):
        save(f"CelebAMask-HQ-mask-anno/1/02001_{part}.png", values)
    monkeypatch.chdir(tmp_path)
    for word in ("1st_manual", "stage1_train", "CelebAMask"):
        exec(script_of_sets(word), {})
    read = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("labels/*.png")}
    assert {name: np.asarray(Image.open(path)).tolist() for name, path in read.items()} == {
        "training/labels/21_training.png": [[0, 255, 0]],
        "test/labels/01_test.png": [[0, 255, 0]],
        "stage1_train/a/labels/a.png": [[1, 0, 1]],
        "labels/2001.png": [[1, 1, 13, 13, 0, 0]] * 2,
    }


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_examples_of_the_help_are_understood(command):
    module = cli.options_of(command)
    texts = [cls.__doc__ for cls in module.VERBS.values()] if hasattr(module, "VERBS") else [module.__doc__]
    for text in texts:
        examples = [
            shlex.split(line) for line in re.findall(r"^ +deeplab (.+)$", text.replace("\\\n", " "), re.MULTILINE)
        ]
        assert any(argv[0] == command for argv in examples), text
        for argv in examples:
            cli.read(argv)


def anchors(text: str) -> set[str]:
    """What headings are called in links, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_files_and_headings_that_pages_point_to_exist(page):
    for file, heading, image in LINK.findall(PAGES[page]):
        target = ROOT / page if not file + image else (ROOT / page).parent / (file + image)
        assert target.exists(), file + image
        if heading:
            assert heading in anchors(target.read_text()), f"{file}#{heading}"


@pytest.mark.parametrize("page", ["docs/design.md", "docs/crf.md"])
def test_modules_that_the_design_names_exist(page):
    for target in re.findall(r"`((?:pipelines|trainer|tests|benchmarks)/[\w/.]+\.\w+)`", PAGES[page]):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("package", ["pipelines", "trainer"])
def test_every_room_stands_in_the_house_of_the_design_and_no_folder_that_is_none(package):
    drawn = re.search(rf"^    {package}/.*\n((?: {{6}}.*\n)+)", PAGES["docs/design.md"], re.MULTILINE)[1]
    folders = dict(re.findall(r"^ {6}(\w+)/ (.*(?:\n {7,}.*)*)", drawn, re.MULTILINE))
    for folder in folders:
        assert (ROOT / package / folder).is_dir(), folder
    for path in (ROOT / package).rglob("*.py"):
        text = folders.get(path.relative_to(ROOT / package).parts[0], drawn)
        if path.stem not in (*STAIR, "__init__"):
            assert re.search(rf"\b{path.stem}\b", text), f"{path} is not in docs/design.md"


def test_scores_of_the_readme_are_in_the_pages_of_figures():
    measured = "".join(text for page, text in PAGES.items() if page.startswith("docs/measured/"))
    assert set(re.findall(r"\b0\.\d{3}\b", README)) <= set(re.findall(r"\b0\.\d{3}\b", measured))


def test_flags_of_the_readme_are_those_of_their_commands():
    rows = re.search(r"## Flags worth knowing\n\n.*?\n\n", README, re.DOTALL)[0].splitlines()[4:]
    command = ""
    for names, flags, _ in (re.findall(r"[^|]+", row) for row in rows if row):
        command = names.strip(" `") or command
        text = re.search(
            rf"^## `deeplab {command}`\n.*?(?=^## |\Z)", PAGES["docs/options.md"], re.DOTALL | re.MULTILINE
        )
        known = text[0] if text else PAGES["docs/options.md"] + PAGES["docs/engines.md"] + PAGES["docs/jobs.md"]
        for flag in re.findall(r"--[\w-]+", flags):
            assert flag in known, f"{command} {flag}"


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 250


def test_the_two_first_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    for target in commands:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
