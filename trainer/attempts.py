"""Retries work on files after temporary errors, and gives errors the same meaning everywhere.

For local files and for objects in Cloud Storage alike:

* OSError: something is wrong with that file. It is missing (FileNotFoundError), may not be read (PermissionError), its
  bytes are not those that were stored (CorruptError), or it cannot be read although others can.
* Unavailable: storage fails at present, after several attempts, or it is full. It is not the file's fault.
* InputError: the user has to do something first, such as logging in.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import random
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trainer.options import InputError

T = TypeVar("T")

SCHEME = "gs://"
WAITS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before each retry after a temporary error."""
PATIENCE = 120.0
"""Seconds after which nothing is retried that has been tried three times."""


def _numbers(*names: str) -> frozenset[int]:
    """The system's error numbers with these names, as far as the system has them."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


PASSING = _numbers(
    *("EAGAIN", "EBUSY", "EDEADLK", "EINTR", "EIO", "EMFILE", "ENFILE", "ENOBUFS", "ENOLCK", "ENOMEM", "ESTALE"),
    *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET"),
    *("ENETUNREACH", "ENONET", "ENOTCONN", "EPIPE", "EREMOTEIO", "ESHUTDOWN", "ETIMEDOUT"),
)
"""Errors of the machine, the disk or the network that may be temporary."""
FULL = _numbers("ENOSPC", "EDQUOT", "EROFS", "EFBIG")
"""Errors on writing that are permanent and not the file's fault."""
CURES = {errno.EROFS: "make it writable", errno.EFBIG: "allow larger files (`ulimit -f`)"}
"""What to do about them; about the others, to make room."""
DAMAGE = _numbers("EIO", "EREMOTEIO")
"""Those of `PASSING` that, if they persist on reading, are the file's own fault, such as a bad sector."""
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
"""The environment variable that may name a file of credentials."""
LOGIN = f"run `gcloud auth application-default login`, or name a key file in {KEY_FILE}"
THROTTLES = ("rateLimitExceeded", "userRateLimitExceeded")
"""Reasons of a 403 answer that mean "too fast" rather than "forbidden"."""


class Unavailable(RuntimeError):
    """Storage failed for a reason that does not lie in the file: the run ends and can be resumed.

    Attributes:
      answer: the answer of Cloud Storage, if it reported an error of its own; else "".
    """

    answer = ""


class CorruptError(OSError):
    """A file's bytes are not those that were stored."""


def attempt(path: str, work: Callable[[], T], writing: bool = False) -> T:
    """Returns what `work` returns, retrying it after temporary errors. Raises errors as described above."""
    end = time.monotonic() + PATIENCE
    for number, wait in enumerate((*WAITS, None), 1):
        try:
            return work()
        except Exception as error:
            passing, verdict = meaning(error, path, writing)
            if not passing or wait is None or (number >= 3 and time.monotonic() > end):
                if verdict is error:
                    raise
                raise verdict from error
        time.sleep(wait * random.uniform(0.5, 1))
    raise AssertionError("the last attempt returns or raises")


def meaning(error: Exception, path: str, writing: bool) -> tuple[bool, Exception]:
    """Whether `error` may be temporary, and what to raise if it is not."""
    path = str(path)
    if isinstance(error, CorruptError):
        return True, error
    if isinstance(error, ValueError) and _is_impossible(path):
        return False, FileNotFoundError(errno.ENOENT, "no file can have this name", path)
    remote = path.startswith(SCHEME)
    if remote and (verdict := _remote_meaning(error, path, writing)):
        return verdict
    if not isinstance(error, OSError):
        return False, error
    # An object that is too large to be read has EFBIG too, with its own name.
    if error.errno in FULL and (writing or (remote and error.filename != path)):
        place = error.filename or (tempfile.gettempdir() if remote else path)
        cure = CURES.get(error.errno, "make room")
        return False, Unavailable(f"{place}: {os.strerror(error.errno)}; {cure} and run the same command again")
    if error.errno in DAMAGE and not writing:
        return True, error
    if error.errno in PASSING or isinstance(error, (TimeoutError, ConnectionError)):
        return True, _unavailable(path, error.strerror or type(error).__name__)
    if remote and error.filename != path:
        # Not the object, but something needed to reach it: a file of credentials, the folder for downloads.
        return False, InputError(f"{path} cannot be reached: {error}; fix that first")
    if error.filename is None:  # for example on writing to an open file
        error.filename = path
    return False, error


