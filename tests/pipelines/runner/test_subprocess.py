"""Functions in a subprocess: what ends it is a failure of one image, not of the program or of the next image."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipelines.runner import subprocesses
from pipelines.runner.isolation import Failed, Isolated
from tests.drawn.places import ROOT
from trainer.options import InputError
from trainer.storage import Unavailable


class Known(ValueError):
    pass


def is_alive(process):
    """A process whose parent has ended may stay as a zombie where nobody collects it."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_the_end_of_the_program_takes_its_subprocess_along(tmp_path):
    program = textwrap.dedent(
        """
        import os, time
        from pipelines.runner.isolation import Isolated
        isolated = Isolated()
        print(isolated(os.getpid), flush=True)
        isolated(time.sleep, 60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# What follows runs in the subprocess.


def end(sign):
    os.kill(os.getpid(), sign)


def raise_known(text):
    raise Known(text)


class Unpicklable(Exception):
    def __init__(self, path, reason):
        super().__init__(reason)


def raise_unpicklable():
    raise Unpicklable("a.png", "no\nheader")


def heavy_modules():
    return [name for name in ("tensorflow", "apache_beam", "google.cloud.storage") if name in sys.modules]


def wait_for(file):
    deadline = time.monotonic() + 60
    while not Path(file).exists() or not (text := Path(file).read_text()):  # which is written after it is made
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return text


def allow_little_more_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + (50 << 20),) * 2)


def oom_score():
    return Path("/proc/self/oom_score_adj").read_text()


def give_lambda():
    return lambda: None


def test_an_image_that_ends_its_process_fails_and_the_next_one_works():
    with Isolated() as isolated:
        first = isolated(os.getpid)
        with pytest.raises(Failed) as failed:
            isolated(end, signal.SIGSEGV)
        reason = "the process that worked on it ended with signal 11 (SIGSEGV); tried alone"
        assert failed.value.reason == reason
        with pytest.raises(Failed, match=r"signal 9 \(SIGKILL, usually for lack of memory\)"):
            isolated(end, signal.SIGKILL)
        with pytest.raises(Failed, match="status 7"):
            isolated(os._exit, 7)
        assert isolated(os.getpid) != first != os.getpid()
        image = np.arange(3_000_000, dtype=np.uint8).reshape(1000, 1000, 3)
        assert (isolated(np.flipud, image) == image[::-1]).all()


def test_exceptions_come_out_of_the_subprocess_as_they_are():
    with Isolated() as isolated:
        with pytest.raises(Known, match="bad file"):
            isolated(raise_known, "bad file")
        with pytest.raises(RuntimeError, match="Unpicklable: no header"):
            isolated(raise_unpicklable)
        for call in (give_lambda, give_lambda()):  # Python 3.13 says it in other words
            with pytest.raises(Exception, match=r"pickle|Can't get local object"):
                isolated(call)
        assert isolated(len, "abc") == 3


def test_terminating_the_subprocess_blames_no_image():
    with Isolated() as isolated, pytest.raises(Unavailable, match="run the same command again"):
        isolated(end, signal.SIGTERM)


def test_the_subprocess_leaves_ctrl_c_to_the_program():
    with Isolated() as isolated:
        assert isolated(end, signal.SIGINT) is None


def test_the_subprocess_loads_little_and_is_the_first_to_be_killed():
    with Isolated() as isolated:
        assert isolated(heavy_modules) == []
        if sys.platform == "linux":
            assert isolated(oom_score).strip() == "1000"


def test_an_interrupt_that_reaches_a_subprocess_at_its_start_is_not_for_it(monkeypatch, capfd):
    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            os.kill(self.pid, signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with Isolated() as isolated:
        assert isolated(os.getppid) == os.getpid()
    assert capfd.readouterr().err == ""


def test_a_subprocess_ends_in_silence_if_its_parent_ends_before_it_reads_an_answer(capfd):
    """The other end of its pipe is then not closed but reset."""
    ours, theirs = multiprocessing.Pipe()
    alive, ending = os.pipe()
    handles = [theirs.fileno(), alive]
    arguments = [" ".join(map(str, handles)), subprocesses.__version__, *sys.path]
    process = subprocess.Popen([sys.executable, "-c", subprocesses.PROGRAM, *arguments], pass_fds=handles)
    theirs.close()
    assert ours.poll(60)  # that it has started, which stays unread
    ours.close()
    assert process.wait(60) == 0 and "Traceback" not in capfd.readouterr().err
    os.close(alive)
    os.close(ending)


def test_a_script_that_protects_nothing_at_its_top_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from pipelines.runner.isolation import Isolated\n"
        "print('runs', flush=True)\n"
        "with Isolated() as isolated:\n"
        "    print(isolated(os.getppid) == os.getpid())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("runs\nTrue\n", "")


def test_a_machine_without_room_for_a_process_blames_no_image(monkeypatch):
    def full(*args, **kwargs):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with Isolated() as isolated:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", full)
            with pytest.raises(Unavailable, match="start: Resource temporarily unavailable; give it memory and p"):
                isolated(os.getpid)
        assert isolated(os.getppid) == os.getpid()


def test_a_subprocess_that_cannot_start_ends_the_command(monkeypatch):
    monkeypatch.setattr(subprocesses, "PROGRAM", "raise SystemExit(3)")
    with (
        Isolated() as isolated,
        pytest.raises(Unavailable, match="did not start: it ended with status 3; give it memory"),
    ):
        isolated(os.getpid)


@pytest.mark.parametrize(
    "instead", ['__version__ = "99.0"', "import pipelines.gone", ""], ids=["upgraded", "removed", "emptied"]
)
def test_a_subprocess_of_another_version_works_on_nothing(instead, tmp_path, monkeypatch, capfd):
    """An upgrade while a command runs: the code of its subprocesses would be another than its own."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/__init__.py").write_text(instead)
    monkeypatch.syspath_prepend(tmp_path)
    with (
        Isolated() as isolated,
        pytest.raises(InputError, match=r"replaced by another version .*; run the same command"),
    ):
        isolated(os.getpid)
    assert capfd.readouterr().err == ""


def test_a_notice_is_acted_upon_during_a_call_and_its_errors_are_dropped(tmp_path):
    process, file = subprocesses.Subprocess(), tmp_path / "file"
    process.notify(Path.write_text, file, "early")  # there is no subprocess yet
    assert process.ask(abs, -1) == (1, None) and not file.exists()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(process.ask, wait_for, file)
        process.notify(raise_known, "dropped")
        process.notify(raise_unpicklable)
        process.notify(Path.write_text, file, "now")
        assert call.result() == ("now", None)
    process.close()
    process.notify(Path.write_text, file, "late")
    assert file.read_text() == "now"


def test_arguments_for_which_there_is_no_memory_end_the_subprocess():
    process = subprocesses.Subprocess()
    process.ask(allow_little_more_memory)
    with pytest.raises(subprocesses.Died, match="with status 0"):
        process.ask(len, bytes(200 << 20))
    assert process.ask(len, b"next") == (4, None)
    process.close()


def test_a_subprocess_that_may_start_no_thread_says_so_in_one_line(monkeypatch, capfd):
    refuse = 'import threading\ndef refuse(thread): raise RuntimeError("can\'t start new thread")\n'
    monkeypatch.setattr(subprocesses, "PROGRAM", f"{refuse}threading.Thread.start = refuse\n{subprocesses.PROGRAM}")
    with Isolated() as isolated, pytest.raises(Unavailable, match="did not start: can't start new thread; give it m"):
        isolated(os.getpid)
    assert capfd.readouterr().err == ""
