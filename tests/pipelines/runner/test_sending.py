"""A job that is being sent when its command ends: the next command waits for it, and sends no second one."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc

from pipelines.runner import jobserver, progress, remote, sending, services
from pipelines.runner.flags import beam_options
from pipelines.runner.remote import attach
from pipelines.runner.run import run
from pipelines.runner.services import Job
from trainer.options import CheckedOptions, InputError

PROCESS = ["--environment_type=PROCESS", '--environment_config={"command": "boot"}']
FLINK = ["--runner=FlinkRunner", "--flink_master=h:8081", *PROCESS]
ONE = {"total": 1, "unit": "x", "title": "demo"}


def build(pipeline, heartbeat):
    return pipeline | beam.Create([1])


class Late:
    """A service that shows a job when it is asked for the given time and once more, and then has done it.

    Attributes:
      asked: how many questions there were.
    """

    def __init__(self, monkeypatch, first: float):
        self.asked, self._first, self.name = 0, first, ""
        monkeypatch.setattr(services, "active", self.active)
        monkeypatch.setattr(Job, "state", lambda job: "DONE")
        monkeypatch.setattr(remote, "ASKING", 0.01)
        monkeypatch.setattr(jobserver, "obtain", lambda options: None)

    def active(self, options):
        self.name = self.name or options.get_all_options()["job_name"]
        self.asked += 1
        return iter([Job("job-7", self.name)] if 0 <= self.asked - self._first <= 1 else [])


def note(folder, age: float) -> None:
    """What a command leaves that was killed `age` seconds after it had begun to send a job."""
    (folder / progress.FOLDER).mkdir()
    expected = {"total": 9, "unit": "images", sending.SINCE: time.time() - age}
    (folder / progress.FOLDER / progress.EXPECTED).write_text(json.dumps(expected))


def look(folder, *flags: str) -> str:
    return attach(beam_options([*FLINK, *flags]), CheckedOptions(), str(folder), "segment")


def test_a_job_that_is_listed_late_is_awaited_and_followed(tmp_path, monkeypatch, capsys):
    service = Late(monkeypatch, first=4)
    note(tmp_path, age=5)
    assert look(tmp_path) == remote.FOLLOWED
    said = capsys.readouterr().err
    assert "segment: a job is being sent, or its command ended while it sent it; waiting up to 55 s for it to" in said
    assert "following job job-7, which is already working on this" in said and service.asked > 4


def test_a_job_that_is_listed_late_can_be_cancelled(tmp_path, monkeypatch):
    Late(monkeypatch, first=4)
    monkeypatch.setattr(Job, "cancel", lambda job: None)
    note(tmp_path, age=5)
    assert look(tmp_path, "--cancel") == remote.CANCELLED


def test_a_job_that_is_never_listed_is_awaited_only_so_long(tmp_path, monkeypatch):
    service = Late(monkeypatch, first=float("inf"))
    monkeypatch.setattr(sending, "ARRIVAL", 0.05)
    note(tmp_path, age=-3600)  # by a clock that is wrong
    assert look(tmp_path) == "" and service.asked > 1
    with pytest.raises(InputError, match="there is nothing to cancel"):
        look(tmp_path, "--cancel")


@pytest.mark.parametrize("spoilt", [None, "", "[]", '{"total": 9, "unit": "images"}', '{"sending since": "x"}'])
def test_nothing_is_waited_for_where_nothing_was_being_sent(tmp_path, monkeypatch, spoilt):
    service = Late(monkeypatch, first=2)
    note(tmp_path, age=61)
    if spoilt is not None:
        (tmp_path / progress.FOLDER / progress.EXPECTED).write_text(spoilt)
    assert look(tmp_path) == "" and service.asked == 1


def test_a_job_at_another_service_is_not_disturbed(tmp_path, monkeypatch):
    jobs = [Job("job-7", "mine")]
    monkeypatch.setattr(services, "active", lambda options: iter(jobs))
    sending.note(str(tmp_path), {sending.JOB: "mine", sending.SERVICE: "http://other:8081"}, is_sending=False)
    cure = "cancel it with --cancel and the flags that it was sent with, or give another"
    for flags in ([], FLINK):
        with pytest.raises(InputError, match=f"job mine at http://other:8081 is already writing to .*{cure}"):
            attach(beam_options(flags), CheckedOptions(), str(tmp_path), "segment")
    jobs.clear()
    assert attach(beam_options([]), CheckedOptions(), str(tmp_path), "segment") == ""

    sending.note(str(tmp_path), {sending.JOB: "mine", sending.SERVICE: "http://other:8081"}, is_sending=True)
    with pytest.raises(InputError, match="is already writing"):
        attach(beam_options([]), CheckedOptions(), str(tmp_path), "segment")


@pytest.mark.parametrize("service", ["http://127.0.0.1:9", "127.0.0.1:9"])
def test_a_job_whose_service_is_gone_stands_in_the_way_until_its_note_is_removed(tmp_path, monkeypatch, service):
    monkeypatch.setattr(jobserver, "ANSWER", 0.1)
    sending.note(str(tmp_path), {sending.JOB: "mine", sending.SERVICE: service}, is_sending=False)
    gone = f"may still be writing to .*: {service}, where it ran, does not answer; .* remove {tmp_path}/.progress"
    with pytest.raises(InputError, match=gone):
        attach(beam_options([]), CheckedOptions(), str(tmp_path), "segment")
    shutil.rmtree(tmp_path / progress.FOLDER)
    assert attach(beam_options([]), CheckedOptions(), str(tmp_path), "segment") == ""


class JobServer(beam_job_api_pb2_grpc.JobServiceServicer):
    """Takes a job, shows it from the third question on, and has done it when it is asked for its state then.

    Attributes:
      notes: at each step, whether the folder says that a job is being sent.
    """

    def __init__(self):
        self.folder, self.notes, self.name, self.state, self._asked = None, {}, "", api.JobState.RUNNING, 0

    def _note(self, step):
        path = self.folder / progress.FOLDER / progress.EXPECTED
        self.notes.setdefault(step, sending.SINCE in path.read_text() if path.exists() else None)

    def DescribePipelineOptions(self, request, context):
        return api.DescribePipelineOptionsResponse()

    def Prepare(self, request, context):
        self._note("prepare")
        self.name = request.job_name
        return api.PrepareJobResponse(preparation_id="1")

    def Run(self, request, context):
        self._note("run")
        return api.RunJobResponse(job_id="1")

    def GetJobs(self, request, context):
        if not self.name:
            return api.GetJobsResponse()
        self._asked += 1
        self._note("shown" if self._asked > 2 else "not shown")
        job = api.JobInfo(job_id="1", job_name=self.name, state=self.state)
        return api.GetJobsResponse(job_info=[job] if self._asked > 2 else [])

    def GetState(self, request, context):
        if self._asked > 2:
            self._note("followed")
            self.state = api.JobState.DONE
        return api.JobStateEvent(state=self.state)

    def GetMessageStream(self, request, context):
        return iter(())


@pytest.fixture
def job_server(tmp_path, monkeypatch):
    monkeypatch.setattr(services.PortableJob, "poll", 0.01)
    server, service = grpc.server(ThreadPoolExecutor(2)), JobServer()
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(service, server)
    port, service.folder = server.add_insecure_port("127.0.0.1:0"), tmp_path
    server.start()
    yield service, ["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", *PROCESS]
    server.stop(None)


@pytest.mark.parametrize("flags", [[], ["--no_wait"]])
def test_it_is_noted_while_a_job_is_sent_and_until_its_service_shows_it(job_server, tmp_path, flags):
    service, where = job_server
    options = beam_options([*where, *flags])
    assert attach(options, CheckedOptions(), str(tmp_path), "demo") == ""

    assert run(build, options, **ONE, folder=str(tmp_path)) is not bool(flags)
    steps = {"prepare": False, "run": True, "not shown": True, "shown": True}
    assert service.notes == steps | ({} if flags else {"followed": False})
    left = json.loads((tmp_path / progress.FOLDER / progress.EXPECTED).read_text()) if flags else None
    (_, endpoint, *_), name = where, options.get_all_options()["job_name"]
    job = {sending.JOB: name, sending.SERVICE: endpoint.partition("=")[2]}
    assert left == ({"total": 1, "unit": "x"} | job if flags else None)


def test_a_job_that_cannot_be_sent_leaves_nothing(job_server, tmp_path):
    service, where = job_server
    service.folder = None  # so that it fails to prepare the job
    with pytest.raises(InputError, match="the demo job failed"):
        run(build, beam_options(where), **ONE, folder=str(tmp_path / "out"))
    assert not list(tmp_path.rglob("*.json"))


def test_a_job_that_nobody_could_go_on_with_is_not_waited_for(job_server, tmp_path):
    service, (runner, endpoint, *_) = job_server
    options = beam_options([runner, endpoint, "--environment_type=LOOPBACK"])
    assert attach(options, CheckedOptions(), str(tmp_path), "demo") == ""
    service._asked = 3  # so that it is done when it is asked for its state
    assert run(build, options, **ONE, folder=str(tmp_path))
    assert service.notes["run"] is False