def with_credentials(make: Callable[[], T]) -> T:
    """Returns what `make` returns, which looks for the user's credentials in the environment.

    Raises:
      InputError: the file in GOOGLE_APPLICATION_CREDENTIALS cannot be used.
      GoogleAuthError: there are no credentials, or they cannot be asked for at present.
    """
    from google.auth import exceptions as auth

    if (path := os.environ.get(KEY_FILE, "")) and os.path.exists(path) and not os.path.isfile(path):
        # A FIFO would be waited for.
        raise _unfit(path, "is not a regular file")
    try:
        return make()
    except (auth.TransportError, OSError):
        raise
    except Exception as error:  # of any type: Google's library does not check the JSON that it has read
        kind = type(error).__name__
        if path:
            found = f"holds no usable credentials ({kind})" if os.path.exists(path) else "does not exist"
            raise _unfit(path, found) from None
        raise auth.DefaultCredentialsError(kind) from error


def _unfit(path: str, found: str) -> InputError:
    return InputError(
        f"{KEY_FILE} names {path}, which {found}; expected a key file of Google Cloud: name one, or unset the "
        "variable and run `gcloud auth application-default login`"
    )


def _is_impossible(path: str) -> bool:
    try:
        return b"\0" in (path.encode() if path.startswith(SCHEME) else os.fsencode(path))
    except UnicodeEncodeError:
        return True


def _unavailable(path: str, reason: str) -> Unavailable:
    return Unavailable(f"{path}: {reason}, despite several attempts; run the same command again to continue")


def _remote_meaning(error: Exception, path: str, writing: bool) -> tuple[bool, Exception] | None:
    """Like `meaning`, for exceptions of Google's libraries and those they use; None for all others.

    Their text is not kept where it could contain an address with a secret.
    """
    import requests
    import urllib3
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    if isinstance(error, DataCorruption):
        if writing:
            return True, _unavailable(path, "the data stored are not those sent")
        return True, CorruptError(
            errno.EIO, "the bytes received are not the bytes stored: their checksums differ", path
        )
    if isinstance(error, auth.GoogleAuthError):
        if isinstance(error, auth.TransportError) or error.retryable:
            return True, _unavailable(path, f"no answer to the request for credentials ({type(error).__name__})")
        return False, InputError(f"{path}: {no_credentials(error)}")
    if isinstance(error, (api.GoogleAPICallError, InvalidResponse)):
        code = error.code if isinstance(error, api.GoogleAPICallError) else error.response.status_code
        return _answer_meaning(int(code or 0), _details(error), path)
    incomplete = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException)
    if isinstance(error, (*incomplete, ssl.SSLError, socket.gaierror)):
        return True, _unavailable(path, f"no complete answer ({type(error).__name__})")
    return None


def no_credentials(error: Exception) -> str:
    """What a GoogleAuthError means, with the cure."""
    return f"no valid credentials for Google Cloud ({type(error).__name__}); {LOGIN}"


def _details(error: Any) -> list[dict[str, Any]]:
    """The errors that an answer of Cloud Storage names, with `reason` and `message`; none where it names none."""
    errors = getattr(error, "errors", None)
    if not errors:
        # Answers to transfers are not read by Google's client.
        with contextlib.suppress(Exception):
            errors = error.response.json()["error"]["errors"]
    return [detail for detail in errors or () if isinstance(detail, dict)]


def _answer_meaning(code: int, details: Sequence[dict[str, Any]], path: str) -> tuple[bool, Exception]:
    """Like `meaning`, for an answer of Cloud Storage, with its status and errors."""
    status = f"{code} {http.HTTPStatus(code).phrase}" if code in set(http.HTTPStatus) else str(code)
    reason = f"Cloud Storage answered {status}" + "".join(f", {d['message']}" for d in details if d.get("message"))
    if code == 404:
        return False, FileNotFoundError(errno.ENOENT, "no such object or bucket", path)
    if code == 412:
        return False, Unavailable(f"{path} was replaced while it was read; run the same command again")
    throttled = any(detail.get("reason") in THROTTLES for detail in details)
    damaged = code in (400, 409) and any("match" in str(detail.get("message")) for detail in details)
    if code in (408, 410, 429) or code >= 500 or throttled or damaged:
        verdict = _unavailable(path, reason)
        verdict.answer = reason if code >= 500 else ""
        return True, verdict
    return False, OSError(errno.EACCES if code in (401, 403) else errno.EINVAL, reason, path)
