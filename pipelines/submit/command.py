"""The order of events of `deeplab submit`: look at the job, send it, follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pipelines.submit import checks, kubernetes, vertex
from pipelines.submit.cluster import Cluster
from pipelines.submit.options import JobOptions, Kubernetes, Vertex
from pipelines.submit.plan import Job, missing_extra, plan
from trainer import storage
from trainer.options import InputError

SERVICES = {Vertex: vertex.Service, Kubernetes: Cluster}
"""Options -> who runs the job: `submit`, `follow`, and where it is seen, come back to and ended."""
SPECS = {Vertex: vertex, Kubernetes: kubernetes}
"""Options -> what a job is made of there: `manifest`, and `shown` as text."""


def run(options: JobOptions, flags: list[str]) -> int:
    """Runs the command; returns 0, 2 where something is wrong, or the status of the job that was followed."""
    if options.returns:
        for problem in missing_extra(options):
            raise InputError(problem)
        return follow(SERVICES[type(options)](options), options.follow)
    job = looked_at(options)
    if job is None:
        return 2
    if options.dry_run:
        print(SPECS[type(options)].shown(options, job), end="")
        return 0
    service = SERVICES[type(options)](options)
    name = service.submit(SPECS[type(options)].manifest(options, job))
    print(f"submitted: {name}\nsee it:    {service.page(name)}\nend it:    {service.end(name)}", flush=True)
    if options.follow:
        return follow(service, name)
    print(f"follow it: {service.back(name)}")
    return 0


def looked_at(options: JobOptions) -> Job | None:
    """The job; None where something is wrong with it, which is printed."""
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
    """Prints what becomes of a job until it has ended; returns its status."""
    lines: Iterator[str] = service.follow(name)
    try:
        while True:
            print(next(lines), flush=True)
    except StopIteration as end:
        print(f"{name}: " + ("done" if not end.value else f"failed with status {end.value}"))
        return end.value
    except storage.Unavailable as error:
        raise storage.Unavailable(f"{error}; the job may go on, `{service.back(name)}` follows it again") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the job goes on; `{service.back(name)}` follows it again") from None
