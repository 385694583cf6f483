from __future__ import annotations

import pytest
import yaml

from pipelines.submit import cluster, watching
from tests.drawn.clouds import KubernetesServer, VertexServer, running
from tests.drawn.submitting import upload_records


@pytest.fixture(scope="module")
def command(bucket, tmp_path_factory):
    """A training that could be run."""
    upload_records(tmp_path_factory.mktemp("records"), f"{bucket}/ready/records")
    return f"train --records {bucket}/ready/records --output {bucket}/ready/model --epochs 3".split()


@pytest.fixture
def soon(monkeypatch):
    """Nobody waits long."""
    monkeypatch.setattr(watching, "AGAIN", (0.01, 0.02))
    monkeypatch.setattr(cluster, "WAIT", 1)


@pytest.fixture
def kubernetes(tmp_path, monkeypatch, soon):
    """A cluster, and a kubeconfig that leads there."""
    with running(KubernetesServer()) as server:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "gke_project_europe-west4_gpus",
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [
                {
                    "name": "gke_project_europe-west4_gpus",
                    "context": {"cluster": "c", "user": "u", "namespace": "research"},
                }
            ],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield server


@pytest.fixture
def vertex(monkeypatch, soon):
    """Vertex AI, where its client looks for it."""
    monkeypatch.setattr("pipelines.submit.vertex.POLL", 0.01)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project")
    with running(VertexServer()) as server:
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", f"{server.url}/")
        yield server
