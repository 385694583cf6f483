"""Interprets the objects of a cluster: the pods of a job, why they wait, and how the job ended."""

from __future__ import annotations

import re
from typing import Any

Object = dict[str, Any]

STUCK = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
"""Reasons for which a container waits for ever."""


def _conditions(value: Object) -> dict[str, Object]:
    """The conditions that are true, by type."""
    conditions = value.get("status", {}).get("conditions") or ()
    return {one["type"]: one for one in conditions if one.get("status") == "True"}


def container(pod: Object) -> Object:
    """The status of the pod's container."""
    return next(iter(pod.get("status", {}).get("containerStatuses") or ()), {})


def is_first(pod: Object) -> bool:
    """Whether the pod is the first host, whose log is the job's."""
    annotations = pod["metadata"].get("annotations") or {}
    return annotations.get("batch.kubernetes.io/job-completion-index", "0") == "0"


def _because(value: Object) -> str:
    return ": ".join(filter(None, (value.get("reason"), value.get("message"))))


def stuck(pod: Object) -> str:
    """The reason why the pod's container will never start; "" if it may."""
    waiting = container(pod).get("state", {}).get("waiting") or {}
    return _because(waiting) if waiting.get("reason") in STUCK else ""


def states(job: Object, pods: list[Object]) -> dict[str, str]:
    """Job and pods -> a description of their states."""
    said = {f"pod {pod['metadata']['name']}": _state(pod) for pod in pods}
    ends = [one for kind, one in _conditions(job).items() if kind in ("Complete", "Completed", "Failed")]
    restarts = job.get("status", {}).get("restarts")
    if restarts:
        said["jobset"] = f"started again, {restarts} times by now"
    for end in ends:
        done = "failed" if end["type"] == "Failed" else "done"
        said[f"job {job['metadata']['name']}"] = f"{done} ({_because(end)})" if _because(end) else done
    return said


def _state(pod: Object) -> str:
    state, conditions = container(pod).get("state", {}), _conditions(pod)
    if ended := state.get("terminated"):
        taken = conditions.get("DisruptionTarget")
        why = f"; the machine was taken away ({_because(taken)})" if taken else ""
        return f"ended with {ended.get('exitCode')}{why}"
    if "running" in state:
        return f"running on {pod.get('spec', {}).get('nodeName') or 'a node'}"
    if waiting := state.get("waiting"):
        return f"waiting ({_because(waiting)})"
    phase = pod.get("status", {}).get("phase", "Pending").lower()
    unscheduled = [
        _because(one)
        for one in pod.get("status", {}).get("conditions") or ()
        if one["type"] == "PodScheduled" and one.get("status") == "False"
    ]
    reason = next(iter(unscheduled), "") or _because(pod.get("status", {}))
    return f"{phase} ({reason})" if reason else phase


def exit_status(job: Object, pods: list[Object]) -> int | None:
    """The exit status of a job that has ended: that of its command if it failed, 1 if that is not known."""
    conditions = _conditions(job)
    if {"Complete", "Completed"} & set(conditions):
        return 0
    if "Failed" not in conditions:
        return None
    ends = [container(pod).get("state", {}).get("terminated") or {} for pod in pods]
    codes = [end["exitCode"] for end in ends if end.get("exitCode")]
    code = re.search(r"exit code (\d+)", conditions["Failed"].get("message") or "")
    return codes[-1] if codes else int(code[1]) if code else 1
