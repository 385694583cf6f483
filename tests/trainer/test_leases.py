"""One job at a time in a folder: the second is refused, and a dead one has lost its place."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from trainer import leases, storage
from trainer.options import InputError

HELD = (
    "import sys, time\nfrom trainer import leases\nleases.acquire(sys.argv[1], 'prepare')\nprint('held', flush=True)\n"
)


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "deep/out")
    request.getfixturevalue("server")
    return f"gs://seg/{tmp_path.name}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "PATIENCE", 0.5)
    monkeypatch.setattr(leases, "GLANCE", 0.02)


@pytest.fixture
def told():
    """What is told and lost while the test runs."""
    said: list[str] = []

    def lose(message: str) -> None:
        leases.release()  # as whoever ends the process does
        said.append(message)

    with leases.scope(lose, said.append):
        yield said


@pytest.fixture
def other(folder):
    """A process that holds the folder."""
    child = subprocess.Popen([sys.executable, "-c", HELD + "time.sleep(60)", folder], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    yield child
    child.kill()
    child.wait()


def place(folder: str) -> str:
    return storage.join(folder, leases.FILE)


def from_elsewhere(folder: str, **changes: str) -> dict[str, str]:
    """Makes the lease that of a job on another machine; what it says."""
    note = json.loads(storage.read(place(folder))) | {"machine": "another", "host": "far", "job": "other"} | changes
    storage.write(place(folder), json.dumps(note).encode())
    return note


def test_a_second_writer_learns_of_the_first_and_replaces_a_killed_one_at_once(folder, other, told):
    with pytest.raises(InputError, match=r"out|seg") as refused:
        leases.acquire(folder, "segment")
    for part in (
        "is being written by `deeplab prepare` of ",
        f"(process {other.pid}, since 20",
        "; wait for it to end",
    ):
        assert part in str(refused.value)
    other.send_signal(signal.SIGSTOP)  # it is silent, but it is there
    with pytest.raises(InputError):
        leases.acquire(folder, "segment")
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    leases.acquire(folder, "segment")
    assert told == []


def test_one_file_is_held_without_the_others_in_its_folder(folder, told):
    with leases.scope(told.append, told.append):
        leases.acquire_file(f"{folder}/m.onnx", "export")
        leases.acquire_file(f"{folder}/m.tflite", "export")
        leases.acquire(folder, "prepare")
        with pytest.raises(
            InputError, match=r"m\.onnx is being written by `deeplab export` of .*; wait for it to end"
        ):
            leases.acquire_file(f"{folder}/m.onnx", "export")
    with pytest.raises(FileNotFoundError):
        storage.files(folder)
    assert told == []


def test_nothing_is_left_at_the_end_nor_where_it_was_refused(tmp_path):
    with leases.scope(print, print):
        leases.acquire(str(tmp_path / "a/b"), "prepare")
        assert (tmp_path / "a/b" / leases.FILE).exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/b cannot be written to: .*/file is not a folder"):
        leases.acquire(str(tmp_path / "file/b"), "prepare")
    (tmp_path / "there").mkdir()
    with leases.scope(print, print):
        leases.acquire(str(tmp_path / "there"), "prepare")
        (tmp_path / "there/shard").touch()
    assert os.listdir(tmp_path / "there") == ["shard"]


def test_an_interrupt_that_comes_with_the_lease_leaves_none(folder, monkeypatch):
    exchange = storage.exchange

    def interrupted(path, before, after):
        exchange(path, before, after)
        if before is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "exchange", interrupted)
    with leases.scope(print, print), pytest.raises(KeyboardInterrupt):
        leases.acquire(folder, "prepare")
    assert not storage.exists(place(folder))


def test_a_job_of_another_machine_is_refused_at_its_next_sign_of_life(folder, told):
    with leases.scope(print, print):
        leases.acquire(folder, "prepare")
    storage.write(place(folder), b"{}")
    note = from_elsewhere(folder, command="prepare", user="me", process="7-1", since="2026")
    alive = threading.Timer(0.2, lambda: storage.write(place(folder), json.dumps(note | {"beat": "2"}).encode()))
    alive.start()
    with pytest.raises(InputError, match=r"`deeplab prepare` of me on far \(process 7, since 2026\)"):
        leases.acquire(folder, "segment")
    alive.join()
    assert len(told) == 1 and "waiting 0 seconds for a sign of life" in told[0]


@pytest.mark.parametrize("content", [None, b""], ids=["dead", "damaged"])
def test_a_job_of_another_machine_without_a_sign_of_life_has_lost_its_place(folder, content, told):
    storage.write(place(folder), b"{}")
    from_elsewhere(folder)
    if content is not None:
        storage.write(place(folder), content)
    leases.acquire(folder, "segment")
    assert json.loads(storage.read(place(folder)))["command"] == "segment"


def test_a_lease_that_names_no_command_is_not_said_to_be_of_none(folder, told):
    storage.write(place(folder), b'{"version": 9}')
    leases.acquire(folder, "segment")
    assert "is being written by a job whose lease" in told[0] and "None" not in told[0]


def wait_for(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come")


def test_signs_of_life_are_given_and_a_removed_lease_comes_back(folder, told, monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE", 60.0)
    leases.acquire(folder, "prepare")
    before = storage.read(place(folder))
    wait_for(lambda: storage.read(place(folder)) != before)
    storage.remove(place(folder))
    wait_for(lambda: storage.exists(place(folder)))
    assert told == []


def test_a_job_that_was_not_heard_of_is_told_that_its_place_is_taken(folder, told):
    leases.acquire(folder, "prepare")
    # More than once, for the emulator lets a sign of life replace it, which conditions would not.
    wait_for(lambda: told or (from_elsewhere(folder, command="segment") and told))
    assert "is being written by `deeplab segment` of" in told[0] and "that job took over" in told[0]
    leases.release()
    assert json.loads(storage.read(place(folder)))["host"] == "far"


def test_a_job_that_slept_while_another_took_its_place_and_ended_does_not_go_on(folder, told, monkeypatch):
    leases.acquire(folder, "prepare")
    awake = leases._now()
    monkeypatch.setattr(leases, "_now", lambda: awake + 3600)
    monkeypatch.setattr(leases, "PATIENCE", 60.0)
    wait_for(lambda: told or (storage.exists(place(folder)) and storage.remove(place(folder))))
    assert "was not held for 3" in told[0] and "another job may have written there; run the same command" in told[0]
    assert not storage.exists(place(folder))


@pytest.mark.parametrize("instead", ["nothing", "a folder", "a link", "a file"])
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_command_whose_folder_was_taken_away_under_it_says_so_and_does_not_end_well(tmp_path, instead, ends):
    out, away = tmp_path / "out", tmp_path / "away"
    said = r"out was removed, renamed or replaced while `deeplab prepare` was writing to it, .* run the same command"
    with pytest.raises(InputError, match=said), leases.scope(print, print):
        leases.acquire(str(out), "prepare")
        out.rename(away)
        if instead == "a folder":
            out.mkdir()
        elif instead == "a link":
            out.symlink_to(tmp_path)
        elif instead == "a file":
            out.touch()
        if ends == "badly":
            raise FileNotFoundError(2, "No such file or directory", str(out / "plan"))


def test_a_job_whose_folder_was_taken_away_ends_and_makes_no_other(tmp_path, told):
    leases.acquire(str(tmp_path / "out"), "prepare")
    (tmp_path / "out").rename(tmp_path / "away")
    wait_for(lambda: told)
    assert "out was removed, renamed or replaced while" in told[0]
    assert os.listdir(tmp_path) == ["away"]


def test_an_interrupt_stays_one_where_the_folder_was_taken_away(tmp_path):
    with pytest.raises(KeyboardInterrupt), leases.scope(print, print):
        leases.acquire(str(tmp_path / "out"), "prepare")
        (tmp_path / "out").rename(tmp_path / "away")
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["link", "broken link", "FIFO", "folder"])
def test_what_is_no_lease_is_neither_written_through_nor_waited_for(tmp_path, kind):
    lease, other = tmp_path / "out" / leases.FILE, tmp_path / "other"
    lease.parent.mkdir()
    if kind == "link":
        other.write_text("precious")
    if kind == "FIFO":
        os.mkfifo(lease)
    elif kind == "folder":
        lease.mkdir()
    else:
        lease.symlink_to(other)
    with (
        leases.scope(print, print),
        pytest.raises(InputError, match=r"for its lease .*: no regular file; remove that"),
    ):
        leases.acquire(str(lease.parent), "prepare")
    assert os.path.lexists(lease) and (kind != "link" or other.read_text() == "precious")


def test_of_many_that_find_a_dead_job_one_takes_its_place(folder, told):
    storage.write(place(folder), b"{}")
    from_elsewhere(folder, machine=leases.processes.machine(), process="999999-1")
    outcomes = []

    def take() -> None:
        try:
            leases.acquire(folder, "segment")
            outcomes.append("held")
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 7


def test_a_lease_that_could_not_be_released_does_not_bar_this_process(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, leases.scope(print, print):
        leases.acquire(str(tmp_path), "prepare")
        patch.setattr(storage, "exchange", lambda *arguments: False)
    assert (tmp_path / leases.FILE).exists()
    with leases.scope(print, print):
        leases.acquire(str(tmp_path), "prepare")
        with pytest.raises(InputError):
            leases.acquire(str(tmp_path), "segment")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_to_is_not_blamed_on_a_lease_that_is_not_there(folder, monkeypatch):
    def forbidden(path, before, after):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(storage, "exchange", forbidden)
    with pytest.raises(InputError, match="cannot be written to: Permission denied; give another one"):
        leases.acquire(folder, "prepare")
