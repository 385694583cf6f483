"""The steps of `deeplab plan`: parse the job, try parts of it, estimate the whole, print it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines import cli
from pipelines.plan import sample, trial
from pipelines.plan.compute import forward_flops
from pipelines.plan.estimate import GIB, PARTS, Estimate, Trial, Work, estimates, rate, read_prices, to_json, wall_rate
from pipelines.plan.options import Options
from pipelines.plan.sample import Study
from pipelines.runner.flags import beam_options, is_dataflow, is_local, runner_name
from pipelines.runner.needs import MACHINE
from trainer import storage
from trainer.files import scratch
from trainer.limits import cores
from trainer.options import CheckedOptions, InputError, as_words, non_defaults
from trainer.terminal import aligned

STUDIES = {"prepare": sample.of_prepare, "segment": sample.of_segment, "train": sample.of_train}
WORKERS = """--environment_type PROCESS --environment_config '{"command": "BOOT"}' --environment_cache_millis 60000"""
"""The flags that a Flink cluster needs, see docs/engines.md."""
TIMES, SHORT = 3, 5.0
"""How many times a trial runs that takes less than so many seconds."""
PLACEHOLDERS = "--project PROJECT --region REGION --temp_location gs://BUCKET/tmp --sdk_container_image IMAGE"
MACHINE_WITH_GPU = "--region REGION --image IMAGE --machine-type MACHINE"


def run(options: Options, flags: list[str]) -> int:
    """Runs the command; returns its exit status."""
    prices = read_prices(options.prices)
    check_files(options, prices)
    if options.save_prices:
        storage.write_json(options.save_prices, prices)
    _, job, beam = cli.read([options.job, *flags])
    parsed = beam_options(beam, job)
    local = beam if is_local(parsed) else []  # trials run here
    here = cores()
    with scratch.folder("plan") as folder:
        study = STUDIES[options.job](job, folder, options.sample, here, local)
        operations = flops(study)  # before the trials, which would be lost if it failed
        trials = [run_trial(part, number, study) for number, part in enumerate(study.parts, start=1)]
    work = replace(study.work, written=sample.written(study, trials), flops=operations)
    rows = estimates(work, trials, here, options.cores, prices, getattr(job, "precision", ""))
    print(summary(options.job, work, trials, here))
    print(f"\n{table(rows, prices['currency'])}\n")
    for note in (*notes(work, options, prices), *doubts(trials)):
        print(note)
    lines = commands(options.job, job, options.cores, beam, parsed, prices["dataflow"])
    print("\n".join(["", *lines, *(on_a_gpu(options.job, job) if operations else [])]))
    if options.json:
        storage.write_json(options.json, to_json(work, trials, rows))
    return 0


def check_files(options: Options, prices: dict) -> None:
    """Raises InputError if --json would replace what is no plan, or --save-prices anything but the same prices."""
    files = {
        "--json": (options.json, lambda content: isinstance(content, dict) and content.keys() == set(PARTS)),
        "--save-prices": (options.save_prices, lambda content: content == prices),
    }
    for flag, (path, is_ours) in files.items():
        if path and storage.exists(path):
            with contextlib.suppress(InputError):
                if is_ours(storage.read_json(path)):
                    continue
            raise InputError(f"{flag} {path}: there is a file already, which would be replaced; give another name")


def run_trial(part: sample.Part, number: int, study: Study) -> Trial:
    """Runs a trial, and prints its progress.

    A short one runs three times, and that of median time counts: an error of a tenth of a second in 200 images is one
    of seconds in some thousands.
    """
    print(f"[{number}/{len(study.parts)}] {part.arguments[0]} of {part.items} {study.work.unit}", end="", flush=True)
    results = []
    try:
        while not results or (len(results) < TIMES and results[0].wall < SHORT):
            results.append(trial.run(part.arguments, part.output, part.items, part.rounds, part.whole))
    except InputError as error:
        print(flush=True)  # the message gets a line of its own
        raise InputError(part.of_the_job(str(error))) from None
    result = sorted(results, key=lambda one: one.wall)[len(results) // 2]
    rejected = f", {result.rejected} rejected" if result.rejected else ""
    print(f": {result.wall:.1f} s, {result.cpu:.1f} core-seconds, {result.memory / (1 << 20):.0f} MiB{rejected}")
    return result


def flops(study: Study) -> float:
    """Floating-point operations of one item; 0 if the job has no network."""
    if study.network is None:
        return 0.0
    architecture, height, width, factor = study.network
    return factor * forward_flops(architecture, height, width)


def summary(job: str, work: Work, trials: Sequence[Trial], here: int) -> str:
    """Lines on the size of the whole job, and on what was measured."""
    wall, cpu = wall_rate(trials, here), rate(trials, "cpu")
    about = "about " * (job == "segment")  # of which only those of the trials are read
    lines = [f"{job}: {work.items:,} {work.unit}, {about}{size(work.read)} in, about {size(work.written)} out"]
    each = f"{wall.each:.3g} s and {cpu.each:.3g} core-seconds for each of the {work.unit}"
    lines.append(f"measured on {here} core{'s' * (here > 1)}: {wall.start:.1f} s to start, {each}")
    if wall.round:
        lines[-1] += f", {wall.round:.1f} s for an epoch's validation and checkpoint"
    return "\n".join(lines)


def table(places: Sequence[Estimate], currency: str) -> str:
    """A line for each kind of machine."""
    rows = [("where", "cores", "time", "core-hours", "GPU-hours", "memory per worker", "disk", currency)]
    for one in places:
        cost = "" if one.cost is None else hundredths(one.cost)
        gpu = hundredths(one.gpu_hours) if one.gpu_hours else ""
        disk = size(round(one.disk * GIB)) if one.disk else ""
        machines = one.place, f"{one.cores:,}", duration(one.wall), hundredths(one.core_hours)
        rows.append((*machines, gpu, size(one.memory), disk, cost))
    return aligned(rows, 1)


def notes(work: Work, options: Options, prices: dict) -> list[str]:
    """Remarks on the table."""
    kept = prices["storage"]["gib_month"] * work.written / GIB
    sentences = [
        f"In Cloud Storage: {work.reads:,} reads and {work.writes:,} writes, which the prices above include; the "
        f"output costs {hundredths(kept)} {prices['currency']} a month there.",
        "Times elsewhere are worked out, not measured: a core there is taken to be as fast as one here.",
    ]
    if work.parts < options.cores and options.job != "train":
        sentences.append(
            f"The work is cut into {work.parts:,} parts, so at most that many of the {options.cores:,} cores are busy"
            + ("; --shards gives more." if options.job == "prepare" else ".")
        )
    if work.flops:
        share = prices["gpu"]["share_of_peak"]
        sentences.append(
            f"On the GPU: {work.flops / 1e9:,.1f} GFLOP for each of the {work.unit}, at an assumed {share:.0%} of the "
            "card's peak (gpu.share_of_peak among the prices)."
        )
    return [*sentences, f"Prices: {prices['source']}; --save-prices FILE and --prices FILE change them."]


def doubts(trials: Sequence[Trial]) -> list[str]:
    """A warning if the trials do not tell how much longer more work takes."""
    if rate(trials, "cpu").each > 0:
        return []
    return [
        "warning: the trials took no longer for more work, so these times are of the start alone; give a larger "
        "--sample, or run it when fewer other jobs are at work here"
    ]


def commands(
    job: str, options: CheckedOptions, count: int, flags: list[str], beam: Any, price: Mapping[str, Any]
) -> list[str]:
    """The command for every kind of machine without a GPU.

    Args:
      job, options: the job.
      count: the number of cores of a cluster.
      flags, beam: Beam's flags as given, which stand in the command for their runner; and what they were parsed into.
      price: the machine on Dataflow, from the prices.
    """
    command = f"deeplab {words(job, options)}"
    if job == "train":
        return ["here:", f"  {command}"]
    machines = -(-count // price["cores"])
    here, cluster = "", "Flink"
    flink = f"--runner FlinkRunner --flink_master HOST:PORT --parallelism {count} {WORKERS}"
    dataflow = f"--runner DataflowRunner {PLACEHOLDERS} --max_num_workers {machines}"
    dataflow += f" --machine_type {shlex.quote(price['machine'])}" * (price["machine"] != MACHINE)
    if is_local(beam):
        here = f" {shlex.join(flags)}" if flags else ""
    elif is_dataflow(beam):
        dataflow = sized(flags, "--max_num_workers", machines, "--num_workers")
    elif "flink" in runner_name(beam):
        flink = sized(flags, "--parallelism", count)
    else:
        cluster, flink = "the cluster", shlex.join(flags)
    return [
        "here:",
        f"  {command}{here}",
        f"on {cluster}:",
        f"  {command} {flink}",
        "on Dataflow, with paths in gs://:",
        f"  {command} {dataflow}",
    ]


def on_a_gpu(job: str, options: CheckedOptions) -> list[str]:
    """The command for a rented machine with a GPU."""
    return ["on a GPU, with paths in gs://:", f"  deeplab submit vertex {MACHINE_WITH_GPU} -- {words(job, options)}"]


def words(job: str, options: CheckedOptions) -> str:
    """A job and its flags, for a shell."""
    return shlex.join([job, *as_words(non_defaults(options))])


def sized(flags: list[str], flag: str, count: int, *others: str) -> str:
    """Flags for a shell, with the size of the job unless one of them says it: `flag`, or one of `others`."""
    given = {word.partition("=")[0] for word in flags}
    return shlex.join(flags if given & {flag, *others} else [*flags, flag, str(count)])


def hundredths(amount: float) -> str:
    """Money or hours to two decimals; what rounds to none of it is "<0.01"."""
    return "<0.01" if 0 < amount < 0.005 else f"{amount:,.2f}"


def size(count: int) -> str:
    """Bytes in a human-readable unit."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1024:,.0f} KiB"


def duration(seconds: float) -> str:
    """Seconds in a human-readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
