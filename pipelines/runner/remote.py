"""A job on another runner: waiting for it, and what is said where the waiting ends before the job does."""

from __future__ import annotations

import contextlib
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
)
from apache_beam.runners.runner import PipelineState

from pipelines.runner.boundary import cause
from pipelines.runner.failures import readable
from pipelines.runner.flags import is_dataflow, runner_name, shares_this_machine
from trainer.options import InputError

LATER = "or let it finish and then run the same command again, which keeps what it wrote; not before"


def wait(result: Any, options: PipelineOptions, title: str) -> None:
    """Waits for the end of a job.

    Args:
      result: what Beam's `Pipeline.run` returns.
      options: of the job.
      title: of the command.

    Raises:
      InputError: the job failed, or there is no word of it any more; in that case with what can be done about it.
      KeyboardInterrupt: the user wants to wait no longer; its text says whether the job goes on, and how to end it.
    """
    try:
        state = result.wait_until_finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_left_behind(result, options)) from None
    except Exception as error:
        if _has_ended(result):
            raise readable(error, title) from None
        lost = f"no word of the {title} job any more: {cause(error)}; it may go on all the same."
        raise InputError(f"{lost} {_remedy(result, options)}") from None
    if state not in ("DONE", None):
        raise InputError(
            f"{title}: the {runner_name(options)} job ended in state {state}; its own log has the cause. "
            "Finished outputs are kept; run the same command again to resume"
        )


def unsent(options: PipelineOptions) -> str:
    """What to say where a job was interrupted while it was being sent."""
    if not is_dataflow(options):
        return "the job was being sent; if it runs already, cancel it there. Run the same command again to resume"
    cloud = options.view_as(GoogleCloudOptions)
    return (
        "the job was being sent to Dataflow; whether it runs there tells `gcloud dataflow jobs list --status=active "
        f"--project={cloud.project} --region={cloud.region}`"
    )


def _left_behind(result: Any, options: PipelineOptions) -> str:
    if not shares_this_machine(options):
        return f"the job goes on. {_remedy(result, options)}"
    with contextlib.suppress(Exception):
        result.cancel()
    return "the job ends as well, for its workers belong to this process; run the same command again to resume"


def _remedy(result: Any, options: PipelineOptions) -> str:
    """Where the job is, how to cancel it, and how to go on with what it does."""
    job = getattr(result, "job_id", None) or getattr(result, "_job_id", "")
    job = job() if callable(job) else job
    if is_dataflow(options):
        cloud = options.view_as(GoogleCloudOptions)
        page = f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job}?project={cloud.project}"
        cancel = f"gcloud dataflow jobs cancel {job} --project={cloud.project} --region={cloud.region}"
        return f"See {page}; cancel it with `{cancel}`, {LATER}"
    return f"It is {job or 'the newest'} at {_cluster(options)}; cancel it there, {LATER}"


def _cluster(options: PipelineOptions) -> str:
    masters = {
        "flinkrunner": options.view_as(FlinkRunnerOptions).flink_master,
        "sparkrunner": options.view_as(SparkRunnerOptions).spark_master_url,
    }
    endpoint = options.view_as(PortableOptions).job_endpoint
    return endpoint or masters.get(runner_name(options)) or runner_name(options)


def _has_ended(result: Any) -> bool:
    """By what is known here: whoever asks may be cut off."""
    if hasattr(result, "is_in_terminal_state"):
        return result.is_in_terminal_state()
    return not hasattr(result, "_state") or PipelineState.is_terminal(result._state)
