"""Job servers and Flink clusters, asked for flags and jobs over real connections."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc

from pipelines.runner import following, jobserver, remote, services
from pipelines.runner.flags import beam_options
from trainer.options import CheckedOptions, InputError

PROCESS = ["--environment_type=PROCESS", '--environment_config={"command": "boot"}']


class JobServer(beam_job_api_pb2_grpc.JobServiceServicer):
    """One job that has ended, one that runs and fails when it is cancelled, and two flags."""

    def __init__(self):
        self.state = api.JobState.RUNNING

    def DescribePipelineOptions(self, request, context):
        options = [api.PipelineOptionDescriptor(name=name) for name in ("object_reuse", "max_bundle_size")]
        return api.DescribePipelineOptionsResponse(options=options)

    def GetJobs(self, request, context):
        done = api.JobInfo(job_id="0", job_name="done", state=api.JobState.DONE)
        return api.GetJobsResponse(job_info=[done, api.JobInfo(job_id="1", job_name="mine", state=self.state)])

    def GetState(self, request, context):
        return api.JobStateEvent(state=self.state)

    def GetMessageStream(self, request, context):
        for importance, text in (
            (api.JobMessage.JOB_MESSAGE_DEBUG, "the exception\nCaused by: the cause"),
            (api.JobMessage.JOB_MESSAGE_ERROR, "the cause"),
            (api.JobMessage.JOB_MESSAGE_BASIC, "x"),
        ):
            yield api.JobMessagesResponse(message_response=api.JobMessage(importance=importance, message_text=text))

    def Cancel(self, request, context):
        self.state = api.JobState.FAILED
        return api.CancelJobResponse(state=self.state)


@pytest.fixture
def job_server():
    server = grpc.server(ThreadPoolExecutor(2))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(JobServer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield ["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", *PROCESS]
    server.stop(None)


def test_flags_that_the_job_server_knows_pass(job_server):
    beam_options([*job_server, "--object_reuse", "--max_bundle_size", "9"])
    with pytest.raises(InputError) as error:
        beam_options([*job_server, "--object_reuse", "--max_bundle_sizes=9"])
    assert "unknown arguments: --max_bundle_sizes (did you mean --max_bundle_size?)" in str(error.value)


def test_a_job_behind_a_job_server_is_found_asked_and_ended(job_server):
    options = beam_options(job_server)
    (job,) = services.active(options)
    assert (job.id, job.name, job.state(), services.can_find(options)) == ("1", "mine", "RUNNING", True)
    job.cancel()
    assert (job.state(), list(services.active(options))) == ("FAILED", [])
    assert job.error() == "the exception\nCaused by: the cause"


def test_a_job_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(jobserver, "ANSWER", 0.1)
    options = beam_options(["--runner=PortableRunner", "--job_endpoint=127.0.0.1:9", *PROCESS])
    with pytest.raises(InputError, match=r"--job_endpoint 127\.0\.0\.1:9: no job server answers there"):
        list(services.active(options))


@pytest.fixture
def cluster():
    """The address of a Flink cluster's REST interface, and what was asked of it."""
    asked, state = [], ["RUNNING"]

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            asked.append(f"{self.command} {self.path}")
            if self.command == "PATCH":
                state[0] = "CANCELED"
            jobs = [{"jid": "0", "name": "done", "state": "FINISHED"}, {"jid": "1", "name": "mine", "state": state[0]}]
            answers = {
                "/jobs/overview": {"jobs": jobs},
                "/jobs/1": {"state": state[0], "status-counts": {"CREATED": 5, "RUNNING": 0}},
                "/jobs/1/exceptions": {"root-exception": "the cause"},
                "/overview": {"slots-total": 4, "slots-available": 0},
            }
            data = json.dumps(answers.get(self.path, {"state": state[0]})).encode()
            self.send_response(202 if self.command == "PATCH" else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = answer

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_job_on_a_flink_cluster_is_found_asked_and_ended(cluster):
    address, asked = cluster
    options = beam_options(["--runner=FlinkRunner", f"--flink_master={address}", *PROCESS])
    (job,) = services.active(options)
    assert (job.id, job.name, job.state(), services.can_find(options)) == ("1", "mine", "RUNNING", True)
    assert job.page == f"http://{address}/#/job/running/1"
    job.cancel()
    assert asked[-1] == "PATCH /jobs/1?mode=cancel"
    assert (job.state(), job.error(), list(services.active(options))) == ("CANCELLED", "the cause", [])


@pytest.mark.parametrize(("parallelism", "is_told"), [(9, True), (4, False), (-1, False)])
def test_more_parallelism_than_slots_is_told_before_and_while_the_job_waits(cluster, parallelism, is_told):
    master, wanted = f"--flink_master={cluster[0]}", f"--parallelism={parallelism}"
    options = beam_options(["--runner=FlinkRunner", master, wanted, *PROCESS])
    assert services.lack(options).startswith("--parallelism 9 is more than the 4 slots of the cluster:") is is_told
    (job,) = services.active(options)
    assert following._hint(job, options) == "the job waits for slots of the cluster (4, all in use)"


def test_a_job_at_a_job_server_is_ended_at_its_cluster(cluster, job_server, tmp_path, monkeypatch, capsys):
    address, asked = cluster
    monkeypatch.setattr(remote, "NAME", re.compile("(?P<output>)mine(?P<options>)"))
    monkeypatch.setattr(remote, "_digest", lambda text, length: "")
    said = []
    for flags in ([f"--flink_master={address}"], []):
        options = beam_options([*job_server, *flags, "--cancel"])
        assert remote.attach(options, CheckedOptions(), str(tmp_path), "demo") == remote.CANCELLED
        said.append(capsys.readouterr().err)
    assert "PATCH /jobs/1?mode=cancel" in asked
    assert ["look at the page of the cluster" in text for text in said] == [False, True]


def test_a_job_of_which_its_server_says_that_it_failed_may_still_run_on_its_cluster(job_server):
    (job,) = services.active(beam_options(job_server))
    job.cancel()
    assert job.state() == "FAILED"
    job.twin = services.FlinkJob("1", "mine", master="http://127.0.0.1:9")
    with pytest.raises(urllib.error.URLError):  # so that it is asked again
        job.state()
    job.twin.state = lambda: "RUNNING"
    assert job.state() == "RUNNING"


def test_a_job_whose_job_server_is_gone_is_asked_for_at_its_cluster():
    gone = beam_job_api_pb2_grpc.JobServiceStub(grpc.insecure_channel("127.0.0.1:9"))
    job = services.PortableJob("1", "mine", service=gone)
    with pytest.raises(grpc.RpcError) as error:
        job.state()
    assert following.told(error.value).startswith("failed to connect")

    job.twin = services.FlinkJob("1", "mine")
    job.twin.state, job.twin.error = lambda: "DONE", lambda: "the cause"
    assert (job.state(), job.error()) == ("DONE", "the cause")


@pytest.mark.parametrize("answer", ["", "<html>", "[]", '{"items": []}', None])
def test_a_server_of_another_kind_is_not_taken_for_flink(answer, monkeypatch):
    def ask(address, method="GET"):
        if answer is None:
            raise urllib.error.HTTPError(address, 404, "Not Found", {}, None)
        return json.loads(answer)

    monkeypatch.setattr(services, "_ask", ask)
    options = beam_options(["--runner=FlinkRunner", "--flink_master=h:80", *PROCESS])
    with pytest.raises(InputError, match="--flink_master http://h:80 is not a Flink JobManager; expected HOST:PORT"):
        list(services.active(options))


def test_a_cluster_that_does_not_answer_is_named_with_its_flag():
    options = beam_options(["--runner=FlinkRunner", "--flink_master=127.0.0.1:9", *PROCESS])
    with pytest.raises(InputError, match=r"--flink_master http://127.0.0.1:9: no JobManager answers there \(\[Errno"):
        remote.attach(options, CheckedOptions(), "out", "prepare")


@pytest.mark.parametrize("master", ["", "host", "http://host", "host:8081/path"])
def test_a_flink_master_is_a_host_and_a_port(master):
    with pytest.raises(InputError, match=f"--flink_master '{master}' is not a Flink JobManager; expected HOST:PORT"):
        beam_options(["--runner=FlinkRunner", f"--flink_master={master}", *PROCESS])


def test_a_cluster_inside_of_the_job_server_is_none():
    options = beam_options(["--runner=FlinkRunner"])
    assert services.flink_master(options) == "" and not services.can_find(options)
    assert list(services.active(options)) == []


def test_a_master_of_spark_that_does_not_answer_is_refused():
    spark = ["--runner=SparkRunner", *PROCESS, "--spark_master_url"]
    with socket.create_server(("127.0.0.1", 0)) as master, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # but does not listen
        one, other = (f"127.0.0.1:{server.getsockname()[1]}" for server in (silent, master))
        for url in (f"spark://{one},{other}", "local[2]", "yarn"):
            services.check_spark(beam_options([*spark, url]))
        for url in (f"spark://{one}", "spark://localhost"):
            with pytest.raises(InputError, match=f"--spark_master_url {url}: no master of Spark answers there"):
                services.check_spark(beam_options([*spark, url]))
        submitted = ["--spark_submit_uber_jar", "--spark_rest_url=http://h:6066"]
        services.check_spark(beam_options([*spark, f"spark://{one}", *submitted]))
