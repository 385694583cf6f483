"""Jobs sent to Vertex AI and followed there, through the real client and the faults of the service."""

from __future__ import annotations

import json

import pytest

from pipelines import __version__, cli
from pipelines.submit import host
from tests.drawn.clouds import DROP, Fault
from tests.drawn.submitting import IMAGE, submit

FLAGS = ["--region", "europe-west4", "--machine-type", "g2-standard-24", "--name", "fit"]
FULL = ["--spot", "--service-account", "me@project.iam", "--labels", "team=vision", "--env", "A=b=$(c)"]
NAME = "projects/project/locations/europe-west4/customJobs/100"


def test_a_job_is_sent_with_its_machine_its_account_and_its_command(vertex, command, capsys):
    assert submit("vertex", *FLAGS, *FULL, command=command) == 0
    (job,) = vertex.jobs.values()
    (pool,) = job["jobSpec"]["workerPoolSpecs"]
    assert job["displayName"] == "fit" and job["jobSpec"]["serviceAccount"] == "me@project.iam"
    assert job["labels"]["team"] == "vision" and job["labels"]["deeplab-version"] == __version__.replace(".", "-")
    assert job["jobSpec"]["scheduling"]["strategy"] in ("SPOT", 4)
    machine = pool["machineSpec"]
    assert (machine["machineType"], machine["acceleratorCount"]) == ("g2-standard-24", 2)
    assert machine["acceleratorType"] in ("NVIDIA_L4", 11)
    container = pool["containerSpec"]
    assert (container["imageUri"], container["args"]) == (IMAGE, command)
    assert container["env"] == [{"name": "A", "value": "b=$$(c)"}]  # which Vertex AI does not expand
    told = capsys.readouterr().out
    assert "https://console.cloud.google.com/vertex-ai/locations/europe-west4/training/100?project=project" in told
    assert f"gcloud ai custom-jobs cancel {NAME}" in told and f"deeplab submit vertex --follow {NAME}" in told


