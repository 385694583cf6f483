"""Functions that run in a subprocess: a crash ends the subprocess alone, and Python's lock is another one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import cv2

from pipelines import __version__
from trainer import processes
from trainer.options import InputError
from trainer.storage import Unavailable

REPLACED = 73
"""Status of a subprocess that finds this program in another version, or no longer."""
PROGRAM = f"""
import sys
_, handles, version, *sys.path[:] = sys.argv
try:
    from pipelines import __version__
except ImportError:  # also where a folder of that name is left
    sys.exit({REPLACED})
if __version__ != version:
    sys.exit({REPLACED})
from pipelines.runner.subprocesses import serve
serve(*map(int, handles.split()))
"""
"""What the subprocess runs. Its arguments are handles, the version of this program, since another one may have been
installed meanwhile and make other bytes, and the path on which this process finds modules."""
CALL, NOTICE = b"c", b"n"
"""First byte of a message: whether it is answered, after those before it, or acted upon at once."""
CURE = "give it memory and processes, and run the same command again to resume"
"""What to do where a subprocess does not start."""
LONGEST = 400
"""Bound on the characters of a cause; messages of TensorFlow can fill a page."""


class Died(Exception):
    """The subprocess ended instead of answering."""


class Subprocess:
    """Calls functions in a subprocess, one after another.

    The subprocess is started by the first call, if not by `start`, and again after a crash, and ends with this
    process. When memory runs out, Linux kills the subprocess first.

    Args:
      file: a file that the functions write to, for answers too large for a pipe; they get it as their first argument.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._file = file
        self._process: subprocess.Popen | None = None
        self._pipe: Any = None
        self._alive = -1

    def ask(self, function: Callable[..., Any], *args: Any) -> tuple[Any, Exception | None]:
        """Calls `function(*args)` in the subprocess.

        Args:
          function: importable by name; its arguments, result and exceptions must be picklable.

        Returns:
          The function's result, or None, and the exception that it raised, or None.

        Raises:
          Died: it crashed the subprocess.
          Unavailable: the subprocess did not start, or was asked to end.
          InputError: this program was replaced by another version.
        """
        with self._lock:
            if self._process is None:
                self._start()
            try:
                self._send(CALL, function, args)
                return self._pipe.recv()
            except (EOFError, ConnectionError):
                ending = self._end()
            except BaseException:  # such as no memory for the answer: its rest would be taken for the next answer
                self._process.kill()
                self._end()
                raise
        if -ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            raise Unavailable("a subprocess was asked to end; run the same command again to resume")
        raise Died(f"the process that worked on it ended with {_ending(ending)}")

    def notify(self, function: Callable[..., object], *args: Any) -> None:
        """Lets the subprocess call `function(*args)` at once, in another thread than that of the calls of `ask`.

        Whatever the function returns or raises is dropped. Does nothing if there is no subprocess.
        """
        with contextlib.suppress(OSError):  # if it has ended, which the next call of `ask` meets
            self._send(NOTICE, function, args)

    def start(self) -> None:
        """Starts the subprocess. Raises Unavailable if it does not start, InputError as `ask` does."""
        with self._lock:
            if self._process is None:
                self._start()

    def close(self) -> None:
        """Ends the subprocess, if there is one."""
        with self._lock:
            self._end()

    def _send(self, kind: bytes, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        message = kind + pickle.dumps((function, args), pickle.HIGHEST_PROTOCOL)
        with self._sending:
            if self._pipe is not None:
                self._pipe.send_bytes(message)

    def _start(self) -> None:
        # Not `multiprocessing`, which would run the main module of this program again: forked, with copies of locks
        # that may never be released; or spawned, with whatever a script does at its top.
        self._pipe, theirs = multiprocessing.Pipe()
        alive, self._alive = os.pipe()
        handles = [theirs.fileno(), alive, *([self._file.fileno()] if self._file else [])]
        program = [sys.executable, "-c", PROGRAM, " ".join(map(str, handles)), __version__, *sys.path]
        # Ctrl-C reaches the subprocess too, and would end it before it has set the signal to be ignored.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process = subprocess.Popen(program, stdin=subprocess.DEVNULL, pass_fds=handles)
        except OSError as error:  # this machine's, for lack of processes or memory, not an image's
            self._pipe.close()
            os.close(self._alive)
            raise Unavailable(f"a subprocess did not start: {error.strerror or error}; {CURE}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
            os.close(alive)
        try:
            fault = self._pipe.recv()
        except (EOFError, ConnectionError):
            status = self._end()
            if status == REPLACED:
                raise InputError(
                    "this program was removed or replaced by another version while the command was at work; run the "
                    "same command again once it is installed"
                ) from None
            fault = f"it ended with {_ending(status)}"
        if fault:
            self._end()
            raise Unavailable(f"a subprocess did not start: {fault}; {CURE}")

    def _end(self) -> int:
        """Ends the subprocess; returns its exit status, or minus the signal that ended it."""
        if self._process is None:
            return 0
        with self._sending:
            self._pipe.close()  # which ends the subprocess
            self._pipe = None
        status = self._process.wait()
        os.close(self._alive)
        self._process = None
        return status


def cause(error: BaseException) -> str:
    """An exception in one line of at most LONGEST characters: "MemoryError: Unable to allocate 3 GiB"."""
    message = " ".join(str(error).split())
    name = "" if isinstance(error, Died) else type(error).__name__
    line = ": ".join(part for part in (name, message) if part)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _ending(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    hint = ", usually for lack of memory" if -status == signal.SIGKILL else ""
    with contextlib.suppress(ValueError):
        return f"signal {-status} ({signal.Signals(-status).name}{hint})"
    return f"signal {-status}"


def serve(pipe: int, alive: int, *files: int) -> None:
    """The subprocess: answers calls until the other end of the pipe is closed.

    Args:
      pipe, alive, files: handles of the pipe, of another one that is closed when the parent ends, and of the file.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.keep_memory()
    cv2.setNumThreads(1)  # other processes use the other cores
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    with contextlib.ExitStack() as opened:
        opened.enter_context(contextlib.suppress(EOFError, ConnectionError))
        parent = opened.enter_context(Connection(pipe))
        first = [opened.enter_context(open(handle, "wb", buffering=0)) for handle in files]
        calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        try:
            threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
            threading.Thread(target=_receive, args=(parent, calls), daemon=True).start()
        except RuntimeError as error:  # no more threads are allowed
            parent.send(str(error))
            return
        parent.send(None)
        while call := calls.get():
            try:
                function, args = pickle.loads(call)
                answer = pickle.dumps((function(*first, *args), None), pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                answer = pickle.dumps((None, _portable(error)))
            parent.send_bytes(answer)
    # Python would take a tenth of a second to leave in order.
    os._exit(0)


def _receive(parent: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Hands calls on, and acts upon notices, until the parent closes its end of the pipe, or memory runs out."""
    try:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = parent.recv_bytes()
                if message.startswith(CALL):
                    calls.put(message[len(CALL) :])
                    continue
                with contextlib.suppress(Exception):
                    function, args = pickle.loads(message[len(NOTICE) :])
                    function(*args)
    finally:
        calls.put(b"")


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The exception itself, or one with its text if it cannot be pickled and unpickled."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(cause(error))
