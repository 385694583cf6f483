"""What passes is tried again or ends the run, which can be resumed; only what is wrong with a file is a reject."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from tests.drawn import faults
from tests.drawn.segmenting import draw, outcomes_of, save, segment
from trainer import storage


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        save(tmp_path / f"in/{name}.png", draw(24, 32, seed))
    return tmp_path / "in"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ETIMEDOUT])
def test_an_error_that_passes_costs_nothing(number, model, images, tmp_path, monkeypatch):
    faults.impatient(monkeypatch)
    failed = faults.of_the_system(monkeypatch, number, times=3, name="/in/")
    assert segment("--input", images, "--model", model, "--output", tmp_path / "out") == 0
    assert outcomes_of(tmp_path / "out") == (3, 0, 0) and len(failed) == 3


@pytest.mark.parametrize("name", ["in/b.png", "out/b.png"])
def test_an_error_that_stays_but_is_not_the_files_ends_the_run_which_can_be_resumed(
    name, model, images, tmp_path, monkeypatch
):
    run = ("--input", images, "--model", model, "--output", tmp_path / "out")
    assert segment(*run) == 0  # so that there are masks to be read
    save(images / "b.png", draw(24, 32, 7))
    with monkeypatch.context() as patch:
        faults.impatient(patch)
        faults.of_the_system(patch, errno.EMFILE, times=10**6, name=name)
        with pytest.raises(storage.Unavailable, match=f"{name}: Too many open files"):
            segment(*run)
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == (1, 2, 0)


def test_a_damaged_sector_is_a_reject(model, images, tmp_path, monkeypatch):
    faults.impatient(monkeypatch)
    faults.of_the_system(monkeypatch, errno.EIO, times=10**6, name="in/b.png")
    assert segment("--input", images, "--model", model, "--output", tmp_path / "out") == 1
    assert outcomes_of(tmp_path / "out") == (2, 0, 1)


@pytest.fixture
def remote(bucket, images, request):
    """The three images and a place for their masks in Cloud Storage."""
    folder = f"{bucket}/{request.node.name}"
    for path in images.iterdir():
        storage.write(f"{folder}/in/{path.name}", path.read_bytes())
    return folder


def of_b(request) -> bool:
    return request.method == "GET" and bool(re.search(r"in(/|%2F)b\.png", request.url))


@pytest.mark.parametrize("status", [403, 500])
def test_an_object_that_alone_does_not_come_is_a_reject(status, model, remote, monkeypatch):
    with monkeypatch.context() as patch:
        faults.impatient(patch)
        faults.in_the_cloud(patch, lambda _, request: faults.answer(request, status) if of_b(request) else None)
        run = ("--input", f"{remote}/in", "--model", model, "--output", f"{remote}/out")
        assert segment(*run) == 1
    report = storage.read_json(f"{remote}/out/segment.json")
    assert (report["written"], report["rejected"]) == (2, 1)
    assert segment(*run) == 0


def test_every_third_answer_may_fail_and_no_byte_changes(model, remote, images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        faults.impatient(patch, faults.OF_MANY_THREADS)
        faults.in_the_cloud(patch, lambda number, request: None if number % 3 else faults.answer(request, 503))
        assert segment("--input", f"{remote}/in", "--model", model, "--output", f"{remote}/out", "--overlays") == 0
    assert segment("--input", images, "--model", model, "--output", tmp_path / "out", "--overlays") == 0
    for name in ("a.png", "b.png", "c.png", "overlays/a.jpg"):
        assert storage.read(f"{remote}/out/{name}") == (tmp_path / "out" / name).read_bytes()


def test_cloud_storage_that_does_not_answer_ends_the_run(model, remote, monkeypatch):
    began: list[str] = []

    def since_b(_, request):
        if of_b(request):
            began.append(request.url)
        return faults.answer(request, 503) if began else None

    with monkeypatch.context() as patch:
        faults.impatient(patch)
        faults.in_the_cloud(patch, since_b)
        run = ("--input", f"{remote}/in", "--model", model, "--output", f"{remote}/out")
        with pytest.raises(storage.Unavailable, match=r"Cloud Storage answered 503"):
            segment(*run)
    assert segment(*run) == 0
    assert storage.read_json(f"{remote}/out/segment.json")["rejected"] == 0


def test_an_object_that_was_replaced_gets_its_own_mask_and_others_are_not_read(model, remote, tmp_path, monkeypatch):
    run = ("--input", f"{remote}/in", "--model", model, "--output", f"{remote}/out")
    assert segment(*run) == 0
    before = storage.read(f"{remote}/out/b.png")
    storage.write(f"{remote}/in/a.png", storage.read(f"{remote}/in/a.png"))  # another generation of the same
    save(tmp_path / "b.png", draw(24, 32, 7))
    storage.write(f"{remote}/in/b.png", (tmp_path / "b.png").read_bytes())
    seen = faults.in_the_cloud(monkeypatch, lambda number, request: None)
    assert segment(*run) == 0
    report = storage.read_json(f"{remote}/out/segment.json")
    assert (report["written"], report["skipped"]) == (1, 2)
    assert storage.read(f"{remote}/out/b.png") != before
    assert not [request.url for request in seen if re.search(r"in(/|%2F)a\.png", request.url)]


def test_objects_of_a_list_are_told_by_their_contents_too(model, remote, tmp_path):
    (tmp_path / "list.txt").write_text(f"{remote}/in/a.png\n{remote}/in/b.png\n")
    run = ("--input", tmp_path / "list.txt", "--model", model, "--output", tmp_path / "out")
    assert segment(*run) == 0
    save(tmp_path / "b.png", draw(24, 32, 7))
    storage.write(f"{remote}/in/b.png", (tmp_path / "b.png").read_bytes())
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == (1, 1, 0)
