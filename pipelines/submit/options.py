"""Run train, segment or tune-crf on machines with GPUs in the cloud.

examples:
  deeplab submit vertex --region europe-west4 --image IMAGE --machine-type g2-standard-8 --spot --follow -- \\
      train --records gs://bucket/records --output gs://bucket/model --init-from gs://bucket/voc
  deeplab submit kubernetes --image IMAGE --accelerator nvidia-l4:1 --service-account trainer --dry-run -- \\
      segment --input gs://bucket/photos --model gs://bucket/model --output gs://bucket/masks
  deeplab submit vertex --follow projects/my-project/locations/europe-west4/customJobs/123

IMAGE is the trainer image of the Dockerfile, pushed to a registry with the version as its tag, such as
ghcr.io/me/deeplab-trainer:VERSION; docs/jobs.md has the commands. After -- give the command as you would run it on
your own machine, with gs:// paths. What would otherwise fail an hour later is checked first: the command's flags, its
paths, records and model folder, the image's version, and whether the GPUs fit the machine and the region. If anything
is wrong, all of it is listed, and nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.options import CheckedOptions, InputError, option

COMMANDS = ("train", "segment", "tune-crf")
"""The commands that use a GPU."""
NEW = "the new job"
"""The value of --follow without a value; no job can have this name."""


@dataclass(frozen=True)
class JobOptions(CheckedOptions):
    """What a job needs, wherever it runs."""

    command: tuple[str, ...] = option(
        (), f"the command to run, with its flags: {', '.join(COMMANDS)}", behind=True, metavar="-- COMMAND ..."
    )
    image: str = option(
        "", "trainer image of the Dockerfile, such as ghcr.io/me/deeplab-trainer:VERSION", metavar="IMAGE", web=True
    )
    machine_type: str = option("", "machine type of Google Cloud, such as g2-standard-8", metavar="TYPE")
    accelerator: str = option(
        "", "GPUs of each host, such as nvidia-l4:2; default: those of the machine type", metavar="NAME[:N]"
    )
    count: int = option(1, "hosts; several train one model together", low=1)
    spot: bool = option(False, "use cheaper machines that may be preempted; a job that is restarted resumes")
    follow: str = option(
        "",
        "print the job's states until it ends, and exit with its status; JOB: a job submitted earlier",
        metavar="JOB",
        bare=NEW,
    )
    dry_run: bool = option(
        False, "check everything and print what would be sent, values of --env included, but send nothing"
    )
    name: str = option("", "name of the job; default: made from the command and its output", metavar="NAME")
    service_account: str = option("", "account that the job runs as", metavar="NAME")
    labels: tuple[str, ...] = option((), "labels of the job", metavar="KEY=VALUE")
    env: tuple[str, ...] = option((), "environment variables of the command", metavar="KEY=VALUE")
    unlisted: bool = option(
        False, "accept machine types, GPUs and regions that are not in this version's table (docs/jobs.md)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.returns and self.command:
            raise InputError(
                f"--follow {self.follow} follows an earlier job; to follow the new one, give --follow without "
                "a value, before another flag or --"
            )
        if not self.returns and not self.command:
            raise InputError(f"nothing to run; give -- and one of {', '.join(COMMANDS)} with its flags at the end")

    @property
    def returns(self) -> bool:
        """Whether to follow a job that was submitted earlier."""
        return self.follow not in ("", NEW)


@dataclass(frozen=True)
class Vertex(JobOptions):
    """Run it as a custom job on Vertex AI.

    examples:
      deeplab submit vertex --region europe-west4 --image IMAGE --machine-type g2-standard-8 --spot --follow -- \\
          train --records gs://bucket/records --output gs://bucket/model
      deeplab submit vertex --region us-central1 --image IMAGE --machine-type n1-standard-16 \\
          --accelerator nvidia-tesla-t4:2 -- tune-crf --model gs://bucket/model --records gs://bucket/records
      deeplab submit vertex --follow projects/my-project/locations/europe-west4/customJobs/123

    A new job needs --region, --machine-type, --image (see docs/jobs.md) and a command with gs:// paths.
    Needs `pip install "deeplab-pipelines[vertex]"` and `gcloud auth application-default login`. Prints the job's
    page and its states. Ctrl-C leaves the job running and prints how to follow it again.
    """

    region: str = option(
        "", "region of Google Cloud, such as europe-west4; best the one of your buckets", metavar="REGION"
    )
    project: str = option("", "project of Google Cloud; default: that of the credentials", metavar="PROJECT")


@dataclass(frozen=True)
class Kubernetes(JobOptions):
    """Run it as a Job in a Kubernetes cluster, or a JobSet of several hosts.

    examples:
      deeplab submit kubernetes --image IMAGE --accelerator nvidia-l4:1 --service-account trainer --follow -- \\
          train --records gs://bucket/records --output gs://bucket/model
      deeplab submit kubernetes --image IMAGE --accelerator nvidia-l4:1 --dry-run -- \\
          segment --input gs://bucket/photos --model gs://bucket/model --output gs://bucket/masks
      deeplab submit kubernetes --namespace research --follow train-model-1a2b3c

    A new job needs --image (see docs/jobs.md), --accelerator for GPUs, and a command with gs:// paths.
    Needs `pip install "deeplab-pipelines[kubernetes]"` and a cluster that kubectl can reach. --dry-run prints YAML for
    `kubectl create -f -`. --follow prints the log too. Ctrl-C leaves the job running and prints how to follow it
    again.
    """

    namespace: str = option("", "namespace; default: that of the context", metavar="NAME")
    context: str = option("", "context of the kubeconfig; default: the current one", metavar="NAME")
    cpus: int = option(0, "CPU cores that each host requests; 0: no request", low=0)
    memory: int = option(0, "GiB of memory that each host requests; 0: no request", low=0)
    node_selector: tuple[str, ...] = option(
        (), "labels that choose the nodes, instead of GKE's for GPUs and spot machines", metavar="KEY=VALUE"
    )


VERBS = {"vertex": Vertex, "kubernetes": Kubernetes}
"""Verb -> its options."""
USAGE = "[OPTIONS] -- COMMAND ..."
"""Usage of a verb, behind its name."""
