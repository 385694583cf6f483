"""A job on Dataflow: states and counters, its failure, a service that is silent, its end, another run of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from google.api_core.exceptions import BadRequest, Forbidden, NotFound, ServiceUnavailable, TooManyRequests
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from pipelines.runner import following, progress, services
from pipelines.runner.flags import beam_options
from pipelines.runner.following import follow
from pipelines.runner.remote import CANCELLED, FOLLOWED, attach
from pipelines.runner.run import run
from pipelines.runner.services import DataflowJob
from tests.drawn.dataflow import FLAGS, Dataflow, dataflow
from trainer import storage
from trainer.options import CheckedOptions, InputError, option

PAGE = "https://console.cloud.google.com/dataflow/jobs/r/2026-0?project=drawn"


@dataclass(frozen=True)
class Command(CheckedOptions):
    output: str = option("gs://seg/masks", "where to")
    overlays: bool = option(False, "more")
    masks: tuple[str, ...] = option(("gs://seg/a",), "from where")


@pytest.fixture
def service(monkeypatch) -> Iterator[Dataflow]:
    monkeypatch.setattr(DataflowJob, "poll", 0.01)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.02)
    with dataflow() as service:
        yield service


def options_of(service: Dataflow, *flags: str):
    return beam_options([*FLAGS, service.endpoint, *flags])


def followed(service: Dataflow) -> None:
    options = options_of(service)
    follow(DataflowJob(service.add("job"), "job", options=options), options, "segment", "gs://seg/masks", 9, "images")


def test_states_and_counters_are_shown_until_the_job_is_done(service, capsys):
    service.states = ["PENDING", "RUNNING", "CANCELLING", "DONE"]
    service.counters = {"done": 7, "written": 6}
    followed(service)
    said = capsys.readouterr().err
    assert "segment: the job is pending\n" in said and "segment: the job is running\n" in said
    assert "segment: 7/9 images" in said


def test_a_failure_is_one_line_with_its_cause_and_its_page(service):
    service.states = ["RUNNING", "FAILED"]
    service.errors = ["Traceback (most recent call last):\n  File x\nOSError: no space", "The job failed, see above."]
    with pytest.raises(InputError) as error:
        followed(service)
    said = str(error.value)
    assert said.startswith("the segment job failed: OSError: no space (full traceback: ") and "\n" not in said
    assert said.endswith(f"run the same command again to resume; see {PAGE}")


ZONE = "Startup of the worker pool in zone r-a failed: ZONE_RESOURCE_POOL_EXHAUSTED: no\nresources"
QUOTA = "Workflow failed. Causes: QUOTA_EXCEEDED: Quota 'CPUS' exceeded. Limit: 24.0"


@pytest.mark.parametrize(("messages", "cause"), [([ZONE, "Workflow failed."], ZONE), ([QUOTA], QUOTA)])
def test_the_words_of_the_service_are_the_cause_where_no_worker_failed(service, messages, cause):
    service.states, service.errors = ["FAILED"], messages
    with pytest.raises(InputError) as error:
        followed(service)
    kept = "Finished outputs are kept; run the same command again to resume"
    assert str(error.value) == f"the segment job failed: {' '.join(cause.split())}. {kept}; see {PAGE}"


def test_a_failure_without_a_message_names_the_page(service):
    service.states = ["FAILED"]
    with pytest.raises(InputError, match="the Dataflow job ended in state FAILED; see https://console"):
        followed(service)


def test_a_service_that_is_silent_for_a_while_is_asked_again(service, monkeypatch):
    service.states, service.failing = ["RUNNING", "RUNNING", "DONE"], 3
    followed(service)
    assert service.failing == 0
    monkeypatch.setattr(following, "LOST", 0.05)
    service.failing = -1
    with pytest.raises(storage.Unavailable) as error:
        followed(service)
    assert str(error.value).startswith("lost contact with the segment job: ServiceUnavailable: 503")
    assert "it may still be running. It is 2026-1 at Dataflow; see" in str(error.value)
    assert "cancel it with the same command and --cancel, or let it finish" in str(error.value)


def test_ctrl_c_leaves_the_job_and_says_how_to_end_it(service, monkeypatch):
    def interrupt(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(DataflowJob, "state", interrupt)
    with pytest.raises(KeyboardInterrupt) as error:
        followed(service)
    assert str(error.value).startswith(f"the job continues. It is 2026-0 at Dataflow; see {PAGE}; cancel it with")


def sent(service: Dataflow, command: Command = Command()) -> str:
    """A job as a run of the command has sent it; returns its id."""
    options = options_of(service)
    assert attach(options, command, command.output, "segment") == ""
    name = options.view_as(GoogleCloudOptions).job_name
    assert name.startswith("deeplab-segment-")
    return service.add(name)


def test_another_run_of_the_command_follows_the_job(service, capsys):
    service.add("deeplab-segment-0123456789ab-01234567")
    sent(service)
    service.states = ["RUNNING", "DONE"]
    assert attach(options_of(service), Command(), "gs://seg/masks", "segment") == FOLLOWED
    page = PAGE.replace("2026-0", "2026-1")
    assert f"segment: following job 2026-1, which is already working on this; see {page}" in capsys.readouterr().err
    assert attach(options_of(service), Command(output="gs://seg/other"), "gs://seg/other", "segment") == ""


def test_a_job_of_other_options_into_the_folder_is_refused(service):
    sent(service, Command(overlays=True))
    with pytest.raises(
        InputError, match="2026-0 at Dataflow is already writing to gs://seg/masks/, with other options"
    ):
        attach(options_of(service), Command(), "gs://seg/masks/", "segment")
    with pytest.raises(InputError, match="is already working on this; omit --no_wait"):
        attach(options_of(service, "--no_wait"), Command(overlays=True), "gs://seg/masks", "segment")


def test_a_slash_behind_a_folder_makes_no_other_job(service):
    sent(service)
    service.states = ["DONE"]
    slash = Command(output="gs://seg/masks/", masks=("gs://seg/a//",))
    assert attach(options_of(service), slash, "gs://seg/masks/", "segment") == FOLLOWED


def test_cancel_ends_the_job_of_the_folder(service, capsys):
    number = sent(service)
    assert attach(options_of(service, "--cancel"), Command(), "gs://seg/masks", "segment") == CANCELLED
    assert service.states == ["CANCELLED"]
    assert f"segment: job {number} is being cancelled; finished outputs are kept" in capsys.readouterr().err
    assert DataflowJob(number, "", options=options_of(service)).state() == "CANCELLED"
    with pytest.raises(InputError, match="no job at Dataflow writes to gs://seg/masks; there is nothing to cancel"):
        attach(options_of(service, "--cancel"), Command(), "gs://seg/masks", "segment")


@pytest.mark.parametrize(
    ("error", "kind"), [(Forbidden("no"), InputError), (TooManyRequests("no"), storage.Unavailable)]
)
def test_a_cancel_that_is_refused_is_no_traceback_and_of_a_job_that_has_ended_no_error(
    service, monkeypatch, capsys, error, kind
):
    def refuse(*_):
        raise error

    number = sent(service)
    monkeypatch.setattr(DataflowJob, "cancel", refuse)
    with pytest.raises(kind, match=rf"^job {number} is not cancelled: .*{error.code}"):
        attach(options_of(service, "--cancel"), Command(), "gs://seg/masks", "segment")
    service.states = ["DONE"]
    assert attach(options_of(service, "--cancel"), Command(), "gs://seg/masks", "segment") == CANCELLED


def test_a_service_that_does_not_answer_is_named_before_anything_is_planned(service):
    service.failing = -1
    with pytest.raises(storage.Unavailable, match=r"^Dataflow does not answer: ServiceUnavailable: 503"):
        attach(options_of(service), Command(), "gs://seg/masks", "segment")


def test_missing_credentials_are_told_at_once(monkeypatch):
    def nothing(*_, **__):
        raise DefaultCredentialsError("none")

    monkeypatch.setattr("google.auth.default", nothing)
    services._check_credentials.cache_clear()
    options = beam_options([flag for flag in FLAGS if flag != "--no_auth"])
    with pytest.raises(InputError, match=r"^no valid credentials for Google Cloud .*; run `gcloud auth application-"):
        attach(options, Command(), "gs://seg/masks", "segment")


REFUSALS = [
    (RefreshError("expired"), "no valid credentials for Google Cloud (RefreshError); run `gcloud auth application"),
    (Forbidden("no dataflow.jobs.get"), "Google Cloud answers Forbidden: 403 no dataflow.jobs.get; ask for the role"),
    (NotFound("nope"), "Google Cloud answers NotFound: 404 nope; check --project and --region"),
]


@pytest.mark.parametrize(("refusal", "said"), REFUSALS)
def test_a_refusal_is_not_waited_for_and_has_its_cure(service, monkeypatch, refusal, said):
    def refuse(*_):
        raise refusal

    monkeypatch.setattr(services, "_client", refuse)
    with pytest.raises(InputError) as error:
        attach(options_of(service), Command(), "gs://seg/masks", "segment")
    assert str(error.value).startswith(said)
    with pytest.raises(InputError) as error:
        followed(service)
    assert str(error.value).startswith(said) and f"may still be running. It is 2026-0 at Dataflow; see {PAGE}" in str(
        error.value
    )


def test_a_service_that_is_too_busy_is_asked_later(service, monkeypatch):
    def refuse(*_):
        raise TooManyRequests("slower")

    monkeypatch.setattr(services, "_client", refuse)
    with pytest.raises(storage.Unavailable, match="429 slower; run the same command again later"):
        attach(options_of(service), Command(), "gs://seg/masks", "segment")


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            Forbidden("no jobs.create"),
            InputError,
            "Google Cloud answers Forbidden: 403 no jobs.create; ask for the role",
        ),
        (BadRequest("bad zone"), InputError, "Google Cloud answers BadRequest: 400 bad zone"),
        (
            ServiceUnavailable("later"),
            storage.Unavailable,
            "Dataflow has not confirmed the job: ServiceUnavailable: 503 later; the",
        ),
        (
            TooManyRequests("quota"),
            storage.Unavailable,
            "Dataflow has not confirmed the job: TooManyRequests: 429 quota; the",
        ),
    ],
)
def test_a_job_that_cannot_be_sent_is_refused_in_the_words_of_the_service(service, monkeypatch, answer, kind, said):
    def refuse(*_):
        raise answer

    monkeypatch.setattr(beam.Pipeline, "run", refuse)
    with pytest.raises(kind) as error:
        run(lambda *_: None, options_of(service), total=1, unit="images", title="segment", folder="gs://seg/masks")
    assert str(error.value).startswith(said)


@pytest.mark.slow
def test_a_job_is_sent_and_its_id_and_page_are_told(service, bucket, capsys, caplog):
    """By Beam's own client, which stages the pipeline in the emulator."""

    def build(pipeline, heartbeat):
        pipeline | beam.Create([1])

    waiting = options_of(service, "--job_name=mine")
    assert attach(waiting, Command(), "gs://seg/masks", "segment") == ""
    service.states = ["RUNNING", "DONE"]
    assert run(build, waiting, total=1, unit="images", title="segment", folder="gs://seg/masks") is True
    said = capsys.readouterr().err
    assert f"segment: job 2026-0; see {PAGE}" in said and not caplog.text
    pool = service.jobs["2026-0"]["environment"]["workerPools"][0]
    assert (pool["machineType"], pool["diskSizeGb"]) == ("n2-standard-4", 50)
    assert service.jobs["2026-0"]["name"].startswith("mine-")
    sending = options_of(service, "--no_wait")
    assert run(build, sending, total=1, unit="images", title="segment", folder="gs://seg/masks") is False
    assert "run the same command again to follow the job" in capsys.readouterr().out
    assert services.is_over("DONE") and not services.is_over("RUNNING")
