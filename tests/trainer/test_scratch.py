"""Temporary folders end with their process; those of killed ones are removed by the next, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from trainer import processes, storage
from trainer.files import scratch
from trainer.options import InputError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_ends_with_its_block_and_is_private(temporary):
    with scratch.folder("run") as folder:
        assert os.stat(folder).st_mode & 0o777 == 0o700
    assert not os.path.exists(folder)


def test_what_a_killed_process_left_is_removed_by_the_next(temporary):
    program = """
import os, signal, tempfile
from trainer.files import scratch
with scratch.of_command(), scratch.folder("run"):
    open(scratch.own() + "/copy", "w").close()
    tempfile.mkstemp()  # as libraries do
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(temporary)}, check=False)
    kinds = sorted(path.name.split("-")[1] for path in temporary.iterdir())
    assert kinds == ["command", "files", "run"]
    here, others = scratch._space(), ["deeplab-run-x", "deeplab-error-1.txt", "deeplab-run-0-999999-1-container"]
    for name in (*others, f"deeplab-run-{here}-{processes.name()}-alive", "target"):
        (temporary / name).mkdir()
    (temporary / f"deeplab-run-{here}-999999-1-link").symlink_to(temporary / "target")
    with scratch.of_command():
        left = {path.name for path in temporary.iterdir()} - {os.path.basename(tempfile.gettempdir())}
    assert left == {
        *others,
        f"deeplab-run-{here}-{processes.name()}-alive",
        "target",
        f"deeplab-run-{here}-999999-1-link",
    }


def test_a_process_that_ends_in_the_middle_takes_the_folders_of_all_its_threads_along(temporary):
    program = """
import os, threading, time
from trainer.files import scratch
def work():
    with scratch.folder("model"):
        begun.set()
        time.sleep(60)
begun = threading.Event()
with scratch.of_command():
    threading.Thread(target=work).start()
    begun.wait()
    open(scratch.own() + "/copy", "w").close()
    scratch.abandon()
    os._exit(7)
"""
    (temporary / f"deeplab-run-{scratch._space()}-{processes.name()}-other").mkdir()
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(temporary)}, check=False)
    assert done.returncode == 7
    assert [path.name.rpartition("-")[2] for path in temporary.iterdir()] == ["other"]


def test_what_is_kept_for_later_runs_is_in_a_folder_of_this_user(temporary, monkeypatch):
    folder = scratch.kept("probabilities")
    assert os.stat(folder).st_mode & 0o777 == 0o700 and scratch.kept("probabilities") == folder
    os.rmdir(folder)
    (temporary / "others").mkdir()
    os.symlink(temporary / "others", folder)
    with pytest.raises(InputError, match="is not a folder of this user"):
        scratch.kept("probabilities")
    os.remove(folder)
    os.mkdir(folder)
    monkeypatch.setattr(os, "lstat", lambda path: os.stat_result((0o40755, 0, 0, 1, os.getuid() + 1, 0, 0, 0, 0, 0)))
    with pytest.raises(InputError, match="remove it, or name another folder in TMPDIR"):
        scratch.kept("probabilities")


def test_copies_of_objects_do_not_outlive_their_process(bucket, temporary):
    path = f"{bucket}/{temporary.name}/a.bin"
    storage.write(path, b"contents")
    with storage.reader(path) as file:
        assert file.read() == b"contents" and list(temporary.iterdir()) == []
    program = f"from trainer import storage\nprint(open(storage.localize({path!r})).read(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, check=True
    )
    assert done.stdout == b"contents" and list(temporary.iterdir()) == []


def test_a_process_is_known_by_its_number_and_its_start():
    me = processes.name()
    assert processes.is_alive(me) and not processes.is_alive(f"{os.getpid()}-1")
    child = subprocess.Popen(["sleep", "60"])
    other = processes.name(child.pid)
    assert processes.is_alive(other)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(other)  # a zombie is dead
    child.wait()
    assert not processes.is_alive(other) and not processes.is_alive("") and not processes.is_alive("x")


def test_a_process_whose_start_cannot_be_seen_counts_as_alive(monkeypatch):
    """As another user's where these are hidden, and on other systems than Linux."""
    me = processes.name()
    monkeypatch.setattr("builtins.open", lambda *args: (_ for _ in ()).throw(PermissionError()))
    assert processes.is_alive(me) and not processes.is_alive("999999-1")


def test_libraries_that_know_no_place_for_a_temporary_file_are_given_one(temporary):
    with scratch.folder("run") as folder, scratch.default(folder):
        assert os.path.dirname(tempfile.mkdtemp()) == folder
    assert tempfile.tempdir == str(temporary) and list(temporary.iterdir()) == []
