"""What every DoFn of this program is made of."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import dataclass
from typing import ClassVar

import apache_beam as beam
import pytest

from pipelines.runner import work
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from trainer.options import InputError


@dataclass(eq=False)
class Nothing(Work):
    stage: ClassVar[str] = "testing"
    number: int


def test_a_worker_of_other_versions_refuses_the_job(monkeypatch):
    data = pickle.dumps(Nothing(Heartbeat("/out"), 7))
    received = pickle.loads(data)
    assert (received.number, received.heartbeat.folder) == (7, "/out")
    assert pickle.dumps(received) == data
    monkeypatch.setattr(work, "VERSIONS", "Python 3.99, Apache Beam 2 and deeplab 0.1")
    with pytest.raises(InputError) as error:
        pickle.loads(data)
    assert "has Python 3.99, Apache Beam 2 and deeplab 0.1, but the job was sent with Python 3." in str(error.value)


def test_work_is_shuffled_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a pipeline that never runs leaves a folder
    pipeline = beam.Pipeline()
    distribute(pipeline, ["one", "two"], "chunks")
    kinds = [transform.spec.urn for transform in pipeline.to_runner_api().components.transforms.values()]
    assert kinds.count("beam:transform:group_by_key:v1") == 1
