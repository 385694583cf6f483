"""The manifests of Kubernetes jobs.

One host is a Job; several are a JobSet (jobset.sigs.k8s.io), whose hosts find each other by name, and which is
restarted as a whole if one of them ends.
"""

from __future__ import annotations

import re
from typing import Any

from pipelines.submit.options import Kubernetes
from pipelines.submit.plan import Job, environment, own_flags, pairs

GPU = "nvidia.com/gpu"
CONTAINER = "deeplab"
HOSTS = "host"
"""Name of the replicated job of a JobSet, and part of its pods' names."""
JOBSET = ("jobset.x-k8s.io", "v1alpha2", "jobsets")
PORT = 8476
"""Port on which the first of several hosts waits for the others."""
RETRIES = 6
"""Failures after which a job is given up; preempted machines do not count."""
TERMINATED = 143
"""Exit status of a command that SIGTERM ended, and that can resume."""
USELESS = (1, 2)
"""Exit statuses for which repeating the command is useless, see `pipelines.cli`."""
GRACE = 60
"""Seconds from SIGTERM to SIGKILL. (GKE gives pods on spot machines only 15.)"""
PLAIN = re.compile("[A-Za-z/-][A-Za-z/-]")
"""The beginning of words that no version of YAML reads as a number, or that PyYAML itself quotes, such as "no"."""


def manifest(options: Kubernetes, job: Job) -> dict[str, Any]:
    """The manifest of the Job, or of the JobSet for several hosts."""
    return _jobset(options, job) if job.hosts > 1 else _job(options, job)


def _metadata(options: Kubernetes, job: Job) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": job.name, "labels": labels(options, job)}
    return metadata | ({"namespace": options.namespace} if options.namespace else {})


def labels(options: Kubernetes, job: Job) -> dict[str, str]:
    """The labels of the job and its pods: the user's, and ours."""
    return {"app.kubernetes.io/name": "deeplab", "deeplab-command": job.command} | pairs(options.labels)


def _job(options: Kubernetes, job: Job) -> dict[str, Any]:
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _on_status("Ignore", TERMINATED),
        _on_status("FailJob", *USELESS),
    ]
    spec = {
        "backoffLimit": RETRIES,
        "podFailurePolicy": {"rules": rules},
        "template": _template(options, job, job.words),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(options, job), "spec": spec}


def _jobset(options: Kubernetes, job: Job) -> dict[str, Any]:
    """The JobSet: a host that ends fails its Job, and with it the set, which is then restarted."""
    rules = [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _on_status("FailJob", TERMINATED),
    ]
    coordinator = f"{job.name}-{HOSTS}-0-0.{job.name}:{PORT}"
    own = own_flags(job.hosts, "$(JOB_COMPLETION_INDEX)", coordinator)
    hosts = {
        "completionMode": "Indexed",
        "completions": job.hosts,
        "parallelism": job.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": rules},
        "template": _template(options, job, (*job.words, *own)),
    }
    spec = {
        "network": {"enableDNSHostnames": True},
        "failurePolicy": {
            "maxRestarts": RETRIES,
            # Hosts of the previous attempt that are still running would hold the lease of the model folder.
            "restartStrategy": "BlockingRecreate",
            "rules": [
                {
                    "name": "takenAway",
                    "action": "RestartJobSetAndIgnoreMaxRestarts",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        },
        "replicatedJobs": [{"name": HOSTS, "replicas": 1, "template": {"spec": hosts}}],
    }
    group, version, _ = JOBSET
    return {"apiVersion": f"{group}/{version}", "kind": "JobSet", "metadata": _metadata(options, job), "spec": spec}


def _on_status(action: str, *statuses: int) -> dict[str, Any]:
    codes = {"containerName": CONTAINER, "operator": "In", "values": [*statuses]}
    return {"action": action, "onExitCodes": codes}


def _template(options: Kubernetes, job: Job, words: tuple[str, ...]) -> dict[str, Any]:
    """The template of the pods.

    Args:
      words: arguments of `deeplab`: the user's, and ours, in which Kubernetes expands variables.
    """
    arguments = [*map(_literal, job.words), *words[len(job.words) :]]
    container: dict[str, Any] = {"name": CONTAINER, "image": job.image, "args": arguments}
    if variables := environment(options):
        container["env"] = [{"name": name, "value": _literal(value)} for name, value in variables.items()]
    if resources := _resources(options, job):
        container["resources"] = resources
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE}
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    if selector := _selector(options, job):
        pod["nodeSelector"] = selector
    if tolerations := _tolerations(options, job):
        pod["tolerations"] = tolerations
    if job.gpus > 1:
        # GPUs of one host exchange gradients through shared memory, of which a container has only 64 MiB by default.
        container["volumeMounts"] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        pod["volumes"] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    return {"metadata": {"labels": labels(options, job)}, "spec": pod | {"containers": [container]}}


def _literal(text: str) -> str:
    """The text as Kubernetes, which expands $(NAME) and makes "$$" one "$", has to be given it."""
    return text.replace("$", "$$")


def _resources(options: Kubernetes, job: Job) -> dict[str, Any]:
    requests = {"cpu": str(options.cpus)} if options.cpus else {}
    requests |= {"memory": f"{options.memory}Gi"} if options.memory else {}
    resources = {"requests": requests} if requests else {}
    return resources | ({"limits": {GPU: str(job.gpus)}} if job.gpus else {})


def _selector(options: Kubernetes, job: Job) -> dict[str, str]:
    """The labels that a node must have: the user's, or GKE's."""
    machine = {"node.kubernetes.io/instance-type": job.machine_type} if job.machine_type else {}
    if options.node_selector:
        return machine | pairs(options.node_selector)
    gpus = {"cloud.google.com/gke-accelerator": job.accelerator} if job.accelerator else {}
    return machine | gpus | ({"cloud.google.com/gke-spot": "true"} if options.spot else {})


def _tolerations(options: Kubernetes, job: Job) -> list[dict[str, str]]:
    gpus = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}] if job.gpus else []
    spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    return gpus + [spot] * options.spot


def shown(options: Kubernetes, job: Job) -> str:
    """The manifest as YAML, for `kubectl create -f -`."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes every string that kubectl might take for something else."""

    def quoted(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        # PyYAML leaves 1e-4, 0o17 and y bare, which kubectl's parser reads as numbers and a boolean.
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if PLAIN.match(text) else "'")

    Dumper.add_representer(str, quoted)
    return yaml.dump(manifest(options, job), Dumper=Dumper, sort_keys=False)
