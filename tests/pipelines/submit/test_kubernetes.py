"""Jobs sent to a cluster and followed there, through the official client and its faults."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

from pipelines import cli
from tests.drawn.clouds import DROP, Fault, Moment, log, pod
from tests.drawn.submitting import submit
from trainer import storage
from trainer.formats.dataset import load_dataset
from trainer.options import to_json
from trainer.train.resume import Progress, begin

GPU = ["--accelerator", "nvidia-l4:1", "--name", "fit"]
RUNNING = pod(running={"startedAt": "2026-01-01T00:00:00Z"})
DONE = pod(phase="Succeeded", terminated={"exitCode": 0})
COMPLETE = ("Complete", "CompletionsReached", "")


def ended(status: int, **more: str) -> dict:
    return pod(phase="Failed", terminated={"exitCode": status, "reason": "Error"}, **more)


def test_a_job_is_sent_and_it_is_said_where_it_is_and_how_to_come_back(kubernetes, command, capsys):
    assert submit("kubernetes", *GPU, command=command) == 0
    job = kubernetes.jobs["fit"]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == command
    assert "POST /apis/batch/v1/namespaces/research/jobs" in kubernetes.requests
    told = capsys.readouterr().out
    page = "https://console.cloud.google.com/kubernetes/job/europe-west4/gpus/research/fit/details?project=project"
    assert page in told
    assert "kubectl --namespace=research delete job fit" in told
    assert "deeplab submit kubernetes --namespace=research --follow fit" in told


def test_a_job_is_followed_from_the_queue_to_its_end_with_its_log(kubernetes, command, capsys):
    kubernetes.life = [
        Moment(pods={"fit-a": pod(phase="Pending", waiting={"reason": "ContainerCreating"})}),
        Moment(pods={"fit-a": RUNNING}),
        Moment(pods={"fit-a": DONE}),
        Moment(pods={"fit-a": DONE}, condition=COMPLETE),
    ]
    kubernetes.logs = {"fit-a": [log("epoch 1/3", "epoch 2/3"), log("epoch 3/3", start=3)]}
    assert submit("kubernetes", *GPU, "--follow", command=command) == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    assert lines == [
        "pod fit-a: waiting (ContainerCreating)",
        "pod fit-a: running on node-1",
        "epoch 1/3",
        "epoch 2/3",
        "pod fit-a: ended with 0",
        "epoch 3/3",
        "job fit: done (CompletionsReached)",
        "fit: done",
    ]


def test_a_machine_that_is_taken_away_is_said_and_the_job_followed_on_the_next_one(kubernetes, command, capsys):
    taken = ended(143, taken="TerminationByKubelet")
    kubernetes.life = [
        Moment(pods={"fit-a": RUNNING}),
        Moment(pods={"fit-a": taken, "fit-b": pod(phase="Pending", node="")}),
        Moment(pods={"fit-a": taken, "fit-b": RUNNING}),
        Moment(pods={"fit-a": taken, "fit-b": DONE}, condition=COMPLETE),
    ]
    kubernetes.logs = {"fit-a": [log("epoch 1/3"), log("terminated; kept", start=2)], "fit-b": [log("resuming")]}
    assert submit("kubernetes", *GPU, "--spot", "--follow", command=command) == 0
    told = capsys.readouterr().out
    assert "pod fit-a: ended with 143; the machine was taken away (TerminationByKubelet)" in told
    assert re.search("kept\n.*pod fit-b: running on node-1\nresuming\n", told, re.DOTALL)


def test_the_status_of_a_job_that_fails_is_that_of_its_command(kubernetes, command, capsys):
    why = ("Failed", "PodFailurePolicy", "Container deeplab for pod research/fit-a failed with exit code 2")
    kubernetes.life = [Moment(pods={"fit-a": ended(2)}, condition=why)]
    kubernetes.logs = {"fit-a": [log("deeplab train: error: no")]}
    assert submit("kubernetes", *GPU, "--follow", command=command) == 2
    told = capsys.readouterr().out
    assert "deeplab train: error: no" in told and "fit: failed with status 2" in told


@pytest.mark.parametrize(
    ("message", "status"),
    [("Container deeplab for pod research/fit-a failed with exit code 70", 70), ("Job was active too long", 1)],
)
def test_the_status_of_a_job_whose_pods_are_gone_is_what_its_message_says(kubernetes, command, message, status):
    kubernetes.life = [Moment(condition=("Failed", "x", message))]
    assert submit("kubernetes", *GPU, "--follow", command=command) == status


def test_an_image_that_is_not_there_ends_the_following_with_how_to_remove_the_job(kubernetes, command, capsys):
    back_off = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "europe-docker.pkg.dev/..."'}
    kubernetes.life = [
        Moment(pods={"fit-a": pod(phase="Pending", waiting={"reason": "ErrImagePull"})}),
        Moment(pods={"fit-a": pod(phase="Pending", waiting=back_off)}),
    ]
    assert submit("kubernetes", *GPU, "--follow", command=command) == 2
    told = capsys.readouterr().err
    assert "job fit cannot start: ImagePullBackOff: Back-off pulling image" in told
    assert "`kubectl --namespace=research delete job fit` removes it" in told


def test_a_quota_that_is_used_up_while_the_job_waits_is_said(kubernetes, command, capsys):
    quota = ("FailedCreate", 'pods "fit-a" is forbidden: exceeded quota: gpus')
    kubernetes.life = [Moment(events=(quota,)), Moment(pods={"fit-a": DONE}, condition=COMPLETE)]
    assert submit("kubernetes", *GPU, "--follow", command=command) == 0
    assert f"job fit: FailedCreate: {quota[1]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "message", "exit_status", "said"),
    [
        (403, 'jobs.batch is forbidden: User "me" cannot create resource "jobs"', 2, "ask for a role that may create"),
        (403, "jobs.batch is forbidden: exceeded quota: count/jobs.batch", 75, "quota: jobs.batch is forbidden"),
        (401, "Unauthorized", 2, "the cluster rejects your credentials (Unauthorized); log in as for kubectl"),
        (422, "spec.template.spec.containers[0].image: Required", 2, "the cluster answers 422: spec.template"),
        (404, 'namespaces "research" not found', 2, 'namespaces "research" not found'),
        (429, "too many requests", 75, "the cluster answers 429: too many requests"),
    ],
)
def test_the_refusal_of_a_cluster_is_quoted_with_a_cure(
    kubernetes, command, capsys, status, message, exit_status, said
):
    kubernetes.faults = [Fault("POST", status, message)]
    assert submit("kubernetes", *GPU, command=command) == exit_status
    assert said in capsys.readouterr().err and kubernetes.jobs == {}


@pytest.mark.parametrize(("done", "schedule", "more", "said"), [
    (3, "constant", [], "raise --epochs"),
    (3, "poly", [], "start another with --init-from gs://"),
    (2, "constant", [], ""),
    (3, "constant", ["--epochs", "4"], ""),
])  # fmt: skip
def test_a_training_that_has_finished_is_said_before_a_machine_is_paid_for(
    done, schedule, more, said, kubernetes, command, capsys
):
    command = [*command, "--schedule", schedule]
    _, options, _ = cli.read(command)
    dataset = load_dataset(options.records)
    history = ({"val_jaccard": 0.5},) * done
    names = tuple(dataset.palette.names)
    begin(options.output, Progress(to_json(options), dataset.fingerprint, history, classes=names))
    assert submit("kubernetes", *GPU, "--dry-run", command=[*command, *more]) == 0
    told = capsys.readouterr().err
    assert ("has finished its 3 epochs" in told) is bool(said)
    assert not said or f"so this job has nothing left to do; to train on, {said}" in told
    storage.remove(f"{options.output}/checkpoints/state.json")


def test_a_name_that_is_taken_is_said(kubernetes, command, capsys):
    kubernetes.jobs["fit"] = {"kind": "Job"}
    assert submit("kubernetes", *GPU, command=command) == 2
    assert "already exists; give another --name, or --follow it" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [[], ["--count", "2"]])
def test_a_name_that_is_taken_is_said_where_the_first_answer_is_lost(kubernetes, command, kind, capsys):
    """Else an older job would pass for this one, which has other flags."""
    command = [*command, "--batch-size", "8"]
    assert submit("kubernetes", *GPU, *kind, command=command) == 0
    kubernetes.faults = [Fault("POST", DROP, is_done=True)]
    assert submit("kubernetes", *GPU, *kind, command=[*command, "--seed", "2"]) == 2
    assert "already exists; give another --name, or --follow it" in capsys.readouterr().err


@pytest.mark.parametrize("is_done", [True, False])
def test_a_job_whose_answer_is_lost_is_sent_once(kubernetes, command, is_done):
    kubernetes.faults = [Fault("POST", DROP, is_done=is_done), Fault("GET .*/jobs/fit", 503)]
    assert submit("kubernetes", *GPU, command=command) == 0
    assert [*kubernetes.jobs] == ["fit"]


def test_a_cluster_that_stays_silent_leaves_it_open_whether_the_job_is_there(kubernetes, command, capsys):
    kubernetes.faults = [Fault("POST", DROP), Fault("GET", DROP), Fault("GET", 500)]
    assert submit("kubernetes", *GPU, command=command) == 75
    assert "it is not known whether the job was created" in capsys.readouterr().err


def test_a_connection_that_is_lost_while_following_costs_no_line_and_repeats_none(kubernetes, command, capsys):
    kubernetes.life = [
        Moment(pods={"fit-a": RUNNING}),
        Moment(pods={"fit-a": DONE}, condition=COMPLETE),
    ]
    kubernetes.logs = {
        "fit-a": [
            log("one", "two", breaks=True),
            log("one", "two", "three", breaks=True),
            log("three", "four", start=3),
        ]
    }
    kubernetes.faults = [Fault("GET .*/pods\\?labelSelector", 503, "etcd"), Fault("GET .*/jobs/fit", DROP)]
    assert submit("kubernetes", *GPU, "--follow", command=command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line in ("one", "two", "three", "four")]
    assert lines == ["one", "two", "three", "four"]
    assert any("sinceSeconds=" in request for request in kubernetes.requests)


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_no_longer_ask_is_told_that_the_job_may_go_on(kubernetes, command, capsys, status):
    kubernetes.life, kubernetes.faults = [Moment(pods={"fit-a": RUNNING})], [Fault("GET .*/pods", status, "no")]
    assert submit("kubernetes", *GPU, "--follow", command=command) == 2
    back = "deeplab submit kubernetes --namespace=research --follow fit"
    assert f"; the job may go on, `{back}` follows it again" in capsys.readouterr().err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(kubernetes, command, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.submit.cluster.Cluster._wait", interrupted)
    kubernetes.life = [Moment(pods={"fit-a": RUNNING})]
    assert submit("kubernetes", *GPU, "--follow", command=command) == 130
    told = capsys.readouterr().err
    back = "deeplab submit kubernetes --namespace=research --follow fit"
    assert f"the job continues; `{back}` follows it again" in told
    assert not any(request.startswith("DELETE") for request in kubernetes.requests)


def test_a_job_is_come_back_to_by_its_name(kubernetes, capsys):
    kubernetes.jobs["fit"] = {"kind": "JobSet", "metadata": {"name": "fit"}}
    kubernetes.life = [Moment(condition=("Completed", "AllJobsCompleted", ""))]
    assert cli.main(["submit", "kubernetes", "--follow", "fit"]) == 0
    assert cli.main(["submit", "kubernetes", "--follow", "lost"]) == 2
    assert "there is no job lost in the namespace research" in capsys.readouterr().err


def test_several_hosts_are_sent_as_a_jobset_which_the_cluster_has_to_know(kubernetes, command, capsys):
    kubernetes.has_jobsets = False
    assert submit("kubernetes", *GPU, "--count", "2", command=command) == 2
    assert "the cluster does not have JobSet, which several hosts need; install it" in capsys.readouterr().err
    kubernetes.has_jobsets = True
    workers = {"fit-host-0-0": RUNNING, "fit-host-0-1": pod(phase="Pending", waiting={"reason": "ContainerCreating"})}
    kubernetes.life = [Moment(pods=workers), Moment(condition=("Completed", "AllJobsCompleted", ""))]
    kubernetes.logs = {"fit-host-0-0": [log("epoch 1/3")]}
    assert submit("kubernetes", *GPU, "--count", "2", "--follow", command=command) == 0
    assert kubernetes.jobs["fit"]["kind"] == "JobSet"
    told = capsys.readouterr().out
    assert "kubectl --namespace=research delete jobset fit" in told and "epoch 1/3" in told
    assert any("jobset.sigs.k8s.io/jobset-name=fit" in unquote(request) for request in kubernetes.requests)


def test_without_a_cluster_it_is_said_what_has_to_work_first(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert submit("kubernetes", *GPU, command=command) == 2
    assert "no cluster to submit to" in capsys.readouterr().err
