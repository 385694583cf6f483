"""The steps of `deeplab submit`: check the job, send it, follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pipelines.submit import checks, kubernetes, vertex
from pipelines.submit.cluster import Cluster
from pipelines.submit.options import JobOptions, Kubernetes, Vertex
from pipelines.submit.plan import Job, missing_extra, plan
from pipelines.submit.watching import Refused
from trainer import ending, storage
from trainer.options import InputError

SERVICES = {Vertex: vertex.Service, Kubernetes: Cluster}
"""Options -> the service that runs the job: `submit`, `follow`, and its page and commands."""
SPECS = {Vertex: vertex, Kubernetes: kubernetes}
"""Options -> the module that describes a job for the service: `manifest`, and `shown` as text."""


REFUSED = (401, 403)
"""Statuses of answers that say nothing about the job, only about who asks."""


def run(options: JobOptions, flags: list[str]) -> int:
    """Runs the command; returns 0, 2 if something is wrong, or the exit status of the job that was followed."""
    if options.returns:
        for problem in missing_extra(options):
            raise InputError(problem)
        return follow(SERVICES[type(options)](options), options.follow)
    job = checked_job(options)
    if job is None:
        return 2
    if options.dry_run:
        print(SPECS[type(options)].shown(options, job), end="")
        return 0
    service = SERVICES[type(options)](options)
    name = service.submit(SPECS[type(options)].manifest(options, job))
    print(f"submitted: {name}\nsee it:    {service.page(name)}\nend it:    {service.end_command(name)}", flush=True)
    if options.follow:
        return follow(service, name)
    print(f"follow it: {service.follow_command(name)}")
    return 0


def checked_job(options: JobOptions) -> Job | None:
    """Checks the job, and prints its problems. Returns None if there are any."""
    job, beam, problems = plan(options)
    problems = [*missing_extra(options), *problems, *checks.problems(options, job, beam)]
    for problem in problems:
        print(f"deeplab submit {type(options).__name__.lower()}: error: {problem}", file=sys.stderr)
    if problems:
        return None
    for doubt in checks.doubts(job):
        print(f"warning: {doubt}", file=sys.stderr)
    return job


def follow(service: vertex.Service | Cluster, name: str) -> int:
    """Prints the states of a job until it has ended; returns its exit status."""
    lines: Iterator[str] = service.follow(name)
    try:
        while True:
            print(next(lines), flush=True)
    except StopIteration as end:
        print(f"{name}: " + ("done" if not end.value else f"failed with status {end.value}"))
        return end.value
    except storage.Unavailable as error:
        raise storage.Unavailable(
            f"{error}; the job may go on, `{service.follow_command(name)}` follows it again"
        ) from None
    except Refused as error:  # as where credentials expire; the job does not depend on them
        if error.status not in REFUSED:
            raise
        raise Refused(
            f"{error}; the job may go on, `{service.follow_command(name)}` follows it again", error.status
        ) from None
    except KeyboardInterrupt:
        ending.received()
        raise KeyboardInterrupt(f"the job continues; `{service.follow_command(name)}` follows it again") from None
