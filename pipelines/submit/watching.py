"""Follows a job: reports each change of its states once, and retries if the service does not answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping

from trainer import storage
from trainer.options import InputError

OWN = "deeplab-submission"
"""Key of the token that only this submission has given its job: a job of the same name may be an older one."""
AGAIN = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds before each retry; the last one repeats."""
PATIENCE = 900.0
"""Seconds without an answer after which a job is no longer followed."""


class Refused(InputError):
    """The service refuses a request.

    Attributes:
      status: HTTP status of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Lost(storage.Unavailable):
    """The service does not answer at present, or has no capacity.

    Attributes:
      retry: whether a retry may succeed soon.
    """

    def __init__(self, message: str, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


class Course:
    """The states of the parts of a job that have been reported."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def changes(self, states: Mapping[str, str]) -> Iterator[str]:
        """Yields lines on the parts whose state differs from the one reported before."""
        for part, state in states.items():
            if state and self._said.get(part) != state:
                self._said[part] = state
                yield f"{part}: {state}"


class Patience:
    """Limits how long a job is followed without an answer."""

    def __init__(self) -> None:
        self._since, self._tries = 0.0, 0

    def heard(self) -> None:
        """The service has answered."""
        self._tries = 0

    def wait(self, error: Lost) -> Iterator[str]:
        """Reports the error, the first time, and waits a moment; raises `error` after `PATIENCE` seconds."""
        now = time.monotonic()
        if not self._tries:
            self._since = now
            yield f"{error}; asking again"
        elif now - self._since > PATIENCE:
            raise error
        time.sleep(AGAIN[min(self._tries, len(AGAIN) - 1)])
        self._tries += 1


def token() -> str:
    """A new value for OWN."""
    return secrets.token_hex(8)


def send(create: Callable[[], str], taken: Callable[[], str]) -> str:
    """Sends a job, only once even if an answer is lost; returns its name.

    Args:
      create: sends the job; returns its name.
      taken: returns the name of the job if an earlier attempt did create it, else "".
    """
    is_lost = False
    for pause in (*AGAIN[:2], None):
        try:
            return (taken() if is_lost else "") or create()
        except Lost as error:
            if not error.retry:
                raise Lost(f"{error}; nothing was submitted, run the same command again later") from None
            if pause is None:
                raise Lost(
                    f"{error}; it is not known whether the job was created: check before submitting again"
                ) from None
            is_lost = True
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")
