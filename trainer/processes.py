"""Processes of this machine: unique names, the memory that they use, and whether it allows more threads and files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import sys
import threading
import time

GLANCE = 0.05
"""Seconds between two polls of a child's memory."""
KEEP = {-1: 512 << 20, -2: 64 << 20, -3: 32 << 20, -8: 1}
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, at its maximum, and M_ARENA_MAX, see `keep_memory`."""
REFUSED = ("can't start new thread", "failed to map segment")
"""What Python says where the system refuses a thread, or the memory for a library, for which it has no error."""
UNSEEN = "-0"
"""Used for the start time of a process if it cannot be determined."""


def machine() -> str:
    """An id shared by processes that can see each other: the host and, on Linux, its boot and their container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        parts.append(file.read().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def name(number: int | None = None) -> str:
    """The process of that number, this one by default: its number and, on Linux, when it was started; "" for none."""
    number = number or os.getpid()
    try:
        with open(f"/proc/{number}/stat", "rb") as file:
            # Its command may hold blanks and brackets.
            state, *fields = file.read().rpartition(b")")[2].split()
        return "" if state in (b"Z", b"X") else f"{number}-{fields[18].decode()}"
    except OSError:  # it is gone, or another user's, or this is not Linux
        return f"{number}{UNSEEN}" if _exists(number) else ""


def is_alive(process: str) -> bool:
    """Whether the process with that name, on this machine, still exists."""
    number = process.partition("-")[0]
    return number.isdecimal() and name(int(number)) in (process, f"{number}{UNSEEN}")


def refused(error: BaseException) -> MemoryError | None:
    """What to raise in place of an error where this machine refuses memory or a thread; None for any other error."""
    found = next((words for words in REFUSED if words in str(error)), None)
    return found and MemoryError(f"there is not enough memory, or no more threads are allowed here ({found})")


def check_threads(number: int) -> None:
    """Raises MemoryError unless this process may start so many more threads. C++ that may not aborts the process."""
    is_over, threads = threading.Event(), []
    try:
        for _ in range(number):
            thread = threading.Thread(target=is_over.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        raise refused(error) or error from None
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def check_files(number: int) -> None:
    """Raises OSError of EMFILE unless this process may open so many more files. Connections of C++ then never come."""
    files: list[int] = []
    try:
        for _ in range(number):
            files.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for file in files:
            os.close(file)


def peak_memory(number: int | None = None) -> int:
    """The peak memory of the process with that id, this one by default, in bytes; 0 if it cannot be determined."""
    # The value from `getrusage` includes the memory of the process that started this one.
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{number or 'self'}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024
    if number:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def release_memory() -> None:
    """Returns freed memory to the system, which glibc keeps for later allocations; elsewhere it does nothing."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory() -> None:
    """Lets this process keep the memory of freed arrays for the next ones, with glibc; elsewhere it does nothing.

    By default glibc returns that of images from half a megapixel on to the system, and new pages take twice as long as
    decoding the image into them. And it keeps what threads free apart, for no other thread to use.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter, value in KEEP.items():
            libc.mallopt(parameter, value)


def end(number: int) -> tuple[int, float, int]:
    """Waits for a child to end; returns its status, its CPU-seconds, and its peak memory in bytes."""
    memory = 0
    while True:
        memory = max(memory, peak_memory(number))
        time.sleep(GLANCE)
        ended, status, usage = os.wait4(number, os.WNOHANG)
        if ended:
            unit = 1 if sys.platform == "darwin" else 1024
            seconds = usage.ru_utime + usage.ru_stime
            return os.waitstatus_to_exitcode(status), seconds, memory or usage.ru_maxrss * unit


def _exists(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