def test_a_dry_run_prints_the_request_and_sends_nothing(vertex, command, capsys):
    assert submit("vertex", *FLAGS, *FULL, "--dry-run", command=command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"] == command
    assert vertex.requests == []
    assert submit("vertex", *FLAGS, *FULL, command=command) == 0
    assert set(printed) <= set(next(iter(vertex.jobs.values())))


def test_a_job_is_followed_from_the_queue_to_its_end(vertex, command, capsys):
    states = ["QUEUED", "PENDING", "RUNNING", "RUNNING", "PENDING", "RUNNING", "SUCCEEDED"]
    vertex.life = [(state, "") for state in states]
    assert submit("vertex", *FLAGS, "--follow", command=command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == f"the log: gcloud ai custom-jobs stream-logs {NAME}"
    assert lines[4:] == [
        *(f"job fit: {state}" for state in ("queued", "pending", "running", "pending", "running", "succeeded")),
        f"{NAME}: done",
    ]


@pytest.mark.parametrize(
    ("state", "message", "status"),
    [
        ("FAILED", "The replica workerpool0-0 exited with a non-zero status of 2. Termination reason: Error.", 2),
        ("FAILED", "Failed to pull image europe-docker.pkg.dev/project/images/none:1", 1),
        ("FAILED", "Resources are insufficient in region: europe-west4.", 1),
        ("CANCELLED", "", 1),
    ],
)
def test_the_status_of_a_job_that_fails_is_that_of_its_command(vertex, command, capsys, state, message, status):
    vertex.life = [("RUNNING", ""), (state, message)]
    assert submit("vertex", *FLAGS, "--follow", command=command) == status
    told = capsys.readouterr().out
    assert message in told and f"failed with status {status}" in told


@pytest.mark.parametrize(
    ("status", "message", "exit_status", "said"),
    [
        (429, "Quota exceeded: custom_model_training_nvidia_l4_gpus", 75, "quota: Quota exceeded: custom_model"),
        (403, "Permission 'aiplatform.customJobs.create' denied", 2, "ask for the role Vertex AI User"),
        (400, "Machine type is not supported", 2, "Vertex AI answers 400: "),
        (404, "The project does not exist", 2, "check --project and --region"),
    ],
)
def test_the_refusal_of_a_service_is_quoted_with_a_cure(vertex, command, capsys, status, message, exit_status, said):
    vertex.faults = [Fault("POST", status, message)]
    assert submit("vertex", *FLAGS, command=command) == exit_status
    told = capsys.readouterr().err
    assert said in told and message in told and vertex.jobs == {}
    assert sum(request.startswith("POST") for request in vertex.requests) == 1


@pytest.mark.parametrize("is_done", [True, False])
def test_a_job_whose_answer_is_lost_is_sent_once(vertex, command, is_done):
    vertex.faults = [Fault("POST", DROP, is_done=is_done), Fault("GET", 503, "try later")]
    assert submit("vertex", *FLAGS, command=command) == 0
    assert [*vertex.jobs] == [NAME]


@pytest.mark.parametrize("is_done", [True, False])
def test_an_older_job_of_the_same_name_is_not_taken_for_the_one_whose_answer_is_lost(vertex, command, is_done, capsys):
    assert submit("vertex", *FLAGS, command=command) == 0
    vertex.faults = [Fault("POST", DROP, is_done=is_done)]
    assert submit("vertex", *FLAGS, command=[*command, "--seed", "2"]) == 0
    assert [*vertex.jobs] == [NAME, f"{NAME[:-1]}1"]
    assert capsys.readouterr().out.count(f"submitted: {NAME[:-1]}1") == 1


def test_a_connection_that_is_lost_while_following_is_waited_for(vertex, command, capsys):
    vertex.life = [("RUNNING", ""), ("SUCCEEDED", "")]
    vertex.faults = [Fault("GET", DROP), Fault("GET", 503, "try later"), Fault("GET", 429, "slower")]
    assert submit("vertex", *FLAGS, "--follow", command=command) == 0
    assert capsys.readouterr().out.count("; asking again") == 1


def test_a_service_that_stays_silent_is_not_followed_for_ever(vertex, command, capsys, monkeypatch):
    monkeypatch.setattr("pipelines.submit.watching.PATIENCE", 0.03)
    vertex.faults = [Fault("GET", DROP) for _ in range(50)]
    assert submit("vertex", *FLAGS, "--follow", command=command) == 75
    assert f"deeplab submit vertex --follow {NAME}" in capsys.readouterr().err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(vertex, command, capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.submit.vertex.time.sleep", interrupted)
    assert submit("vertex", *FLAGS, "--follow", command=command) == 130
    assert f"the job continues; `deeplab submit vertex --follow {NAME}` follows it again" in capsys.readouterr().err
    assert not any(request.startswith("DELETE") or ":cancel" in request for request in vertex.requests)


def test_a_job_is_come_back_to_by_its_name(vertex, command, capsys):
    assert submit("vertex", *FLAGS, command=command) == 0
    vertex.life = [("SUCCEEDED", "")]
    assert cli.main(["submit", "vertex", "--follow", NAME]) == 0
    assert cli.main(["submit", "vertex", "--follow", "100"]) == 2
    assert "expected projects/PROJECT/locations/REGION/customJobs/NUMBER" in capsys.readouterr().err
    assert cli.main(["submit", "vertex", "--follow", f"{NAME}9"]) == 2
    assert f"there is no job {NAME}9; it was deleted" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_no_longer_ask_is_told_that_the_job_may_go_on(vertex, command, capsys, status):
    vertex.faults = [Fault("GET", status, "the session has expired")]
    assert submit("vertex", *FLAGS, "--follow", command=command) == 2
    told = capsys.readouterr().err
    assert f"; the job may go on, `deeplab submit vertex --follow {NAME}` follows it again" in told


def test_credentials_are_needed_but_for_a_local_address(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    assert submit("vertex", *FLAGS, command=command) == 2
    assert "gcloud auth application-default login" in capsys.readouterr().err


SPEC = {
    "cluster": {"workerpool0": ["first:2222"], "workerpool1": ["second:2222", "third:2222"]},
    "task": {"type": "workerpool1", "index": 1},
}


def test_each_host_of_vertex_ai_sees_which_one_it_is():
    assert host.host_flags(json.dumps(SPEC)) == ["--hosts", "3", "--host-id", "2", "--coordinator", "first:2222"]
    first = SPEC | {"task": {"type": "workerpool0", "index": 0}}
    assert host.host_flags(json.dumps(first))[3] == "0"


def test_several_hosts_are_pools_that_are_started_again_together(vertex, command):
    assert submit("vertex", *FLAGS, "--count", "2", command=[*command, "--batch-size", "8"]) == 0
    (job,) = vertex.jobs.values()
    first, others = job["jobSpec"]["workerPoolSpecs"]
    assert (int(first["replicaCount"]), int(others["replicaCount"])) == (1, 1)
    assert first["containerSpec"] == others["containerSpec"]
    assert first["containerSpec"]["command"] == ["tini", "--", "python", "-m", "pipelines.submit.host"]
    assert first["containerSpec"]["env"] == [{"name": "KERAS_BACKEND", "value": "jax"}]
    assert job["jobSpec"]["scheduling"]["restartJobOnWorkerRestart"]
