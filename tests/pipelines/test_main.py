"""The program from its first line on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.drawn.places import ROOT
from tests.drawn.prepared import prepare_here, shard_bytes
from tests.drawn.rawset import write_rawset

INTERRUPTED = """
import signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "{module}":
            signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.{handler})
sys.meta_path.insert(0, Finder())
sys.argv = ["deeplab", "prepare", "--input", "nothing", "--output", "out"]
from pipelines.__main__ import main
sys.exit(main())
"""
"""The program, interrupted while it imports a module."""

INTERRUPT = "\ndeeplab prepare: interrupted; run the same command again to resume\n"
ERROR = "deeplab prepare: error: {}/nothing not found; expected a folder with images and labels, or a manifest\n"


@pytest.mark.parametrize(
    ("module", "handler", "status", "said"),
    [
        ("pipelines.cli", "default_int_handler", -signal.SIGINT, ""),
        ("trainer.parser", "default_int_handler", -signal.SIGINT, ""),
        ("pipelines.prepare.command", "default_int_handler", 130, INTERRUPT),
        ("pipelines.cli", "SIG_IGN", 2, ERROR),
        ("pipelines.prepare.command", "SIG_IGN", 2, ERROR),
    ],
)
def test_ctrl_c_leaves_no_traceback_whenever_it_comes(module, handler, status, said, tmp_path):
    program = INTERRUPTED.format(module=module, handler=handler)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stderr) == (status, said.format(tmp_path))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_rawset(tmp_path_factory.mktemp("raw"), {"train": 3})


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_what_it_always_does(streams, raw, tmp_path):
    """Files that it opens would get their numbers, and what libraries print."""
    assert prepare_here(raw, tmp_path / "open") == 0
    command = f"{sys.executable} -m pipelines prepare --input {raw} --output {tmp_path}/closed {streams}"
    assert subprocess.run(["bash", "-c", command], cwd=ROOT).returncode == 0
    assert shard_bytes(tmp_path / "closed") == shard_bytes(tmp_path / "open")


def test_processes_of_a_command_whose_streams_are_closed_have_open_ones():
    program = "import subprocess, sys, pipelines.__main__; print(1); sys.stderr.write(sys.stdin.read()); "
    program += """sys.exit(subprocess.call([sys.executable, '-c', 'import os; [os.fstat(n) for n in range(3)]']))"""
    command = f'"{sys.executable}" -c "{program}" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", command], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("raised", ["SystemError('a function returned') from None", "RuntimeError('release lock')"])
@pytest.mark.parametrize(("is_interrupted", "status"), [(True, 130), (False, 1)])
def test_what_a_library_makes_of_an_interrupt_is_one(is_interrupted, status, raised):
    """C++ that calls Python when Ctrl-C comes raises a SystemError, and threading a RuntimeError in its locks."""
    program = f"""
import signal, sys
from pipelines import cli
def run(argv):
    try:
        signal.raise_signal(signal.SIGINT) if {is_interrupted} else int("x")
    except (KeyboardInterrupt, ValueError):
        raise {raised}
cli.run, sys.argv = run, ["deeplab", "prepare"]
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert (done.stderr == INTERRUPT) == is_interrupted and ("Traceback" in done.stderr) != is_interrupted


FAILING = """
import errno, sys
from pipelines import cli
def run(argv):
    {body}
cli.run, sys.argv = run, ["deeplab", "prepare"]
sys.exit(cli.main())
"""
NO_ROOM = "No space left on device; make room and run the same command again"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("print(1)", 75, f"standard output: {NO_ROOM}"),
        ("print(1, flush=True)", 75, f"standard output: {NO_ROOM}"),
        ("raise OSError(errno.ENOSPC, 'full')", 75, f"{{}}: {NO_ROOM}"),
        ("raise OSError(errno.ENOSPC, 'full', '/a')", 75, f"/a: {NO_ROOM}"),
        ("raise OSError(errno.EFBIG, 'it is large', '/a')", 2, "/a: it is large; fix that, and run it again"),
    ],
)
def test_a_full_disk_is_told_with_its_place(body, status, said, tmp_path):
    program = [sys.executable, "-c", FAILING.format(body=body)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (status, f"deeplab prepare: error: {said.format(tmp_path)}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", [".deeplab-lease.json", ".*.tmp"])
def test_a_command_that_is_asked_to_end_says_so_and_leaves_nothing_behind(moment, number, raw, tmp_path):
    """`moment` is the file in its output that has just appeared when the signal comes."""
    (scratch := tmp_path / "scratch").mkdir()
    output = tmp_path / "out"
    argv = [sys.executable, "-m", "pipelines", "prepare", "--input", str(raw), "--output", str(output)]
    argv += ["--copies", "300"]
    process = subprocess.Popen(
        argv, cwd=ROOT, env=os.environ | {"TMPDIR": str(scratch)}, stderr=subprocess.PIPE, text=True
    )
    while not any(output.glob(moment)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + number, said
    assert said.count("deeplab prepare: terminated; ") == 1 and said.endswith("run the same command again to resume\n")
    assert not list(scratch.iterdir()) and not list(output.glob(".deeplab-lease.json"))


@pytest.mark.parametrize(
    "raised", ['RuntimeError("can\'t start new thread")', "ImportError('libx.so: failed to map segment from it')"]
)
def test_a_machine_that_refuses_a_thread_or_a_library_has_too_little_memory(raised):
    """Python has no error of its own for either."""
    program = [sys.executable, "-c", FAILING.format(body=f"raise {raised}")]
    done = subprocess.run(program, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("deeplab prepare: error: there is not enough memory, or no more threads are allowed")


@pytest.mark.parametrize(
    "line",
    [
        "import pipelines.nowhere",
        "from trainer import nowhere",
        "cli.__file__ += '.gone'; raise ValueError('no template')",
        "cli.__file__ = cli.inspect.__file__; raise KeyError('a new field')",
    ],
)
def test_a_program_that_is_replaced_while_a_command_is_at_work_is_no_traceback(line):
    program = [sys.executable, "-c", FAILING.format(body=line)]
    done = subprocess.run(program, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.endswith("or is incomplete; run the same command again once it is installed\n")


def test_where_no_temporary_file_can_be_written_the_cure_is_told(raw, tmp_path):
    command = f"ulimit -f 0; exec {sys.executable} -m pipelines prepare --input {raw} --output {tmp_path}/out"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 75 and done.stderr.count("\n") == 1
    assert "no folder for temporary files can be written to; make room in one" in done.stderr
    assert not (tmp_path / "out").exists()
