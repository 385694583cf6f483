"""What is sent to Kubernetes: every field of the manifest is one that the official client knows, with its type."""

from __future__ import annotations

import re

import pytest
import yaml
from kubernetes import client

from pipelines import cli
from pipelines.submit import kubernetes
from pipelines.submit.plan import plan
from tests.drawn.submitting import IMAGE

TRAIN = "train --records gs://b/records --output gs://b/My_Model --epochs 3"
FULL = [
    *("--machine-type", "g2-standard-24", "--accelerator", "NVIDIA_L4:2", "--spot", "--service-account", "trainer"),
    *("--labels", "team=vision", "--env", "KERAS_BACKEND=jax", "NOTE=a=b", "--namespace", "research"),
    *("--cpus", "20", "--memory", "80", "--name", "first"),
]


def made(*flags: str, command: str = TRAIN) -> dict:
    """The manifest, having been YAML."""
    _, options, _ = cli.read(["submit", "kubernetes", "--image", IMAGE, *flags, "--", *command.split()])
    job, _, _ = plan(options)
    written = yaml.safe_load(kubernetes.shown(options, job))
    assert written == kubernetes.manifest(options, job)
    return written


def test_a_job_is_what_the_client_calls_one():
    for flags in ([], ["--accelerator", "nvidia-l4"], FULL):
        job = made(*flags)
        assert client.ApiClient().sanitize_for_serialization(client.V1Job.model_validate(job)) == job


def test_fields_unknown_to_the_client_are_rejected():
    job = made(*FULL)
    job["spec"]["template"]["spec"]["containers"][0]["arguments"] = []
    with pytest.raises(ValueError, match="arguments"):
        client.V1Job.model_validate(job)


def test_a_job_has_its_gpus_its_node_its_account_and_its_command():
    job = made(*FULL)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["metadata"]["name"] == "first" and job["metadata"]["namespace"] == "research"
    assert job["metadata"]["labels"]["team"] == "vision"
    assert container["image"] == IMAGE and container["args"] == TRAIN.split()
    assert container["env"] == [{"name": "KERAS_BACKEND", "value": "jax"}, {"name": "NOTE", "value": "a=b"}]
    assert container["resources"] == {"requests": {"cpu": "20", "memory": "80Gi"}, "limits": {"nvidia.com/gpu": "2"}}
    assert pod["nodeSelector"] == {
        "node.kubernetes.io/instance-type": "g2-standard-24",
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-spot": "true",
    }
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu", "cloud.google.com/gke-spot"]
    assert pod["serviceAccountName"] == "trainer" and pod["restartPolicy"] == "Never"
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory"}


def test_a_job_without_gpus_asks_for_none():
    pod = made()["spec"]["template"]["spec"]
    assert not {"nodeSelector", "tolerations", "volumes", "serviceAccountName"} & set(pod)
    assert set(pod["containers"][0]) == {"name", "image", "args"}


def test_labels_of_other_clusters_take_the_place_of_gke_s():
    flags = ["--accelerator", "nvidia-l4:1", "--spot", "--node-selector", "nvidia.com/gpu.product=NVIDIA-L4", "zone=a"]
    assert made(*flags)["spec"]["template"]["spec"]["nodeSelector"] == {
        "nvidia.com/gpu.product": "NVIDIA-L4",
        "zone": "a",
    }


def test_a_machine_that_is_taken_away_costs_no_retry_and_wrong_input_is_not_tried_again():
    spec = made()["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore", "FailJob"]
    assert rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert [rule["onExitCodes"]["values"] for rule in rules[1:]] == [[143], [1, 2]]
    assert spec["backoffLimit"] == 6


def expanded(text: str) -> str:
    """What a container gets of an argument or a variable's value: Kubernetes makes "$$" one "$", "$(NAME)" a value."""
    return re.sub(r"\$(\$|\(\w+\))", lambda found: "$" if found[1] == "$" else "EXPANDED", text)


@pytest.mark.parametrize("text", ["$(LAYER)", "$$(LAYER)", "a$$b", "$", "$5$", "$(open"])
def test_kubernetes_expands_no_variables_in_command_and_environment(text):
    job = made("--env", f"NOTE={text}", command=f"{TRAIN} --freeze-until {text}")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert expanded(container["args"][-1]) == expanded(container["env"][-1]["value"]) == text


@pytest.mark.parametrize("text", ["1e-4", "1e3", "-1E3", ".5e1", "+.5", "0o17", "08", "y", "N", "no", "1_0", "12:30"])
def test_words_stay_words_for_kubectl_whose_yaml_has_more_numbers_and_booleans_than_python_s(text):
    flags = ["--env", f"NOTE={text}", f"Y={text}", "--node-selector", f"y={text}"]
    _, options, _ = cli.read(["submit", "kubernetes", *flags, "--", *TRAIN.split(), "--learning-rate", text])
    job, _, _ = plan(options)
    written = kubernetes.shown(options, job)
    assert written.count(f" '{text}'\n") == 4 and " 'Y'\n" in written and "\n        'y': " in written
    assert yaml.safe_load(written) == kubernetes.manifest(options, job)


def test_several_hosts_are_a_jobset_in_which_each_knows_its_number_and_the_first():
    jobset = made("--count", "3", "--accelerator", "nvidia-l4:1", "--name", "wide")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (hosts,) = jobset["spec"]["replicatedJobs"]
    client.V1JobSpec.model_validate(hosts["template"]["spec"])
    assert hosts["template"]["spec"]["completions"] == hosts["template"]["spec"]["parallelism"] == 3
    (container,) = hosts["template"]["spec"]["template"]["spec"]["containers"]
    own = ["--hosts", "3", "--host-id", "$(JOB_COMPLETION_INDEX)", "--coordinator", "wide-host-0-0.wide:8476"]
    assert container["args"] == [*TRAIN.split(), *own]
    assert container["env"] == [{"name": "KERAS_BACKEND", "value": "jax"}]
    assert hosts["template"]["spec"]["backoffLimit"] == 0
    policy = jobset["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts" and policy["restartStrategy"] == "BlockingRecreate"
    # As the definition of JobSets has it, api/jobset/v1alpha2/jobset_types.go of kubernetes-sigs/jobset.
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert set(rule) == {"name", "action", "onJobFailureReasons"}
    assert set(policy) <= {"maxRestarts", "restartStrategy", "rules"}
    assert set(jobset["spec"]) <= {"network", "failurePolicy", "replicatedJobs"}


def test_names_are_made_of_command_and_output_and_never_twice_the_same():
    names = [made()["metadata"]["name"] for _ in range(2)]
    assert names[0] != names[1] and all(re.fullmatch("train-my-model-[0-9a-f]{6}", name) for name in names)
    tune = made(command=f"tune-crf --model gs://b/{'Long_' * 20} --records gs://b/records")["metadata"]["name"]
    assert re.fullmatch("tune-crf-long(-long)*-[0-9a-f]{6}", tune) and len(tune) <= 40
